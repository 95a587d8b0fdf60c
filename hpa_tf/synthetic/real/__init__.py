"""`--difficulty real`: fields of view as ambiguous as real ones.

settings.py   every number of it, and the cell lines
cells.py      several nuclei, lobed nuclei, arms, dim cells, cells out of focus
scene.py      how high cells are and where they are sharp
stains.py     the three reference stains
patterns.py   classes that look like each other, where they differ from the easy ones
protein.py    the protein of interest: staining strength, faint cells, haze, cross-talk
picture.py    focus, exposure, noise

Labels, places, masks and most patterns are those of the easy configuration.
"""

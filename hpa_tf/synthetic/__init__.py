"""Synthetic fields of view with cell-level truth: what each cell shows is known, as no real data set knows it.

    image labels -> cell labels -> bodies -> scene -> stains + patterns -> camera -> files
    weak_labels.py                 bodies.py  scene.py  stains.py, patterns/  camera.py  dataset.py

generator.py    one image, from its configuration (config.py) and index
texture.py      random textures and dots; curves.py: filaments
bench.py        two data sets on which methods are compared; shortcuts.py: what can be told there without structures
statistics.py   what a data set holds, beside real images; sheet.py: each class as a picture

Every image is a function of (configuration, index): neither the number of images nor that of the workers matters.
"""

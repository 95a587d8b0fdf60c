"""From files to fields of view, masks and single-cell crops. NumPy, SciPy and scikit-image only.

image_cells.py   from the files of an image to its cells: read, segment, cut, measure
fields.py        the four channels of a field of view, read and checked
field_files.py   which files of a folder are which image; naming.py: what a name says
other_formats.py files that are to be converted first
layout.py        how the channels lie in files; layout_options.py: the options that say so
channel_files.py a file of one channel; tiff.py: TIFF files of one page
stacks.py        TIFF files of several planes; stack_pixels.py: their pixels
ome.py           the metadata of OME-TIFF; channel_names.py: what a TIFF file calls its channels
segmentation/    masks of nuclei and cells: found in the image, or read from files
cells.py         crop, region map and measurements of single cells
rules.py         the border and outlier rules, from the measurements
run_length.py    run-length encoded masks
squares.py       fields of view as squares of one size
brightness.py    how bright images are
pictures.py      composites, outlines, captions, heat maps and contact sheets, for people
"""

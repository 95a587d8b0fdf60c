"""Masks from networks, as a program: nobody else's worker processes need to know of networks.

published.py    where HPACellSegmentator's weights are published, and the folder of converted ones
convert.py      its PyTorch files -> Keras weights
options.py      what a segmentation is asked
program.py      read ahead, run the networks, label and write: restartable
fields.py       what worker processes do: read and shrink a field, label its maps
preparation.py  from pixels to what the networks see, from their answers to maps of the field's size
networks.py     both networks on the GPUs there are
hpa.py          HPACellSegmentator's networks and labelling, as one way to segment
small_method.py the small network that comes with hpa_tf
original.py     the original package, where a user has it
tiles.py        what the small network learns from
learning.py     its training, and its file
mask_folder.py  whose the folder of masks is, what is done, files written whole
"""

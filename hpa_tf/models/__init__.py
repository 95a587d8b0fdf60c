"""Networks: named inputs -> named outputs -> probabilities of cells.

network.py        what a network and a backbone are, and the names of inputs and outputs
classifier.py     a backbone, pooling and a dense layer
fcan.py           team 1: CBAM and a mean-and-max head; FCAN
puzzle_cam.py     team 3: class-activation maps of a field and its tiles; cam_readout.py: from them to cells
bags.py           teams 2 and 3: duo-branch, attention over a bag
mask_pooled.py    team 3: means of a field's map inside cells
heads.py, regions.py    their parts: attention, poolings; pieces, tiles, cells on maps
published.py      weights that teams 1 and 3 published
efficientnet.py   EfficientNet B0 to B7 and V2-S (keras.applications), Lite0 and Lite2; efficientnet_files.py: weights
small_cnn.py      a few strided convolutions
torch_backbone.py what the next five share: timm's names, layers and weights
resnet.py, nfnet.py, inception.py, swin.py, vit.py (DeiT)
layers.py, grouped.py, attention.py, pixels.py    their parts
noise.py          dropout whose masks are a function of each example's seed
normalization.py  batch norm on TensorFlow's fused kernel
swish.py          swish with a gradient in one loop
tensor_file.py    tensors by name from a file of weights, PyTorch's or safetensors
torch_file.py     tensors of a PyTorch file (state dict, whole module, TorchScript; both formats) without PyTorch
torch_pickle.py   the pickles inside, interpreted without running them
weights.py        where a network starts: random, ImageNet, a file, another run; weights_file.py: is a file one?
packed.py         weights as one small file
dpn_unet.py, small_unet.py    networks of masks: HPACellSegmentator's, and one for two cores
"""

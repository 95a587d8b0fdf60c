"""Networks: named inputs -> named outputs -> probabilities of cells.

network.py        what a network and a backbone are, and the names of inputs and outputs
classifier.py     a backbone, pooling and a dense layer
efficientnet.py   EfficientNet B0 to B7 (keras.applications) and Lite0
small_cnn.py      a few strided convolutions
lite0.py          ImageNet weights of Lite0, from an installed package
noise.py          dropout whose masks are a function of each example's seed
normalization.py  batch norm on TensorFlow's fused kernel
swish.py          swish with a gradient in one loop
torch_file.py     tensors of a PyTorch file (state dict, whole module, TorchScript; both formats) without PyTorch
torch_pickle.py   the pickles inside, interpreted without running them
weights.py        where a network starts: random, ImageNet, a file, another run
"""

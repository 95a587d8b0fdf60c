"""Networks: float32 pixels [B, S, S, 4] in 0..1 -> float32 logits [B, 18].

efficientnet.py   EfficientNet B0 to B7 (keras.applications) and Lite0 with 4 channels, and a small network
lite0.py          ImageNet weights of Lite0, from an installed package
noise.py          dropout whose masks are a function of each example's seed
normalization.py  batch norm on TensorFlow's fused kernel
torch_file.py     tensors of a PyTorch file (state dict, whole module, TorchScript; both formats) without PyTorch
torch_pickle.py   the pickles inside, interpreted without running them
weights.py        where a network starts: random, ImageNet, a file, another run
"""

"""Networks: float32 pixels [B, S, S, 4] in 0..1 -> float32 logits [B, 18].

efficientnet.py   EfficientNet B0 to B7 (keras.applications) with 4 channels, and a small network of the same kind
noise.py          dropout whose masks are a function of each example's seed
normalization.py  batch norm on TensorFlow's fused kernel
weights.py        where a network starts: random, ImageNet, a file, another run
"""

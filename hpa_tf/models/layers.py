"""Layers of published image networks where PyTorch's and Keras' definitions differ: padding, pooling, groups, gates.

Every layer is named by the path of its module in timm ("layer1.0.conv1"), so that `torch_backbone` finds its tensors in
a state dict. `Layers` carries what all layers of one network share.
"""

import math
from dataclasses import dataclass

import keras
from keras import ops

from hpa_tf.models.grouped import grouped_convolution
from hpa_tf.models.noise import ExampleDropout
from hpa_tf.models.normalization import BatchNormalization
from hpa_tf.models.swish import swish

REGISTERED = keras.saving.register_keras_serializable("hpa_tf")


@REGISTERED
class GroupedConv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` with groups, on TensorFlow's own kernels."""

    def convolution_op(self, inputs, kernel):
        """Convolve [B, H, W, C] with [H, W, C / groups, F]."""
        return grouped_convolution(inputs, kernel, self.strides[0], self.padding.upper())


@REGISTERED
class ChannelAttention(keras.layers.Layer):
    """Efficient channel attention: a convolution over neighbours' means gates the channels. Source: Wang et al. 2020.

    Args:
        kernel_size: Channels that decide about one.
    """

    def __init__(self, kernel_size: int, **kwargs):
        super().__init__(**kwargs)
        self.kernel_size = kernel_size

    def build(self, input_shape):
        """Create the kernel, shared by all channels."""
        self.kernel = self.add_weight(name="kernel", shape=(self.kernel_size, 1, 1))

    def call(self, inputs):
        """Return [B, H, W, C] times the gates."""
        means = ops.mean(inputs, axis=(1, 2))[:, :, None]
        gates = ops.sigmoid(ops.conv(means, ops.cast(self.kernel, means.dtype), padding="same"))
        return inputs * ops.transpose(gates, (0, 2, 1))[:, None]

    def get_config(self) -> dict:
        """Return what `from_config` needs."""
        return {**super().get_config(), "kernel_size": self.kernel_size}


@dataclass(frozen=True)
class Layers:
    """What all layers of a network have in common."""

    policy: str = "float32"
    """Keras dtype policy."""
    epsilon: float = 1e-5
    """Added to batch norm's variance."""
    momentum: float = 0.9
    """Share of batch norm's moving statistics that a step keeps."""
    synchronized: bool = False
    """Compute batch norm over all replicas."""

    def convolve(
        self,
        x,
        filters: int,
        kernel: int | tuple[int, int],
        name: str,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        padded: bool = True,
    ):
        """Convolve as PyTorch does: `(kernel - 1) // 2` zeros on both sides, or none."""
        size = (kernel, kernel) if isinstance(kernel, int) else kernel
        margin = tuple((k - 1) // 2 for k in size) if padded else (0, 0)
        same = stride == 1 and padded
        if any(margin) and not same:
            x = keras.layers.ZeroPadding2D(margin, dtype=self.policy, name=f"{name}.pad")(x)
        layer = keras.layers.Conv2D if groups == 1 else GroupedConv2D
        options = {"strides": stride, "use_bias": bias, "groups": groups, "dtype": self.policy, "name": name}
        return layer(filters, size, padding="same" if same else "valid", kernel_initializer="he_normal", **options)(x)

    def normalize(self, x, name: str):
        """Apply batch norm."""
        options = {"synchronized": self.synchronized, "momentum": self.momentum, "dtype": self.policy, "name": name}
        return BatchNormalization(epsilon=self.epsilon, **options)(x)

    def activate(self, x, kind: str, name: str):
        """Apply "relu", "swish", "gelu" (exact) or "sigmoid"."""
        return keras.layers.Activation(ACTIVATIONS.get(kind, kind), dtype=self.policy, name=name)(x)

    def add(self, tensors: list, name: str):
        """Return the sum of two maps."""
        return keras.layers.Add(dtype=self.policy, name=name)(tensors)

    def max_pool(self, x, name: str, *, padded: bool):
        """Take the maximum over 3x3, stride 2; the padding never wins."""
        if padded:
            x = keras.layers.ZeroPadding2D(1, dtype=self.policy, name=f"{name}.pad")(x)  # after ReLU: nothing below 0
        return keras.layers.MaxPooling2D(3, 2, dtype=self.policy, name=name)(x)

    def halve(self, x, name: str):
        """Average 2x2; at an odd edge over the pixels that exist."""
        return keras.layers.AveragePooling2D(2, padding="same", dtype=self.policy, name=name)(x)

    def drop_path(self, x, rate: float, name: str):
        """Let a share `rate` of the examples skip a residual branch while training."""
        shape = (None,) + (1,) * (len(x.shape) - 1)
        return ExampleDropout(rate, shape, dtype=self.policy, name=name)(x) if rate else x

    def squeeze_excite(self, x, width: int, name: str):
        """Gate channels by a two-layer network on their means. Source: Hu et al. 2018."""
        gates = keras.layers.GlobalAveragePooling2D(keepdims=True, dtype=self.policy, name=f"{name}.mean")(x)
        gates = self.activate(self.convolve(gates, width, 1, f"{name}.fc1", bias=True), "relu", f"{name}.act")
        gates = self.convolve(gates, x.shape[-1], 1, f"{name}.fc2", bias=True)
        gates = self.activate(gates, "sigmoid", f"{name}.gate")
        return keras.layers.Multiply(dtype=self.policy, name=name)([x, gates])

    def channel_attention(self, x, name: str):
        """Gate channels by their neighbours' means (`ChannelAttention`); the kernel grows with their number."""
        size = int((math.log2(x.shape[-1]) + 1) / 2)
        return ChannelAttention(max(size + 1 - size % 2, 3), dtype=self.policy, name=name)(x)


ACTIVATIONS = {"swish": swish}


def divisible(width: float, by: int = 8, shrink: float = 0.9) -> int:
    """Return the multiple of `by` nearest to `width`, the next one where that is below `shrink` x width."""
    rounded = max(by, int(width + by / 2) // by * by)
    return rounded + by if rounded < shrink * width else rounded

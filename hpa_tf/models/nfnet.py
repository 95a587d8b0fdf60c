"""Networks without batch norm: NFNet-F and timm's lighter ECA-NFNet-L.

Kernels are standardised instead of activations, and residual branches carry known variances. Layer for layer timm's
`dm_nfnet_f*` and `eca_nfnet_l*`, under its names. Source: Brock et al. 2021 (two papers).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import keras
from keras import ops

from hpa_tf.models.grouped import grouped_convolution
from hpa_tf.models.layers import REGISTERED, Layers, divisible
from hpa_tf.models.torch_backbone import NO_BATCH_NORM, TorchBackbone

WIDTHS = (256, 512, 1536, 1536)
GAMMA = {"gelu": 1.7015043497085571, "swish": 1.7881293296813965}
"""1 / standard deviation of activation(standard normal)."""
ALPHA = 0.2
"""Weight of each residual branch."""
GATE_GAIN = 2.0
"""Makes up for the halving by a sigmoid gate."""
_EPSILON = 1e-5


@dataclass(frozen=True)
class NFNet(TorchBackbone):
    """A normaliser-free network; `NFNETS` has the published ones by name."""

    depths: tuple[int, int, int, int] = (1, 2, 6, 3)
    """Blocks of each stage."""
    light: bool = False
    """ECA-NFNet-L: swish, efficient channel attention, groups of 64, PyTorch's padding. Otherwise NFNet-F as DeepMind
    published it: GELU, squeeze-and-excitation, groups of 128, TensorFlow's padding, a learned gain on each branch."""
    top_width: int = 3072
    """Channels of the last 1x1 convolution."""

    WITHOUT: ClassVar[Mapping[str, str]] = NO_BATCH_NORM

    @property
    def stem_layer(self) -> str:
        """Name of the convolution that sees the pixels."""
        return "stem.conv1"

    def body(self, x, layers: Layers) -> Iterator[tuple[int, object]]:
        """Yield the maps of strides 4, 8, 16 and 32; see `TorchBackbone.body`."""
        for i, (width, stride) in enumerate(((16, 2), (32, 1), (64, 1), (128, 2)), 1):
            x = self._convolve(x, width, 3, f"stem.conv{i}", stride=stride, layers=layers)
            x = self._activate(x, f"stem.act{i + 1}", layers) if i < 4 else x
        for i, depth in enumerate(self.depths):
            for j in range(depth):
                branches = j or (self.depths[i - 1] if i else 0)  # the first block of a stage resets the variance
                beta = (1 + ALPHA**2 * branches) ** -0.5
                rate = self.drop_connect * (sum(self.depths[:i]) + j) / max(sum(self.depths) - 1, 1)
                x = self._block(x, i, 2 if i and j == 0 else 1, beta, rate, f"stages.{i}.{j}", layers)
            if i < 3:
                yield 4 * 2**i, x
        yield 32, self._activate(self._convolve(x, self.top_width, 1, "final_conv", layers=layers), "final_act", layers)

    def _block(self, x, stage: int, stride: int, beta: float, rate: float, name: str, layers: Layers):
        width, group = WIDTHS[stage], 64 if self.light else 128
        inner = width // 4 if self.light else width // 2
        out = self._scale(self._activate(x, f"{name}.act1", layers), beta, f"{name}.beta", layers)
        shortcut = x
        if stride > 1 or x.shape[-1] != width:
            pooled = layers.halve(out, f"{name}.downsample.pool") if stride > 1 else out
            shortcut = self._convolve(pooled, width, 1, f"{name}.downsample.conv", layers=layers)
        steps = (("1", 1, 1, 1), ("2", 3, stride, inner // group), ("2b", 3, 1, inner // group))
        for i, kernel, step, groups in steps:
            out = self._convolve(out, inner, kernel, f"{name}.conv{i}", stride=step, groups=groups, layers=layers)
            out = self._activate(out, f"{name}.act_{i}", layers)
        out = self._convolve(out, width, 1, f"{name}.conv3", gain=1.0 if not self.light else 0.0, layers=layers)
        if self.light:
            out = layers.channel_attention(out, f"{name}.attn_last.conv")
        else:
            out = layers.squeeze_excite(out, divisible(width / 2, shrink=0), f"{name}.attn_last")
        out = layers.drop_path(self._scale(out, GATE_GAIN, f"{name}.gain", layers), rate, f"{name}.drop_path")
        if not self.light:
            out = SkipGain(dtype=layers.policy, name=f"{name}.skipinit_gain")(out)
        return layers.add([self._scale(out, ALPHA, f"{name}.alpha", layers), shortcut], f"{name}.add")

    def _convolve(self, x, filters: int, kernel: int, name: str, *, layers: Layers, stride=1, groups=1, gain=1.0):
        if self.light and stride > 1:
            x = keras.layers.ZeroPadding2D((kernel - 1) // 2, dtype=layers.policy, name=f"{name}.pad")(x)
        options = {"padding": "valid" if self.light and stride > 1 else "same", "dtype": layers.policy, "name": name}
        gamma = GAMMA["swish"] if self.light else 1.0
        return StandardizedConv2D(filters, kernel, stride, groups, gamma=gamma, gain=gain, **options)(x)

    def _activate(self, x, name: str, layers: Layers):
        if self.light:  # whose gamma is in the kernels
            return layers.activate(x, "swish", name)
        return self._scale(layers.activate(x, "gelu", name), GAMMA["gelu"], f"{name}.gamma", layers)

    @staticmethod
    def _scale(x, factor: float, name: str, layers: Layers):
        return x if factor == 1 else keras.layers.Rescaling(factor, dtype=layers.policy, name=name)(x)


@REGISTERED
class StandardizedConv2D(keras.layers.Layer):
    """Convolution, with bias, by kernels that have mean 0 and variance (gain gamma)^2 / fan-in in each filter.

    Args:
        filters: Channels of the output.
        size: Rows and columns of the kernel.
        stride: Step of the kernel in px.
        groups: Groups of channels that do not see each other.
        padding: "same" or "valid", as TensorFlow defines them.
        gamma: Constant factor, for the activation before the layer.
        gain: Where the learned factor of each filter starts.
    """

    def __init__(self, filters, size, stride=1, groups=1, padding="same", gamma=1.0, gain=1.0, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.size, self.stride, self.groups = filters, size, stride, groups
        self.padding, self.gamma, self.gain_start = padding, gamma, gain

    def build(self, input_shape):
        """Create kernel, gain and bias; the kernel stays float32 under every policy, for its statistics."""
        shape = (self.size, self.size, input_shape[-1] // self.groups, self.filters)
        start = keras.initializers.VarianceScaling(1.0, "fan_in", "untruncated_normal")
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=start, autocast=False)
        start = keras.initializers.Constant(self.gain_start)
        self.gain = self.add_weight(name="gain", shape=(self.filters,), initializer=start, autocast=False)
        self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")

    def call(self, inputs):
        """Convolve [B, H, W, C] with the standardised kernel."""
        kernel = ops.convert_to_tensor(self.kernel)
        mean, variance = ops.moments(kernel, axes=(0, 1, 2), keepdims=True)
        scale = self.gain * self.gamma * math.prod(kernel.shape[:3]) ** -0.5
        kernel = ops.cast((kernel - mean) * ops.rsqrt(variance + _EPSILON) * scale, inputs.dtype)
        convolved = grouped_convolution(inputs, kernel, self.stride, self.padding.upper())
        return convolved + ops.cast(self.bias, inputs.dtype)

    def get_config(self) -> dict:
        """Return what `from_config` needs."""
        names = ("filters", "size", "stride", "groups", "padding", "gamma")
        own = {name: getattr(self, name) for name in names}
        return {**super().get_config(), **own, "gain": self.gain_start}


@REGISTERED
class SkipGain(keras.layers.Layer):
    """A learned number, from 0, times a residual branch. Source: De & Smith 2020 (SkipInit)."""

    def build(self, input_shape):
        """Create the number."""
        self.gain = self.add_weight(name="gain", shape=(), initializer="zeros")

    def call(self, inputs):
        """Return the scaled map."""
        return inputs * ops.cast(self.gain, inputs.dtype)


NFNETS: dict[str, NFNet] = {
    "dm_nfnet_f0": NFNet(),
    "dm_nfnet_f1": NFNet(depths=(2, 4, 12, 6)),
    "dm_nfnet_f2": NFNet(depths=(3, 6, 18, 9)),
    "dm_nfnet_f3": NFNet(depths=(4, 8, 24, 12)),
    "eca_nfnet_l0": NFNet(light=True, top_width=2304),
    "eca_nfnet_l1": NFNet(light=True, depths=(2, 4, 12, 6)),
}
"""The published networks that the teams used, by timm's names."""

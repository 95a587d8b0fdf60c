"""Swin Transformer: attention inside windows of 7x7 positions that move by half a window every other block.

timm's network, under its names. Source: Liu et al. 2021.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import keras
from keras import ops

from hpa_tf.models.attention import SelfAttention, dense, feed_forward, normalize
from hpa_tf.models.layers import REGISTERED, Layers
from hpa_tf.models.torch_backbone import NO_BATCH_NORM, TorchBackbone

PATCH, WINDOW, HEAD_WIDTH = 4, 7, 32
_EPSILON = 1e-5


@dataclass(frozen=True)
class Swin(TorchBackbone):
    """A Swin Transformer; the default is Swin-S. The map is that after the last layer norm."""

    depths: tuple[int, int, int, int] = (2, 2, 18, 2)
    """Blocks of each stage, in pairs: windows in place, then moved."""
    embedding: int = 96
    """Channels of the first stage; each stage doubles them."""

    WITHOUT: ClassVar[Mapping[str, str]] = NO_BATCH_NORM

    @property
    def stem_layer(self) -> str:
        """Name of the convolution that sees the pixels."""
        return "patch_embed.proj"

    def body(self, x, layers: Layers) -> Iterator[tuple[int, object]]:
        """Yield the maps of strides 4, 8, 16 and 32; see `TorchBackbone.body`."""
        policy = layers.policy
        options = {"dtype": policy, "name": "patch_embed.proj"}
        x = keras.layers.Conv2D(self.embedding, PATCH, PATCH, **options)(x)
        x = normalize(x, "patch_embed.norm", policy, _EPSILON)
        for i, depth in enumerate(self.depths):
            if i:
                x = PatchMerging(dtype=policy, name=f"layers.{i}.downsample")(x)
                x = normalize(x, f"layers.{i}.downsample.norm", policy, _EPSILON)
                x = dense(x, x.shape[-1] // 2, f"layers.{i}.downsample.reduction", policy, bias=False)
            for j in range(depth):
                rate = self.drop_connect * (sum(self.depths[:i]) + j) / max(sum(self.depths) - 1, 1)
                x = _block(x, j % 2 == 1, rate, f"layers.{i}.blocks.{j}", layers)
            yield 4 * 2**i, x if i < 3 else normalize(x, "norm", policy, _EPSILON)


def _block(x, moved: bool, rate: float, name: str, layers: Layers):
    out = normalize(x, f"{name}.norm1", layers.policy, _EPSILON)
    out = layers.drop_path(_attend(out, moved, name, layers.policy), rate, f"{name}.drop_path1")
    x = layers.add([x, out], f"{name}.add1")
    out = feed_forward(normalize(x, f"{name}.norm2", layers.policy, _EPSILON), f"{name}.mlp", layers.policy)
    return layers.add([x, layers.drop_path(out, rate, f"{name}.drop_path2")], f"{name}.add2")


def _attend(x, moved: bool, name: str, policy: str):
    """Return [B, H, W, C]: each position mixed with those of its window."""
    height, width, channels = x.shape[1:]
    window = min(WINDOW, height, width)
    shift = window // 2 if moved and min(height, width) > window else 0
    windows = WindowPartition(window, shift, dtype=policy, name=f"{name}.partition")(x)
    projected = dense(windows, 3 * channels, f"{name}.attn.qkv", policy)
    place = {"grid": (height, width), "shift": shift}
    mixed = SelfAttention(channels // HEAD_WIDTH, window, WINDOW, **place, dtype=policy, name=f"{name}.attn")(projected)
    mixed = dense(mixed, channels, f"{name}.attn.proj", policy)
    return WindowJoin(height, width, window, shift, dtype=policy, name=f"{name}.join")(mixed)


@REGISTERED
class WindowPartition(keras.layers.Layer):
    """Roll a map by `shift`, pad it to whole windows, and cut it into them: [B, H, W, C] -> [B windows, T, C]."""

    def __init__(self, window: int, shift: int, **kwargs):
        super().__init__(**kwargs)
        self.window, self.shift = window, shift

    def call(self, inputs):
        """Return the windows, row by row."""
        height, width, channels = inputs.shape[1:]
        if self.shift:
            inputs = ops.roll(inputs, (-self.shift, -self.shift), axis=(1, 2))
        below, right = -height % self.window, -width % self.window
        inputs = ops.pad(inputs, ((0, 0), (0, below), (0, right), (0, 0)))
        down, across = (height + below) // self.window, (width + right) // self.window
        cut = ops.reshape(inputs, (-1, down, self.window, across, self.window, channels))
        return ops.reshape(ops.transpose(cut, (0, 1, 3, 2, 4, 5)), (-1, self.window**2, channels))

    def get_config(self) -> dict:
        """Return what `from_config` needs."""
        return {**super().get_config(), "window": self.window, "shift": self.shift}


@REGISTERED
class WindowJoin(keras.layers.Layer):
    """Undo `WindowPartition`: [B windows, T, C] -> [B, height, width, C]."""

    def __init__(self, height: int, width: int, window: int, shift: int, **kwargs):
        super().__init__(**kwargs)
        self.height, self.width, self.window, self.shift = height, width, window, shift

    def call(self, inputs):
        """Return the map."""
        down, across = -(-self.height // self.window), -(-self.width // self.window)
        cut = ops.reshape(inputs, (-1, down, across, self.window, self.window, inputs.shape[-1]))
        whole = ops.transpose(cut, (0, 1, 3, 2, 4, 5))
        whole = ops.reshape(whole, (-1, down * self.window, across * self.window, inputs.shape[-1]))
        whole = whole[:, : self.height, : self.width]
        return ops.roll(whole, (self.shift, self.shift), axis=(1, 2)) if self.shift else whole

    def get_config(self) -> dict:
        """Return what `from_config` needs."""
        own = {name: getattr(self, name) for name in ("height", "width", "window", "shift")}
        return {**super().get_config(), **own}


@REGISTERED
class PatchMerging(keras.layers.Layer):
    """Put the channels of 2x2 positions side by side, column by column: [B, H, W, C] -> [B, H / 2, W / 2, 4 C]."""

    def call(self, inputs):
        """Return the merged map; an odd edge is padded with zeros."""
        height, width, channels = inputs.shape[1:]
        inputs = ops.pad(inputs, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
        down, across = -(-height // 2), -(-width // 2)
        cut = ops.reshape(inputs, (-1, down, 2, across, 2, channels))
        return ops.reshape(ops.transpose(cut, (0, 1, 3, 4, 2, 5)), (-1, down, across, 4 * channels))

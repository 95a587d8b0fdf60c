"""Vision Transformer, in the size of DeiT-S: attention over all patches of 16x16 px and a class token.

timm's `deit_small_patch16_224`, under its names. Source: Dosovitskiy et al. 2021; Touvron et al. 2021.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import keras
from keras import ops

from hpa_tf.models.attention import INITIALIZER, SelfAttention, dense, feed_forward, normalize
from hpa_tf.models.layers import REGISTERED, Layers
from hpa_tf.models.torch_backbone import NO_BATCH_NORM, TorchBackbone

PATCH, HEAD_WIDTH = 16, 64
_EPSILON = 1e-6


@dataclass(frozen=True)
class VisionTransformer(TorchBackbone):
    """A vision transformer; the default is DeiT-S. Its map holds the patches; the class token only takes part in the
    attention."""

    depth: int = 12
    """Blocks."""
    embedding: int = 384
    """Channels."""
    grid: int = 14
    """Patches a side that the stored position embedding has (14 = 224 px); other inputs get it resized, bicubic."""

    WITHOUT: ClassVar[Mapping[str, str]] = NO_BATCH_NORM

    @property
    def stem_layer(self) -> str:
        """Name of the convolution that sees the pixels."""
        return "patch_embed.proj"

    def body(self, x, layers: Layers) -> Iterator[tuple[int, object]]:
        """Yield the map of stride 16; see `TorchBackbone.body`."""
        policy = layers.policy
        options = {"dtype": policy, "name": "patch_embed.proj"}
        x = keras.layers.Conv2D(self.embedding, PATCH, PATCH, **options)(x)
        height, width = x.shape[1:3]
        x = Embedding(self.grid, dtype=policy, name="embedding")(x)
        for i in range(self.depth):
            rate = self.drop_connect * i / max(self.depth - 1, 1)
            x = self._block(x, rate, f"blocks.{i}", layers)
        x = normalize(x, "norm", policy, _EPSILON)
        yield PATCH, Patches(height, width, dtype=policy, name="patches")(x)

    def _block(self, x, rate: float, name: str, layers: Layers):
        policy = layers.policy
        out = dense(normalize(x, f"{name}.norm1", policy, _EPSILON), 3 * self.embedding, f"{name}.attn.qkv", policy)
        out = SelfAttention(self.embedding // HEAD_WIDTH, dtype=policy, name=f"{name}.attn")(out)
        out = dense(out, self.embedding, f"{name}.attn.proj", policy)
        x = layers.add([x, layers.drop_path(out, rate, f"{name}.drop_path1")], f"{name}.add1")
        out = feed_forward(normalize(x, f"{name}.norm2", policy, _EPSILON), f"{name}.mlp", policy)
        return layers.add([x, layers.drop_path(out, rate, f"{name}.drop_path2")], f"{name}.add2")


@REGISTERED
class Embedding(keras.layers.Layer):
    """Put a learned class token before the patches, row by row, and add their learned positions.

    Args:
        grid: Patches a side for which positions are stored.
    """

    def __init__(self, grid: int, **kwargs):
        super().__init__(**kwargs)
        self.grid = grid

    def build(self, input_shape):
        """Create token and positions."""
        width = input_shape[-1]
        self.cls_token = self.add_weight(name="cls_token", shape=(1, 1, width), initializer=INITIALIZER)
        shape = (1, 1 + self.grid**2, width)
        self.pos_embed = self.add_weight(name="pos_embed", shape=shape, initializer=INITIALIZER)

    def call(self, inputs):
        """Return the tokens [B, 1 + H W, C] of a map [B, H, W, C]."""
        height, width, channels = inputs.shape[1:]
        places = ops.convert_to_tensor(self.pos_embed)
        first, rest = places[:, :1], places[:, 1:]
        if (height, width) != (self.grid, self.grid):
            rest = ops.reshape(rest, (1, self.grid, self.grid, channels))
            rest = ops.image.resize(ops.cast(rest, "float32"), (height, width), "bicubic", antialias=True)
            rest = ops.cast(ops.reshape(rest, (1, height * width, channels)), places.dtype)
        token = ops.broadcast_to(self.cls_token + first, (ops.shape(inputs)[0], 1, channels))
        patches = ops.reshape(inputs, (-1, height * width, channels)) + ops.cast(rest, inputs.dtype)
        return ops.concatenate([ops.cast(token, inputs.dtype), patches], axis=1)

    def get_config(self) -> dict:
        """Return what `from_config` needs."""
        return {**super().get_config(), "grid": self.grid}


@REGISTERED
class Patches(keras.layers.Layer):
    """Leave the class token out and put the patches in place: [B, 1 + H W, C] -> [B, H, W, C]."""

    def __init__(self, height: int, width: int, **kwargs):
        super().__init__(**kwargs)
        self.height, self.width = height, width

    def call(self, inputs):
        """Return the map."""
        return ops.reshape(inputs[:, 1:], (-1, self.height, self.width, inputs.shape[-1]))

    def get_config(self) -> dict:
        """Return what `from_config` needs."""
        return {**super().get_config(), "height": self.height, "width": self.width}

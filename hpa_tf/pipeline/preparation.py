"""The one function that turns a stored crop into a network's input, for training, prediction and serving.

Crop and region map -> box of the cell -> pixels that do not belong -> 0 -> centred zero-pad to square -> bilinear
resize (half-pixel centres, no anti-aliasing) -> 0..1. Source: METHODS 3 (crop); W 2.
"""

from dataclasses import dataclass
from typing import Literal

import tensorflow as tf

from hpa_tf.imaging.cells import OTHER_CELL, THIS_CELL, THIS_NUCLEUS

_PACKED = {tf.uint8: tf.int32, tf.uint16: tf.int64}
"""A whole pixel (4 channels) as one number: masking and padding touch a quarter of the elements."""


@dataclass(frozen=True)
class Preparation:
    """How a stored crop becomes a network's input. Source: METHODS 3 (crop)."""

    size: int = 128
    """Side of the network's input, px."""
    surroundings: Literal["none", "background", "all"] = "none"
    """What stays around the cell: none = pixels outside this cell are 0; background = only other cells are 0;
    all = every pixel stays."""
    square: Literal["pad", "grow"] = "pad"
    """How the tight box becomes square: pad = with zeros; grow = with the image's own pixels as far as the stored
    crop has them, then zeros."""
    margin: int = 0
    """Pixels of the image kept on each side of the box (after it has grown), as far as the stored crop has them."""

    def __post_init__(self):
        if self.size < 1 or self.margin < 0:
            raise ValueError(f"preparation: found size {self.size}, margin {self.margin}; expected > 0 and >= 0")


def prepare(crop: tf.Tensor, region: tf.Tensor, preparation: Preparation, box: tf.Tensor | None = None) -> tf.Tensor:
    """Turn a crop into the network's input.

    8 bit enters as if it were 16 bit x 257: x / 255 = 257 x / 65535.

    Args:
        crop: uint8 or uint16 [H, W, 4], counts, with H, W > 0.
        region: uint8 [H, W]: 0 background, 1 this cell, 2 its nucleus, 3 another cell.
        preparation: The recipe's choices.
        box: int [4], tight box of the cell in the crop (top, left, bottom, right, px, half-open), as a record has it;
            None = `cell_box` of the region.

    Returns:
        float32 [S, S, 4] in 0..1.
    """
    if crop.dtype not in _PACKED:
        raise TypeError(f"crop: found {crop.dtype.name}; expected uint8 or uint16")
    top, left, bottom, right = _grown(cell_box(region) if box is None else box, tf.shape(region), preparation)
    region = region[top:bottom, left:right]
    pixels = tf.bitcast(crop, _PACKED[crop.dtype])[top:bottom, left:right]
    if preparation.surroundings == "none":
        pixels *= tf.cast(_is_cell(region), pixels.dtype)  # tf.where takes a quarter longer
    elif preparation.surroundings == "background":
        pixels *= tf.cast(region != OTHER_CELL, pixels.dtype)
    pixels = tf.bitcast(_pad_to_square(pixels), crop.dtype)
    resized = tf.image.resize(pixels, (preparation.size, preparation.size), "bilinear", antialias=False)
    return tf.ensure_shape(resized * tf.constant(1 / crop.dtype.max, tf.float32), (preparation.size,) * 2 + (4,))


def cell_box(region: tf.Tensor) -> tf.Tensor:
    """Return the tight box of the cell, int32 [4]: top, left, bottom, right, px, half-open.

    Args:
        region: uint8 [H, W] as `prepare` takes it. Without any 1 or 2 the box is the whole crop.
    """
    inside = _is_cell(region)
    top, bottom = _extent(tf.reduce_any(inside, axis=1))
    left, right = _extent(tf.reduce_any(inside, axis=0))
    return tf.stack([top, left, bottom, right])


def _is_cell(region: tf.Tensor) -> tf.Tensor:
    return (region == THIS_CELL) | (region == THIS_NUCLEUS)


def _extent(line: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return (first, last + 1) true position of a bool [L]; (0, L) if there is none."""
    line = tf.cast(line, tf.int32)
    first = tf.argmax(line, output_type=tf.int32)
    return first, tf.size(line) - tf.argmax(line[::-1], output_type=tf.int32)


def _grown(box: tf.Tensor, shape: tf.Tensor, preparation: Preparation) -> tuple[tf.Tensor, ...]:
    """Return the box to cut (top, left, bottom, right), px, inside a crop of this shape."""
    top, left, bottom, right = tf.unstack(tf.cast(box, tf.int32), 4)
    if preparation.square == "grow":
        side = tf.maximum(bottom - top, right - left)
        top, left = top - (side - (bottom - top)) // 2, left - (side - (right - left)) // 2
        bottom, right = top + side, left + side
    if preparation.square == "grow" or preparation.margin:
        margin = preparation.margin
        top, left = tf.maximum(top - margin, 0), tf.maximum(left - margin, 0)
        bottom, right = tf.minimum(bottom + margin, shape[0]), tf.minimum(right + margin, shape[1])
    return top, left, bottom, right


def _pad_to_square(pixels: tf.Tensor) -> tf.Tensor:
    """Pad [H, W] with zeros to [S, S], centred; an odd remainder goes to the bottom and the right."""
    height, width = tf.unstack(tf.shape(pixels))
    side = tf.maximum(height, width)
    above, before = (side - height) // 2, (side - width) // 2
    return tf.pad(pixels, [[above, side - height - above], [before, side - width - before]])

"""One cell, cut out: the function that turns a crop into a network's input, for training, prediction and serving.

Crop and region map -> box of the cell -> pixels that do not belong -> 0 -> centred zero-pad to square -> bilinear
resize (half-pixel centres, no anti-aliasing) -> 0..1. Channels that
the recipe leaves out leave at the end; masks of the cell and of its nucleus may come as channels, 0 or 1 before they
are resized with the pixels. Source: METHODS 3 (crop); W 2.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import tensorflow as tf

from hpa_tf.classes import CHANNELS
from hpa_tf.errors import InputError
from hpa_tf.imaging.cells import OTHER_CELL, THIS_NUCLEUS, is_cell
from hpa_tf.views.view import Kind, OneCell, check_channels

_PACKED = {tf.uint8: tf.int32, tf.uint16: tf.int64}
"""A whole pixel (4 channels) as one number: masking and padding touch a quarter of the elements."""


MASK_CHANNELS = ("cell", "nucleus")
"""Channels of a crop beside those of the image: 1 in this cell (its nucleus included), 1 in its nucleus."""
Channel = Literal["red", "green", "blue", "yellow", "cell", "nucleus"]


@dataclass(frozen=True)
class Crop(OneCell):
    """One cell, cut out of its image. Source: METHODS 3 (crop)."""

    size: int = 128
    """Side of the network's input, px."""
    surroundings: Literal["none", "background", "all", "nucleus"] = "none"
    """What stays around the cell: none = pixels outside this cell are 0; background = only other cells are 0;
    all = every pixel stays; nucleus = not even the cell: pixels outside its nucleus are 0, and the box is the nucleus's
    (a cell without one is black)."""
    square: Literal["pad", "grow"] = "pad"
    """How the tight box becomes square: pad = with zeros; grow = with the image's own pixels as far as the stored
    crop has them, then zeros."""
    margin: int = 0
    """Pixels of the image kept on each side of the box (after it has grown), as far as the stored crop has them."""
    channels: tuple[Channel, ...] = CHANNELS
    """What the network sees, in this order: channels of the image, and "cell" and "nucleus", the masks."""

    def __post_init__(self):
        if self.size < 1 or self.margin < 0:
            found = f"size {self.size}, margin {self.margin}"
            raise InputError("recipe.view", found, "a size > 0 and a margin >= 0", "change them")
        check_channels(self.channels, CHANNELS + MASK_CHANNELS)

    @property
    def needs_region(self) -> bool:
        """Whether a crop says nothing without its region map: the network sees the masks, or the nucleus alone."""
        return self.surroundings == "nucleus" or bool(set(self.channels) & set(MASK_CHANNELS))

    @property
    def reads(self) -> Kind:
        """It is made from the record of its cell."""
        return "cells"

    def prepare(self, stored: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Turn a record's crop, region and (if known) box into image [S, S, C]: see `prepare`."""
        return {"image": prepare(stored["crop"], stored["region"], self, stored.get("box"))}


def prepare(crop: tf.Tensor, region: tf.Tensor, view: Crop, box: tf.Tensor | None = None) -> tf.Tensor:
    """Turn a crop into the network's input.

    8 bit enters as if it were 16 bit x 257: x / 255 = 257 x / 65535.

    Args:
        crop: uint8 or uint16 [H, W, 4], counts, with H, W > 0.
        region: uint8 [H, W]: 0 background, 1 this cell, 2 its nucleus, 3 another cell.
        view: The recipe's choices.
        box: int [4], tight box of the cell in the crop (top, left, bottom, right, px, half-open), as a record has it;
            None = `cell_box` of the region.

    Returns:
        float32 [S, S, C] in 0..1.
    """
    if crop.dtype not in _PACKED:
        raise TypeError(f"crop: found {crop.dtype.name}; expected uint8 or uint16")
    if view.surroundings == "nucleus":
        box = tight_box(region == THIS_NUCLEUS)
    elif box is None:
        box = cell_box(region)
    top, left, bottom, right = _grown(box, tf.shape(region), view)
    region = region[top:bottom, left:right]
    pixels = tf.bitcast(crop, _PACKED[crop.dtype])[top:bottom, left:right]
    if view.surroundings == "none":
        pixels *= tf.cast(is_cell(region), pixels.dtype)  # tf.where takes a quarter longer
    elif view.surroundings == "background":
        pixels *= tf.cast(region != OTHER_CELL, pixels.dtype)
    elif view.surroundings == "nucleus":
        pixels *= tf.cast(region == THIS_NUCLEUS, pixels.dtype)
    pixels = tf.bitcast(_pad_to_square(pixels), crop.dtype)
    resized = tf.image.resize(pixels, (view.size, view.size), "bilinear", antialias=False)
    image = tf.ensure_shape(resized * tf.constant(1 / crop.dtype.max, tf.float32), (view.size,) * 2 + (4,))
    return image if view.channels == CHANNELS else _channels(image, region, view)


def _channels(image: tf.Tensor, region: tf.Tensor, view: Crop) -> tf.Tensor:
    """Return the channels that the view asks for, float32 [S, S, C].

    Args:
        image: float32 [S, S, 4], prepared.
        region: uint8 [H, W], cut like the pixels.
        view: The recipe's choices.
    """
    planes = dict(zip(CHANNELS, tf.unstack(image, axis=-1), strict=True))
    if set(view.channels) & set(MASK_CHANNELS):
        planes_of_region = [tf.cast(mask, tf.float32) for mask in (is_cell(region), region == THIS_NUCLEUS)]
        masks = tf.stack([_pad_to_square(mask) for mask in planes_of_region], axis=-1)
        resized = tf.image.resize(masks, (view.size, view.size), "bilinear", antialias=False)
        planes |= dict(zip(MASK_CHANNELS, tf.unstack(resized, axis=-1), strict=True))
    return tf.stack([planes[name] for name in view.channels], axis=-1)


def cell_box(region: tf.Tensor) -> tf.Tensor:
    """Return the tight box of the cell, int32 [4]: top, left, bottom, right, px, half-open.

    Args:
        region: uint8 [H, W] as `prepare` takes it. Without any 1 or 2 the box is the whole crop.
    """
    return tight_box(is_cell(region))


def tight_box(inside: tf.Tensor) -> tf.Tensor:
    """Return the tight box of true pixels, bool [H, W], as `cell_box` does."""
    top, bottom = _extent(tf.reduce_any(inside, axis=1))
    left, right = _extent(tf.reduce_any(inside, axis=0))
    return tf.stack([top, left, bottom, right])


def _extent(line: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return (first, last + 1) true position of a bool [L]; (0, L) if there is none."""
    line = tf.cast(line, tf.int32)
    first = tf.argmax(line, output_type=tf.int32)
    return first, tf.size(line) - tf.argmax(line[::-1], output_type=tf.int32)


def _grown(box: tf.Tensor, shape: tf.Tensor, view: Crop) -> tuple[tf.Tensor, ...]:
    """Return the box to cut (top, left, bottom, right), px, inside a crop of this shape."""
    top, left, bottom, right = tf.unstack(tf.cast(box, tf.int32), 4)
    if view.square == "grow":
        side = tf.maximum(bottom - top, right - left)
        top, left = top - (side - (bottom - top)) // 2, left - (side - (right - left)) // 2
        bottom, right = top + side, left + side
    if view.square == "grow" or view.margin:
        margin = view.margin
        top, left = tf.maximum(top - margin, 0), tf.maximum(left - margin, 0)
        bottom, right = tf.minimum(bottom + margin, shape[0]), tf.minimum(right + margin, shape[1])
    return top, left, bottom, right


def _pad_to_square(pixels: tf.Tensor) -> tf.Tensor:
    """Pad [H, W] with zeros to [S, S], centred; an odd remainder goes to the bottom and the right."""
    height, width = tf.unstack(tf.shape(pixels))
    side = tf.maximum(height, width)
    above, before = (side - height) // 2, (side - width) // 2
    return tf.pad(pixels, [[above, side - height - above], [before, side - width - before]])

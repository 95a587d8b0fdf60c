"""A whole field of view: with masks of its cells, or with one of its cells made visible.

Fields are stored shrunk to a square (`hpa_tf.imaging.squares`); a view of another size shrinks them further, pixels
with anti-aliasing, masks to the nearest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import tensorflow as tf

from hpa_tf.classes import CHANNELS
from hpa_tf.errors import InputError
from hpa_tf.models.network import Spec, Specs
from hpa_tf.views.drawing import plan_images
from hpa_tf.views.view import CellTable, Kind, OneCell, Unit, check_channels

Channel = Literal["red", "green", "blue", "yellow"]
_NUMBERS = 1 << 16  # masks are uint16


@dataclass(frozen=True)
class Field:
    """A field of view and the masks of some of its cells; to predict, of all of them, so many at a time."""

    size: int = 512
    """Side of the network's input, px."""
    channels: tuple[Channel, ...] = CHANNELS
    """What the network sees, in this order."""
    num_cells: int = 64
    """Most cells that an example answers for; of an image that has more, so many are drawn anew each time."""
    whole: int = 0
    """Side that the field is shrunk to before a random square of `size` px is cut out of it, in training only; 0 = the
    input is the whole field."""

    def __post_init__(self):
        if min(self.size, self.num_cells) < 1:
            found = f"size {self.size}, num_cells {self.num_cells}"
            raise InputError("recipe.view", found, "numbers > 0", "change them")
        if self.whole and self.whole < self.size:
            found = f"squares of {self.size} px of a field of {self.whole} px"
            raise InputError("recipe.view.whole", found, "0, or at least recipe.view.size", "change one of them")
        check_channels(self.channels, CHANNELS)

    @property
    def reads(self) -> Kind:
        """It is made from the record of its field of view."""
        return "fields"

    @property
    def draws(self) -> Unit:
        """An epoch draws images."""
        return "image"

    @property
    def num_records(self) -> int:
        """An example is one record."""
        return 1

    def specs(self) -> Specs:
        """Return the network's inputs: image [S, S, C], masks [S, S] and present [K]."""
        return {**self.record_specs(), "present": Spec((self.num_cells,))}

    def record_specs(self) -> Specs:
        """Return what `prepare` gives: image and masks."""
        square = (self.size, self.size)
        return {"image": Spec((*square, len(self.channels))), "masks": Spec(square, "int32")}

    def plan(self, cells: CellTable, order: np.ndarray, seed: Sequence[int] | None) -> np.ndarray:
        """Return the cells of each example, int64 [E, K]."""
        return plan_images(cells, order, self.num_cells, seed)

    def prepare(self, stored: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Turn the record of a field into image [S, S, C] and masks [S, S]: k = the k-th of the example's cells.

        S is `whole` where that is set: the pipeline cuts.
        """
        image = _image(stored["image"], self.whole or self.size, self.channels)
        return {"image": image, "masks": self.prepare_masks(stored["masks"], stored["numbers"])}

    def prepare_masks(self, masks: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
        """Turn stored masks into masks int32 [S, S] of the cells with some numbers [K] (-1 = padding): k = the k-th."""
        numbers = tf.cast(numbers, tf.int32)
        places = tf.range(1, self.num_cells + 1) * tf.cast(numbers > 0, tf.int32)
        place_of = tf.scatter_nd(tf.maximum(numbers, 0)[:, None], places, [_NUMBERS])
        masks = tf.gather(place_of, tf.cast(masks, tf.int32))
        return _shrunk(masks[..., None], self.whole or self.size, "nearest")[..., 0]

    def assemble(self, prepared: Mapping[str, tf.Tensor], rows: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the network's inputs for a batch: the prepared records, and which cells are there.

        A cell that a random square does not show is not there; one that vanished when it was shrunk still is.
        """
        present = rows >= 0
        if self.whole:
            flat = tf.reshape(prepared["masks"], [-1, self.size**2])
            shown = tf.math.bincount(flat, minlength=self.num_cells + 1, maxlength=self.num_cells + 1, axis=-1)
            present &= shown[:, 1:] > 0
        return {**prepared, "present": tf.cast(present, tf.float32)}


@dataclass(frozen=True)
class CellInField(OneCell):
    """One cell at its place in the field of view, which keeps its size: an example for each cell."""

    size: int = 512
    """Side of the network's input, px."""
    channels: tuple[Channel, ...] = CHANNELS
    """What the network sees, in this order."""
    surroundings: Literal["none", "background", "all"] = "background"
    """What stays around the cell: none = pixels outside this cell are 0; background = only other cells are 0;
    all = every pixel stays: the same image for each of its cells."""

    def __post_init__(self):
        if self.size < 1:
            raise InputError("recipe.view.size", str(self.size), "a number > 0", "change it")
        check_channels(self.channels, CHANNELS)

    @property
    def reads(self) -> Kind:
        """It is made from the record of its field of view."""
        return "fields"

    def prepare(self, stored: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Turn the record of a field into image [S, S, C] of one of its cells."""
        image, masks = stored["image"], tf.cast(stored["masks"], tf.int32)
        is_cell = masks == tf.cast(stored["numbers"][0], tf.int32)
        if self.surroundings == "none":
            image *= tf.cast(is_cell, image.dtype)[..., None]
        elif self.surroundings == "background":
            image *= tf.cast(is_cell | (masks == 0), image.dtype)[..., None]
        return {"image": _image(image, self.size, self.channels)}


def _image(pixels: tf.Tensor, size: int, channels: Sequence[str]) -> tf.Tensor:
    """Return uint8 or uint16 pixels [H, W, 4] as float32 [S, S, C] in 0..1."""
    if pixels.dtype not in (tf.uint8, tf.uint16):
        raise TypeError(f"image: found {pixels.dtype.name}; expected uint8 or uint16")
    if tuple(channels) != CHANNELS:
        pixels = tf.gather(pixels, [CHANNELS.index(name) for name in channels], axis=-1)
    image = tf.cast(pixels, tf.float32) * tf.constant(1 / pixels.dtype.max, tf.float32)
    return _shrunk(image, size, "bilinear")


def _shrunk(image: tf.Tensor, size: int, method: str) -> tf.Tensor:
    """Return [H, W, C] as [S, S, C]; as it is where it has that size."""
    same = tf.reduce_all(tf.shape(image)[:2] == size)

    def resized() -> tf.Tensor:
        return tf.cast(tf.image.resize(image, (size, size), method, antialias=method != "nearest"), image.dtype)

    return tf.ensure_shape(tf.cond(same, lambda: image, resized), (size, size, image.shape[-1]))

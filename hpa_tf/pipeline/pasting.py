"""Paste a cell of another image into a field: team 1's way to see rare mitotic cells more often. Source: SYSTEMS 1f.

Which cells are pasted into which fields is planned in NumPy before the epoch, as all that depends on labels; where, is
found in the record, because it depends on what lies there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from hpa_tf.classes import MITOTIC_SPINDLE, NUM_CLASSES
from hpa_tf.pipeline.examples import Examples

TRIES = 100
"""Places that are tried; a field without room for the cell stays as it is."""


@dataclass(frozen=True)
class PasteCells:
    """Paste a cell that has a class into a random place of the background. Only for views of fields."""

    probability: float = 0.1
    """How often it happens, 0..1."""
    class_id: int = MITOTIC_SPINDLE
    """The class that a pasted cell has."""
    least: float = 0.9
    """Its least label; where labels are those of images, many cells of an image with the class do not show it: give
    a table of labels."""

    def __post_init__(self):
        if not 0 <= self.probability <= 1 or not 0 <= self.class_id < NUM_CLASSES:
            found = f"probability {self.probability}, class_id {self.class_id}"
            raise ValueError(f"augmentation.paste: found {found}; expected 0..1 and a class")


class Pasted(NamedTuple):
    """What is pasted into E examples: the cells as rows of the table, -1 = none; and as which of their K cells.

    Attributes:
        rows: int64 [E].
        places: int64 [E].
    """

    rows: np.ndarray
    places: np.ndarray


def plan_pasting(
    examples: Examples, rows: np.ndarray, paste: PasteCells | None, seed: tuple[int, ...]
) -> tuple[np.ndarray, Pasted]:
    """Draw what is pasted into the examples of an epoch.

    The cell becomes the first of the example's K cells that is padding; where there is none it takes the place of the
    last one, which then is seen as one of the rest.

    Args:
        examples: The training cells.
        rows: int64 [E, K], the examples' own cells.
        paste: How often and what; None = nothing.
        seed: Of the epoch.

    Returns:
        The rows with the pasted cells among them, and what is pasted.
    """
    nothing = Pasted(np.full(len(rows), -1), np.zeros(len(rows), np.int64))
    if paste is None:
        return rows, nothing
    donors = np.flatnonzero((examples.labels[:, paste.class_id] >= paste.least) & examples.known[:, paste.class_id])
    rng = np.random.default_rng(seed)
    coins, chosen = rng.random(len(rows)), rng.integers(max(len(donors), 1), size=len(rows))
    if not len(donors):
        return rows, nothing
    donors = donors[chosen]
    other = examples.image_of[donors] != examples.image_of[np.maximum(rows[:, 0], 0)]
    happens = (coins < paste.probability) & other & (rows[:, 0] >= 0)
    free = np.where((rows < 0).any(axis=1), np.argmax(rows < 0, axis=1), rows.shape[1] - 1)
    places = np.where(happens & (rows.shape[1] > 1), free, 0)
    happens &= places > 0  # an example keeps its first cell, which says whose image it is
    rows = rows.copy()
    rows[happens, places[happens]] = donors[happens]
    return rows, Pasted(np.where(happens, donors, -1), np.where(happens, places, 0))


def paste_cell(
    field: Mapping[str, tf.Tensor], donor: Mapping[str, tf.Tensor], place: tf.Tensor, seed: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Paste a cell at the first of `TRIES` random background pixels around which it lies wholly on background.

    Args:
        field: image, float32 [S, S, C], masks, int32 [S, S], and taken, bool [S, S]: pixels of any cell.
        donor: image and masks of the other field, 1 where the cell is.
        place: int32, as which of its K cells it enters the masks, from 0.
        seed: int32 [2].

    Returns:
        image and masks; those of `field` where there is no room. A cell whose place was taken leaves the masks.
    """
    image, masks = field["image"], field["masks"]
    masks = tf.where(masks == place + 1, 0, masks)
    inside = donor["masks"] == 1
    place_of = tf.where(inside)  # [P, 2]
    numbers = tf.random.stateless_uniform([TRIES], seed)
    background = tf.where(~field["taken"])
    possible = (tf.shape(place_of)[0] > 0) & (tf.shape(background)[0] > 0)

    def pasted() -> tuple[tf.Tensor, tf.Tensor]:
        low, high = tf.reduce_min(place_of, axis=0), tf.reduce_max(place_of, axis=0)
        count = tf.cast(tf.shape(background)[0], tf.float32)
        centres = tf.gather(background, tf.minimum(tf.cast(numbers * count, tf.int32), tf.shape(background)[0] - 1))
        moves = centres - (low + high) // 2  # [TRIES, 2]
        size = tf.constant(image.shape[0], tf.int64)

        def has_room(move: tf.Tensor) -> tf.Tensor:
            in_frame = tf.reduce_all((low + move >= 0) & (high + move < size))
            return tf.cond(
                in_frame,
                lambda: ~tf.reduce_any(tf.gather_nd(field["taken"], place_of + move)),
                lambda: tf.constant(False),
            )

        tried = tf.while_loop(
            lambda i: (i < TRIES) & ~has_room(moves[tf.minimum(i, TRIES - 1)]), lambda i: [i + 1], [tf.constant(0)]
        )[0]

        def put() -> tuple[tf.Tensor, tf.Tensor]:
            to = place_of + moves[tf.minimum(tried, TRIES - 1)]
            pixels = tf.gather_nd(donor["image"], place_of)
            number = tf.fill(tf.shape(place_of)[:1], tf.cast(place + 1, masks.dtype))
            return tf.tensor_scatter_nd_update(image, to, pixels), tf.tensor_scatter_nd_update(masks, to, number)

        return tf.cond(tried < TRIES, put, lambda: (image, masks))

    image, masks = tf.cond(possible, pasted, lambda: (image, masks))
    return {"image": image, "masks": masks}

"""Cells that vanish when their field of view is shrunk: in training, too, they keep the map pixel nearest to them.

`predict.py` reads such a cell from that pixel, so validation and tables of cells out of fold have to, or they speak of
another answer. Where the cells are, the cell table says.
"""

import os

import numpy as np
import pandas as pd
import tensorflow as tf

from hpa_tf import files, records
from hpa_tf.errors import InputError
from hpa_tf.imaging.cells import BOX
from hpa_tf.imaging.squares import centres_of, with_every_cell

CENTRES = "centres"
"""Column of the centres of an image's cells, where the folder has fields of view."""


def image_centres(folder: str | os.PathLike, table: pd.DataFrame, images: pd.DataFrame) -> list[np.ndarray]:
    """Return row and column of the centre of each cell of each image, as shares of the image's longer side.

    Args:
        folder: Data folder, for errors.
        table: Its cells in stored order.
        images: Its images.

    Returns:
        float64 [cells, 2] for each image.

    Raises:
        InputError: The table does not say where the cells are.
    """
    if missing := {*BOX, "height", "width"} - set(table.columns):
        where = files.join(folder, records.CELL_TABLE_NAME)
        raise InputError(where, f"no columns {sorted(missing)}", "the builder's columns", "build the data again")
    sides = table[["height", "width"]].to_numpy(np.float64).max(axis=1, keepdims=True)
    centres = centres_of(table[list(BOX)].to_numpy(np.float64), 1 / sides)
    rows_of = table.groupby("image_id", sort=False).indices
    return [centres[rows_of.get(image_id, [])] for image_id in images["image_id"]]


def check_room(folder: str, counts: np.ndarray, side: int | None) -> None:
    """Check that the cells of each image, int [M], have a pixel each in masks of `side` px; None = as they are stored.

    Raises:
        InputError: An image has more.
    """
    if side and (most := int(counts.max(initial=0))) > side * side:
        found, expected = f"an image of {most} cells for masks of {side} x {side} px", "a pixel for each"
        raise InputError(folder, found, expected, "a larger recipe.view.size")


def keep_every_cell(masks: tf.Tensor, centres: tf.Tensor, side: int | None) -> tf.Tensor:
    """Return the masks of a record, in which every cell is seen: `hpa_tf.imaging.squares.with_every_cell`.

    Args:
        masks: uint16 [S, S], as they are stored.
        centres: float64 [N, 2] of its cells, the k-th is k in the masks: see `image_centres`.
        side: What the view shrinks them to, px; None = it does not.
    """

    def kept(masks: np.ndarray, centres: np.ndarray) -> np.ndarray:
        size = len(masks)
        return with_every_cell(masks, dict(enumerate((centres * size).tolist(), start=1)), side or size)

    return tf.ensure_shape(tf.numpy_function(kept, [masks, centres], tf.uint16), masks.shape)

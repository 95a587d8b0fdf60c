"""One image as a view is asked about it: the examples that answer for all of its cells, and the records behind them.

The same for prediction and for the server, so that both ask a network alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpa_tf.imaging.squares import Shrunk, Square
from hpa_tf.views.view import View


def square_of(view: View, dataset: Mapping[str, Any]) -> Square | None:
    """Return how a field of view is shrunk for a view; None where it reads single cells.

    First to the size of the training data's fields of view, as the builder does, then by the view.

    Args:
        view: How the image is seen.
        dataset: The manifest of the training data, from JSON.
    """
    if view.reads == "cells":
        return None
    size = int(dataset.get("options", {}).get("fields") or view.size)
    return Square(size, masks_side(view) or size)


def masks_side(view: View) -> int | None:
    """Return the side to which a view shrinks masks of a field of view, px; None where it takes them as they are."""
    masks = view.record_specs().get("masks")
    return (getattr(view, "whole", 0) or masks.shape[0]) if masks else None


@dataclass(frozen=True)
class _OneImage:
    """The cells of one image, as a plan needs to know them."""

    num_cells: int

    @property
    def by_image(self) -> np.ndarray:
        return np.arange(self.num_cells)

    @property
    def first_of_image(self) -> np.ndarray:
        return np.array([0, self.num_cells])


def rows_of_image(view: View, num_cells: int) -> np.ndarray:
    """Return the cells of each example, int64 [E, K]: every cell of an image of N cells once; -1 = padding.

    Args:
        view: How the image is seen.
        num_cells: N; without cells there are no examples.
    """
    if num_cells == 0:
        return np.zeros((0, view.num_cells), np.int64)
    order = np.arange(num_cells if view.draws == "cell" else 1)
    return view.plan(_OneImage(num_cells), order, None)


def records_of(
    view: View,
    rows: np.ndarray,
    cells: Sequence[tuple[np.ndarray, np.ndarray]],
    square: Shrunk | None,
) -> list[Mapping[str, np.ndarray] | None]:
    """Return the records that one example is made from, as `View.prepare` takes them; None = padding.

    Args:
        view: How the image is seen.
        rows: int64 [K] of `rows_of_image`.
        cells: Crop [H, W, 4] and region map [H, W] of each cell; only looked at by views that read cells.
        square: The whole image; only looked at by views that read fields of view.
    """
    if view.reads == "fields":
        numbers = np.where(rows >= 0, rows + 1, -1).astype(np.int32)
        return [{"image": square[0], "masks": square[1], "numbers": numbers}]
    return [None if row < 0 else {"crop": cells[row][0], "region": cells[row][1]} for row in rows.tolist()]

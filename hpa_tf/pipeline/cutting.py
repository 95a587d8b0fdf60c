"""Cells cut by a random line, and how to tell: what a network of completeness is trained on, without any labels.

The frame cuts cells along straight lines. A cell whose mask does not touch it is whole; half of the drawn ones lose
what lies beyond a random line before they are cut out, so that their boxes shrink with them. Source: SYSTEMS 1g.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import tensorflow as tf

from hpa_tf.errors import InputError
from hpa_tf.imaging.cells import THIS_CELL, THIS_NUCLEUS
from hpa_tf.pipeline.examples import Examples

_COLUMNS = ("top", "left", "bottom", "right", "height", "width")


@dataclass(frozen=True)
class CutCells:
    """Cut a cell by a random line; the labels of all classes become 1 = whole, 0 = cut. Only for views of crops."""

    probability: float = 0.5
    """How often it happens, 0..1."""
    left: tuple[float, float] = (0.1, 0.6)
    """Range of the share of the cell's area that is left, 0..1."""

    def __post_init__(self):
        low, high = self.left
        if not 0 <= self.probability <= 1 or not 0 < low <= high <= 1:
            found = f"probability {self.probability}, left {self.left}"
            raise ValueError(f"augmentation.cut: found {found}; expected 0..1 and 0 < low <= high <= 1")


class Line(NamedTuple):
    """A cut.

    Attributes:
        happens: bool.
        angle: Direction in which pixels are lost, radians from down to the right.
        left: Share of the cell's area that is left.
    """

    happens: tf.Tensor
    angle: tf.Tensor
    left: tf.Tensor


def draw_line(seed: tf.Tensor, cut: CutCells) -> Line:
    """Draw a cut, a function of the seed, int32 [2]."""
    u = tf.random.stateless_uniform([3], seed)
    low, high = cut.left
    return Line(u[0] < cut.probability, u[1] * (2 * math.pi), low + u[2] * (high - low))


def cut_region(region: tf.Tensor, line: Line) -> tf.Tensor:
    """Return a region map, uint8 [H, W], without the cell's pixels beyond a line; as it is where nothing happens."""
    inside = (region == THIS_CELL) | (region == THIS_NUCLEUS)
    rows, columns = (tf.cast(tf.range(one), tf.float32) for one in tf.unstack(tf.shape(region)))
    distance = tf.cos(line.angle) * rows[:, None] + tf.sin(line.angle) * columns
    own = tf.sort(tf.boolean_mask(distance, inside))
    count = tf.cast(tf.size(own), tf.float32)
    kept = tf.maximum(tf.cast(tf.round(count * line.left), tf.int32), 1)

    def cut() -> tf.Tensor:
        return tf.where(inside & (distance > own[kept - 1]), tf.zeros_like(region), region)

    return tf.cond(line.happens & (count > 0), cut, lambda: region)


def whole_cells(examples: Examples) -> Examples:
    """Return the cells whose boxes do not touch the frame.

    Raises:
        InputError: The table does not say where cells lie, or none is whole.
    """
    missing = [name for name in _COLUMNS if name not in examples.table]
    if missing:
        fix = "build the data again"
        raise InputError(examples.folder, f"no columns {missing}", "where the cells lie in their images", fix)
    whole = _is_inside(examples.table)
    if not whole.any():
        fix = "add images of larger fields of view"
        raise InputError(examples.folder, f"{len(whole)} cells, all at the frame", "cells that are whole", fix)
    return examples.select(whole)


def _is_inside(table: pd.DataFrame) -> np.ndarray:
    inside = (table["top"] > 0) & (table["left"] > 0)
    return (inside & (table["bottom"] < table["height"]) & (table["right"] < table["width"])).to_numpy()

"""What the networks need of an image: workers read, cut and shrink no more than that. No TensorFlow here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hpa_tf.imaging.squares import to_square, with_every_cell


class Square(NamedTuple):
    """How a field of view is shrunk for a network.

    Attributes:
        size: Side of the square, px: that of the fields of view in the network's training data.
        seen: Side to which its view shrinks the masks of the square, px.
    """

    size: int
    seen: int


@dataclass(frozen=True)
class Needs:
    """What the networks' views are made from.

    Attributes:
        crops: Whether some are made from crops of single cells.
        margin: Pixels around each cell's tight box that they can use.
        squares: How fields of view are shrunk for those that see whole ones.
        thumbnails: Whether the report's pictures of cells have to be made from crops, because the first network does
            not see any in all four channels.
    """

    crops: bool = True
    margin: int = 0
    squares: tuple[Square, ...] = ()
    thumbnails: bool = False

    def shrunk(
        self, pixels: np.ndarray, mask: np.ndarray, numbers: Sequence[int], boxes: np.ndarray
    ) -> Mapping[Square, tuple[np.ndarray, np.ndarray]]:
        """Return the squares of a field of view, as the builder makes them: pixels and masks of each.

        A cell that vanishes keeps a pixel, so that it is answered all the same.

        Args:
            pixels: uint8 or uint16 [H, W, 4], counts.
            mask: int [H, W], numbers of cells.
            numbers: Those of the N cells; the k-th is k in the square's masks, from 1.
            boxes: [N, 4]: top, left, bottom, right of each cell, px.
        """
        found = {}
        for size in {square.size for square in self.squares}:
            shrunk, masks, scale = to_square(pixels, mask, numbers, size)
            found |= self.seen(shrunk, masks, boxes, scale)
        return found

    def seen(
        self, shrunk: np.ndarray, masks: np.ndarray, boxes: np.ndarray, scale: float
    ) -> Mapping[Square, tuple[np.ndarray, np.ndarray]]:
        """Return the squares of this size, each with a pixel of every cell where its view looks.

        Args:
            shrunk: uint8 or uint16 [S, S, 4].
            masks: uint16 [S, S].
            boxes: [N, 4] of the cells in the field of view, px.
            scale: The square's px a px of the field of view.
        """
        middles = (boxes[:, :2] + boxes[:, 2:]) * (scale / 2)
        centres = {number: (row, column) for number, (row, column) in enumerate(middles.tolist(), start=1)}
        wanted = [square for square in self.squares if square.size == len(masks)]
        return {square: (shrunk, with_every_cell(masks, centres, square.seen)) for square in wanted}


TIGHT_CROPS = Needs()
"""What most networks of single cells need."""

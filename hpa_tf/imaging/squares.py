"""Fields of view as squares of one size: what networks that look at whole fields see. One function for all."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from hpa_tf.errors import InputError


class Square(NamedTuple):
    """How a field of view is shrunk for a network.

    Attributes:
        size: Side of the square, px: that of the fields of view in the network's training data.
        seen: Side to which its view shrinks the masks of the square, px.
    """

    size: int
    seen: int


_PARTS = 1024
"""Centres of cells count to so many parts of a px, so that places equally far stay so however a centre was computed."""
_MOST_CELLS = 65_535
Shrunk = tuple[np.ndarray, np.ndarray]
"""A field of view as a square: pixels [S, S, 4], and masks uint16 [S, S] in which the k-th cell is k, from 1."""


def to_square(
    pixels: np.ndarray, mask: np.ndarray, numbers: Sequence[int], size: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Shrink a field of view and its cell mask to a square: its longer side fills it, the rest is zero.

    Pixels are averaged over areas (a smaller field is enlarged, bilinear); masks take the nearest pixel.

    Args:
        pixels: uint8 or uint16 [H, W, 4], counts.
        mask: int [H, W], 0 background, else the number of a cell.
        numbers: Numbers of the cells that stay; the k-th becomes k, from 1.
        size: Side of the square, px.

    Returns:
        pixels [S, S, 4] of the same type, uint16 mask [S, S], and the square's px a px of the field.

    Raises:
        InputError: More cells than a mask of 16 bits can number.
    """
    if len(numbers) > _MOST_CELLS:
        fix = "cut the image into parts, or use networks that see single cells"
        raise InputError("field of view", f"{len(numbers)} cells", f"at most {_MOST_CELLS} as one whole", fix)
    height, width = pixels.shape[:2]
    scale = size / max(height, width)
    target = (max(1, round(width * scale)), max(1, round(height * scale)))
    order = np.zeros(max(numbers, default=0) + 1, np.uint16)
    order[list(numbers)] = np.arange(1, len(numbers) + 1)
    compact = order[np.where(mask < len(order), mask, 0)]
    shrunk, masks = np.zeros((size, size, 4), pixels.dtype), np.zeros((size, size), np.uint16)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    shrunk[: target[1], : target[0]] = cv2.resize(pixels, target, interpolation=method)
    masks[: target[1], : target[0]] = cv2.resize(compact, target, interpolation=cv2.INTER_NEAREST_EXACT)
    return shrunk, masks, scale


def squares_of(
    pixels: np.ndarray, mask: np.ndarray, numbers: Sequence[int], boxes: np.ndarray, squares: Sequence[Square]
) -> dict[Square, Shrunk]:
    """Return a field of view as networks see it; a cell that vanishes keeps a pixel, so that it is answered too.

    Args:
        pixels: uint8 or uint16 [H, W, 4], counts.
        mask: int [H, W], numbers of cells.
        numbers: Those of the N cells; the k-th is k in the square's masks, from 1.
        boxes: [N, 4]: top, left, bottom, right of each cell, px.
        squares: How it is shrunk.
    """
    found = {}
    for size in dict.fromkeys(square.size for square in squares):
        shrunk, masks, scale = to_square(pixels, mask, numbers, size)
        centres = dict(enumerate(centres_of(boxes, scale).tolist(), start=1))
        wanted = [square for square in squares if square.size == size]
        found |= {square: (shrunk, with_every_cell(masks, centres, square.seen)) for square in wanted}
    return found


def centres_of(boxes: np.ndarray, scale: float | np.ndarray = 1.0) -> np.ndarray:
    """Return row and column of the centres of boxes [N, 4] (top, left, bottom, right) times `scale`, float64 [N, 2]."""
    return (boxes[:, :2] + boxes[:, 2:]) * (scale / 2)


def with_every_cell(masks: np.ndarray, centres: Mapping[int, Sequence[float]], seen: int) -> np.ndarray:
    """Return the masks of a square in which every cell is seen, also those that vanished when the field was shrunk.

    A cell without a pixel gets the nearest one to its centre that is background, or of a cell that has others.

    Args:
        masks: uint16 or int32 [S, S], 0 = no cell.
        centres: Row and column of the centre, px of the square, of each cell that shall be seen, by its number.
        seen: Side to which a view shrinks the masks, by taking the nearest pixel; S where it does not, px.

    Raises:
        InputError: There are more cells than pixels.
    """
    size = len(masks)
    seen = min(seen, size)
    taken = np.minimum(((np.arange(seen) + 0.5) * size / seen).astype(np.int64), size - 1)
    view = masks if seen == size else masks[np.ix_(taken, taken)]
    there = np.zeros(max(int(view.max(initial=0)), max(centres, default=0)) + 1, bool)
    there[view] = True  # a fifth of the time of counting them
    missing = [number for number in centres if not there[number]]
    if not missing:
        return masks
    if len(centres) > seen * seen:
        found, expected = f"{len(centres)} cells", f"at most {seen} x {seen}, a pixel each"
        raise InputError("field of view", found, expected, "check the masks")
    masks, view, middle = masks.copy(), view.copy(), taken + 0.5
    pixels = np.bincount(view.ravel(), minlength=len(there))
    for number in missing:
        row, column = np.round(np.asarray(centres[number]) * _PARTS) / _PARTS
        free = (view == 0) | (pixels[view] > 1)
        distance = np.where(free, (middle[:, None] - row) ** 2 + (middle - column) ** 2, np.inf)
        i, j = np.unravel_index(np.argmin(distance), distance.shape)
        pixels[view[i, j]] -= 1
        view[i, j] = masks[taken[i], taken[j]] = number
        pixels[number] = 1
    return masks

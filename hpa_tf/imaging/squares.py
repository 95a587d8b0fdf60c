"""Fields of view as squares of one size: what networks that look at whole fields see. One function for all."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from hpa_tf.errors import InputError


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
    """
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


def with_every_cell(masks: np.ndarray, centres: Mapping[int, tuple[float, float]], seen: int) -> np.ndarray:
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
    view = masks[np.ix_(taken, taken)]
    pixels = np.bincount(view.ravel(), minlength=max(centres, default=0) + 1)
    missing = [number for number in centres if not pixels[number]]
    if not missing:
        return masks
    if len(centres) > seen * seen:
        found, expected = f"{len(centres)} cells", f"at most {seen} x {seen}, a pixel each"
        raise InputError("field of view", found, expected, "check the masks")
    masks, middle = masks.copy(), taken + 0.5
    for number in missing:
        row, column = centres[number]
        free = (view == 0) | (pixels[view] > 1)
        distance = np.where(free, (middle[:, None] - row) ** 2 + (middle - column) ** 2, np.inf)
        i, j = np.unravel_index(np.argmin(distance), distance.shape)
        pixels[view[i, j]] -= 1
        view[i, j] = masks[taken[i], taken[j]] = number
        pixels[number] = 1
    return masks

"""Fields of view as squares of one size: what networks that look at whole fields see. One function for all."""

from collections.abc import Sequence

import cv2
import numpy as np


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

"""Between a field's own pixels and the working grid of about 0.32 um/px on which the classical steps run.

Cells are 15 to 60 um wide, so 0.32 um/px keeps their outlines while a 2048 px field shrinks to 512 px: 16 times less
work. Masks go back to full size with smooth outlines instead of 4 px stairs.
"""

import math

import cv2
import numpy as np
from scipy import ndimage

WORKING_UM_PER_PX = 0.32
"""Micrometres per pixel of the working grid; coarser fields are worked on as they are."""

Box = tuple[slice, slice]


def reduce(pixels: np.ndarray, um_per_px: float) -> tuple[np.ndarray, float]:
    """Average a field down to the working grid.

    Args:
        pixels: uint8 or uint16 [H, W, C], counts.
        um_per_px: Micrometres per pixel of `pixels`.

    Returns:
        float32 [h, w, C], 0..1 of the full range of the type, and the micrometres per pixel of [h, w].
    """
    scaled = pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    factor = um_per_px / WORKING_UM_PER_PX
    if factor >= 1:
        return scaled, um_per_px
    height, width = (max(1, round(size * factor)) for size in pixels.shape[:2])
    reduced = cv2.resize(scaled, (width, height), interpolation=cv2.INTER_AREA)
    return reduced.reshape(height, width, -1), WORKING_UM_PER_PX


def smooth(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur float32 [h, w] with a Gaussian of `sigma` px, edges mirrored."""
    return cv2.GaussianBlur(np.ascontiguousarray(image), (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)


def regions(mask: np.ndarray) -> list[tuple[int, Box]]:
    """List (number, bounding box) of the regions of an int32 mask [H, W], by rising number."""
    return [(number, box) for number, box in enumerate(ndimage.find_objects(mask), start=1) if box is not None]


def enlarge(mask: np.ndarray, shape: tuple[int, int], sigma: float = 1.5) -> np.ndarray:
    """Enlarge a mask with smooth outlines; every region stays one 4-connected piece.

    The indicator of each region is blurred and enlarged bilinearly. A pixel belongs to a region where the sum of
    the indicators exceeds one half, and there to the region of the largest indicator.

    Args:
        mask: int32 [h, w], 0 = background.
        shape: (H, W) of the result, px.
        sigma: Blur of the indicators, px of `mask`.

    Returns:
        int32 [H, W] with the numbers of `mask`.
    """
    best = np.zeros(shape, np.float32)
    enlarged = np.zeros(shape, np.int32)
    for number, box in regions(mask):
        near = _grown(box, 2 + math.ceil(3 * sigma), mask.shape)
        indicator, target = _enlarged_indicator(mask[near] == number, near, mask.shape, shape, sigma)
        wins = indicator > best[target]
        best[target][wins] = indicator[wins]
        enlarged[target][wins] = number
    covered = smooth((mask > 0).astype(np.float32), sigma)
    enlarged[cv2.resize(covered, shape[::-1], interpolation=cv2.INTER_LINEAR) <= 0.5] = 0
    return keep_largest_pieces(enlarged)


def _grown(box: Box, by: int, shape: tuple[int, int]) -> Box:
    """Grow a box by `by` px a side, cut at the frame `shape`."""
    return tuple(slice(max(0, s.start - by), min(size, s.stop + by)) for s, size in zip(box, shape, strict=True))


def _enlarged_indicator(member, near, small_shape, shape, sigma) -> tuple[np.ndarray, Box]:
    """Blur bool `member`, which fills the box `near` of the small grid, and enlarge it: (float32, box in `shape`)."""
    indicator = smooth(member.astype(np.float32), sigma)
    ratio = [small / large for small, large in zip(small_shape, shape, strict=True)]
    target = tuple(slice(round(s.start / r), round(s.stop / r)) for s, r in zip(near, ratio, strict=True))
    rows, columns = target
    # half-pixel centres: small = (large + 0.5) * ratio - 0.5, here between the corners of the two boxes
    offset = [(t.start + 0.5) * r - 0.5 - s.start for t, s, r in zip(target, near, ratio, strict=True)]
    return cv2.warpAffine(
        indicator,
        np.array([[ratio[1], 0, offset[1]], [0, ratio[0], offset[0]]], np.float64),
        (columns.stop - columns.start, rows.stop - rows.start),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    ), target


def keep_largest_pieces(mask: np.ndarray) -> np.ndarray:
    """Erase from each region of an int32 mask [H, W] all but its largest 4-connected piece.

    Changes `mask` and returns it.
    """
    for number, box in regions(mask):
        member = mask[box] == number
        mask[box][member & ~largest_piece(member)] = 0
    return mask


def largest_piece(member: np.ndarray) -> np.ndarray:
    """Return the largest 4-connected piece of bool [H, W]; of equals the first in reading order."""
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(member.astype(np.uint8), connectivity=4)
    if count <= 2:
        return member
    return pieces == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))

"""Between an image's own pixels and the working grid of about 0.32 um/px on which segmentation runs.

Cells are 15 to 60 um wide, so 0.32 um/px keeps their outlines while a 2048 px field shrinks to 512 px: 16 times less
work. Label images go back to full size by smooth outlines, not by 4x4 px stairs.
"""

import cv2
import numpy as np

WORKING_UM_PER_PX = 0.32
"""Micrometres per pixel of the working grid; coarser images are worked on as they are."""


def reduce(pixels: np.ndarray, um_per_px: float) -> tuple[np.ndarray, float]:
    """Average an image down to the working grid.

    Args:
        pixels: uint8 or uint16 [H, W, C], counts.
        um_per_px: Micrometres per pixel of `pixels`.

    Returns:
        float32 [h, w, C] in 0..1 of the full range of the type, and the micrometres per pixel of that grid.
    """
    factor = um_per_px / WORKING_UM_PER_PX
    scaled = pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    if factor >= 1:
        return scaled, um_per_px
    height, width = (max(1, round(size * factor)) for size in pixels.shape[:2])
    reduced = cv2.resize(scaled, (width, height), interpolation=cv2.INTER_AREA)
    return reduced.reshape(height, width, -1), um_per_px * pixels.shape[0] / height


def smooth(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur float32 [h, w] with a Gaussian of `sigma` px, edges mirrored."""
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)


def enlarge(mask: np.ndarray, shape: tuple[int, int], sigma: float = 1.0) -> np.ndarray:
    """Enlarge a label image with smooth outlines; every region stays one connected piece.

    Each pixel goes to the region whose blurred, bilinearly enlarged indicator is largest, where all regions
    together exceed one half.

    Args:
        mask: int32 [h, w], 0 = background.
        shape: (H, W) of the result, px.
        sigma: Blur of the indicators, px of `mask`.

    Returns:
        int32 [H, W] with the numbers of `mask`.
    """
    if tuple(shape) == mask.shape:
        return mask.astype(np.int32)
    any_region = cv2.resize(smooth((mask > 0).astype(np.float32), sigma), shape[::-1], interpolation=cv2.INTER_LINEAR)
    best = np.zeros(shape, np.float32)
    enlarged = np.zeros(shape, np.int32)
    for number, box in boxes(mask):
        _enlarge_one(mask, number, box, sigma, best, enlarged)
    enlarged[any_region <= 0.5] = 0
    return keep_largest_pieces(enlarged)


def boxes(mask: np.ndarray) -> list[tuple[int, tuple[slice, slice]]]:
    """List (number, (rows, columns)) of the regions of an int32 label image [H, W], by rising number."""
    from scipy import ndimage

    return [(number, box) for number, box in enumerate(ndimage.find_objects(mask), start=1) if box is not None]


def _enlarge_one(mask, number, box, sigma, best, enlarged):
    """Draw region `number` into `enlarged` where its indicator beats `best`; both are changed in place."""
    pad = int(np.ceil(3 * sigma)) + 1
    (h, w), (height, width) = mask.shape, best.shape
    rows = slice(max(0, box[0].start - pad), min(h, box[0].stop + pad))
    columns = slice(max(0, box[1].start - pad), min(w, box[1].stop + pad))
    indicator = smooth((mask[rows, columns] == number).astype(np.float32), sigma)
    top, bottom = round(rows.start * height / h), round(rows.stop * height / h)
    left, right = round(columns.start * width / w), round(columns.stop * width / w)
    # maps target pixel centres to source pixel centres of the crop, also where the ratio is not whole
    shift_x, shift_y = (left + 0.5) * w / width - 0.5 - columns.start, (top + 0.5) * h / height - 0.5 - rows.start
    matrix = np.array([[w / width, 0, shift_x], [0, h / height, shift_y]], np.float32)
    value = cv2.warpAffine(
        indicator,
        matrix,
        (right - left, bottom - top),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    target = (slice(top, bottom), slice(left, right))
    wins = value > best[target]
    best[target][wins] = value[wins]
    enlarged[target][wins] = number


def keep_largest_pieces(mask: np.ndarray) -> np.ndarray:
    """Erase from each region of int32 [H, W] all 4-connected pieces but the largest; changes `mask` and returns it."""
    for number, box in boxes(mask):
        crop = mask[box]
        member = crop == number
        count, pieces, stats, _ = cv2.connectedComponentsWithStats(member.astype(np.uint8), connectivity=4)
        if count > 2:
            largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
            crop[member & (pieces != largest)] = 0
    return mask

"""From HPACellSegmentator's maps to masks of nuclei and cells, as the original does it and several times faster.

The masks are the original's pixel for pixel, three of its quirks included: the sum of the two borders wraps at 256,
the first region of the cells does not leave their border out, and its height is not clipped. Two are mended: more
than 255 cells keep their numbers, and sizes are in micrometres, so that maps of any scale can be labelled.
"""

import cv2
import numpy as np
from skimage.filters import threshold_otsu

from hpa_tf.imaging.segmentation.components import Components, equal_regions, outline, without_small
from hpa_tf.imaging.segmentation.flooding import flood, flood_with_lines

BORDER, FOREGROUND = 1, 2
"""Channels of the maps; channel 0 is not used."""

MIN_SEED_UM2 = 3.2
MAX_HOLE_UM2 = 6.4
MIN_FRAGMENT_UM2 = 0.0512
MIN_NUCLEUS_UM2 = 16.0
MIN_CELL_UM2 = 35.2
CLOSING_RADIUS_UM = 0.48
"""500, 1000, 8, 2500 and 5500 px and 6 px at 0.08 um/px."""

_LEVELS = np.arange(256)
_FREE = (1 - _LEVELS / 255) > 0.05
_SEED = _LEVELS / 255 > 0.4 - 0.25
_NUCLEUS = _LEVELS / 255 > 0.4
_CELL_BORDER = _LEVELS / 255 > 0.05
_LEAST_THRESHOLD, _OTSU_SHARE = 0.22, 0.5


def label_cell(nuclei_map: np.ndarray, cell_map: np.ndarray, um_per_px: float = 0.08) -> tuple[np.ndarray, np.ndarray]:
    """Label the nuclei and cells of one field of view.

    Args:
        nuclei_map: uint8 [H, W, 3], 0..255: the nucleus network's background, border and foreground.
        cell_map: The same of the cell network.
        um_per_px: Micrometres per pixel of the maps.

    Returns:
        (nuclei, cells), int32 [H, W]. Cells are numbered 1..N in reading order; a nucleus has the number of its cell.
        A cell may have several nuclei, or none.
    """
    nuclei = _nuclei(nuclei_map, cell_map, um_per_px)
    cells = _cells(nuclei, cell_map, um_per_px)
    inside = Components((nuclei > 0) & (cells > 0), connectivity=8)
    return cells * inside.kept(_px(MIN_NUCLEUS_UM2, um_per_px)), cells


def _px(um2: float, um_per_px: float) -> int:
    """Return an area in px."""
    return round(um2 / um_per_px**2)


def _nuclei(nuclei_map: np.ndarray, cell_map: np.ndarray, um_per_px: float) -> np.ndarray:
    foreground = np.ascontiguousarray(nuclei_map[..., FOREGROUND])
    borders = nuclei_map[..., BORDER] + cell_map[..., BORDER]  # uint8: wraps as the original's does
    seeds = Components(_SEED[foreground] & _FREE[borders]).numbered(_px(MIN_SEED_UM2, um_per_px))
    inside = Components(~_NUCLEUS[foreground]).kept(_px(MAX_HOLE_UM2, um_per_px), inverted=True)
    inside = Components(inside).kept(_px(MIN_FRAGMENT_UM2, um_per_px))
    nuclei = flood_with_lines(seeds, inside)
    return equal_regions(without_small(nuclei, _px(MIN_NUCLEUS_UM2, um_per_px)))


def _cells(nuclei: np.ndarray, cell_map: np.ndarray, um_per_px: float) -> np.ndarray:
    foreground = np.ascontiguousarray(cell_map[..., FOREGROUND])
    height, min_area = 255 - foreground, _px(MIN_CELL_UM2, um_per_px)
    threshold = max(_LEAST_THRESHOLD, _OTSU_SHARE * _otsu(foreground))
    bright = threshold < _LEVELS / 255
    cells = without_small(flood(height, nuclei, bright[foreground]), min_area)
    cells = _filled(_closed(cells, max(1, round(CLOSING_RADIUS_UM / um_per_px))))
    region = (cells > 0) | _CELL_BORDER[cell_map[..., BORDER]]
    cells = _filled(flood(height, cells, region)) > 0
    return Components(cells, connectivity=8).numbered(min_area)


def _otsu(foreground: np.ndarray) -> float:
    """Return Otsu's threshold of the map in 0..1, from the counts of its 256 values."""
    counts = np.bincount(foreground.ravel(), minlength=256)
    present = np.flatnonzero(counts)
    if len(present) == 1:
        return float(present[0] / 255)
    binned, edges = np.histogram(present / 255, bins=256, weights=counts[present])
    return float(threshold_otsu(hist=(binned, (edges[:-1] + edges[1:]) / 2)))


def _closed(labels: np.ndarray, radius: int) -> np.ndarray:
    """Close the picture of the numbers with a disk: where cells meet the higher number wins."""
    offsets = np.arange(-radius, radius + 1)
    disk = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.uint8)
    # OpenCV knows no int32; float32 holds whole numbers up to 2**24
    narrow = labels.astype(np.uint16 if labels.max(initial=0) < 1 << 16 else np.float32)
    return cv2.morphologyEx(narrow, cv2.MORPH_CLOSE, disk).astype(np.int32)


def _filled(labels: np.ndarray) -> np.ndarray:
    """Take the pixels on outlines away, fill the holes of what is left, and number its pieces anew."""
    inner = (labels > 0) & ~outline(labels)
    holes = Components(~inner).inside()
    return Components(inner | holes).numbered(1)

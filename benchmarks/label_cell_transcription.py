"""HPACellSegmentator's `label_cell`, step by step with scikit-image: what the fast one must equal, and its time.

Written from a description of what the original computes, quirks included: the sum of borders that wraps at 256, the
border that is not left out of the first region, the height that is not clipped. Not kept is the cast to uint8, which
gave the 257th cell the number of the first.
"""

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.measure import label
from skimage.morphology import closing, disk, remove_small_holes, remove_small_objects
from skimage.segmentation import find_boundaries, watershed

FULL_SIZE_UM_PER_PX = 0.08


def label_cell(nuclei_map: np.ndarray, cell_map: np.ndarray, um_per_px: float = 0.08) -> tuple[np.ndarray, np.ndarray]:
    """Return (nuclei, cells), int32 [H, W], of two uint8 maps [H, W, 3]: background, border, foreground."""
    finer = (FULL_SIZE_UM_PER_PX / um_per_px) ** 2
    area = {name: round(px * finer) for name, px in AREAS.items()}
    radius = max(1, round(6 * FULL_SIZE_UM_PER_PX / um_per_px))
    nuclei = _nuclei(nuclei_map, cell_map, area)
    cells = _cells(nuclei, cell_map, area, radius)
    return _match(nuclei, cells, area)


AREAS = {"seed": 500, "hole": 1000, "object": 8, "nucleus": 2500, "cell": 5500}


def _without_small(array: np.ndarray, area: int) -> np.ndarray:
    return remove_small_objects(array, max_size=area - 1)


def _nuclei(nuclei_map, cell_map, area):
    border = nuclei_map[..., 1] + cell_map[..., 1]  # uint8
    free = (1 - border / 255) > 0.05
    seeds = nuclei_map[..., 2] / 255 * free > 0.4 - 0.25
    seeds, _ = ndimage.label(_without_small(seeds, area["seed"]))
    inside = nuclei_map[..., 2] / 255 > 0.4
    inside = remove_small_holes(inside, max_size=area["hole"] - 1)
    inside = _without_small(inside, area["object"])
    found = watershed(inside.astype(np.float64), seeds, mask=inside, watershed_line=True)
    return label(_without_small(found, area["nucleus"]))


def _cells(nuclei, cell_map, area, radius):
    foreground, border = cell_map[..., 2] / 255, cell_map[..., 1] / 255
    threshold = max(0.22, threshold_otsu(foreground) * 0.5)
    height = -cell_map[..., 2].astype(np.float64)
    cells = watershed(height, nuclei, mask=foreground > threshold)
    cells = _without_small(cells, area["cell"])
    cells = closing(cells.astype(np.int32), disk(radius))
    cells = _fill(cells)
    cells = _fill(watershed(height, cells, mask=(cells > 0) | (border > 0.05)))
    return label(_without_small(label(cells > 0), area["cell"]))


def _fill(cells):
    outlines = find_boundaries(cells, connectivity=1)
    filled = ndimage.binary_fill_holes(np.where(outlines, 0, cells) > 0)
    return ndimage.label(filled)[0]


def _match(nuclei, cells, area):
    kept = label((nuclei > 0) & (cells > 0))
    kept = _without_small(kept, area["nucleus"])
    return np.where(kept > 0, cells, 0).astype(np.int32), cells.astype(np.int32)

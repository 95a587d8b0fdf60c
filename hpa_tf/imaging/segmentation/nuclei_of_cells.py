"""Nuclei for cells whose masks come from elsewhere: numbered like their cells, and limited to them."""

import numpy as np
from scipy import ndimage

from hpa_tf.classes import BLUE
from hpa_tf.imaging.fields import FieldOfView
from hpa_tf.imaging.segmentation.nuclei import find_nuclei
from hpa_tf.imaging.segmentation.resolution import enlarge, reduce

_SHARE = 0.25
"""A nucleus that was not told apart from its neighbour belongs to each cell that holds this share of it."""


def match_to_cells(nucleus: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Give each nucleus the number of the cell it overlaps most, and cut it at that cell's outline.

    Works whether or not the numbers correspond; where two cells hold equally much of a nucleus, the one of the same
    number wins. A mask with a single number for all nuclei (0 and 255) is taken as their outlines.

    Args:
        nucleus: int32 [H, W], 0 = background, any numbering.
        cell: int32 [H, W], 0 = background.

    Returns:
        int32 [H, W] with the numbers of `cell`; nuclei outside all cells are gone.
    """
    numbers = np.unique(nucleus)
    if np.count_nonzero(numbers) == 1 and len(np.unique(cell)) > 2:
        return _limited(ndimage.label(nucleus)[0], cell, share=_SHARE)
    return _limited(nucleus, cell, share=np.inf)


def nuclei_from_blue(field: FieldOfView, cell: np.ndarray) -> np.ndarray:
    """Find the nuclei of known cells in the blue channel.

    Args:
        field: Pixels [H, W, 4].
        cell: int32 [H, W], 0 = background.

    Returns:
        int32 [H, W] with the numbers of `cell`; a cell in which no nucleus is seen has none.
    """
    blue, um_per_px = reduce(field.pixels[..., BLUE : BLUE + 1], field.um_per_px)
    found = enlarge(find_nuclei(blue[..., 0], um_per_px), cell.shape)
    return _limited(found, cell, share=_SHARE)


def _limited(nucleus: np.ndarray, cell: np.ndarray, share: float) -> np.ndarray:
    """Number nucleus pixels by cell, where the cell holds most, or at least `share`, of the nucleus inside cells."""
    limited = np.zeros(cell.shape, np.int32)
    inside = (nucleus > 0) & (cell > 0)
    pair_of_pixel = nucleus[inside].astype(np.int64) << 32 | cell[inside]
    pairs, pair_index, overlap = np.unique(pair_of_pixel, return_inverse=True, return_counts=True)
    of_nucleus, of_cell = pairs >> 32, pairs & 0xFFFFFFFF
    _, nucleus_index = np.unique(of_nucleus, return_inverse=True)
    best_first = np.lexsort((of_nucleus != of_cell, -overlap, nucleus_index))
    is_best = np.zeros(len(pairs), bool)
    is_best[best_first[np.unique(nucleus_index[best_first], return_index=True)[1]]] = True
    whole = np.bincount(nucleus_index, weights=overlap)[nucleus_index] if len(pairs) else np.zeros(0)
    kept = is_best | (overlap >= share * whole)
    limited[inside] = np.where(kept[pair_index], cell[inside], 0)
    return limited

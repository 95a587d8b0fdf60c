"""Predictions of cells from other masks, brought to the cells of a data folder: matched by how far they overlap.

Two teams that segment the same images differ in the outlines and the numbers of their cells. A cell and another one are
the same where their intersection over union (IoU) is above `least`; above .5 no cell has two such partners.
Source: SYSTEMS 3h (90 % of the cells matched).
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from hpa_tf import cell_table
from hpa_tf.errors import InputError
from hpa_tf.progress import progress

LEAST = 0.5
"""Intersection over union above which two cells are the same."""


def match_cells(own: np.ndarray, other: np.ndarray, least: float = LEAST) -> dict[int, int]:
    """Return the number in `other` of each cell of `own` that has a partner.

    Args:
        own: int [H, W], 0 = background, below 2^31.
        other: int [H, W], the same.
        least: Their IoU is larger than this, .5 to 1.

    Raises:
        ValueError: The masks have different sizes, or `least` allows two partners.
    """
    if own.shape != other.shape or not 0.5 <= least <= 1:
        raise ValueError(f"found masks of {own.shape} and {other.shape}, IoU {least}; expected one size and .5 to 1")
    areas, other_areas = (dict(zip(*np.unique(one, return_counts=True), strict=True)) for one in (own, other))
    both = (own > 0) & (other > 0)
    codes, shared = np.unique(own[both].astype(np.int64) << 32 | other[both], return_counts=True)
    pairs = list(zip((codes >> 32).tolist(), (codes & 0xFFFFFFFF).tolist(), strict=True))
    union = np.array([areas[i] + other_areas[j] for i, j in pairs], np.int64) - shared
    return {i: j for (i, j), is_same in zip(pairs, shared > least * union, strict=True) if is_same}


def on_own_cells(
    predictions: pd.DataFrame,
    cells: pd.DataFrame,
    own_mask: Callable[[str], np.ndarray],
    other_mask: Callable[[str], np.ndarray],
    where: str,
    least: float = LEAST,
) -> tuple[pd.DataFrame, float]:
    """Return predictions of cells of other masks as a table of the cells of a data folder.

    Args:
        predictions: Cell table; its numbers are those of the other masks.
        cells: image_id and cell of the data folder's cells.
        own_mask: Image id -> the mask that the data were built with, int [H, W].
        other_mask: Image id -> the mask that was predicted with.
        where: The predictions' file, for errors.
        least: Two cells are the same where their IoU is larger.

    Returns:
        A table with a row for each cell that has a partner with a prediction, and the share of the data's cells (of
        images that were predicted) that have one.

    Raises:
        InputError: No image is in both, the two masks of an image have different sizes, or no cell has a partner.
    """
    rows_of = predictions.groupby("image_id").indices
    images = [image_id for image_id in pd.unique(cells["image_id"]) if image_id in rows_of]
    if not images:
        fix = "give predictions of the images of the data folder"
        raise InputError(where, "no image of the data folder", "the same images", fix)
    kept: list[tuple[str, int, int]] = []
    numbers_of = cells.groupby("image_id")["cell"]
    for image_id in progress(images, desc="match masks", unit="image"):
        own, other = own_mask(image_id), other_mask(image_id)
        if own.shape != other.shape:
            found = f"masks of {_size(own)} and {_size(other)} of image {image_id}"
            raise InputError(where, found, "masks of one size", "make both from the same image")
        partner = match_cells(own, other, least)
        rows = dict(zip(predictions["cell"].to_numpy()[rows_of[image_id]], rows_of[image_id], strict=True))
        own_numbers = numbers_of.get_group(image_id)
        kept += [(image_id, n, rows[partner[n]]) for n in own_numbers if n in partner and partner[n] in rows]
    count = int(cells["image_id"].isin(images).sum())
    if not kept:
        found = f"none of {count} cells overlaps a predicted one by more than {least:g}"
        raise InputError(where, found, "masks of the same images", "check both folders of masks")
    ids, numbers, rows = zip(*kept, strict=True)
    values = cell_table.values(predictions)[list(rows)]
    return cell_table.from_values(list(ids), list(numbers), values), len(kept) / count


def _size(mask: np.ndarray) -> str:
    return f"{mask.shape[1]} x {mask.shape[0]} px"

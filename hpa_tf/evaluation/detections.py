"""Read what is to be scored: a submission, or a cell table with its masks."""

import os
from collections.abc import Iterator

import numpy as np

from hpa_tf import cell_table, submission
from hpa_tf.classes import NUM_CLASSES
from hpa_tf.errors import InputError
from hpa_tf.evaluation.mask_folder import MaskFolder
from hpa_tf.evaluation.matching import ImageDetections
from hpa_tf.imaging.run_length import Rle


def read_detections(path: str | os.PathLike, masks: MaskFolder | None = None) -> Iterator[ImageDetections]:
    """Yield the detections of each image.

    Args:
        path: submission.csv, or a cell table (.parquet) of predictions.
        masks: The label images that the cell table's numbers belong to; None for a submission, which holds its own.

    Raises:
        InputError: The file or a mask is wrong, or the masks are not those of the cell table.
    """
    if str(path).endswith(".parquet"):
        if masks is None:
            raise InputError(path, "a cell table without masks", "a folder of label images", "add --masks DIR")
        yield from _from_cell_table(path, masks)
        return
    if masks is not None:
        fix = "leave --masks out, or give the cell table of the same prediction"
        raise InputError("--masks", f"{masks.folder} beside {path}, which holds its masks", "a cell table", fix)
    for row in submission.read(path):
        yield ImageDetections(row.image_id, row.decode_masks(path), row.mask_index, row.class_ids, row.confidences)


def _from_cell_table(path: str | os.PathLike, masks: MaskFolder) -> Iterator[ImageDetections]:
    for image_id, rows in cell_table.read(path).groupby("image_id", sort=False):
        own, numbers = masks.masks_of(image_id, rows, path), rows["cell"].to_numpy(np.int64)
        yield from_scores(image_id, own, cell_table.values(rows), numbers)


def from_scores(
    image_id: str, masks: list[Rle], scores: np.ndarray, cells: np.ndarray | None = None
) -> ImageDetections:
    """Return the detections of cells with scores [M, 19]; a score of NaN is no detection. `cells`: numbers [M]."""
    mask_index, class_ids = np.nonzero(~np.isnan(np.reshape(scores, (-1, NUM_CLASSES))))
    return ImageDetections(image_id, masks, mask_index, class_ids, np.asarray(scores)[mask_index, class_ids], cells)

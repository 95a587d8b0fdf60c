"""Rows of a submission from masks and scores, for tests that write or score one."""

from collections.abc import Sequence

import numpy as np

from hpa_tf.classes import NUM_CLASSES
from hpa_tf.imaging import run_length
from hpa_tf.submission import SubmissionRow, encode_text, row_of_scores


def make_row(image_id: str, cell_mask: np.ndarray, cells: Sequence[int], scores: np.ndarray) -> SubmissionRow:
    """Return the row of one image: the N `cells` of its mask, whole numbers [H, W], with scores [N, 19]."""
    masks = run_length.encode_cells(cell_mask) if len(cells) else {}
    texts = [encode_text(masks[int(cell)]) for cell in cells]
    return row_of_scores(image_id, cell_mask.shape, texts, np.asarray(scores, float).reshape(-1, NUM_CLASSES))

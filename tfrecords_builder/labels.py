"""Labels of single cells from what is known about their image."""

from collections.abc import Iterable

import numpy as np

from hpa_tf.classes import NUM_CLASSES


def from_image_labels(class_ids: Iterable[int], num_cells: int) -> np.ndarray:
    """Give every cell the labels of its image: the weak labels that grades and pseudo-labels later refine.

    Args:
        class_ids: The image's classes.
        num_cells: N.

    Returns:
        float32 [N, 19], 0 or 1. A cell may show none of its image's classes (METHODS 5: about 10 % of the cells); that
        is not known here, so Negative is 1 only where the image's label says so.
    """
    labels = np.zeros((num_cells, NUM_CLASSES), np.float32)
    labels[:, sorted(set(class_ids))] = 1
    return labels

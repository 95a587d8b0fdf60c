"""What a system must beat: random scores, and the image's label copied to every cell, on the system's own masks."""

import zlib
from collections.abc import Mapping

import numpy as np

from hpa_tf.classes import NUM_CLASSES
from hpa_tf.evaluation.detections import from_scores
from hpa_tf.evaluation.matching import ImageDetections
from hpa_tf.imaging.run_length import Rle

RANDOM, IMAGE_LABELS_COPIED = "random", "image_labels_copied"


def _draw(image_id: str, num_cells: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, zlib.crc32(image_id.encode())]).random((num_cells, NUM_CLASSES))


def random_scores(image_id: str, masks: list[Rle], seed: int = 0) -> ImageDetections:
    """Score every cell and class at random, 0..1."""
    return from_scores(image_id, masks, _draw(image_id, len(masks), seed))


def copied_labels(
    image_id: str, masks: list[Rle], image_labels: Mapping[str, np.ndarray], seed: int = 0
) -> ImageDetections:
    """Give every cell the labels of its image and no others; their order is drawn at random.

    Args:
        image_id: The image; without a label it has no detections.
        masks: Its detected cells.
        image_labels: bool [19] an image.
        seed: For the order.
    """
    labels = image_labels.get(image_id, np.zeros(NUM_CLASSES, bool))
    return from_scores(image_id, masks, np.where(labels, _draw(image_id, len(masks), seed), np.nan))

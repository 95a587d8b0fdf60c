"""The competition's metric: mean average precision over 19 classes at mask IoU 0.6.

Guarantees: equal to the Open Images instance-segmentation evaluator, to the last bit where confidences differ
(tests/test_metric_oracle.py). Memory: five numbers a detection; no image is kept.

Ties: equal confidences keep the order of the file (rows, then triples of a row), in an image and in the pool. The
original sorts unstably, so its score of tied confidences is not defined.

Source: METHODS 2, rules 5-7.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from hpa_tf.classes import NUM_CLASSES
from hpa_tf.evaluation.matching import ImageMatches, Outcome


def precision_recall(is_right: np.ndarray, num_truth: float, weights: np.ndarray | None = None):
    """Return precision and recall, float64 [D] each, after each detection.

    Args:
        is_right: bool [D], most confident first.
        num_truth: Number of true cells of the class (with `weights`: the sum of theirs), > 0.
        weights: [D] > 0, how often each detection counts; None = once.
    """
    weights = np.ones(len(is_right)) if weights is None else weights
    right = np.cumsum(is_right * weights)
    wrong = np.cumsum(~is_right * weights)
    return right / (right + wrong), right / num_truth


def average_precision(precision: np.ndarray, recall: np.ndarray) -> float:
    """Return the area under the precision envelope at all points (VOC 2010): 0..1, 0 without detections.

    Source: METHODS 2.6.
    """
    recall = np.concatenate([[0.0], recall, [1.0]])
    envelope = np.maximum.accumulate(np.concatenate([[0.0], precision, [0.0]])[::-1])[::-1]
    steps = np.flatnonzero(recall[1:] != recall[:-1]) + 1
    return float(np.sum((recall[steps] - recall[steps - 1]) * envelope[steps]))


def mean_average_precision(ap: np.ndarray) -> float:
    """Return the mean over the classes that have a true cell; NaN if none has."""
    known = ap[~np.isnan(ap)]
    return float(known.mean()) if known.size else float("nan")


class Evaluation:
    """The pooled matches of all images.

    Attributes:
        image_ids: The I images, in the order they came.
        num_truth: int64 [I, 19]: true cells of each class (group-of and empty ones are not counted).
        image: int64 [D]: the image of each counted detection; the next five are aligned with it.
        class_ids: int64 [D].
        confidences: float64 [D].
        outcomes: uint8 [D].
        mask_index: int64 [D], in its image.
        truth_index: int64 [D], in its image; -1 unless a true positive.
    """

    def __init__(self, matches: Iterable[ImageMatches]):
        self.image_ids, num_truth, image = [], [], []
        columns = {"class_ids": [], "confidences": [], "outcomes": [], "mask_index": [], "truth_index": []}
        for number, match in enumerate(matches):
            self.image_ids.append(match.truth.image_id)
            num_truth.append(match.labels.sum(axis=0))
            image.append(np.full(len(match.class_ids), number))
            for name, parts in columns.items():
                parts.append(getattr(match, name))
        self.num_truth = np.array(num_truth, np.int64).reshape(-1, NUM_CLASSES)
        self.image = np.concatenate([*image, np.zeros(0, np.int64)])
        for name, parts in columns.items():
            setattr(self, name, np.concatenate(parts) if parts else np.zeros(0, np.int64))

    def ranked(self, class_id: int) -> np.ndarray:
        """Return the indices of a class's detections that are right or wrong, by confidence, then file order."""
        own = np.flatnonzero((self.class_ids == class_id) & (self.outcomes != Outcome.IGNORED))
        return own[np.argsort(-self.confidences[own], kind="stable")]

    def curve(self, class_id: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (confidence, precision, recall) of a class, float64 [D] each; recall is NaN without true cells."""
        ranked = self.ranked(class_id)
        num_truth = self.num_truth[:, class_id].sum()
        right = self.outcomes[ranked] == Outcome.TRUE_POSITIVE
        precision, recall = precision_recall(right, num_truth or np.nan)
        return self.confidences[ranked], precision, recall

    def average_precisions(self) -> np.ndarray:
        """Return the AP of each class, float64 [19]; NaN for a class without true cells."""
        ap = np.full(NUM_CLASSES, np.nan)
        for class_id in np.flatnonzero(self.num_truth.sum(axis=0)):
            ap[class_id] = average_precision(*self.curve(class_id)[1:])
        return ap

    def counts(self) -> np.ndarray:
        """Return how many detections of each class had each outcome, int64 [19, 5]."""
        counts = np.zeros((NUM_CLASSES, len(Outcome)), np.int64)
        np.add.at(counts, (self.class_ids, self.outcomes), 1)
        return counts


def true_cell_table(matches: Iterable[ImageMatches], iou_threshold: float) -> pd.DataFrame:
    """List what became of each label of each true cell.

    Returns:
        Columns image_id, cell, class_id, fate, confidence (of its true positive, else NaN), best_iou (with any
        detected mask). fate: `found`; `no mask` = no detected mask matches the cell; `not claimed` = one does, but no
        detection of this class took the cell.
    """
    parts = []
    for match in matches:
        cell, class_id = np.nonzero(match.labels)
        confidence = np.full(match.labels.shape, np.nan)
        right = match.truth_index >= 0
        confidence[match.truth_index[right], match.class_ids[right]] = match.confidences[right]
        confidence, best_iou = confidence[cell, class_id], match.best_iou[cell]
        reason = np.where(best_iou < iou_threshold, "no mask", "not claimed")
        columns = {
            "image_id": match.truth.image_id,
            "cell": match.truth.cells[cell],
            "class_id": class_id,
            "fate": np.where(np.isnan(confidence), reason, "found"),
            "confidence": confidence,
            "best_iou": best_iou,
        }
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

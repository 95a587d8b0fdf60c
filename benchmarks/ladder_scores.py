"""Scores of the ladder's rows: AP of single cells against their true labels, with intervals over images.

Predictions are asked for with the true masks, so that every cell matches itself and AP is the competition's: the area
under the envelope of precision over recall of all cells of all images. Intervals: images drawn with replacement, the
same ones for every row, so that differences are paired; of several seeds the mean is resampled.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hpa_tf.classes import NEGATIVE, NUM_CLASSES
from hpa_tf.evaluation.bootstrap import draw_images, interval
from hpa_tf.evaluation.metric import average_precision, mean_average_precision, precision_recall

NUCLEAR_MEMBRANE, SPINDLE, CENTROSOME = 1, 11, 12
SHOWN = {"spindle": SPINDLE, "centrosome": CENTROSOME, "Negative": NEGATIVE}


@dataclass(frozen=True)
class Truth:
    """True labels of N cells of I images.

    Attributes:
        labels: bool [N, 19].
        image: int64 [N].
    """

    labels: np.ndarray
    image: np.ndarray

    @property
    def num_images(self) -> int:
        """I."""
        return int(self.image.max()) + 1


@dataclass(frozen=True)
class Scored:
    """APs of a row, mean over its seeds.

    Attributes:
        ap: float64 [19]; NaN for a class without true cells.
        resampled: float64 [S, 19].
    """

    ap: np.ndarray
    resampled: np.ndarray

    @property
    def mean(self) -> float:
        """MAP."""
        return mean_average_precision(self.ap)

    @property
    def means(self) -> np.ndarray:
        """MAP of each resample, [S]."""
        return np.array([mean_average_precision(row) for row in self.resampled])


def average_precisions(truth: Truth, scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the AP of each class, float64 [19].

    Args:
        truth: True labels.
        scores: [N, 19]; NaN = not detected.
        weights: [I] how often each image counts; None = once.
    """
    own = np.ones(len(scores)) if weights is None else weights[truth.image].astype(float)
    ap = np.full(NUM_CLASSES, np.nan)
    for c in range(NUM_CLASSES):
        num_truth = float(own[truth.labels[:, c]].sum())
        if num_truth == 0:
            continue
        found = np.flatnonzero(~np.isnan(scores[:, c]) & (own > 0))
        ranked = found[np.argsort(-scores[found, c], kind="stable")]
        ap[c] = average_precision(*precision_recall(truth.labels[ranked, c], num_truth, own[ranked]))
    return ap


def score(truth: Truth, of_seeds: list[np.ndarray], num_samples: int) -> Scored:
    """Score a row; `of_seeds` has the scores [N, 19] of each seed."""
    samples = draw_images(truth.num_images, num_samples)
    ap = np.mean([average_precisions(truth, scores) for scores in of_seeds], axis=0)
    resampled = [[average_precisions(truth, scores, weights) for weights in samples] for scores in of_seeds]
    return Scored(ap, np.mean(resampled, axis=0) if num_samples else np.zeros((0, NUM_CLASSES)))


@dataclass(frozen=True)
class Found:
    """What the seeds of a row have written.

    Attributes:
        scores: [N, 19] by seed.
        facts: What each seed wrote beside its scores.
    """

    scores: Mapping[Hashable, np.ndarray]
    facts: Sequence[Mapping]


class Scorer:
    """Scores rows once for each set of seeds.

    Attributes:
        rows: The rows that are there, by name.
    """

    def __init__(self, rows: Mapping[str, Found], truth: Truth, num_samples: int):
        """Take the rows, the truth of the test cells, and the number of resamples of the images."""
        self.rows, self._truth, self._num_samples = rows, truth, num_samples
        self._kept: dict[tuple, Scored] = {}

    def score(self, name: str, seeds: Sequence[Hashable] | None = None) -> Scored:
        """Score a row by these seeds; None = all that it has."""
        key = (name, *(self.rows[name].scores if seeds is None else seeds))
        if key not in self._kept:
            scores = [self.rows[name].scores[seed] for seed in key[1:]]
            self._kept[key] = score(self._truth, scores, self._num_samples)
        return self._kept[key]

    def common(self, *names: str) -> list[Hashable]:
        """Return the seeds that all of the rows have."""
        if any(name not in self.rows for name in names):
            return []
        return [seed for seed in self.rows[names[0]].scores if all(seed in self.rows[name].scores for name in names)]


def shown(value: float, values: np.ndarray) -> str:
    """Return a number and its 95 % interval as text."""
    if not len(values):
        return f"{value:.3f}"
    low, high = interval(values, value)
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def closed(row: Scored, plain: Scored, best: Scored) -> tuple[float, np.ndarray]:
    """Return the share of the gap between plain and true labels that a row closes, and that of each resample."""
    return (row.mean - plain.mean) / (best.mean - plain.mean), (row.means - plain.means) / (best.means - plain.means)


def copied(image_labels: np.ndarray, seed: int) -> np.ndarray:
    """Return scores of cells with the labels of their image, [N, 19] bool, in random order and no others."""
    order = np.random.default_rng(seed).random(image_labels.shape)
    return np.where(image_labels, order, np.nan)


def most_probable(scores: np.ndarray, class_id: int) -> int:
    """Return the number of cells of which a class is the most probable; methods differ in how high they score."""
    return int((scores.argmax(axis=1) == class_id).sum())

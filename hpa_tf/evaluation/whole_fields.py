"""How well scores of whole fields of view agree with image labels: the transfer from generated to real images.

Real fields have image labels only, so the mean over a field's cells stands for the field. Intervals come from drawing
fields with replacement; two sets of scores of the same fields are compared in pairs.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

LEAST_POSITIVE = 2
"""A class counts where at least this many fields have it, and at least one has not."""


@dataclass(frozen=True)
class Agreement:
    """Scores against image labels.

    Attributes:
        auc: Area under the ROC curve, mean over the classes that count.
        ap: Average precision, mean over the same classes.
        chance_ap: What random scores reach in `ap`: the mean share of positive fields.
        first: Share of the fields whose highest class is one of its labels.
        num_classes: Classes that count.
    """

    auc: float
    ap: float
    chance_ap: float
    first: float
    num_classes: int


def counted_classes(truth: np.ndarray) -> np.ndarray:
    """Return the ids of the classes that enough fields have; `truth` is bool [F, K]."""
    positive = truth.sum(0)
    return np.flatnonzero((positive >= LEAST_POSITIVE) & (positive < len(truth)))


def agreement(truth: np.ndarray, scores: np.ndarray) -> Agreement:
    """Compare scores with labels.

    Args:
        truth: bool [F, K], image labels.
        scores: float [F, K], larger = surer.
    """
    classes = counted_classes(truth)
    if not len(classes):
        return Agreement(float("nan"), float("nan"), float("nan"), _first(truth, scores), 0)
    return Agreement(
        auc=float(np.mean([roc_auc_score(truth[:, c], scores[:, c]) for c in classes])),
        ap=float(np.mean([average_precision_score(truth[:, c], scores[:, c]) for c in classes])),
        chance_ap=float(truth[:, classes].mean()),
        first=_first(truth, scores),
        num_classes=len(classes),
    )


def _first(truth: np.ndarray, scores: np.ndarray) -> float:
    return float(truth[np.arange(len(truth)), scores.argmax(1)].mean())


def resampled(truth: np.ndarray, scores: np.ndarray, num_samples: int = 1000, seed: int = 0) -> np.ndarray:
    """Return auc, ap and first of resamples of the fields, float [S, 3]; the same seed draws the same fields.

    The classes are those that count among all fields; in a resample, those of them that it still has.
    """
    rng = np.random.default_rng(seed)
    classes = counted_classes(truth)
    rows = []
    for _ in range(num_samples):
        drawn = rng.integers(len(truth), size=len(truth))
        kept = [c for c in classes if 0 < truth[drawn, c].sum() < len(drawn)]
        auc = [roc_auc_score(truth[drawn, c], scores[drawn, c]) for c in kept]
        ap = [average_precision_score(truth[drawn, c], scores[drawn, c]) for c in kept]
        rows.append((np.mean(auc), np.mean(ap), _first(truth[drawn], scores[drawn])))
    return np.array(rows)


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of a bootstrap."""
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)

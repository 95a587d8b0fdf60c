"""How good probabilities are, over cells, against soft labels: NumPy only.

Every function takes labels [N, K] in 0..1, probabilities [N, K] and `known` [N, K] (False: the label is not known and
the value is left out), and returns one number a class, NaN where there is nothing to measure.
"""

import numpy as np

CALIBRATION_BINS = 15


def has_positive(labels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return for each class whether a known label is >= .5, bool [K]: softened labels are above 0 everywhere."""
    return ((labels >= 0.5) & known).any(axis=0)


def soft_average_precision(
    labels: np.ndarray, probabilities: np.ndarray, known: np.ndarray | None = None
) -> np.ndarray:
    """Return the soft-label AP of each class, [K]; NaN where no known label is > 0.

    With the known cells sorted by probability and s_k the sum of the first k labels, A = sum of s_k / k; AP = A / (A
    of the cells sorted by label). Equal probabilities: labels of a tie are averaged over it, so the result does not
    depend on the order of the cells.

    Source: METHODS 3 (soft-label AP); the handling of ties is ours.
    """
    return _by_class(_soft_average_precision, labels, probabilities, known)


def area_under_curve(
    labels: np.ndarray, probabilities: np.ndarray, known: np.ndarray | None = None, threshold: float = 0.5
) -> np.ndarray:
    """Return the area under the ROC curve of each class, [K]; labels >= `threshold` are positive, ties count half."""
    return _by_class(lambda label, score: _area_under_curve(label >= threshold, score), labels, probabilities, known)


def calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, known: np.ndarray | None = None, num_bins: int = CALIBRATION_BINS
) -> np.ndarray:
    """Return the expected calibration error of each class, [K]: |mean label - mean probability| in bins of equal width.

    Bins are [0, 1/n), ..., [1 - 1/n, 1]; each weighs by its cells.
    """

    def error(label: np.ndarray, score: np.ndarray) -> float:
        bins = np.minimum((score * num_bins).astype(int), num_bins - 1)
        return np.abs(np.bincount(bins, label - score, num_bins)).sum() / len(score) if len(score) else np.nan

    return _by_class(error, labels, probabilities, known)


def mean_over_classes(values: np.ndarray) -> float:
    """Return the mean of the values that are not NaN; NaN if there are none."""
    values = np.asarray(values, float)
    return float(values[~np.isnan(values)].mean()) if (~np.isnan(values)).any() else float("nan")


def _by_class(measure, labels: np.ndarray, probabilities: np.ndarray, known: np.ndarray | None) -> np.ndarray:
    labels, probabilities = np.asarray(labels, float), np.asarray(probabilities, float)
    known = np.ones(labels.shape, bool) if known is None else np.asarray(known, bool)
    if labels.ndim != 2 or not labels.shape == probabilities.shape == known.shape:
        found = f"{labels.shape}, {probabilities.shape}, {known.shape}"
        raise ValueError(f"labels, probabilities, known: found shapes {found}; expected three times [N, K]")
    if np.isnan(probabilities[known]).any() or np.isnan(labels[known]).any():
        raise ValueError("labels, probabilities: found NaN; expected numbers wherever the label is known")
    columns = range(labels.shape[1])
    return np.array([measure(labels[known[:, k], k], probabilities[known[:, k], k]) for k in columns], float)


def _soft_average_precision(label: np.ndarray, score: np.ndarray) -> float:
    if not (label > 0).any():
        return np.nan
    _, group, counts = np.unique(-score, return_inverse=True, return_counts=True)
    tied = np.bincount(group, label) / counts  # mean label of each tie, by falling score
    return _precision_sum(np.repeat(tied, counts)) / _precision_sum(-np.sort(-label))


def _precision_sum(ordered: np.ndarray) -> float:
    return float((np.cumsum(ordered) / np.arange(1, len(ordered) + 1)).sum())


def _area_under_curve(positive: np.ndarray, score: np.ndarray) -> float:
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    if not num_positive or not num_negative:
        return np.nan
    _, group, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[group]  # mean rank of each tie
    return float((ranks[positive].sum() - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))

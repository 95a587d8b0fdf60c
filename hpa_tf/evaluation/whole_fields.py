"""How well scores of whole fields of view agree with image labels: the transfer from generated to real images.

Real fields have image labels only, so the mean over a field's cells stands for the field. Intervals come from drawing
fields with replacement; two sets of scores of the same fields are compared in pairs.
"""

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

from hpa_tf.classes import NEGATIVE, NUM_CLASSES
from hpa_tf.errors import InputError
from hpa_tf.imaging.fields import FieldOfView, find_fields, read_field

Half = Literal["even", "odd", "all"]
"""Fields by zlib.crc32 of their id: one half to look at while something is made, the other to read once, at the end."""

LEAST_POSITIVE = 2
"""A class counts where at least this many fields have it, and at least one has not."""


@dataclass(frozen=True)
class Agreement:
    """Scores against image labels.

    Attributes:
        auc: Area under the ROC curve, mean over the classes that count.
        ap: Average precision, mean over the same classes.
        chance_ap: What random scores reach in `ap`: the mean share of positive fields.
        first: Share of the fields whose highest class is one of its labels; where all scores are 0, as without cells,
            none is highest. Negative, which is derived, takes no part.
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
    classes, first = counted_classes(truth), float(_first_is_right(truth, scores).mean())
    if not len(classes):
        return Agreement(float("nan"), float("nan"), float("nan"), first, 0)
    return Agreement(
        auc=float(np.mean([roc_auc_score(truth[:, c], scores[:, c]) for c in classes])),
        ap=float(np.mean([average_precision_score(truth[:, c], scores[:, c]) for c in classes])),
        chance_ap=float(truth[:, classes].mean()),
        first=first,
        num_classes=len(classes),
    )


def _first_is_right(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Tell of each field whether its highest class is one of its labels, bool [F]."""
    scores = scores[:, :NEGATIVE]
    return truth[np.arange(len(truth)), scores.argmax(1)] & scores.any(1)


def resampled(truth: np.ndarray, scores: np.ndarray, num_samples: int = 1000, seed: int = 0) -> np.ndarray:
    """Return auc, ap and first of resamples of the fields, float [S, 3]; the same seed draws the same fields.

    The classes are those that count among all fields; in a resample, those of them that it still has. auc and ap are
    NaN where no class counts.
    """
    rng = np.random.default_rng(seed)
    count = len(truth)
    times = np.stack([np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(num_samples)])
    first = times @ _first_is_right(truth, scores) / count
    classes = counted_classes(truth)
    if not len(classes):
        return np.column_stack([np.full((num_samples, 2), np.nan), first])
    auc, ap = np.stack([_curves(times, truth[:, c], scores[:, c]) for c in classes]).transpose(1, 0, 2)
    return np.column_stack([np.nanmean(auc, axis=0), np.nanmean(ap, axis=0), first])


def _curves(times: np.ndarray, truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return area under the ROC curve and average precision of resamples, float [S] each; NaN without both kinds.

    Args:
        times: int [S, F], how often each field was drawn.
        truth: bool [F], of one class.
        scores: float [F].
    """
    steps = np.eye(len(scores))[np.unique(-scores, return_inverse=True)[1]]  # equal scores share a step, highest first
    positive, negative = times @ (steps * truth[:, None]), times @ (steps * ~truth[:, None])
    above, false = positive.cumsum(1), negative.cumsum(1)
    with np.errstate(invalid="ignore"):
        auc = (positive * (false[:, -1:] - false + negative / 2)).sum(1) / (above[:, -1] * false[:, -1])
        precision = np.nan_to_num(above / (above + false))
        ap = (positive * precision).sum(1) / above[:, -1]
    return auc, np.where(np.isnan(auc), np.nan, ap)


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of a bootstrap."""
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def labelled_fields(folder: str, labels: str, um_per_px: float, half: Half) -> tuple[list[FieldOfView], np.ndarray]:
    """Read the fields of a folder that have labels.

    Args:
        folder: Fields of view.
        labels: CSV with the columns ID and label_2021 (`a|b`); rows without label are left out.
        um_per_px: Micrometres per pixel of the fields.
        half: Which of them.

    Returns:
        F fields, and their labels bool [F, 19].

    Raises:
        InputError: There are none, or the table cannot be used.
    """
    try:
        table = pd.read_csv(labels, dtype=str).dropna(subset=["label_2021"]).drop_duplicates("ID")
        classes = {row.ID: [int(part) for part in row.label_2021.split("|")] for row in table.itertuples()}
    except (OSError, KeyError, ValueError, AttributeError) as error:
        fix = "give the image labels of the fields"
        raise InputError(labels, f"no such table ({error})", "columns ID and label_2021, as a|b", fix) from error
    for image_id, of_field in classes.items():
        if unknown := [label for label in of_field if not 0 <= label < NUM_CLASSES]:
            found = f"label {unknown[0]} of {image_id}"
            raise InputError(labels, found, f"numbers 0 to {NUM_CLASSES - 1}", "correct the table")
    rest = {"even": (0,), "odd": (1,), "all": (0, 1)}[half]
    found = [one for one in find_fields(folder) if one.image_id in classes and _parity(one.image_id) in rest]
    if not found:
        raise InputError(folder, f"no labelled field ({half})", "fields that the table names", "check both")
    truth = np.zeros((len(found), NUM_CLASSES), bool)
    for row, one in enumerate(found):
        truth[row, classes[one.image_id]] = True
    return [read_field(one, um_per_px) for one in found], truth


def _parity(image_id: str) -> int:
    return zlib.crc32(image_id.encode()) % 2

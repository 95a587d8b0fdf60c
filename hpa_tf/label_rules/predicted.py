"""What networks say of cells that they have not seen, turned into labels. Tables only: no network is run here."""

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd

from hpa_tf.classes import MITOTIC_SPINDLE, NEGATIVE, NUM_CLASSES
from hpa_tf.label_rules.label_table import LabelTable

LOCATED = tuple(range(NEGATIVE))
"""All classes but Negative, which networks of 18 outputs do not answer."""
_POSITIVE = 0.1
"""Least label of a positive cell, as sampling counts them; soft labels of absent classes are less than this."""


def drop_unlikely(
    labels: LabelTable,
    probabilities: np.ndarray,
    inputs: Mapping[str, str],
    *,
    threshold: float = 0.3,
    to: float = 0.01,
    classes: Collection[int] = LOCATED,
    keep: tuple[str, ...] = ("from_grades",),
) -> LabelTable:
    """Lower the label of positive cells that a network finds unlikely: cells of a positive image that do not show it.

    Args:
        labels: Labels so far; positive is one of 0.1 or more, as in sampling.
        probabilities: float [N, 19], out of fold; NaN = not known, nothing happens there.
        inputs: What they were read from.
        threshold: Below this a cell is unlikely.
        to: The label that it gets; only higher labels are lowered.
        classes: Classes to look at.
        keep: Values that these rules set stay.

    Source: METHODS 3 (pseudo-labels): about 15 % of the cells; W 5.
    """
    positive = (labels.values >= np.float32(_POSITIVE)) & (labels.values > to)
    mask = positive & (probabilities < threshold) & _columns(classes) & ~labels.was_set_by(keep)
    options = {"threshold": threshold, "to": to, "classes": sorted(classes), "keep": list(keep)}
    return labels.with_step("drop_unlikely", options, inputs, np.full(mask.shape, to), mask)


def add_likely(
    labels: LabelTable,
    probabilities: np.ndarray,
    inputs: Mapping[str, str],
    *,
    threshold: float = 0.9,
    to: float = 0.99,
    classes: Collection[int] = (MITOTIC_SPINDLE,),
    keep: tuple[str, ...] = ("from_grades",),
) -> LabelTable:
    """Give a label to cells that a network finds likely although their image does not have it.

    Args:
        labels: Labels so far; an image has a label where any of its cells has one of 0.5 or more.
        probabilities: float [N, 19], out of fold; NaN = not known.
        inputs: What they were read from.
        threshold: From this on a cell is likely.
        to: The label that it gets.
        classes: Classes to look at; team 4 did this for mitotic spindles.
        keep: Values that these rules set stay.

    Source: METHODS 3 (pseudo-labels): about 100 cells; W 5.
    """
    highest = pd.DataFrame(np.nan_to_num(labels.values)).groupby(labels.cells["image_id"].to_numpy()).transform("max")
    without = highest.to_numpy() < 0.5
    mask = without & (probabilities >= threshold) & _columns(classes) & ~labels.was_set_by(keep)
    options = {"threshold": threshold, "to": to, "classes": sorted(classes), "keep": list(keep)}
    return labels.with_step("add_likely", options, inputs, np.full(mask.shape, to), mask)


def out_of_fold(
    labels: LabelTable,
    probabilities: np.ndarray,
    inputs: Mapping[str, str],
    *,
    share: float = 1.0,
    classes: Collection[int] = LOCATED,
    keep: tuple[str, ...] = ("from_grades",),
) -> LabelTable:
    """Replace labels by what networks that have not seen a cell's image say of it: the targets of a student.

    Args:
        labels: Labels so far.
        probabilities: float [N, 19], out of fold; NaN = not known, nothing happens there.
        inputs: What they were read from.
        share: Weight of the probability, 0..1; the label so far has the rest.
        classes: Classes to look at.
        keep: Values that these rules set stay.

    Source: SYSTEMS 3h (student).
    """
    before = np.where(np.isnan(labels.values), probabilities, labels.values)
    values = share * probabilities + (1 - share) * before
    mask = ~np.isnan(probabilities) & _columns(classes) & ~labels.was_set_by(keep)
    options = {"share": share, "classes": sorted(classes), "keep": list(keep)}
    return labels.with_step("out_of_fold", options, inputs, values, mask)


def _columns(classes: Collection[int]) -> np.ndarray:
    return np.isin(np.arange(NUM_CLASSES), list(classes))

"""From the members' probabilities to scores: ensemble mean, Negative, cell values, image mixing.

Team 4's order, each step a pure function of NumPy arrays and each with its switch in `PostProcessing`:

    weighted mean of the members' probabilities
    -> Negative = 1 - max of the other 18; or the mean of what the members say of it, where it is "predicted"
    -> all 19 x the cell's value (border rule x outlier rule: `imaging.rules`)
    -> w x own score + (1 - w) x mean over the image's valid cells (value 1), w by class

Source: METHODS 3 (ensemble, post-processing); W 8.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from hpa_tf.classes import CLASSES, NEGATIVE, NUM_CLASSES
from hpa_tf.errors import InputError
from hpa_tf.imaging import rules
from hpa_tf.imaging.rules import Factor, SmallNucleusRule

NUM_PREDICTED = NUM_CLASSES - 1
"""Classes that a network predicts; Negative is derived from them."""

FINAL_1_CELL_WEIGHTS = (
    *(1.0, 0.75, 0.65, 0.65, 0.65, 0.65, 0.65, 0.65, 0.65, 0.65),
    *(0.65, 1.0, 0.65, 0.6, 0.75, 0.65, 1.0, 0.65, 1.0),
)
"""Share of a cell's own score by class in team 4's Final 1. Source: METHODS 3."""
FINAL_2_CELL_WEIGHTS = (*(0.7,) * 11, 1.0, *(0.7,) * 6, 1.0)
"""The same in Final 2: mitotic spindle and Negative are not mixed."""


@dataclass(frozen=True)
class PostProcessing:
    """Which steps are taken; the defaults are team 4's Final 2."""

    border_rule: bool = True
    """Lower the scores of cells whose nucleus the frame cuts."""
    outlier_rule: bool = True
    """Lower the scores of cells that are too dark to be whole, living cells."""
    image_mixing: bool = True
    """Mix each score with the mean over the image's valid cells."""
    cell_weights: tuple[float, ...] = FINAL_2_CELL_WEIGHTS
    """Share of a cell's own score in the mix, 0..1, one number a class; 1 = not mixed."""
    small_nucleus: SmallNucleusRule | None = None
    """Remove cells at the frame with a small nucleus, and cells without one (team 2)."""
    factors: tuple[Factor, ...] = ()
    """Multiply the scores of cells whose number in a column of the cell table is low (team 1)."""
    negative: Literal["derived", "predicted"] = "derived"
    """Negative is 1 - the largest of the other probabilities, or what the networks say of it."""
    alone: tuple[int, ...] = ()
    """Classes whose probability is not the members' mean but that of a network of their own (team 3's spindles)."""

    def __post_init__(self):
        weights = np.asarray(self.cell_weights, float)
        if weights.shape != (NUM_CLASSES,) or not ((weights >= 0) & (weights <= 1)).all():
            raise ValueError(f"cell_weights: found {self.cell_weights}; expected {NUM_CLASSES} numbers in 0..1")
        if not set(self.alone) <= set(range(NUM_PREDICTED)):
            raise ValueError(f"alone: found {self.alone}; expected classes 0 to {NUM_PREDICTED - 1}")


PREDICTED_NEGATIVE = PostProcessing(
    border_rule=False, outlier_rule=False, image_mixing=False, cell_weights=(1.0,) * NUM_CLASSES, negative="predicted"
)
"""The mean of networks of 19 classes as it is: where teams 1 to 3 start from. Source: SYSTEMS 1g, 2, 3."""
FINAL_1 = PostProcessing(cell_weights=FINAL_1_CELL_WEIGHTS)
FINAL_2 = PostProcessing()


def postprocess(
    members: Sequence[np.ndarray],
    weights: Sequence[float] | None,
    value: np.ndarray,
    image_ids: Sequence[str],
    options: PostProcessing = FINAL_2,
    alone: Mapping[int, np.ndarray] | None = None,
) -> np.ndarray:
    """Turn the members' probabilities into scores, float64 [N, 19] in 0..1.

    Args:
        members: One array a member, [N, 18] or [N, 19] probabilities, see `mean_probabilities`.
        weights: One weight a member, any positive scale; None = equal.
        value: [N] cell values in 0..1 (`cell_values`); a cell is valid where it is 1.
        image_ids: [N] the image of each cell.
        options: Which steps are taken.
        alone: Of `alone_of`: probabilities [N] of classes that networks of their own answer.

    Raises:
        ValueError: Shapes differ, or a probability or value is not a number in 0..1.
    """
    probabilities = mean_probabilities(members, weights, options, alone)
    value = np.asarray(value, float)
    if value.shape != (len(probabilities),) or len(image_ids) != len(value):
        found = f"{value.shape} values and {len(image_ids)} image ids for {len(probabilities)} cells"
        raise ValueError(f"{found}; expected one of each a cell")
    _check_range("value", value)
    scores = probabilities * value[:, None]
    if options.image_mixing:
        scores = mix_with_image_mean(scores, value == 1, image_ids, options.cell_weights)
    return scores


def mean_probabilities(
    members: Sequence[np.ndarray],
    weights: Sequence[float] | None,
    options: PostProcessing = FINAL_2,
    alone: Mapping[int, np.ndarray] | None = None,
) -> np.ndarray:
    """Return the weighted mean of the members' probabilities with Negative, float64 [N, 19].

    Args:
        members: One array a member: [N, 18], or [N, 19] with what it says of Negative (NaN = nothing). Where Negative
            is derived, it is 1 - the largest mean of the others, whatever the members say of it; where it is predicted,
            a member that says nothing of it gives 1 - the largest of its own others.
        weights: One weight a member; None = equal.
        options: How Negative is found.
        alone: Of `alone_of`: they take the place of the mean, before Negative is derived.

    Raises:
        ValueError: See `weighted_mean`.
    """
    if options.negative == "derived":
        mean = weighted_mean([np.asarray(member)[:, :NUM_PREDICTED] for member in members], weights)
    else:
        mean = weighted_mean([_with_own_negative(np.asarray(member, np.float64)) for member in members], weights)
    for class_id, probabilities in (alone or {}).items():
        _check_range(f"probability of {CLASSES[class_id]}", probabilities)
        mean[:, class_id] = probabilities
    return with_negative(mean) if options.negative == "derived" else mean


def alone_column(class_id: int) -> str:
    """Return the column of the cell table that holds the answer of a class's own network."""
    return f"alone: {CLASSES[class_id]}"


def alone_of(table: pd.DataFrame, options: PostProcessing) -> dict[int, np.ndarray]:
    """Return the probabilities [N] of classes that networks of their own answer, from the cell table.

    Raises:
        InputError: One's column is missing.
    """
    missing = [alone_column(class_id) for class_id in options.alone if alone_column(class_id) not in table]
    if missing:
        fix = "predict with a system that has such a network, or leave the class out"
        raise InputError("postprocessing.alone", f"no column {missing[0]!r}", "it in the cell table", fix)
    return {class_id: table[alone_column(class_id)].to_numpy(float) for class_id in options.alone}


def _with_own_negative(probabilities: np.ndarray) -> np.ndarray:
    filled = with_negative(probabilities[:, :NUM_PREDICTED])
    if probabilities.shape[1] == NUM_CLASSES:
        own = probabilities[:, NEGATIVE]
        filled[:, NEGATIVE] = np.where(np.isnan(own), filled[:, NEGATIVE], own)
    return filled


def cell_values(border_value: np.ndarray, outlier_value: np.ndarray, options: PostProcessing = FINAL_2) -> np.ndarray:
    """Return the value of each cell, [N]: the product of the rules that are switched on, 1 where none is.

    Args:
        border_value: [N] values of the border rule.
        outlier_value: [N] factors of the outlier rule.
        options: Which rules are on.
    """
    value = np.ones(len(border_value))
    if options.border_rule:
        value = value * border_value
    if options.outlier_rule:
        value = value * outlier_value
    return value


def further_factors(table: pd.DataFrame, options: PostProcessing) -> np.ndarray:
    """Return the product of the other teams' rules for each cell, [N]; 1 where none is switched on.

    Args:
        table: Measurements and other columns of all cells of one or more images.
        options: Which rules are on.

    Raises:
        InputError: A factor's column is missing.
    """
    return product(named_factors(table, options), len(table))


def named_factors(table: pd.DataFrame, options: PostProcessing) -> list[tuple[str, np.ndarray]]:
    """Return (name of the rule, its factor for each cell [N]) of the other teams' rules; arguments as above."""
    found = [(factor.column, rules.factors_of(table, factor)) for factor in options.factors]
    if options.small_nucleus is not None:
        found.insert(0, ("small nucleus", rules.small_nucleus_factors(table, options.small_nucleus)))
    return found


def product(factors: Sequence[tuple[str, np.ndarray]], count: int) -> np.ndarray:
    """Return the product of `named_factors`, [N]; 1 without any."""
    return np.prod([np.ones(count), *(values for _, values in factors)], axis=0)


def weighted_mean(predictions: Sequence[np.ndarray], weights: Sequence[float] | None = None) -> np.ndarray:
    """Return the weighted mean of equally shaped probabilities: of members, or of one member's checkpoints.

    Raises:
        ValueError: No predictions, shapes or counts differ, weights are negative or sum to 0, or a probability is not
            a number in 0..1.
    """
    arrays = [np.asarray(prediction, np.float64) for prediction in predictions]
    shares = np.ones(len(arrays)) if weights is None else np.asarray(weights, float)
    if not arrays or shares.shape != (len(arrays),) or len({array.shape for array in arrays}) != 1:
        found = f"shapes {[array.shape for array in arrays]} and {shares.size} weights"
        raise ValueError(f"{found}; expected one weight for each of equally shaped predictions")
    if not (shares >= 0).all() or not 0 < shares.sum() < np.inf:
        raise ValueError(f"weights: found {shares}; expected numbers >= 0 with a sum > 0")
    for array in arrays:
        _check_range("prediction", array)
    mean = sum(share * array for share, array in zip(shares / shares.sum(), arrays, strict=True))
    return np.clip(mean, 0, 1)  # rounding: three weights of 1/3 can pass 1 by 1e-16


def mean_of_known(predictions: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Return the weighted mean of equally shaped probabilities, of those that are known; NaN where none is.

    Raises:
        ValueError: See `weighted_mean`.
    """
    arrays = [np.asarray(prediction, np.float64) for prediction in predictions]
    if not any(np.isnan(array).any() for array in arrays):
        return weighted_mean(arrays, weights)
    stacked, shares = np.stack(arrays), np.asarray(weights, float)
    share = np.where(np.isnan(stacked), 0, shares.reshape(-1, *[1] * (stacked.ndim - 1)))
    total = share.sum(axis=0)
    mean = (share * np.nan_to_num(stacked)).sum(axis=0) / np.where(total > 0, total, np.nan)
    return np.clip(mean, 0, 1)


def with_negative(probabilities: np.ndarray) -> np.ndarray:
    """Append Negative = 1 - max to [N, 18] probabilities, giving [N, 19]."""
    if probabilities.ndim != 2 or probabilities.shape[1] != NEGATIVE:
        raise ValueError(f"probabilities: found shape {probabilities.shape}; expected [N, {NEGATIVE}]")
    return np.column_stack([probabilities, 1 - probabilities.max(axis=1)])


def mix_with_image_mean(
    scores: np.ndarray, valid: np.ndarray, image_ids: Sequence[str], cell_weights: Sequence[float]
) -> np.ndarray:
    """Mix each cell's scores with the mean over the valid cells of its image.

    An image without a valid cell is left as it is (ours: the source does not say).

    Args:
        scores: [N, 19].
        valid: bool [N]: the cells whose mean is taken.
        image_ids: [N].
        cell_weights: [19] share of the cell's own score.
    """
    _, image = np.unique(np.asarray(image_ids, str), return_inverse=True)
    num_images = image.max(initial=-1) + 1
    count = np.bincount(image, valid, num_images)
    sums = np.zeros((num_images, scores.shape[1]))
    np.add.at(sums, image[valid], scores[valid])
    means = (sums / np.maximum(count, 1)[:, None])[image]
    own = np.where((count > 0)[image, None], np.asarray(cell_weights, float), 1.0)
    return own * scores + (1 - own) * means


def _check_range(name: str, array: np.ndarray) -> None:
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"{name}: found values {array.min()} to {array.max()}; expected numbers in 0..1")

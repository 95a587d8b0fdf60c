"""The border and outlier rules: from the measurements of an image's cells to a weight 0..1 for each cell.

Source: METHODS 3 (border rule, outlier rule, training set); S 4, W 2.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from hpa_tf.errors import InputError


@dataclass(frozen=True)
class BorderRule:
    """How a nucleus that the frame cuts lowers its cell's value: value = f(ud) * f(lr).

    f(r) = 1 above `full`; (3.33 r)^0.1 between `low` and `full`; `cut_value` at or below `low`.
    """

    full: float = 0.3
    """Ratio above which a nucleus counts as whole."""
    low: float = 0.01
    """Ratio at or below which it counts as cut."""
    cut_value: float = 0.001
    """Value of a cut side."""
    no_nucleus_value: float = 0.01
    """Value of a cell without a nucleus, or without blue in it."""


@dataclass(frozen=True)
class SmallNucleusRule:
    """Team 2's removal: cells at the frame whose nucleus is small, and cells without one. Source: SYSTEMS 2."""

    share: float = 0.5
    """Least nucleus of a cell that touches the frame, as a share of the median nucleus of the image's other cells."""
    no_nucleus: bool = True
    """Remove cells without a nucleus, too."""
    removed_value: float = 0.0
    """Factor on the value of a removed cell."""


@dataclass(frozen=True)
class Factor:
    """Scores of cells whose number in some column is low are multiplied: team 1's for cells that are not whole.

    Source: SYSTEMS 1g.
    """

    column: str = "completeness"
    """Column of the cell table, such as a network's probability that the cell is whole, 0..1."""
    below: float = 0.2
    """Numbers below this one are low; a number that is not known is not."""
    to: float = 0.3
    """The factor."""


PREDICTION_BORDER = BorderRule()
"""Border rule of prediction."""
CLEANING_BORDER = BorderRule(full=0.2, low=0.2)
"""Border rule for cleaning a training set: 1 above 0.2, else 0.001."""


@dataclass(frozen=True)
class OutlierRule:
    """Which cells are too dark to be whole, living cells, against the mean of their image's cells."""

    red_share: float = 0.077
    """Least sum of red, as a share of the mean."""
    blue_yellow_share: float = 0.05
    """Least (sum of blue x sum of yellow), as a share of the mean."""
    outlier_value: float = 0.001
    """Factor on the value of an outlier."""
    min_border_value: float = 0.01
    """Only cells whose border value is above this enter the mean."""


def border_values(table: pd.DataFrame, rule: BorderRule = PREDICTION_BORDER) -> np.ndarray:
    """Return the border value of each cell, float64 [N] in 0..1.

    Args:
        table: Columns border_ud, border_lr, nucleus_area, nucleus_blue.
        rule: Thresholds.
    """
    value = _flatness(table["border_ud"].to_numpy(float), rule) * _flatness(table["border_lr"].to_numpy(float), rule)
    no_nucleus = (table["nucleus_area"].to_numpy() == 0) | (table["nucleus_blue"].to_numpy() == 0)
    return np.where(no_nucleus, rule.no_nucleus_value, value)


def _flatness(ratio: np.ndarray, rule: BorderRule) -> np.ndarray:
    between = (3.33 * np.maximum(ratio, 0)) ** 0.1
    return np.where(ratio > rule.full, 1.0, np.where(ratio > rule.low, between, rule.cut_value))


def outlier_factors(table: pd.DataFrame, border_value: np.ndarray, rule: OutlierRule | None = None) -> np.ndarray:
    """Return the outlier factor of each cell, float64 [N]: 1, or `rule.outlier_value` for an outlier.

    Args:
        table: Columns image_id, sum_red, sum_blue, sum_yellow; the means are taken over each image's cells, so the
            table must hold all cells of an image.
        border_value: float [N].
        rule: Thresholds; None for the defaults.
    """
    rule = rule or OutlierRule()
    red = table["sum_red"].to_numpy(float)
    blue_yellow = table["sum_blue"].to_numpy(float) * table["sum_yellow"].to_numpy(float)
    counted = np.asarray(border_value) > rule.min_border_value
    image = table["image_id"].to_numpy()
    outlier = np.zeros(len(table), bool)
    for sums, share in ((red, rule.red_share), (blue_yellow, rule.blue_yellow_share)):
        mean = pd.Series(np.where(counted, sums, np.nan)).groupby(image).transform("mean").to_numpy()
        outlier |= sums < share * mean  # an image without any counted cell has mean NaN: no outlier
    return np.where(outlier, rule.outlier_value, 1.0)


def cell_values(
    table: pd.DataFrame, border: BorderRule = PREDICTION_BORDER, outlier: OutlierRule | None = None
) -> np.ndarray:
    """Return border value x outlier factor of each cell, float64 [N] in 0..1; 1 = a valid cell."""
    value = border_values(table, border)
    return value * outlier_factors(table, value, outlier)


def small_nucleus_factors(table: pd.DataFrame, rule: SmallNucleusRule) -> np.ndarray:
    """Return the factor of each cell, float64 [N]: 1, or `rule.removed_value` for a removed one.

    Args:
        table: Columns image_id, nucleus_area, and box and size of the image (top, left, bottom, right, height, width),
            px; the medians are taken over each image's cells with a nucleus, so it must hold all cells of an image.
        rule: Thresholds.
    """
    area = table["nucleus_area"].to_numpy(float)
    edges = (table["top"] <= 0) | (table["left"] <= 0)
    edges |= (table["bottom"] >= table["height"]) | (table["right"] >= table["width"])
    removed = rule.no_nucleus & (area == 0)
    for rows in pd.Series(np.arange(len(table))).groupby(table["image_id"].to_numpy()).indices.values():
        for row in rows[edges.to_numpy()[rows] & (area[rows] > 0)]:
            others = area[rows[(rows != row) & (area[rows] > 0)]]
            removed[row] |= len(others) > 0 and area[row] < rule.share * np.median(others)
    return np.where(removed, rule.removed_value, 1.0)


def factors_of(table: pd.DataFrame, factor: Factor) -> np.ndarray:
    """Return 1, or `factor.to` where the column's number is low, float64 [N].

    Raises:
        InputError: There is no such column.
    """
    if factor.column not in table:
        fix = f"predict {factor.column!r} first, or leave the factor out of the system"
        raise InputError("postprocessing.factors", f"no column {factor.column!r}", "it in the cell table", fix)
    return np.where(table[factor.column].to_numpy(float) < factor.below, factor.to, 1.0)


def stay_in_training(
    cleaning_values: np.ndarray, mitotic: np.ndarray, image_of: np.ndarray | None = None
) -> np.ndarray:
    """Tell which cells stay in a training set: whole ones that are no outliers, and all of images with mitosis.

    Source: METHODS 3 (training set).

    Args:
        cleaning_values: float [N].
        mitotic: Labels of mitotic spindle, [N]; NaN = not known.
        image_of: int [N], each cell's image from 0; None where each label is that of the cell's image.

    Returns:
        bool [N].
    """
    found = mitotic > 0
    if image_of is not None:
        of_image = np.zeros(image_of.max(initial=-1) + 1, bool)
        of_image[image_of[found]] = True
        found = of_image[image_of]
    return (cleaning_values >= 1) | found

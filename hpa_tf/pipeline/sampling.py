"""Semi-balanced sampling as a plan: how often each cell is expected in an epoch, and an epoch drawn from that.

Team 4 draws cells class by class and accepts them at random. Here each cell gets the expected number of its draws (its
repeat factor) from its labels, and systematic sampling turns factors into counts: a cell comes floor(factor) or
ceil(factor) times, an epoch has a fixed number of cells, every set of labels is drawn within 1 of its expected number,
and over epochs a cell with factor 0.1 comes every tenth. Source: METHODS 3 (sampler); W 6.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from hpa_tf.classes import CLASSES, MITOTIC_SPINDLE, NEGATIVE, NUM_CLASSES
from hpa_tf.errors import InputError
from hpa_tf.pipeline.examples import Examples

_TEAM_4 = {**dict.fromkeys((1, 3, 4, 6, 8, 9, 10, 12, 15), 0.5), 0: 2.0, 16: 2.0, 11: 1 / 3}
GOLDEN_RATIO = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Sampling:
    """How often each cell is drawn in an epoch. Source: METHODS 3 (sampler)."""

    balanced: bool = True
    """Semi-balanced by class; off: every cell once, plus `extra_repeats`."""
    num_cells: int | None = None
    """Cells of an epoch, all shares scaled alike; None = what the fields below add up to."""
    cells_per_class: int = 20_000
    """Draws of a class with multiplier 1, and of negatives."""
    class_multipliers: tuple[float, ...] = tuple(_TEAM_4.get(c, 1.0) for c in range(NUM_CLASSES))
    """Times `cells_per_class`, for each of the 19 classes; the last are negatives: cells without any label 0-17."""
    positive: float = 0.1
    """Least soft label that counts as a label."""
    label_count_power: float = 0.5
    """A cell with n labels counts (1 / n) to this power."""
    sure: float = 0.9
    """Least soft label of a sure cell."""
    sure_repeats: tuple[float, ...] = tuple(3.0 if c == 12 else 2.0 for c in range(NUM_CLASSES))
    """How many times a sure cell counts in its class (2 = repeated once; class 12, team 4: "more")."""
    mitotic_shares: tuple[float, float, float] = (0.25, 0.25, 0.5)
    """Class 11's own sampler: shares of negatives (cells without label 11), look-alikes (cells that column
    `mitotic_lookalike` names, else those beside a mitotic cell in its image) and positives."""
    mitotic_sure: float = 0.99
    """Least soft label 11 of a sure mitotic cell."""
    mitotic_sure_repeats: float = 3.0
    """How many times a sure mitotic cell counts among the positives."""
    extra_repeats: tuple[float, ...] = (0.0,) * NUM_CLASSES
    """Not balanced: further draws of a cell that column `graded` names, for each class it has (fine-tuning stage)."""
    ungraded_classes: tuple[int, ...] = (11, 15)
    """Classes whose sure cells get `extra_repeats` although nobody graded them."""

    def __post_init__(self):
        for name in ("class_multipliers", "sure_repeats", "extra_repeats"):
            values = getattr(self, name)
            if len(values) != NUM_CLASSES or min(values) < 0:
                raise ValueError(f"sampling.{name}: found {values}; expected {NUM_CLASSES} numbers >= 0")


def repeat_factors(examples: Examples, sampling: Sampling) -> np.ndarray:
    """Return the expected number of draws of each cell in an epoch, float64 [N]; their sum is a whole number.

    Raises:
        InputError: No cell can be drawn.
    """
    positive = (examples.labels >= sampling.positive) & examples.known
    factors = (
        _balanced(examples, positive, sampling) if sampling.balanced else _every_cell(examples, positive, sampling)
    )
    if not factors.sum() > 0:
        raise InputError(examples.folder, f"{len(examples)} cells, none to draw", "a cell with a label", "check labels")
    total = sampling.num_cells or max(1, round(factors.sum()))
    return factors * (total / factors.sum())


def _balanced(examples: Examples, positive: np.ndarray, sampling: Sampling) -> np.ndarray:
    located = positive[:, :NEGATIVE].sum(axis=1)
    accepted = np.maximum(located, 1) ** -sampling.label_count_power
    targets = sampling.cells_per_class * np.asarray(sampling.class_multipliers)
    factors = np.zeros(len(examples))
    for c in range(NEGATIVE):
        if c != MITOTIC_SPINDLE:
            repeats = np.where(examples.labels[:, c] >= sampling.sure, sampling.sure_repeats[c], 1.0)
            factors += targets[c] * _shares(positive[:, c] * accepted * repeats)
    negative = (located == 0) & (positive[:, NEGATIVE] | examples.known[:, :NEGATIVE].all(axis=1))
    factors += targets[NEGATIVE] * _shares(negative)
    return factors + targets[MITOTIC_SPINDLE] * _mitotic(examples, positive[:, MITOTIC_SPINDLE], sampling)


def _shares(weights: np.ndarray) -> np.ndarray:
    """Return weights that add up to 1, or all 0: a class without cells takes no part in the epoch."""
    total = weights.sum()
    return weights / total if total > 0 else np.zeros(len(weights))


def _mitotic(examples: Examples, positive: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Return class 11's own draws as shares [N] that add up to 1, or all 0 when no cell has the class."""
    if not positive.any():
        return np.zeros(len(examples))
    table, labels = examples.table, examples.labels[:, MITOTIC_SPINDLE]
    if "mitotic_lookalike" in table.columns:
        alike = table["mitotic_lookalike"].to_numpy(bool) & ~positive
    else:
        alike = pd.Series(positive).groupby(table["image_id"].to_numpy()).transform("any").to_numpy() & ~positive
    repeats = np.where(labels >= sampling.mitotic_sure, sampling.mitotic_sure_repeats, 1.0)
    pools = (~positive & examples.known[:, MITOTIC_SPINDLE], alike, positive * repeats)
    return _shares(sum(share * _shares(pool) for share, pool in zip(sampling.mitotic_shares, pools, strict=True)))


def _every_cell(examples: Examples, positive: np.ndarray, sampling: Sampling) -> np.ndarray:
    counts = np.isin(np.arange(NUM_CLASSES), sampling.ungraded_classes) & (examples.labels >= sampling.sure)
    if "graded" in examples.table.columns:
        counts |= examples.table["graded"].to_numpy(bool)[:, None]
    return 1 + (positive & counts) @ np.asarray(sampling.extra_repeats)


def draw_epoch(examples: Examples, sampling: Sampling, seed: int, epoch: int) -> np.ndarray:
    """Return the order of an epoch: int64 [E] rows of `examples`; a function of (examples, sampling, seed, epoch)."""
    counts = epoch_counts(repeat_factors(examples, sampling), strata(examples, sampling), seed, epoch)
    order = np.repeat(np.arange(len(examples)), counts)
    return np.random.default_rng([seed, epoch, 1]).permutation(order)


def strata(examples: Examples, sampling: Sampling) -> np.ndarray:
    """Return int64 [N]: the same number for cells with the same set of labels."""
    positive = (examples.labels >= sampling.positive) & examples.known
    return positive @ (1 << np.arange(NUM_CLASSES))


def epoch_counts(factors: np.ndarray, strata: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Return how often each cell is drawn, int64 [N], by systematic sampling within an order sorted by stratum.

    Args:
        factors: Expected draws of each cell, float64 [N], with a whole sum.
        strata: int64 [N]; cells of a stratum lie together, so its total is within 1 of the expected one.
        seed: Of the run; fixes the order.
        epoch: Moves the ticks by the golden ratio, so that epochs spread evenly over the cells.
    """
    rng = np.random.default_rng([seed, 0])
    order = np.lexsort((rng.random(len(factors)), strata))
    offset = (rng.random() + epoch * GOLDEN_RATIO) % 1
    ticks = np.floor(np.cumsum(factors[order]) + offset).astype(np.int64)
    ticks[-1] = round(factors.sum())  # rounding errors of a long sum must not cost or add a draw
    counts = np.empty(len(factors), np.int64)
    counts[order] = np.diff(ticks, prepend=0)
    return counts


def describe_sampling(examples: Examples, sampling: Sampling, seed: int, epoch: int = 0) -> pd.DataFrame:
    """Return the table of `--show-sampling`: per class its cells, expected and drawn draws, and the most repeated cell.

    A cell with several labels counts in each of its classes; "Negative" counts cells without any label 0-17.
    """
    positive = (examples.labels >= sampling.positive) & examples.known
    members = np.column_stack([positive[:, :NEGATIVE], ~positive[:, :NEGATIVE].any(axis=1)])
    factors = repeat_factors(examples, sampling)
    counts = epoch_counts(factors, strata(examples, sampling), seed, epoch)
    columns = {
        "class": [*CLASSES, "all"],
        "cells": [*members.sum(axis=0), len(examples)],
        "expected": [*(factors @ members), factors.sum()],
        "drawn": [*(counts @ members), counts.sum()],
        "most_repeated": [int((counts * member).max(initial=0)) for member in members.T] + [int(counts.max())],
    }
    return pd.DataFrame(columns)

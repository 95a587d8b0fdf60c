"""Sampling as a plan: how often each cell (or image) is expected in an epoch, and an epoch drawn from that.

Team 4 draws cells class by class and accepts them at random; team 3 draws images with replacement. Here each example
gets the expected number of its draws (its repeat factor) from its labels, and systematic sampling turns factors into
counts: it comes floor(factor) or ceil(factor) times, an epoch has a fixed number of them, every set of labels is drawn
within 1 of its expected number, and over epochs one with factor 0.1 comes every tenth. Source: METHODS 3 (sampler);
W 6.
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
class SemiBalanced:
    """By class: team 4's shares of draws for each. Source: METHODS 3 (sampler)."""

    num_cells: int | None = None
    """Cells (images, where the view draws images) of an epoch, all shares scaled alike; None = what the fields below
    add up to."""
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

    def __post_init__(self):
        _check_num_cells(self)
        _check_classes(self, "class_multipliers", "sure_repeats")
        if min(self.mitotic_shares) < 0:
            found = str(self.mitotic_shares)
            raise InputError("recipe.sampling.mitotic_shares", found, "three numbers >= 0", "change them")

    def factors(self, examples: Examples, positive: np.ndarray) -> np.ndarray:
        """Return the draws of each example, float64 [N], before they are scaled to `num_cells`.

        Args:
            examples: N cells or images.
            positive: bool [N, 19]: which labels count.
        """
        located = positive[:, :NEGATIVE].sum(axis=1)
        accepted = np.maximum(located, 1) ** -self.label_count_power
        sure, of_class = examples.labels >= self.sure, np.ascontiguousarray(positive.T)
        targets = self.cells_per_class * np.asarray(self.class_multipliers)
        factors, weights = np.zeros(len(examples)), np.zeros(len(examples))
        for c in range(NEGATIVE):
            if c != MITOTIC_SPINDLE:
                own = np.flatnonzero(of_class[c])  # few: the others add nothing
                weights[own] = accepted[own] * np.where(sure[own, c], self.sure_repeats[c], 1.0)
                if total := weights.sum():
                    factors[own] += targets[c] * (weights[own] / total)
                weights[own] = 0
        negative = (located == 0) & (positive[:, NEGATIVE] | examples.known[:, :NEGATIVE].all(axis=1))
        factors += targets[NEGATIVE] * _shares(negative)
        return factors + targets[MITOTIC_SPINDLE] * self._mitotic(examples, of_class[MITOTIC_SPINDLE])

    def _mitotic(self, examples: Examples, positive: np.ndarray) -> np.ndarray:
        """Return class 11's own draws as shares [N] that add up to 1, or all 0 when no cell has the class."""
        if not positive.any():
            return np.zeros(len(examples))
        table, labels = examples.table, examples.labels[:, MITOTIC_SPINDLE]
        if "mitotic_lookalike" in table.columns:
            alike = table["mitotic_lookalike"].to_numpy(bool) & ~positive
        else:
            beside = np.zeros(int(examples.image_of.max()) + 1, bool)
            beside[examples.image_of[positive]] = True
            alike = beside[examples.image_of] & ~positive
        repeats = np.where(labels >= self.mitotic_sure, self.mitotic_sure_repeats, 1.0)
        pools = (~positive & examples.known[:, MITOTIC_SPINDLE], alike, positive * repeats)
        return _shares(sum(share * _shares(pool) for share, pool in zip(self.mitotic_shares, pools, strict=True)))


@dataclass(frozen=True)
class EveryCell:
    """Every cell (or image) once, and further times where somebody graded it. Source: METHODS 3 (extra repeats)."""

    num_cells: int | None = None
    """Cells (images, where the view draws images) of an epoch, all scaled alike; None = what there are, and repeats."""
    positive: float = 0.1
    """Least soft label that counts as a label."""
    extra_repeats: tuple[float, ...] = (0.0,) * NUM_CLASSES
    """Further draws of a cell that column `graded` names, for each class it has (fine-tuning stage)."""
    ungraded_classes: tuple[int, ...] = (11, 15)
    """Classes whose sure cells get `extra_repeats` although nobody graded them."""
    sure: float = 0.9
    """Least soft label of a sure cell."""

    def __post_init__(self):
        _check_num_cells(self)
        _check_classes(self, "extra_repeats")

    def factors(self, examples: Examples, positive: np.ndarray) -> np.ndarray:
        """Return the draws of each example, float64 [N]; arguments as of `SemiBalanced.factors`."""
        counts = np.isin(np.arange(NUM_CLASSES), self.ungraded_classes) & (examples.labels >= self.sure)
        if "graded" in examples.table.columns:
            counts |= examples.table["graded"].to_numpy(bool)[:, None]
        return 1 + (positive & counts) @ np.asarray(self.extra_repeats)


@dataclass(frozen=True)
class InverseFrequency:
    """By how rare an example's classes are: mean of 1 / N_c over its labels, capped. Source: team 3, public code."""

    num_cells: int | None = None
    """Cells (images, where the view draws images) of an epoch; None = as many as there are."""
    positive: float = 0.5
    """Least soft label that counts as a label."""
    cap: int = 3
    """No example counts more than the cap-th largest 1 / N_c: the rarest classes do not fill the epoch. 0 = no cap."""

    def __post_init__(self):
        _check_num_cells(self)

    def factors(self, examples: Examples, positive: np.ndarray) -> np.ndarray:
        """Return the draws of each example, float64 [N]; arguments as of `SemiBalanced.factors`."""
        counts = positive.sum(axis=0)
        rarity = np.divide(1.0, counts, where=counts > 0, out=np.zeros(NUM_CLASSES))
        weights = positive @ rarity / np.maximum(positive.sum(axis=1), 1)
        there = np.sort(rarity[rarity > 0])[::-1]
        if self.cap and len(there):
            weights = np.minimum(weights, there[min(self.cap, len(there)) - 1])
        return _shares(weights) * len(examples)


Sampling = SemiBalanced | EveryCell | InverseFrequency
"""The ways of drawing an epoch that a recipe may name."""


def repeat_factors(examples: Examples, sampling: Sampling) -> np.ndarray:
    """Return the expected number of draws of each cell in an epoch, float64 [N]; their sum is a whole number.

    Raises:
        InputError: No cell can be drawn.
    """
    return examples.once(("repeat_factors", sampling), lambda: _repeat_factors(examples, sampling))


def _repeat_factors(examples: Examples, sampling: Sampling) -> np.ndarray:
    factors = sampling.factors(examples, _positive(examples, sampling))
    if not factors.sum() > 0:
        raise InputError(examples.folder, f"{len(examples)} cells, none to draw", "a cell with a label", "check labels")
    total = sampling.num_cells or max(1, round(factors.sum()))
    return factors * (total / factors.sum())


def _positive(examples: Examples, sampling: Sampling) -> np.ndarray:
    """Return which labels count, bool [N, 19]."""
    return (examples.labels >= sampling.positive) & examples.known


def _check_num_cells(sampling: Sampling) -> None:
    if sampling.num_cells is not None and sampling.num_cells < 1:
        fix = "change it, or set it to None for the number that the sampling itself draws"
        raise InputError("recipe.sampling.num_cells", str(sampling.num_cells), "a number > 0, or None", fix)


def _check_classes(sampling: Sampling, *names: str) -> None:
    for name in names:
        values = getattr(sampling, name)
        if len(values) != NUM_CLASSES or min(values) < 0:
            found = f"{len(values)} numbers, least {min(values, default=None)}"
            raise InputError(f"recipe.sampling.{name}", found, f"{NUM_CLASSES} numbers >= 0", "change it")


def _shares(weights: np.ndarray) -> np.ndarray:
    """Return weights that add up to 1, or all 0: a class without cells takes no part in the epoch."""
    total = weights.sum()
    return weights / total if total > 0 else np.zeros(len(weights))


def draw_epoch(examples: Examples, sampling: Sampling, seed: int, epoch: int) -> np.ndarray:
    """Return the order of an epoch: int64 [E] rows of `examples`; a function of (examples, sampling, seed, epoch)."""
    order = np.repeat(np.arange(len(examples)), _ticks(examples, sampling, seed).counts(epoch))
    return np.random.default_rng([seed, epoch, 1]).permutation(order)


def strata(examples: Examples, sampling: Sampling) -> np.ndarray:
    """Return int64 [N]: the same number for cells with the same set of labels."""
    bits = np.packbits(_positive(examples, sampling), axis=1, bitorder="little")
    return bits @ (1 << np.arange(0, 8 * bits.shape[1], 8))


@dataclass(frozen=True)
class Ticks:
    """Systematic sampling within an order sorted by stratum: what all epochs of a run share.

    Attributes:
        order: int64 [N]: cells of a stratum lie together, so its total is within 1 of the expected one.
        sums: float64 [N]: expected draws of the cells up to each, in this order.
        total: Draws of an epoch.
        offset: Where the ticks of epoch 0 begin, 0..1.
    """

    order: np.ndarray
    sums: np.ndarray
    total: int
    offset: float

    @classmethod
    def of(cls, factors: np.ndarray, strata: np.ndarray, seed: int) -> "Ticks":
        """Return the ticks of a run.

        Args:
            factors: Expected draws of each cell, float64 [N], with a whole sum.
            strata: int64 [N].
            seed: Of the run; fixes the order.
        """
        rng = np.random.default_rng([seed, 0])
        by_chance = np.argsort(rng.random(len(factors)), kind="stable")
        kinds = np.cumsum(np.bincount(strata) > 0)[strata[by_chance]]
        kinds = kinds.astype(np.uint16) if kinds.max() < 1 << 16 else kinds  # 16 bits are sorted in linear time
        order = by_chance[np.argsort(kinds, kind="stable")]
        return cls(order, np.cumsum(factors[order]), round(factors.sum()), rng.random())

    def counts(self, epoch: int) -> np.ndarray:
        """Return how often each cell is drawn, int64 [N]; the ticks move by the golden ratio from epoch to epoch."""
        ticks = np.floor(self.sums + (self.offset + epoch * GOLDEN_RATIO) % 1).astype(np.int64)
        ticks[-1] = self.total  # rounding errors of a long sum must not cost or add a draw
        counts = np.empty(len(ticks), np.int64)
        counts[self.order] = np.diff(ticks, prepend=0)
        return counts


def _ticks(examples: Examples, sampling: Sampling, seed: int) -> Ticks:
    def made() -> Ticks:
        return Ticks.of(repeat_factors(examples, sampling), strata(examples, sampling), seed)

    return examples.once(("ticks", sampling, seed), made)


def describe_sampling(examples: Examples, sampling: Sampling, seed: int, epoch: int = 0) -> pd.DataFrame:
    """Return the table of `--show-sampling`: per class its cells, expected and drawn draws, and the most repeated cell.

    A cell with several labels counts in each of its classes; "Negative" counts cells without any label 0-17.
    """
    positive = _positive(examples, sampling)
    members = np.column_stack([positive[:, :NEGATIVE], ~positive[:, :NEGATIVE].any(axis=1)])
    factors, counts = repeat_factors(examples, sampling), _ticks(examples, sampling, seed).counts(epoch)
    columns = {
        "class": [*CLASSES, "all"],
        "cells": [*members.sum(axis=0), len(examples)],
        "expected": [*(factors @ members), factors.sum()],
        "drawn": [*(counts @ members), counts.sum()],
        "most_repeated": [int((counts * member).max(initial=0)) for member in members.T] + [int(counts.max())],
    }
    return pd.DataFrame(columns)

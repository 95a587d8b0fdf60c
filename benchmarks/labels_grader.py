"""A grader of cells whose truth is known, for `labels.py`; and what a rule of labels did, against the truth.

Shown the truth of a cell, the grader gives 5, 4 or 3 where the cell shows the class and 1, 2 or 3 where it does not,
with shares .6, .3 and .1, but takes an eighth of the cells for the opposite, so that more than a tenth of the grades
are wrong.
"""

from collections.abc import Collection
from typing import Literal

import numpy as np
import pandas as pd

from hpa_tf.classes import NEGATIVE
from hpa_tf.label_rules import LabelTable

WRONG = 0.125
"""Share of cells that the grader takes for the opposite."""
STEPS = (0.6, 0.3, 0.1)
"""Shares of grades that are sure, nearly sure, undecided."""

Order = Literal["random", "uncertainty"]


def grade(shows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return grades 1 to 5, int64 [N], of cells that truly show a class or not, bool [N]."""
    taken_for = shows ^ (rng.random(len(shows)) < WRONG)
    steps = rng.choice(len(STEPS), len(shows), p=STEPS)
    return np.where(taken_for, 5 - steps, 1 + steps)


def grade_cells(
    labels: LabelTable,
    truth: np.ndarray,
    allowed: np.ndarray,
    classes: Collection[int],
    count: int,
    order: Order,
    probabilities: np.ndarray,
    seed: int,
) -> pd.DataFrame:
    """Return the grades of up to `count` cells of each class, of those whose image has the label, as a table of grades.

    Args:
        labels: Labels of the cells' images.
        truth: bool [N, 19].
        allowed: bool [N], cells that are shown at all.
        classes: Classes that are graded.
        count: Cells of each class; all, where there are fewer.
        order: Of the cells: random, or the nearest to a probability of .5 first.
        probabilities: float [N, 19], by which the order goes.
        seed: Of the grader and of the order. In random order, a smaller count grades the first of the same cells.
    """
    tables = []
    for class_id in sorted(classes):
        rng = np.random.default_rng([seed, class_id])
        rows = rng.permutation(np.flatnonzero(allowed & (labels.values[:, class_id] > 0)))
        if order == "uncertainty":
            rows = rows[np.argsort(np.abs(probabilities[rows, class_id] - 0.5), kind="stable")]
        grades = grade(truth[rows, class_id], rng)[:count]
        cells = labels.cells.iloc[rows[:count]]
        columns = {"class": class_id, "grader": "simulated", "image_id": cells["image_id"].to_numpy()}
        tables.append(pd.DataFrame({**columns, "cell": cells["cell"].to_numpy(), "grade": grades}))
    return pd.concat(tables, ignore_index=True)


def balanced(probabilities: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return the probabilities that a network would give had it seen as many positive cells as negative ones.

    Team 4's networks for `drop_unlikely` see half positive cells; the threshold of .3 is meant for those.

    Args:
        probabilities: float [N, 19]; NaN = not known.
        share: float [19], share of positive cells in the training, above 0 and below 1.
    """
    odds = probabilities * (1 - share)
    return odds / (odds + (1 - probabilities) * share)


def removed(weak: LabelTable, clean: np.ndarray, bad: np.ndarray, truth: np.ndarray) -> str:
    """Say what cleaning removed: its share, the cut cells and artefacts (`bad`, bool [N]) in it, and the wrong labels.

    A label is wrong where the cell does not show a class that its image has.
    """
    positive, out = weak.values[:, :NEGATIVE] > 0, ~clean
    wrong = ~truth[:, :NEGATIVE]
    of_removed = f"cut or artefacts {_mean(bad[out])} (of all {_mean(bad)}), "
    of_labels = f"labels wrong {_mean(wrong[out][positive[out]])} (of all {_mean(wrong[positive])})"
    return f"removed {out.mean():.1%}; of them {of_removed}{of_labels}"


def lowered(before: LabelTable, after: LabelTable, truth: np.ndarray, chosen: np.ndarray) -> str:
    """Say which share of the positive labels of the cells `chosen` a rule lowered, and how many of those were wrong."""
    positive = (before.values[:, :NEGATIVE] > 0) & chosen[:, None]
    moved = positive & (after.values[:, :NEGATIVE] < before.values[:, :NEGATIVE])
    wrong = ~truth[:, :NEGATIVE]
    share = moved.sum() / max(1, positive.sum())
    return f"lowered {share:.1%} of the labels; of them wrong {_mean(wrong[moved])} (of all {_mean(wrong[positive])})"


def graded(grades: pd.DataFrame, labels: LabelTable, truth: np.ndarray) -> str:
    """Say how many grades were given, how many of them were given to cells that show the class, and how many are wrong.

    A grade of 3 is on neither side.
    """
    rows = pd.MultiIndex.from_frame(labels.cells[["image_id", "cell"]])
    found = rows.get_indexer(pd.MultiIndex.from_frame(grades[["image_id", "cell"]]))
    shows, given = truth[found, grades["class"]], grades["grade"].to_numpy()
    wrong = (shows[given != 3] != (given[given != 3] > 3)).mean()
    return f"{len(grades)} grades, {shows.mean():.0%} of cells that show the class; wrong {wrong:.1%}"


def _mean(values: np.ndarray) -> str:
    return f"{values.mean():.0%}" if values.size else "-"

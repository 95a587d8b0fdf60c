"""Which cell comes next: the order of the queue, and repeats that measure how far a grader's own grades agree.

Both are functions of the table, the seed and the decisions so far: a program that was killed goes on where it was.
"""

from collections.abc import Collection, Iterable
from typing import Literal

import numpy as np

from hpa_tf.errors import InputError
from hpa_tf.grading.cells import Cells
from hpa_tf.grading.standing import Standing

Order = Literal["random", "uncertainty", "disagreement", "probability"]
Which = Literal["labelled", "unlabelled", "all"]

REPEAT_GAP = 20
"""Decisions between a cell and its repeat, at least; also the furthest that `upcoming` looks ahead."""


def queue(cells: Cells, chosen: np.ndarray, order: Order, which: Which, seed: int) -> np.ndarray:
    """Return the rows to grade, in order.

    Args:
        cells: The cells, with scores for every order but random.
        chosen: bool [N]: cells that may be graded at all.
        order: random; uncertainty = scores nearest 0.5 first; disagreement = largest |score - label| first;
            probability = highest score first. Ties, and cells without a score (last), in random order.
        which: labelled = cells that have the class now (label > 0), as team 4 graded; unlabelled = the others.
        seed: Of the random order.

    Raises:
        InputError: No cell is left, or the order needs scores.
    """
    labelled = cells.label > 0
    chosen = chosen & {"labelled": labelled, "unlabelled": ~labelled, "all": np.ones(len(cells), bool)}[which]
    rows = np.flatnonzero(chosen)
    if not rows.size:
        fix = "choose another --which, --fold or --labels, or give --no-clean"
        raise InputError("--which", f"no cell is {which}", "at least one cell to grade", fix)
    rows = np.random.default_rng(seed).permutation(rows)
    if order == "random":
        return rows
    scores, labels = cells.score[rows], np.nan_to_num(cells.label[rows])
    if np.isnan(scores).all():
        fix = "give --table PREDICTIONS, or --order random"
        raise InputError("--order", f"{order} without a score of any cell", "a table of predictions", fix)
    first = {"uncertainty": np.abs(scores - 0.5), "disagreement": -np.abs(scores - labels), "probability": -scores}
    return rows[np.argsort(np.nan_to_num(first[order], nan=np.inf), kind="stable")]


def upcoming(
    rows: Iterable[int], queued: Collection[int], standing: Standing, count: int, repeat_share: float, seed: int
) -> list[int]:
    """Return the next rows to show, at most `count`.

    Args:
        rows: The queue, in order, or what may be left of it; decided rows are passed over.
        queued: All rows of the queue: others, which the journal has from another queue, do not come again.
        standing: The decisions so far.
        count: At most `REPEAT_GAP`.
        repeat_share: Share of repeats among the decisions, 0 to below 1.
        seed: Decides which cells are repeated.
    """
    if count > REPEAT_GAP:
        raise ValueError(f"count: found {count}; expected at most {REPEAT_GAP}")
    fresh = (row for row in rows if row not in standing.times)
    found: list[int] = []
    repeated: set[int] = set()
    decided = len(standing.decided)
    for position in range(decided, decided + count):
        row = None
        if int((position + 1) * repeat_share) > int(position * repeat_share):
            row = _repeat(queued, standing, position, repeated, seed)
        if row is not None:
            repeated.add(row)
        else:
            row = next(fresh, None)
        if row is None:
            break
        found.append(row)
    return found


def _repeat(queued: Collection[int], standing: Standing, position: int, repeated: set[int], seed: int) -> int | None:
    """Draw a cell of the queue that was graded long enough before this position and not repeated, or None."""
    limit = position - REPEAT_GAP
    if limit < 1:
        return None
    rng = np.random.default_rng([seed, position])
    start = int(rng.integers(limit))
    for step in range(limit):  # repeats are few: nearly always the first place does
        row, decision = standing.decided[(start + step) % limit]
        if decision.action == "grade" and row in queued and row not in standing.repeated and row not in repeated:
            return row
    return None

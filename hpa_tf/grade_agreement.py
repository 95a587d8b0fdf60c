"""How far grades of the same cells agree: of one grader who saw them twice, and of two graders."""

from collections.abc import Sequence

import numpy as np

from hpa_tf.grade_decisions import Journal


def self_agreement(journal: Journal) -> tuple[float, int]:
    """Return (weighted kappa, number of pairs) between first and repeated grades; NaN without a pair."""
    first, again = {}, {}
    for decision in journal.standing.values():
        if decision.action == "grade":
            (again if decision.repeat else first)[decision.image_id, decision.cell] = decision.grade
    cells = [cell for cell in again if cell in first]
    return weighted_kappa([first[cell] for cell in cells], [again[cell] for cell in cells]), len(cells)


def agreement_between(one: Journal, other: Journal) -> tuple[float, int]:
    """Return (weighted kappa, number of cells) between two graders' first grades of the same cells."""
    grades = [
        {(d.image_id, d.cell): d.grade for d in j.standing.values() if d.action == "grade" and not d.repeat}
        for j in (one, other)
    ]
    cells = [cell for cell in grades[0] if cell in grades[1]]
    return weighted_kappa([grades[0][cell] for cell in cells], [grades[1][cell] for cell in cells]), len(cells)


def weighted_kappa(one: Sequence[int], other: Sequence[int]) -> float:
    """Return Cohen's kappa with quadratic weights of two lists of grades: 1 = agree, 0 = as by chance.

    NaN where it is not defined: no pair, or both lists hold one and the same grade only.
    """
    first, second = np.asarray(one, float), np.asarray(other, float)
    if not first.size:
        return float("nan")
    by_chance = first.var() + second.var() + (first.mean() - second.mean()) ** 2  # of all pairs of a grade from each
    return float(1 - np.mean((first - second) ** 2) / by_chance) if by_chance > 0 else float("nan")

"""The decisions that stand, as the queue needs them: kept up to date decision by decision, in constant time each."""

from collections import Counter
from collections.abc import Callable

from hpa_tf.grade_agreement import weighted_kappa
from hpa_tf.grade_decisions import Decision, Journal


class Standing:
    """The decisions of a journal that stand, by row.

    Attributes:
        decided: (row, decision), in the order in which cells were first decided.
        times: How often each row was decided; rows that never were are not in it.
        repeated: Rows that were shown a second time.
        grades: How often each grade was given; None counts skips.
        lost: Decisions of cells that have no row: they are in none of the others.
    """

    def __init__(self, journal: Journal, find: Callable[[str, int], int]):
        """Args: journal: The journal. find: (image_id, cell) -> row, -1 = there is none."""
        self._find = find
        self.rebuild(journal)

    def rebuild(self, journal: Journal) -> None:
        """Take the whole journal in again: after an undo or a correction."""
        self.decided: list[tuple[int, Decision]] = []
        self.times: Counter[int] = Counter()
        self.repeated: set[int] = set()
        self.grades: Counter[int | None] = Counter()
        self._first: dict[int, int] = {}
        self._again: dict[int, int] = {}
        self.lost: list[Decision] = []
        for decision in journal.standing.values():
            row = self._find(decision.image_id, decision.cell)
            if row < 0:
                self.lost.append(decision)
            else:
                self.add(row, decision)

    def add(self, row: int, decision: Decision) -> None:
        """Take in a decision that replaces none."""
        self.decided.append((row, decision))
        self.times[row] += 1
        self.grades[decision.grade] += 1
        if decision.repeat:
            self.repeated.add(row)
        if decision.grade is not None:
            (self._again if decision.repeat else self._first)[row] = decision.grade

    def self_agreement(self) -> tuple[float, int]:
        """Return (weighted kappa, number of pairs) between first and repeated grades; NaN without a pair."""
        rows = [row for row in self._again if row in self._first]
        return weighted_kappa([self._first[row] for row in rows], [self._again[row] for row in rows]), len(rows)

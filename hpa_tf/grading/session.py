"""One grader's session on one class: the queue, the journal, and what the page may ask of both.

Every method that decides something returns after the decision is on the disk.
"""

import datetime
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpa_tf.classes import CLASSES, NUM_CLASSES
from hpa_tf.errors import InputError
from hpa_tf.grade_decisions import GRADES, Decision
from hpa_tf.grade_journal import Writer
from hpa_tf.grading.cells import Cells
from hpa_tf.grading.order import REPEAT_GAP, upcoming
from hpa_tf.grading.standing import Standing

_LONGEST_LOOK = 60.0
"""Seconds on one cell that count, at most: somebody who was away did not grade slowly."""
_RATE_OF = 50
"""Decisions whose pace gives the rate."""


class Conflict(ValueError):
    """A decision that does not fit what was decided before, such as one from a second window."""


@dataclass
class Session:
    """A queue and its journal.

    Attributes:
        cells: The cells.
        class_id: The class that is graded.
        rows: The queue: rows of `cells`.
        writer: The journal, open.
        repeat_share: Share of repeats.
        seed: Decides which cells are repeated.
        show_label: Tell the page the current label and the score (not blinded).
    """

    cells: Cells
    class_id: int
    rows: np.ndarray
    writer: Writer
    repeat_share: float = 0.05
    seed: int = 0
    show_label: bool = False

    def __post_init__(self):
        self._lock = threading.RLock()
        self._rows, self._queued = self.rows.tolist(), set(self.rows.tolist())
        self._start = 0  # rows of the queue before it are decided
        self._offered: set[int] = set()  # rows that this process has shown as repeats
        self._standing = Standing(self.writer.journal, self.cells.finder())
        # those that say a place are of images that the data lack: opening the journal warned of them
        if lost := [decision for decision in self._standing.lost if decision.place is None]:
            found = f"image {lost[0].image_id!r} cell {lost[0].cell}, which the data lacks"
            raise InputError(self.writer.path, found, "grades of cells of the data", "choose another --out")

    # -- what the page asks -------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return progress, rate, agreement and the next rows, as JSON values."""
        with self._lock:
            standing = self._standing
            skipped, decided = standing.grades[None], len(standing.decided)
            done = len(self._queued & standing.times.keys())
            kappa, pairs = standing.self_agreement()
            rate = self._rate()
            left = len(self._rows) - done
            following = self._upcoming()
            self._offered |= standing.times.keys() & set(following)
            return {
                "class": self.class_id,
                "name": CLASSES[self.class_id],
                "grader": self.writer.journal.grader,
                "total": len(self._rows),
                "done": done,
                "graded": decided - skipped,
                "skipped": skipped,
                "counts": {str(grade): standing.grades[grade] for grade in GRADES},
                "per_minute": rate,
                "minutes_left": left / rate if rate else None,
                "kappa": None if math.isnan(kappa) else kappa,
                "pairs": pairs,
                "blinded": not self.show_label,
                "upcoming": following,
            }

    def graded(self, action: str, grade: int | None, text: str, offset: int, limit: int) -> dict[str, Any]:
        """Return decisions that stand, newest first, as JSON values.

        Args:
            action: grade, skip, repeat (second grades) or "" for all.
            grade: Only this grade; None = all.
            text: Part of the image id.
            offset: Leave out the newest so many.
            limit: At most so many.
        """
        with self._lock:
            found = [
                (row, decision)
                for row, decision in reversed(self._standing.decided)
                if (grade is None or decision.grade == grade)
                and text.lower() in decision.image_id.lower()
                and (not action or (decision.repeat if action == "repeat" else decision.action == action))
            ]
        items = [
            {
                "number": decision.number,
                "row": row,
                "image_id": decision.image_id,
                "cell": decision.cell,
                "action": decision.action,
                "grade": decision.grade,
                "repeat": decision.repeat,
                "corrected": decision.replaces is not None,
                "time": decision.time,
            }
            for row, decision in found[offset : offset + limit]
        ]
        return {"total": len(found), "items": items}

    def examples(self, count: int = 6) -> dict[str, Any]:
        """Return rows of a few sure cells of the class and where they come from, best source first."""
        with self._lock:
            sure = [
                row for row, decision in self._standing.decided if decision.grade == max(GRADES) and not decision.repeat
            ]
        if len(sure) >= count // 2:
            return {"source": f"graded {max(GRADES)} by you", "rows": sure[-count:][::-1]}
        score = np.where(self.cells.clean, np.nan_to_num(self.cells.score, nan=-1), -1)
        best = np.argsort(-score, kind="stable")[:count]
        if len(best) and score[best[0]] >= 0.5:
            return {"source": "highest scores in the table", "rows": best[score[best] >= 0.5].tolist()}
        alone = np.flatnonzero(self.cells.alone & self.cells.clean)
        alone = np.random.default_rng(self.seed).permutation(alone)[:count]
        return {"source": "cells with this label alone: not every one shows it", "rows": alone.tolist()}

    def label(self, row: int) -> dict[str, float | None]:
        """Return current label and score of a row, or nothing while the grader is blinded."""
        if not self.show_label:
            return {}
        values = {"label": float(self.cells.label[row]), "score": float(self.cells.score[row])}
        return {name: None if math.isnan(value) else round(value, 4) for name, value in values.items()}

    # -- decisions ----------------------------------------------------------------------------------------------------

    def grade(self, rows: Sequence[int], grade: int | None, seconds: float | None) -> None:
        """Grade cells that were shown, all with one grade; None = skip them.

        Args:
            rows: The cells.
            grade: 1 to 5, or None.
            seconds: From their appearance to the decision, s, for all of them together; None = not known.

        Raises:
            Conflict: A cell was decided before and this is not its repeat.
            InputError: The disk does not take it.
        """
        with self._lock:
            times = self._standing.times
            for row in rows:
                if row not in self._queued:
                    raise Conflict(f"row {row} is not in the queue")
                if times.get(row, 0) > (row in self._offered):
                    raise Conflict("this cell was decided before, perhaps in another window: reload the page")
            unique = list(dict.fromkeys(rows))
            share = seconds / len(unique) if seconds and unique else seconds
            decisions = [
                self._decision(row, grade, after, share, repeat=row in times) for after, row in enumerate(unique)
            ]
            self.writer.append(decisions)
            for row, decision in zip(unique, decisions, strict=True):
                self._standing.add(row, decision)

    def correct(self, number: int, grade: int | None) -> None:
        """Replace a decision that stands by another grade; None = skip.

        Raises:
            Conflict: There is no such decision, or it does not stand.
            InputError: The disk does not take it.
        """
        with self._lock:
            for row, decision in self._standing.decided:
                if decision.number == number:
                    repeat = decision.repeat
                    self.writer.append([self._decision(row, grade, 0, None, repeat=repeat, replaces=number)])
                    self._standing.rebuild(self.writer.journal)
                    return
        raise Conflict(f"decision {number} does not stand any more: reload the page")

    def undo(self) -> int | None:
        """Undo the newest decision that stands; return its row, or None if there is none."""
        with self._lock:
            if not self._standing.decided:
                return None
            row, last = max(self._standing.decided, key=lambda pair: pair[1].number)
            undo = Decision(
                number=len(self.writer.journal.decisions) + 1,
                action="undo",
                image_id=last.image_id,
                cell=last.cell,
                repeat=last.repeat,
                replaces=last.number,
                time=_now(),
            )
            self.writer.append([undo])
            self._standing.rebuild(self.writer.journal)
            self._start = 0
            return row

    # -- parts --------------------------------------------------------------------------------------------------------

    def _upcoming(self) -> list[int]:
        while self._start < len(self._rows) and self._rows[self._start] in self._standing.times:
            self._start += 1
        rows = (self._rows[place] for place in range(self._start, len(self._rows)))
        return upcoming(rows, self._queued, self._standing, REPEAT_GAP, self.repeat_share, self.seed)

    def _decision(
        self,
        row: int,
        grade: int | None,
        after: int,
        seconds: float | None,
        *,
        repeat: bool,
        replaces: int | None = None,
    ) -> Decision:
        image_id, cell = self.cells.key(row)
        return Decision(
            number=len(self.writer.journal.decisions) + 1 + after,
            action="skip" if grade is None else "grade",
            image_id=image_id,
            cell=cell,
            grade=grade,
            repeat=repeat,
            replaces=replaces,
            seconds=seconds,
            time=_now(),
        )

    def _rate(self) -> float | None:
        """Return decisions a minute over the newest ones, pauses left out; None before there are five."""
        newest = self._standing.decided[-_RATE_OF:]
        looks = [min(decision.seconds, _LONGEST_LOOK) for _, decision in newest if decision.seconds]
        return 60 * len(looks) / sum(looks) if len(looks) >= 5 and sum(looks) > 0 else None


def class_number(text: str) -> int:
    """Return a class id from its number or name.

    Raises:
        InputError: There is no such class.
    """
    names = {name.lower(): number for number, name in enumerate(CLASSES)}
    number = int(text) if text.isascii() and text.isdigit() else names.get(text.strip().lower(), -1)
    if not 0 <= number < NUM_CLASSES:
        raise InputError("--class", repr(text), f"0 to {NUM_CLASSES - 1}, or one of {', '.join(CLASSES)}", "choose one")
    return number


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")

"""What graders decided, decision by decision, and of which cells: in memory; `grade_journal` keeps it in files."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from hpa_tf.errors import HpaWarning, InputError, counted

GRADES = (1, 2, 3, 4, 5)
"""1 = surely does not show the class, 5 = surely does."""

Action = Literal["grade", "skip", "undo"]

Place = tuple[int, ...]
"""Box and area of a cell, px: the columns `cell_table.PLACES`."""


@dataclass(frozen=True)
class Decision:
    """One line of a journal.

    Attributes:
        number: Its number in the file, from 1.
        action: grade, skip (shown, not graded) or undo.
        image_id: Field of view.
        cell: Number of the cell in its mask.
        grade: 1 to 5; None for skip and undo.
        repeat: The cell was shown a second time, to see whether the grader agrees with himself or herself.
        replaces: Number of the decision that this one undoes or corrects.
        seconds: Time from the cell's appearance to the decision, s; of cells that were graded at once, its share of it.
        time: When, UTC, ISO 8601.
        place: Where the cell is, and its size; None in journals of earlier versions.
    """

    number: int
    action: Action
    image_id: str
    cell: int
    grade: int | None = None
    repeat: bool = False
    replaces: int | None = None
    seconds: float | None = None
    time: str = ""
    place: Place | None = None


@dataclass
class Journal:
    """What a journal says: all its lines, and those that stand (neither undone nor corrected).

    Attributes:
        class_id: The class that was graded.
        grader: Who graded, in NFC.
        data: Which data: see `GradedData`.
        decisions: All lines in order.
        standing: The decisions that stand, by number, in the order in which their cells were first decided.
    """

    class_id: int
    grader: str
    data: str
    decisions: list[Decision] = field(default_factory=list)
    standing: dict[int, Decision] = field(default_factory=dict)
    _places: dict[int, int] = field(default_factory=dict)  # number -> key in `standing` under which it stands

    def add(self, decision: Decision) -> None:
        """Take in the next line.

        Raises:
            ValueError: Its number, grade or what it replaces does not fit the lines before.
        """
        if decision.number != len(self.decisions) + 1:
            raise ValueError(f"number {decision.number} after {len(self.decisions)} lines")
        if decision.action not in get_args(Action) or (decision.grade in GRADES) != (decision.action == "grade"):
            raise ValueError(f"action {decision.action!r} with grade {decision.grade!r}")
        if decision.replaces is None:
            if decision.action == "undo":
                raise ValueError("an undo that names no decision")
            self._places[decision.number] = decision.number
            self.standing[decision.number] = decision
        else:
            self._replace(decision, decision.replaces)
        self.decisions.append(decision)

    def _replace(self, decision: Decision, number: int) -> None:
        place = self._places.get(number)
        if place is None or self.standing.get(place, decision).number != number:
            raise ValueError(f"decision {number}, which does not stand, replaced")
        undone = self.standing[place]
        if (undone.image_id, undone.cell) != (decision.image_id, decision.cell):
            raise ValueError(f"decision {number}, of another cell, replaced")
        if decision.action != "undo":
            self.standing[place] = decision
            self._places[decision.number] = place
        elif undone.replaces is None:
            del self.standing[place]
        else:
            self.standing[place] = self.decisions[undone.replaces - 1]  # the decision that it had corrected


def _nowhere(image_id: str, cell: int) -> Place | None:
    return None


def _everywhere(image_id: str) -> bool:
    return True


@dataclass(frozen=True)
class GradedData:
    """Which cells data have: what tells graded cells from others with the same numbers (`data_folder.graded_data`).

    Attributes:
        cells: Digest of all cells; journals name by it the data that they were begun on.
        fingerprint: That of the build, by which journals of earlier versions name their data, whatever the masks hold.
        place_of: (image_id, cell) -> box and area of the cell; None = the data have no such cell.
        has_image: Tells whether the data have a cell of an image.
    """

    cells: str
    fingerprint: str
    place_of: Callable[[str, int], Place | None] = _nowhere
    has_image: Callable[[str], bool] = _everywhere

    def check(self, journal: Journal, where: str | os.PathLike) -> Journal:
        """Refuse a journal of other cells; cells that it does not speak of may be others.

        Returns:
            The journal without the decisions of images that the data lack, of which a warning speaks.

        Raises:
            InputError: The data lack a cell of one of their images that a decision stands for, or have it at another
                place, or lack all images of the decisions; or a decision says no place, as in earlier versions, and
                the journal was begun on other data.
        """
        is_same = journal.data in (self.cells, self.fingerprint)
        gone = {
            number: one for number, one in journal.standing.items() if one.place and not self.has_image(one.image_id)
        }
        for number, one in journal.standing.items():
            own = self.place_of(one.image_id, one.cell)
            if one.place == own if one.place else is_same:
                continue
            if number in gone and len(gone) < len(journal.standing):
                continue
            found, expected = f"cells {journal.data[:12]}", f"grades of the cells {self.cells[:12]}"
            if one.place:
                found = f"image {one.image_id!r} cell {one.cell} with box and area {one.place}"
                expected = f"{own}, as in the data" if own else "a cell that the data have"
            fix = "give the data folder that was graded; where its masks were made again, grade into another folder"
            found = f"grades of other data (class {journal.class_id}, {journal.grader}: {found})"
            raise InputError(where, found, expected, fix)
        if gone:
            images = dict.fromkeys(one.image_id for one in gone.values())
            text = f"{counted(len(gone), 'decision')} (class {journal.class_id}, {journal.grader}) left out: the data"
            text = f"{where}: {text} lack {counted(len(images), 'image')}, first {next(iter(images))!r}"
            warnings.warn(text, HpaWarning, stacklevel=3)
        left = {number: one for number, one in journal.standing.items() if number not in gone}
        return replace(journal, standing=left)

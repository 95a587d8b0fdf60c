"""Hand grades 1 to 5 -> soft labels, by a map for each class that stands in a file and can be edited."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields

import numpy as np
import pandas as pd

from hpa_tf import files
from hpa_tf.classes import MITOTIC_SPINDLE, NUM_CLASSES
from hpa_tf.errors import InputError
from hpa_tf.grade_agreement import agreement_between, self_agreement
from hpa_tf.grade_decisions import GRADES, GradedData, Journal
from hpa_tf.grade_journal import file_names, grades_table, read_folder
from hpa_tf.label_rules.label_table import GRADED, LabelTable

GradeMap = Mapping[int, float]
"""Soft label of each grade 1 to 5."""


@dataclass(frozen=True)
class GradeMaps:
    """How grades become labels. Source: METHODS 3 (hand grades).

    Attributes:
        default: Map of every class that has none of its own.
        classes: Maps of single classes, by class id; grades that one leaves out take the default's.
        ungraded_positive: Highest label of an ungraded positive cell of a class that was graded, by class id, with
            -1 for all others: graded or not, not every cell of a positive image shows the class. None = it stays.
        exclusive: Least label of a class with which it becomes the cell's only label, by class id.
    """

    default: GradeMap
    classes: Mapping[int, GradeMap] = field(default_factory=dict)
    ungraded_positive: Mapping[int, float | None] = field(default_factory=dict)
    exclusive: Mapping[int, float] = field(default_factory=dict)

    def of(self, class_id: int) -> dict[int, float]:
        """Return the soft label of each grade for one class."""
        return {grade: float({**self.default, **self.classes.get(class_id, {})}[grade]) for grade in GRADES}

    def cap(self, class_id: int) -> float | None:
        """Return the highest label of an ungraded positive cell of a class, or None."""
        return self.ungraded_positive.get(class_id, self.ungraded_positive.get(_OTHERS))


_OTHERS = -1
TRAIN = GradeMaps(
    default={1: 0, 2: 0.25, 3: 0.5, 4: 0.9, 5: 1},
    classes={
        1: {2: 0.4, 3: 0.5, 4: 0.85, 5: 1},
        8: {2: 0.5, 3: 1, 4: 1, 5: 1},
        9: {2: 0.5, 3: 0.75, 4: 1, 5: 1},
        11: {2: 0.05, 3: 0.2, 4: 0.65, 5: 1},
        12: {2: 0.3, 3: 0.75, 4: 1, 5: 1},
        15: {2: 0, 3: 0.6, 4: 1, 5: 1},
    },
    ungraded_positive={_OTHERS: 0.69, MITOTIC_SPINDLE: None, 12: 1.0},
    exclusive={MITOTIC_SPINDLE: 0.2},
)
"""Team 4's maps for training. The source gives class 8 no label for grades 4 and 5: they are not below that of 3."""
VALIDATION = GradeMaps(
    default={1: 0, 2: 0.5, 3: 0.8, 4: 1, 5: 1},
    classes={7: {2: 0.2, 3: 0.75}, 9: {2: 0, 3: 0.5}, 10: {2: 0, 3: 0.8}, 17: {2: 0.5, 3: 1}},
)
"""Team 4's maps for validation, and for the fine-tuning on validation cells."""
MAPS = {"train": TRAIN, "validation": VALIDATION}


def read_maps(name: str) -> GradeMaps:
    """Return the maps of a name of `MAPS`, or those of a JSON file that `write_maps` wrote and somebody edited.

    Raises:
        InputError: The file is missing, or a class, grade or label in it is none.
    """
    if name in MAPS:
        return MAPS[name]
    found = files.read_json(name)
    expected = f"the keys {[one.name for one in fields(GradeMaps)]}"
    if not isinstance(found, dict) or found.keys() != {one.name for one in fields(GradeMaps)}:
        raise InputError(name, "other keys", expected, "begin with what --write-maps writes")
    try:
        maps = GradeMaps(
            default=_grade_map(found["default"]),
            classes={_class(key): _grade_map(value) for key, value in found["classes"].items()},
            ungraded_positive={
                _class(key, others=True): None if value is None else _label(value)
                for key, value in found["ungraded_positive"].items()
            },
            exclusive={_class(key): _label(value) for key, value in found["exclusive"].items()},
        )
        for class_id in range(NUM_CLASSES):
            maps.of(class_id)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        fix = "correct it; --write-maps writes an example"
        raise InputError(name, f"{error}", "class ids, grades 1 to 5, labels in 0..1", fix) from error
    return maps


def write_maps(maps: GradeMaps, path: str | os.PathLike) -> None:
    """Write maps as JSON, to be edited."""
    files.write_json(path, asdict(maps))


def _grade_map(value: Mapping) -> dict[int, float]:
    found = {int(grade): _label(label) for grade, label in value.items()}
    if not set(found) <= set(GRADES):
        raise ValueError(f"grades {sorted(found)}")
    return found


def _class(key: str, others: bool = False) -> int:
    if not (0 <= int(key) < NUM_CLASSES or (others and int(key) == _OTHERS)):
        raise ValueError(f"class {key}")
    return int(key)


def _label(value: float) -> float:
    if isinstance(value, bool) or not 0 <= float(value) <= 1:
        raise ValueError(f"label {value}")
    return float(value)


def grades_of_folder(
    folder: str | os.PathLike, data: GradedData | None
) -> tuple[pd.DataFrame, list[Journal], dict[str, str]]:
    """Return (table of the grades that stand, the journals, their SHA-256 by file name).

    Args:
        folder: Folder that the grading page wrote.
        data: The data that the grades must be of, those of images that it lacks left out; None = any.

    Raises:
        InputError: There is no journal, one is damaged, or one is of other data.
    """
    journals = read_folder(folder)
    if data is not None:
        journals = [data.check(journal, folder) for journal in journals]
    sums = {normal: files.sha256(files.join(folder, name)) for normal, name in file_names(folder).items()}
    return grades_table(journals), journals, sums


def check_no_copies(folders: Sequence[str], journals: Sequence[Sequence[Journal]]) -> None:
    """Refuse two states of one journal, of which the older one's undone and corrected grades would count again.

    Args:
        folders: Folders of journals.
        journals: The journals of each folder.

    Raises:
        InputError: Two folders have a journal of the same class and grader that begins with the same decision.
    """
    folder_of: dict[tuple, str] = {}
    for folder, own in zip(folders, journals, strict=True):
        begun = {(one.class_id, one.grader, one.decisions[0]): folder for one in own if one.decisions}
        for key in filter(folder_of.get, begun):
            found = f"the journal of class {key[0]} by {key[1]}, of which {folder_of[key]} has another state"
            raise InputError(folder, found, "each journal once", "leave the older one out")
        folder_of |= begun


def joined_sums(sums: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return the SHA-256 of the files of several folders by name, `NAME 2` for the second one of that name."""
    found: dict[str, str] = {}
    for name, digest in (item for own in sums for item in own.items()):
        number = 1
        while (key := f"{name} {number}" if number > 1 else name) in found:
            number += 1
        found[key] = digest
    return found


def soft_labels(grades: pd.DataFrame, maps: GradeMaps) -> pd.DataFrame:
    """Return one row a graded (class, image_id, cell): its label, the mean over graders of each one's mean.

    Args:
        grades: Columns class, grader, image_id, cell, grade, of the grades that stand; repeats count too.
        maps: The maps.
    """
    of_class = {class_id: maps.of(class_id) for class_id in grades["class"].unique()}
    label = [of_class[class_id][grade] for class_id, grade in zip(grades["class"], grades["grade"], strict=True)]
    keys = ["class", "image_id", "cell"]
    by_grader = grades[[*keys, "grader"]].assign(label=label).groupby([*keys, "grader"], sort=True)["label"].mean()
    return by_grader.groupby(keys).mean().reset_index()


def from_grades(
    labels: LabelTable,
    grades: pd.DataFrame,
    maps: GradeMaps,
    inputs: Mapping[str, str],
    only_graded: bool = False,
) -> LabelTable:
    """Set the labels of hand-graded cells, cap those of ungraded positive cells, and mark the graded cells.

    What earlier grades have set, and these do not, stays; a cell that either gave an exclusive label has no other one.

    Args:
        labels: Labels so far.
        grades: See `soft_labels`.
        maps: The maps.
        inputs: What the grades were read from.
        only_graded: Values that no grade decided become unknown, so that a validation is measured by grades alone.

    Raises:
        InputError: A graded cell is not in the table.
    """
    found = soft_labels(grades, maps)
    index = pd.MultiIndex.from_frame(labels.cells[["image_id", "cell"]])
    rows = index.get_indexer(pd.MultiIndex.from_frame(found[["image_id", "cell"]]))
    if (rows < 0).any():
        first = found[rows < 0].iloc[0]
        what = f"{int((rows < 0).sum())} graded cells, first image {first['image_id']!r} cell {first['cell']}"
        raise InputError("the grades", f"{what}, without a row of labels", "grades of these cells", "check the data")
    classes = found["class"].to_numpy()
    graded = np.zeros(labels.values.shape, bool)
    graded[rows, classes] = True
    labels = _with_mark(labels, graded.any(axis=1))
    if not only_graded and any(maps.cap(class_id) is not None for class_id in np.unique(classes)):
        labels = _cap_ungraded(labels, graded, maps)
    values, mask = labels.values.copy(), graded.copy()
    values[rows, classes] = found["label"]
    any_round = graded | (labels.was_set_by(("from_grades",)) & graded.any(axis=1, keepdims=True))
    for class_id, least in maps.exclusive.items():
        alone = np.flatnonzero(any_round[:, class_id] & (values[:, class_id] >= least - 1e-6))
        others = np.arange(NUM_CLASSES) != class_id
        values[np.ix_(alone, others)], mask[np.ix_(alone, others)] = 0, True
    options = {"maps": asdict(maps), "only_graded": only_graded}
    labels = labels.with_step("from_grades", options, inputs, values, mask)
    if only_graded:
        by_grades = labels.was_set_by(("from_grades",))
        blank = np.where(by_grades, labels.values, np.float32(np.nan))
        return LabelTable(labels.cells, blank, np.where(by_grades, labels.set_by, np.int16(-1)), labels.steps)
    return labels


def _with_mark(labels: LabelTable, graded: np.ndarray) -> LabelTable:
    cells = labels.cells.copy()
    before = cells[GRADED].fillna(False).to_numpy(bool) if GRADED in cells else np.zeros(len(cells), bool)
    cells[GRADED] = before | graded
    return LabelTable(cells, labels.values, labels.set_by, labels.steps)


def _cap_ungraded(labels: LabelTable, graded: np.ndarray, maps: GradeMaps) -> LabelTable:
    """Lower the labels of ungraded positive cells of the graded classes: a step of its own, which no rule keeps."""
    values, mask = labels.values.copy(), np.zeros(labels.values.shape, bool)
    ungraded = ~graded & ~labels.was_set_by(("from_grades",))
    for class_id in np.flatnonzero(graded.any(axis=0)):
        cap = maps.cap(class_id)
        if cap is not None:
            capped = ungraded[:, class_id] & (labels.values[:, class_id] > max(cap, 0.5))
            values[capped, class_id], mask[capped, class_id] = cap, True
    return labels.with_step("ungraded_positive", {"ungraded_positive": dict(maps.ungraded_positive)}, {}, values, mask)


def describe_grades(journals: list[Journal]) -> str:
    """Return, for each class and grader, how often each grade was given, and how well grades agree."""
    lines = []
    for journal in journals:
        given = [one.grade for one in journal.standing.values() if one.action == "grade" and not one.repeat]
        counts = ", ".join(f"{grade}: {given.count(grade)}" for grade in GRADES)
        kappa, pairs = self_agreement(journal)
        agreement = f"; self-agreement {kappa:.2f} on {pairs} repeats" if pairs else ""
        lines.append(f"class {journal.class_id}, {journal.grader}: {len(given)} cells ({counts}){agreement}")
    for index, one in enumerate(journals):
        for other in journals[index + 1 :]:
            if one.class_id == other.class_id:
                kappa, cells = agreement_between(one, other)
                if cells:
                    lines.append(f"class {one.class_id}, {one.grader} and {other.grader}: {kappa:.2f} on {cells} cells")
    return "\n".join(lines)

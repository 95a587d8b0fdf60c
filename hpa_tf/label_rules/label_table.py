"""A table of labels with its provenance: for each of the 19 values of a cell, the step that set it.

In the file, a cell table: beside each class's column stands `set by: CLASS` (text, stored as a dictionary: nearly
nothing), the name of a step. The steps stand in the file's metadata, in the order in which they were taken: rule,
options, and the inputs by name and SHA-256. A value that no step set is not known (NaN).
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from hpa_tf import cell_table, files
from hpa_tf.classes import CLASSES, NUM_CLASSES
from hpa_tf.errors import InputError

SET_BY = "set by: "
GIVEN = "given"
"""Rule of values that came from a table without provenance."""
GRADED = "graded"
"""Column that marks hand-graded cells; the sampling plan of the fine-tuning stage draws them more often."""
MARKS = (GRADED, "mitotic_lookalike")
"""True/false columns that the sampling plan uses (`pipeline.sampling.Sampling`); empty = false."""
_NUMBERED = re.compile(r"(.*?)(?: ([2-9]|[1-9]\d{1,2}))?", re.DOTALL)
"""Name of a step: its rule, numbered if it was applied before."""
_CARRIED = ("fold", cell_table.AREA, *MARKS)


@dataclass(frozen=True)
class Step:
    """One rule as it was applied.

    Attributes:
        name: Its name in the table: the rule's, numbered if it was applied before.
        rule: The rule.
        options: What it was told, JSON values.
        inputs: SHA-256 of each file or folder that it read, by a name without its folder.
    """

    name: str
    rule: str
    options: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelTable:
    """Labels of N cells.

    Attributes:
        cells: image_id, cell, and columns that are carried along (fold, graded).
        values: float32 [N, 19] in 0..1; NaN = not known.
        set_by: int16 [N, 19], index into `steps`; -1 where not known.
        steps: The steps so far.
    """

    cells: pd.DataFrame
    values: np.ndarray
    set_by: np.ndarray
    steps: tuple[Step, ...]

    def __len__(self) -> int:
        return len(self.cells)

    def with_step(
        self, rule: str, options: Mapping[str, Any], inputs: Mapping[str, str], values: np.ndarray, mask: np.ndarray
    ) -> "LabelTable":
        """Return the table after a rule.

        Args:
            rule: Its name.
            options: What it was told.
            inputs: What it read.
            values: float [N, 19], the new values.
            mask: bool [N, 19]: where the rule sets a value, which may be the one that stood there.
        """
        count = sum(step.rule == rule for step in self.steps)
        plain = json.loads(json.dumps(options))  # as it will be read back
        step = Step(f"{rule} {count + 1}" if count else rule, rule, plain, dict(inputs))
        new = np.where(mask, values, self.values).astype(np.float32)
        set_by = np.where(mask, np.int16(len(self.steps)), self.set_by)
        return replace(self, values=new, set_by=set_by, steps=(*self.steps, step))

    def was_set_by(self, rules: tuple[str, ...]) -> np.ndarray:
        """Return bool [N, 19]: values that one of these rules set."""
        wanted = [index for index, step in enumerate(self.steps) if step.rule in rules]
        return np.isin(self.set_by, wanted)

    def rows_of(self, other: pd.DataFrame) -> np.ndarray:
        """Return the row in `other` (columns image_id, cell, unique) of each cell, int64 [N]; -1 = none."""
        mine, theirs = (pd.MultiIndex.from_frame(one[cell_table.KEYS]) for one in (self.cells, other))
        return theirs.get_indexer(mine)

    def values_from(self, other: pd.DataFrame, where: str | os.PathLike) -> np.ndarray:
        """Return the 19 values of another cell table for each cell, float32 [N, 19]; NaN where it has none.

        Raises:
            InputError: It has none of the cells, or its cells are of other masks.
        """
        cell_table.check_same_cells(self.cells, other, where)
        rows = self.rows_of(other)
        if not (rows >= 0).any():
            raise InputError(where, "none of the table's cells", "a table of the same cells", "check the path")
        found = cell_table.values(other, np.float32)[rows]
        found[rows < 0] = np.nan
        return found


def given(table: pd.DataFrame, rule: str = GIVEN, inputs: Mapping[str, str] | None = None) -> LabelTable:
    """Return the labels of a cell table that says nothing of where they came from."""
    values = cell_table.values(table, np.float32).copy()
    carried = [name for name in _CARRIED if name in table.columns]
    set_by = np.where(np.isnan(values), np.int16(-1), np.int16(0))
    cells = table[[*cell_table.KEYS, *carried]].reset_index(drop=True)
    return LabelTable(cells, values, set_by, (Step(rule, rule, {}, dict(inputs or {})),))


def read_labels(path: str | os.PathLike) -> LabelTable:
    """Read a table of labels, with its provenance if it has one.

    A program that rewrites the table keeps its columns, but not the metadata: then the steps are those that the columns
    name, without their options, and this file is what they were read from.

    Raises:
        InputError: It is no cell table, its provenance does not fit its values, or a mark in it is neither true nor
            false.
    """
    table = cell_table.read(path)
    table = table.assign(**{mark: is_marked(table[mark], path) for mark in MARKS if mark in table})
    stored = cell_table.steps(path)
    names = [SET_BY + name for name in CLASSES]
    if not set(names) <= set(table.columns):
        return given(table, inputs=_itself(path))
    try:
        steps = _named_steps(table[names], path) if stored is None else tuple(Step(**step) for step in stored)
    except TypeError as error:
        fix = "make the table again"
        raise InputError(path, f"a step with other fields ({error})", "the fields of a step", fix) from error
    codes = {step.name: index for index, step in enumerate(steps)}
    set_by = np.column_stack([_codes(table[name], codes) for name in names])
    values = cell_table.values(table, np.float32).copy()
    if ((set_by < 0) != np.isnan(values)).any():
        row, column = np.argwhere((set_by < 0) != np.isnan(values))[0]
        found = f"a value of {CLASSES[column]!r} in row {row} that no step has set, or a step without a value"
        fix = f"make the table again, or say {GIVEN} in {SET_BY + CLASSES[column]!r} of a value of your own"
        raise InputError(path, found, "a step for each known value", fix)
    carried = [name for name in _CARRIED if name in table.columns]
    return LabelTable(table[[*cell_table.KEYS, *carried]], values, set_by.reshape(-1, NUM_CLASSES), steps)


def is_marked(column: pd.Series, where: str | os.PathLike) -> pd.Series:
    """Return a column of true and false, or 1 and 0, as bool; a missing value is false.

    Raises:
        InputError: It holds something else.
    """
    odd = column[~column.isin([True, False]) & column.notna()]  # 1 == True; the text "False" is neither
    if len(odd):
        found = f"{odd.iloc[0]!r} in column {column.name!r}"
        raise InputError(where, found, "true and false, or 1 and 0", "change the column's type to bool")
    return column.isin([True])


def _itself(path: str | os.PathLike) -> dict[str, str]:
    return {os.path.basename(str(path)): digest(path)}


def _named_steps(columns: pd.DataFrame, path: str | os.PathLike) -> tuple[Step, ...]:
    """Return the steps that the columns `set by: CLASS` name, and those before each numbered one; see `with_step`."""
    times: dict[str, int] = {}
    for name in dict.fromkeys(str(text) for c in columns for text in columns[c].dropna().unique()):
        rule, number = _NUMBERED.fullmatch(name).groups()
        times[rule] = max(times.get(rule, 1), int(number or 1))
    names = [(f"{rule} {i + 1}" if i else rule, rule) for rule, count in times.items() for i in range(count)]
    inputs = _itself(path)
    return tuple(Step(name, rule, {}, inputs) for name, rule in names)


def _codes(column: pd.Series, codes: Mapping[str, int]) -> np.ndarray:
    """Return the index of the step that each text names, int16; -1 where there is none."""
    texts = column.astype("category").cat
    return np.array([*(codes.get(text, -1) for text in texts.categories), -1], np.int16)[texts.codes]


def write_labels(labels: LabelTable, path: str | os.PathLike) -> None:
    """Write a table of labels atomically; equal labels give equal bytes."""
    names = pd.Index([step.name for step in labels.steps])
    columns = {SET_BY + name: pd.Categorical.from_codes(labels.set_by[:, c], names) for c, name in enumerate(CLASSES)}
    table = cell_table.from_values(labels.cells["image_id"], labels.cells["cell"], labels.values)
    carried = labels.cells.drop(columns=cell_table.KEYS).reset_index(drop=True)
    table = pd.concat([table, carried, pd.DataFrame(columns)], axis=1)
    cell_table.write(table, path, "labels", [asdict(step) for step in labels.steps])


def digest(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file.

    Raises:
        InputError: There is none.
    """
    try:
        return hashlib.sha256(files.read_bytes(path)).hexdigest()
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "a file to read", "check the path") from error

"""Tables of labels against each other: merged by an explicit priority, completed, or compared."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hpa_tf import cell_table
from hpa_tf.classes import CLASSES
from hpa_tf.errors import InputError
from hpa_tf.label_rules.label_table import MARKS, LabelTable, Step

TOLERANCE = 1e-6
"""Labels that differ by less are the same: they are stored as 32-bit floats."""


def merge(tables: Sequence[LabelTable], names: Sequence[str], priority: Sequence[str] = ()) -> LabelTable:
    """Take each value from the table whose rule for it comes first in `priority`; among equals, from the first table.

    Args:
        tables: Two or more tables of the same cells, in any order.
        names: What to call them in errors.
        priority: Rules, most important first; empty = the order of the tables decides wherever a value is known.

    Raises:
        InputError: The cells or their masks differ, or a table has values of a rule that `priority` lacks.
    """
    first = tables[0]
    aligned = [_aligned(first, table, name) for table, name in zip(tables, names, strict=True)]
    steps, codes = _joined_steps(aligned)
    ranks = []
    for number, (table, name) in enumerate(zip(aligned, names, strict=True)):
        used = [table.steps[index].rule for index in np.unique(table.set_by[table.set_by >= 0])]
        if priority and (missing := sorted(set(used) - set(priority))):
            found = f"values that {', '.join(missing)} set, without a place in the priority"
            raise InputError(name, found, "every rule in --priority", f"add {' '.join(missing)} to --priority")
        order = [priority.index(step.rule) if step.rule in priority else 0 for step in table.steps]
        rank = np.asarray([*order, len(priority) + 1])[table.set_by] * len(tables) + number  # -1: the last, not known
        ranks.append(rank)
    chosen = np.argmin(ranks, axis=0)[None]
    values = np.take_along_axis(np.stack([table.values for table in aligned]), chosen, axis=0)[0]
    set_by = np.take_along_axis(
        np.stack([code[table.set_by] for table, code in zip(aligned, codes, strict=True)]), chosen, axis=0
    )[0]
    cells = first.cells.copy()
    for mark in MARKS:
        marked = [table.cells[mark].to_numpy(bool) for table in aligned if mark in table.cells]
        if marked:
            cells[mark] = np.any(marked, axis=0)
    return LabelTable(cells, values.astype(np.float32), set_by.astype(np.int16), steps)


def completed(own: LabelTable, other: LabelTable) -> LabelTable:
    """Return a table of labels and, after its cells, those of another one that it lacks; they are not marked."""
    lacking = np.flatnonzero(other.rows_of(own.cells) < 0)
    added = other.cells.iloc[lacking].reindex(columns=own.cells.columns)
    added = added.assign(**dict.fromkeys(set(MARKS) & set(added), False))
    steps, (codes, others) = _joined_steps([own, other])
    set_by = np.concatenate([codes[own.set_by], others[other.set_by[lacking]]])
    cells = pd.concat([own.cells, added], ignore_index=True)
    return LabelTable(cells, np.concatenate([own.values, other.values[lacking]]), set_by, steps)


def _aligned(first: LabelTable, table: LabelTable, name: str) -> LabelTable:
    cell_table.check_same_cells(first.cells, table.cells, name)
    rows = first.rows_of(table.cells)
    if (rows < 0).any() or len(table) != len(first):
        found = f"{len(table)} cells, {int((rows >= 0).sum())} of them among the {len(first)} of the first table"
        raise InputError(name, found, "the same cells in every table", "make the tables from the same data")
    cells = table.cells.iloc[rows].reset_index(drop=True)
    for mark in set(MARKS) & set(cells):
        cells[mark] = cells[mark].fillna(False).astype(bool)
    return LabelTable(cells, table.values[rows], table.set_by[rows], table.steps)


def _joined_steps(tables: Sequence[LabelTable]) -> tuple[tuple[Step, ...], list[np.ndarray]]:
    """Return all steps, equal ones once, and for each table the new index of each of its steps (last: -1)."""
    steps: list[Step] = []
    codes = []
    for table in tables:
        places = []
        for step in table.steps:
            same = [i for i, one in enumerate(steps) if (one.rule, one.options, one.inputs) ==
                    (step.rule, step.options, step.inputs)]  # fmt: skip
            if not same:
                count = sum(one.rule == step.rule for one in steps)
                name = f"{step.rule} {count + 1}" if count else step.rule
                steps.append(Step(name, step.rule, step.options, step.inputs))
            places.append(same[0] if same else len(steps) - 1)
        codes.append(np.asarray([*places, -1], np.int16))
    return tuple(steps), codes


def changes(before: LabelTable, after: LabelTable) -> np.ndarray:
    """Return float32 [N, 19]: new label minus old of each cell of `after`; 0 where the same.

    A value that was not known before counts as 0 before, one that is not known any more as 0 now; cells that `before`
    lacks count as 0.
    """
    rows = after.rows_of(before.cells)
    old = np.where((rows >= 0)[:, None], np.nan_to_num(before.values)[rows], np.float32(0))
    change = np.nan_to_num(after.values) - old
    return np.where(np.abs(change) > TOLERANCE, change, np.float32(0))


def count_changes(before: LabelTable, after: LabelTable) -> pd.DataFrame:
    """Return one row a class: cells with a label of 0.5 or more before and after, raised, lowered, became known or
    unknown, the mean label before and after, and the steps that set the changed values.
    """
    rows = after.rows_of(before.cells)
    shared = rows >= 0
    old, new = before.values[rows[shared]], after.values[shared]
    change = np.nan_to_num(new) - np.nan_to_num(old)
    names = np.asarray([*(step.name for step in after.steps), "unknown"])
    table = []
    for c, name in enumerate(CLASSES):
        both = ~np.isnan(old[:, c]) & ~np.isnan(new[:, c])
        moved = np.abs(change[:, c]) > TOLERANCE
        by, counts = np.unique(names[after.set_by[shared][moved, c]], return_counts=True)
        table.append(
            {
                "class": f"{c} {name}",
                "before": int((old[:, c] >= 0.5).sum()),
                "after": int((new[:, c] >= 0.5).sum()),
                "raised": int((both & (change[:, c] > TOLERANCE)).sum()),
                "lowered": int((both & (change[:, c] < -TOLERANCE)).sum()),
                "became_known": int((np.isnan(old[:, c]) & ~np.isnan(new[:, c])).sum()),
                "became_unknown": int((~np.isnan(old[:, c]) & np.isnan(new[:, c])).sum()),
                "sum_before": float(np.nansum(old[:, c])),
                "sum_after": float(np.nansum(new[:, c])),
                "by": ", ".join(f"{one} {count}" for one, count in zip(by, counts, strict=True)),
            }
        )
    return pd.DataFrame(table)

"""Folds from a table, so that published splits can be used: a row an image or a group, with the number of its fold."""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence

from hpa_tf.csv_tables import CsvRow, CsvTable, read_csv
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.image_labels import meant_ids
from tfrecords_builder.sources import LabelledImage

_FOLD = "fold"
_IDS = ("id", "image_id", "image")
_MOST_SHOWN = 10
_MOST_FOLDS = 1000


def read_folds(path: str | os.PathLike, images: Sequence[LabelledImage], group_by: str | None) -> list[int]:
    """Return the fold of each image.

    Args:
        path: CSV file with a column `fold`, whole numbers from 0, and a column of image ids (ID) or, with `group_by`,
            of groups; where it has both and a group has several rows, the ids count. An id may be written as in label
            tables, see `image_labels.meant_id`. Rows of images that are not there are passed over.
        images: The images.
        group_by: Column of the label tables whose values name the groups; a group must not be in two folds.

    Raises:
        InputError: The table cannot be used: names its faults with their lines.
    """
    table = read_csv(path, ("ID", _FOLD, *filter(None, [group_by])), "a table of folds (CSV)")
    key, fold = _columns(table, group_by)
    by_group = key == group_by
    wanted = [image.columns[group_by] if by_group and group_by else image.image_id for image in images]
    meant = {} if by_group else meant_ids((row.cells[key] for row in table.rows), set(wanted), path)
    folds, faults = _read_rows(table, key, fold, meant)
    faults += _missing(wanted, folds, key)
    found = [folds.get(name, (0, 0))[0] for name in wanted]
    if not faults:
        faults += _gaps(found)
        if group_by and not by_group:
            faults += _split_groups(images, found, group_by)
    if faults:
        shown = "; ".join(faults[:_MOST_SHOWN])
        more = f"; and {len(faults) - _MOST_SHOWN} more" if len(faults) > _MOST_SHOWN else ""
        expected = f"one row for each {key} with its fold, whole numbers from 0"
        raise InputError(path, f"{len(faults)} faults: {shown}{more}", expected, "mend the table")
    unused = len(folds.keys() - set(wanted))
    if unused:
        warnings.warn(f"{path}: {unused} of {len(folds)} rows are of no image that is built", HpaWarning, stacklevel=2)
    return found


def _columns(table: CsvTable, group_by: str | None) -> tuple[str, str]:
    """Return the names of the column of ids or groups, and of that of the folds."""
    by_name = {name.casefold(): name for name in reversed(table.columns)}
    names = [name for name in (group_by, *(by_name.get(one) for one in _IDS)) if name in table.columns]
    if _FOLD not in by_name or not names:
        found = f"columns {list(table.columns)[:12]}"
        groups = group_by or "a group's column, with --group-by"
        raise InputError(table.path, found, f"fold, and ID or {groups}", "rename the columns")
    if len(names) > 1 and names[0] == group_by:
        groups = [row.cells[group_by] for row in table.rows]
        if len(set(groups)) < len(groups):  # a row an image, which says its group, too
            return names[1], by_name[_FOLD]
    return names[0], by_name[_FOLD]


def _read_rows(
    table: CsvTable, key: str, fold: str, meant: Mapping[str, str]
) -> tuple[dict[str, tuple[int, int]], list[str]]:
    """Return (fold, line) by id or group, and the faults; `meant` are the images that ids mean."""
    found: dict[str, tuple[int, int]] = {}
    faults = []
    for row in table.rows:
        name, number = meant.get(row.cells[key], row.cells[key]), _number(row, fold)
        if row.error is not None:
            faults.append(f"line {row.line}: {row.error.found}")
        elif not name:
            faults.append(f"line {row.line}: no {key}")
        elif number is None:
            faults.append(f"line {row.line}: fold {row.cells[fold][:40]!r} of {name[:60]!r}")
            found.setdefault(name, (0, row.line))
        elif name in found:
            faults.append(f"line {row.line}: {name[:60]!r} a second time, first in line {found[name][1]}")
        else:
            found[name] = number, row.line
    return found, faults


def _number(row: CsvRow, fold: str) -> int | None:
    text = row.cells[fold].removesuffix(".0")  # as spreadsheets write it
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 6 and int(text) < _MOST_FOLDS else None


def _missing(wanted: Iterable[str], folds: dict, key: str) -> Iterator[str]:
    for name in dict.fromkeys(wanted):
        if name not in folds:
            yield f"no row for {key} {name[:60]!r}" if name else f"no row for images without {key}"


def _gaps(found: Sequence[int]) -> Iterator[str]:
    there = set(found)
    for number in range(max(there)):
        if number not in there:
            yield f"no image in fold {number} (folds go to {max(there)})"


def _split_groups(images: Sequence[LabelledImage], found: Sequence[int], group_by: str) -> Iterator[str]:
    folds: dict[str, set[int]] = {}
    for image, fold in zip(images, found, strict=True):
        folds.setdefault(image.columns[group_by].strip(), set()).add(fold)
    for group, its in folds.items():
        if group and len(its) > 1:
            yield f"{group_by} {group[:60]!r} in folds {', '.join(map(str, sorted(its)))}"

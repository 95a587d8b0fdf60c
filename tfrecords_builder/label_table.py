"""Label tables of three formats: which classes an image has, and what else its row says.

Formats, told apart by their columns:
- `ID`, `Label` (`a|b`): the competition's train.csv, or any table like it;
- `Image`, `Label`, `Label_idx`, `Cellline`, `in_trainset`: the public HPA list, one row an image URL;
- `ID`, `Label_idx`, ...: single-table extracts of that list; `Image` beside `ID` names no image.
Labels may be class ids or names; names that HPA uses and the competition folded are folded. Rows whose `in_trainset`
is true are left out: the competition's training images are among the public ones.
"""

import os
import re
from collections import Counter

from hpa_tf.classes import CLASSES, NUM_CLASSES
from hpa_tf.csv_tables import CsvRow, CsvTable, parse_flag, read_csv
from hpa_tf.errors import InputError
from hpa_tf.file_names import check_image_id
from hpa_tf.imaging.fields import Fault

FOLDED = {
    "focal adhesion sites": 9,
    "centriolar satellite": 12,
    "cell junctions": 13,
    "vesicles": 17,
    "peroxisomes": 17,
    "endosomes": 17,
    "lysosomes": 17,
    "lipid droplets": 17,
    "cytoplasmic bodies": 17,
    "no staining": 18,
}
"""Names of the public HPA list that the competition folded into its classes. Source: METHODS 1."""

_IDS_BY_NAME = {name.lower(): number for number, name in enumerate(CLASSES)} | FOLDED
_LABEL_COLUMNS = ("Label", "Label_idx")
_DECIMAL_COMMA = re.compile(r"\d+,0+")
_KNOWN = ("ID", "Image", "in_trainset", *_LABEL_COLUMNS)
_EXPECTED_LABEL = f"class ids 0 to {NUM_CLASSES - 1} or class names, joined by '|'"
_COLUMN_NAMES = {"Cellline": "cell_line"}
"""Columns of the public list that get the project's word, unless the table has a column of that name already."""

Row = tuple[tuple[int, ...], dict[str, str]]
"""Classes, and the other columns by name."""


def read_label_table(path: str | os.PathLike) -> tuple[dict[str, Row], list[Fault], set[str]]:
    """Read a label table.

    Returns:
        (classes, other columns) of each image id, the rows that cannot be used, and the ids of the images that are
        left out because all of their rows say `in_trainset`.

    Raises:
        InputError: The file is missing, is no CSV, lacks the columns of every known format, or its labels look like
            numbers with a decimal comma.
    """
    table = read_csv(path, _KNOWN, "a label table (CSV)")
    label_columns = [name for name in _LABEL_COLUMNS if name in table.columns]
    if not label_columns or not {"ID", "Image"} & set(table.columns):
        expected = "columns ID, Label or the public list's Image, Label, Label_idx"
        raise InputError(path, f"columns {list(table.columns)[:12]}", expected, "rename the columns")
    if not table.rows:
        raise InputError(path, "no row", "a label table with at least one row", "check the path")
    label_column = _column_of_ids(table, label_columns)
    labels = [text for row in table.rows if (text := row.cells[label_column])]
    if labels and all(map(_DECIMAL_COMMA.fullmatch, labels)):
        found, number = f"{labels[0]!r} and the like in every row of {label_column!r}", labels[0].partition(",")[0]
        fix = f"write {number} where it is a decimal comma, 0|{number} where it is two classes"
        raise InputError(path, found, _EXPECTED_LABEL, fix)
    kept, faults, in_trainset = [], [], set()
    for row in table.rows:
        try:
            if row.error is not None:
                raise row.error
            if parse_flag(row.cells.get("in_trainset", ""), "in_trainset", f"{path}, line {row.line}"):
                in_trainset.add(_image_id(row))
            else:
                kept.append((_image_id(row), row))
        except InputError as error:
            faults.append((_image_id(row), error))
    in_trainset -= {image_id for image_id, _ in kept}
    return _rows(table, kept, label_column, faults), faults, in_trainset


def _image_id(row: CsvRow) -> str:
    return row.cells["ID"] if "ID" in row.cells else _url_parts(row)[1]


def _url_parts(row: CsvRow) -> tuple[str, str]:
    """Return (antibody, image id) of the public list's URL: its last two parts."""
    parts = row.cells.get("Image", "").rstrip("/_").split("/")
    return parts[-2] if len(parts) > 1 else "", parts[-1]


def _rows(table: CsvTable, kept: list[tuple[str, CsvRow]], label_column: str, faults: list[Fault]) -> dict[str, Row]:
    times = Counter(image_id for image_id, _ in kept)
    others = {name: name for name in table.columns if name not in ("ID", "Image", *_LABEL_COLUMNS)}
    others |= {name: new for name, new in _COLUMN_NAMES.items() if name in others and new not in others}
    rows: dict[str, Row] = {}
    for image_id, row in kept:
        where = f"{table.path}, line {row.line}"
        try:
            check_image_id(image_id, where)
            if times[image_id] > 1:
                column = "ID" if "ID" in row.cells else "Image"
                raise InputError(where, f"{column} {image_id} more than once", "one row an image", "merge the rows")
            columns = {new: row.cells[name] for name, new in others.items()}
            if (antibody := _url_parts(row)[0]) or "ID" not in row.cells:
                columns.setdefault("antibody", antibody)
            rows[image_id] = parse_labels(row.cells[label_column], where), columns
        except InputError as error:
            faults.append((image_id, error))
    return rows


def _column_of_ids(table: CsvTable, names: list[str]) -> str:
    """Return the column whose labels are class ids: the public list and its extracts name it differently."""
    for name in names:
        first = next((row.cells[name] for row in table.rows if row.cells[name]), "")
        if all(part.strip().isdigit() for part in first.split("|")):
            return name
    return names[0]


def parse_labels(text: str, where: str | os.PathLike) -> tuple[int, ...]:
    """Parse `a|b` into sorted class ids; repeated ids count once.

    Raises:
        InputError: There is none, or one of them is no class.
    """
    if "|" in text or text.strip().lower() in _IDS_BY_NAME:
        parts = text.split("|")
    else:
        parts = text.replace(";", ",").split(",")  # HPA joins names by either where it does not use '|'
    class_ids = set()
    for part in (part.strip() for part in parts):
        number = int(part) if part.isascii() and part.isdigit() else _IDS_BY_NAME.get(part.lower(), -1)
        if not 0 <= number < NUM_CLASSES:
            raise InputError(where, f"label {text!r}", _EXPECTED_LABEL, "correct the row")
        class_ids.add(number)
    return tuple(sorted(class_ids))

"""Labels of whole images from a CSV with the columns ID and Label, as the competition's train.csv has them."""

import os

import numpy as np
import pandas as pd

from hpa_tf.classes import NUM_CLASSES
from hpa_tf.csv_tables import read_csv
from hpa_tf.errors import InputError


def read_image_labels(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read weak labels, image_id -> bool [19], from a CSV with the columns ID and Label (`a|b`).

    Raises:
        InputError: The file is missing, lacks a column, a label is no class, or an image has two rows.
    """
    table = read_columns(path, ("ID", "Label"))
    if (repeated := table["ID"].duplicated()).any():
        found = f"ID {table['ID'][repeated].iloc[0]} more than once"
        raise InputError(path, found, "one row an image", "merge the rows")
    return {image_id: label_row(text, path) for image_id, text in zip(table["ID"], table["Label"], strict=True)}


def read_columns(path: str | os.PathLike, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read a CSV that has these columns, as text.

    Raises:
        InputError: The file is missing, or lacks a column; or a row has more cells than the header.
    """
    table = read_csv(path, columns, f"a CSV with the columns {', '.join(columns)}")
    missing = [name for name in columns if name not in table.columns]
    if missing:
        found = f"the columns {', '.join(table.columns)[:200]}"
        raise InputError(path, found, f"also {', '.join(missing)}", "add or rename the columns")
    for row in table.rows:
        if row.error is not None:
            raise row.error
    return pd.DataFrame([row.cells for row in table.rows], columns=list(table.columns), dtype=str)


def label_row(text: str, where: str | os.PathLike) -> np.ndarray:
    """Parse `a;b` or `a|b` to bool [19]; repeated ids count once.

    Raises:
        InputError: It is no list of class ids.
    """
    row = np.zeros(NUM_CLASSES, bool)
    for word in text.replace("|", ";").split(";"):
        if not word.strip().isdecimal() or int(word) >= NUM_CLASSES:
            raise InputError(where, f"label {text[:60]!r}", "class ids 0..18 joined by ';' or '|'", "mend the row")
        row[int(word)] = True
    return row

"""Tables of a row an image: which image an id means, and labels as the competition's train.csv has them."""

import os
import re
import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

import numpy as np
import pandas as pd

from hpa_tf.classes import CHANNELS, NUM_CLASSES
from hpa_tf.csv_tables import read_csv
from hpa_tf.errors import HpaWarning, InputError

_ENDING = re.compile(r"\.(?:png|(?:ome\.)?tiff?(?:\.gz)?|jpe?g)$", re.I)
_CHANNEL = re.compile(rf"_(?:{'|'.join(CHANNELS)})$", re.I)
_FLOAT = re.compile(r"(\d+)\.0+")

Row = TypeVar("Row")


def meant_id(name: str, images: Collection[str]) -> str:
    """Return the image that an id of a table means; the id itself where there is none.

    It is the image of this id, else the one whose file it names (`ID_green.png`, `ID.png`), or whose id is this number
    without a spreadsheet's decimals (`12.0`).
    """
    number = _FLOAT.fullmatch(name)
    meant = number[1] if number else _CHANNEL.sub("", _ENDING.sub("", name))
    return meant if name not in images and meant in images else name


def meant_ids(names: Iterable[str], images: Collection[str], path: str | os.PathLike) -> dict[str, str]:
    """Return `meant_id` of each id of the table at `path`; warn of those that are written otherwise."""
    meant = {name: meant_id(name, images) for name in names}
    if renamed := [f"{name!r} as {image_id!r}" for name, image_id in meant.items() if name != image_id]:
        text = f"{path}: {len(renamed)} ids are read as those of the images they mean, first {renamed[0]}"
        warnings.warn(text, HpaWarning, stacklevel=1)  # said once, whoever reads the table again
    return meant


def rows_of_images(rows: Mapping[str, Row], images: Collection[str], path: str | os.PathLike) -> dict[str, Row]:
    """Return the rows of the table at `path`, which are given by id, by the images that they mean.

    Raises:
        InputError: An image has two rows.
    """
    found: dict[str, Row] = {}
    for name, image_id in meant_ids(rows, images, path).items():
        if image_id in found:
            raise two_rows(image_id, name, path)
        found[image_id] = rows[name]
    return found


def two_rows(image_id: str, name: str, path: str | os.PathLike) -> InputError:
    """Return the error for a second row of an image, whose id is `name`."""
    last = f" (last as {name!r})" if name != image_id else ""
    return InputError(path, f"ID {image_id} more than once{last}", "one row an image", "merge the rows")


def read_image_labels(path: str | os.PathLike, images: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Read weak labels, image_id -> bool [19], from a CSV with the columns ID and Label (`a|b`).

    Args:
        path: The table.
        images: Images that its ids may mean, see `meant_id`.

    Raises:
        InputError: The file is missing, lacks a column, a label is no class, or an image has two rows.
    """
    table = read_columns(path, ("ID", "Label"))
    if (repeated := table["ID"].duplicated()).any():
        name = table["ID"][repeated].iloc[0]
        raise two_rows(name, name, path)
    labels = {name: label_row(text, path) for name, text in zip(table["ID"], table["Label"], strict=True)}
    return rows_of_images(labels, set(images), path)


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

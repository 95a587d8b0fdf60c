"""What to build from: label tables of three formats, matched with the images of their folders.

Formats, told apart by their columns:
- `ID`, `Label` (`a|b`): the competition's train.csv, or any table like it;
- `Image`, `Label`, `Label_idx`, `Cellline`, `in_trainset`: the public HPA list, one row an image URL;
- `ID`, `Label_idx`, ...: single-table extracts of that list.
Labels may be class ids or names; names that HPA uses and the competition folded are folded. Rows whose `in_trainset`
is true are left out: the competition's training images are among the public ones.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from hpa_tf import files
from hpa_tf.classes import CLASSES, NUM_CLASSES
from hpa_tf.errors import InputError
from hpa_tf.imaging.fields import find_fields

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
_EXPECTED_LABEL = f"class ids 0 to {NUM_CLASSES - 1} or class names, joined by '|'"
COLUMN_NAMES = {"Cellline": "cell_line"}
"""Columns of the public list that get the project's word."""


@dataclass(frozen=True)
class Source:
    """One folder of images with its label table.

    Attributes:
        images: Folder.
        labels: CSV file.
        um_per_px: Micrometres per pixel of the images.
        full_scale: Largest count of the camera in 16-bit files; None = all of their range.
    """

    images: str
    labels: str
    um_per_px: float
    full_scale: int | None = None


@dataclass(frozen=True)
class LabelledImage:
    """One field of view with what is known about it.

    Attributes:
        image_id: Its name.
        source: Index of its source.
        paths: File of each channel.
        class_ids: Its classes, sorted.
        columns: The other columns of its row in the label table.
    """

    image_id: str
    source: int
    paths: Mapping[str, str]
    class_ids: tuple[int, ...]
    columns: Mapping[str, str]


Fault = tuple[str, InputError]
"""An image id and why the image cannot be used."""


def find_images(sources: tuple[Source, ...]) -> tuple[list[LabelledImage], list[Fault]]:
    """Match the images of all sources with their rows.

    Returns:
        The usable images, sorted by id, and the faults: rows without image, images without row, bad or repeated rows.

    Raises:
        InputError: A folder or table as a whole cannot be used.
    """
    images: dict[str, LabelledImage] = {}
    faults: list[Fault] = []
    for index, source in enumerate(sources):
        rows, row_faults = read_label_table(source.labels)
        faults += row_faults
        fields = {field.image_id: field.paths for field in find_fields(source.images)}
        bad = {image_id for image_id, _ in row_faults}
        for image_id in fields.keys() - rows.keys() - bad:
            faults.append((image_id, _no_row(image_id, source)))
        for image_id in rows.keys() - fields.keys():
            faults.append((image_id, _no_image(image_id, source)))
        for image_id in rows.keys() & fields.keys():
            if image_id in images:
                other = sources[images[image_id].source].images
                found = f"image id {image_id} a second time, first in {other}"
                raise InputError(source.images, found, "ids that differ between sources", "rename one of the images")
            class_ids, columns = rows[image_id]
            images[image_id] = LabelledImage(image_id, index, fields[image_id], class_ids, columns)
    return [images[image_id] for image_id in sorted(images)], sorted(faults, key=lambda fault: fault[0])


def _no_row(image_id: str, source: Source) -> InputError:
    fix = "add its row, or build with --on-error skip"
    return InputError(source.labels, f"no row for image {image_id} of {source.images}", "one row an image", fix)


def _no_image(image_id: str, source: Source) -> InputError:
    fix = "add the image, remove the row, or build with --on-error skip"
    return InputError(source.labels, f"row {image_id}, but no such image in {source.images}", "an image a row", fix)


Row = tuple[tuple[int, ...], dict[str, str]]


def read_label_table(path: str | os.PathLike) -> tuple[dict[str, Row], list[Fault]]:
    """Read (classes, other columns) of each image id, and the rows that cannot be used.

    Raises:
        InputError: The file is missing, is no CSV, or lacks the columns of every known format.
    """
    table = _read_csv(path)
    if "in_trainset" in table:
        table = table[table["in_trainset"].str.strip().str.lower() != "true"]
    if "Image" in table:
        parts = table["Image"].str.rstrip("/_").str.split("/")
        table = table.assign(ID=parts.str[-1], antibody=parts.str[-2].fillna(""))
    label_columns = [name for name in _LABEL_COLUMNS if name in table]
    if "ID" not in table or not label_columns:
        expected = "columns ID, Label or the public list's Image, Label, Label_idx"
        raise InputError(path, f"columns {list(table.columns)[:12]}", expected, "rename the columns")
    chosen = _column_of_ids(table, label_columns)
    others = [name for name in table.columns if name not in ("ID", "Image", *label_columns)]
    table = table.rename(columns=COLUMN_NAMES)
    others = [COLUMN_NAMES.get(name, name) for name in others]
    rows: dict[str, Row] = {}
    faults: list[Fault] = []
    twice = set(table["ID"][table["ID"].duplicated()])
    values = table[others].to_dict("records") if others else [{}] * len(table)
    for line, image_id, text, columns in zip(table.index + 2, table["ID"], table[chosen], values, strict=True):
        where = f"{path}, line {line}"
        try:
            files.check_image_id(image_id, where)
            if image_id in twice:
                raise InputError(where, f"ID {image_id} more than once", "one row an image", "merge the rows")
            rows[image_id] = parse_labels(text, where), columns
        except InputError as error:
            faults.append((image_id, error))
    return rows, faults


def _read_csv(path: str | os.PathLike) -> pd.DataFrame:
    try:
        with files.open_file(path) as stream:
            compression = "gzip" if str(path).endswith(".gz") else None
            table = pd.read_csv(stream, dtype=str, keep_default_na=False, compression=compression)
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "a label table (CSV)", "check the path") from error
    except (ValueError, UnicodeDecodeError, OSError) as error:  # pandas' errors are ValueErrors
        raise InputError(path, f"no CSV table ({error})", "a label table (CSV)", "save it as CSV, UTF-8") from error
    if table.empty:
        raise InputError(path, "no row", "a label table with at least one row", "check the path")
    return table


def _column_of_ids(table: pd.DataFrame, names: list[str]) -> str:
    """Return the column whose labels are class ids: the public list and its extracts name it differently."""
    for name in names:
        first = next((text for text in table[name] if text.strip()), "")
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

"""Read the truth: masks and labels of cells, from a folder and a table, or from one submission-like file.

Accepted label files:
    cell table (.parquet)      one row a cell, 19 values, > 0.5 = has the class; optional columns group_of, cell_line
    cell CSV                   ID, Cell_index, Cell_Label `a;b`; optional Image_Label `a;b`, Cell line, group_of
                               (true, false, 1, 0, yes, no, in any case; empty = false)
    submission-like CSV        the masks are in it: a triple `class 1 mask` for each label of each cell
"""

import csv
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from hpa_tf import cell_table, files, submission
from hpa_tf.classes import NUM_CLASSES
from hpa_tf.csv_tables import find_separator, parse_flag
from hpa_tf.errors import InputError
from hpa_tf.evaluation.mask_folder import MaskFolder
from hpa_tf.evaluation.matching import ImageTruth
from hpa_tf.file_names import check_image_id
from hpa_tf.image_labels import label_row, meant_ids, read_columns
from hpa_tf.imaging import run_length
from hpa_tf.imaging.run_length import masks_of

_CSV_COLUMNS = ("ID", "Cell_index", "Cell_Label")


@dataclass(frozen=True)
class Truth:
    """The truth of a set of images; masks are read when an image's turn comes.

    Attributes:
        cells: One row a cell: image_id, cell, the 19 class names (bool), group_of, and cell_line where known.
        image_ids: The images, those without any cell included.
        load: image_id -> its `ImageTruth`.
        image_labels: image_id -> bool [19] weak label, where the file has it.
    """

    cells: pd.DataFrame
    image_ids: tuple[str, ...]
    load: Callable[[str], ImageTruth]
    image_labels: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def num_cells(self) -> int:
        """Number of cells with at least one class (a labelled artefact has none)."""
        return int(self.cells[cell_table.VALUES].any(axis=1).sum())

    def labels_of_cells(self) -> dict[str, np.ndarray]:
        """Return image_id -> bool [19]: the classes that any of its cells has."""
        present = self.cells.groupby("image_id")[cell_table.VALUES].any()
        return dict(zip(present.index, present.to_numpy(), strict=True))


def read_truth(labels: str | os.PathLike, masks: MaskFolder | None) -> Truth:
    """Read the truth of a set of images.

    Args:
        labels: See the head of this module.
        masks: Label images; None for a submission-like file, which holds its own.

    Raises:
        InputError: The file or a mask is missing or wrong, they do not belong together, or there is no image.
    """
    truth = _read(labels, masks)
    if not truth.image_ids:
        found = "no cell, and no mask without cells" if masks else "no image"
        raise InputError(labels, found, "labels of cells", "give the labels of these images")
    return truth


def _read(labels: str | os.PathLike, masks: MaskFolder | None) -> Truth:
    if str(labels).endswith(".parquet"):
        return _with_masks(_from_cell_table(labels), {}, labels, masks)
    if _read_header(labels) == submission.HEADER:
        if masks is not None:
            found = f"{masks.folder} beside {labels}, which holds its masks"
            fix = "leave --truth-masks out; masks of the predictions are --masks"
            raise InputError("--truth-masks", found, "labels without masks", fix)
        return _from_submission(labels)
    table, image_labels = _from_csv(labels, masks.image_ids if masks else ())
    return _with_masks(table, image_labels, labels, masks)


def _read_header(path: str | os.PathLike) -> tuple[str, ...]:
    try:
        with files.open_file(path) as stream:
            start = stream.readline(1000).decode("utf-8-sig", errors="replace").strip()
        return tuple(next(csv.reader(start.splitlines(), delimiter=find_separator(start, submission.HEADER)), ()))
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "labels of cells", "check --truth-labels") from error
    except OSError as error:
        found = f"a file that cannot be read ({error.strerror or error})"
        raise InputError(path, found, "labels of cells", "give the file itself, one that may be read") from error


def _from_csv(path: str | os.PathLike, images: Collection[str]) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    raw = read_columns(path, _CSV_COLUMNS)
    raw["ID"] = raw["ID"].map(meant_ids(raw["ID"].unique(), set(images), path))
    bad = ~raw["Cell_index"].str.fullmatch(r"[0-9]{1,9}(\.0+)?")
    if bad.any():
        raise InputError(path, f"Cell_index {raw['Cell_index'][bad].iloc[0][:40]!r}", "mask values > 0", "mend the row")
    parsed = {text: label_row(text, path) for text in raw["Cell_Label"].unique()}
    values = np.array([parsed[text] for text in raw["Cell_Label"]], float).reshape(-1, NUM_CLASSES)
    names = {"group_of": "group_of", "Cell line": "cell_line"}
    columns = {name: raw[column] for column, name in names.items() if column in raw}
    table = cell_table.from_values(raw["ID"], raw["Cell_index"].astype(float).astype(int), values, columns)
    image_labels = {}
    if "Image_Label" in raw:
        per_image = raw.drop_duplicates("ID")
        pairs = zip(per_image["ID"], per_image["Image_Label"], strict=True)
        image_labels = {image_id: label_row(text, path) for image_id, text in pairs}
    return cell_table.check(table, path), image_labels


def _from_cell_table(path: str | os.PathLike) -> pd.DataFrame:
    table = cell_table.read(path)
    unknown = np.isnan(cell_table.values(table)).any(axis=1)
    if unknown.any():
        row = table.loc[unknown, cell_table.KEYS].iloc[0]
        found = f"{int(unknown.sum())} cells with unknown classes, first {row['image_id']} cell {row['cell']}"
        raise InputError(path, found, "all 19 classes of every true cell", "leave the cell out or grade it")
    return table


def _with_masks(table: pd.DataFrame, image_labels: dict, where: str | os.PathLike, masks: MaskFolder | None) -> Truth:
    if masks is None:
        raise InputError(where, "labels without masks", "a folder of label images", "add --truth-masks DIR")
    for image_id in table["image_id"].unique():
        check_image_id(image_id, where)
        masks.path(image_id)
    labels = cell_table.values(table) > 0.5
    group_of = _group_of(table, where)
    groups = {image_id: np.asarray(rows) for image_id, rows in table.groupby("image_id", sort=False).indices.items()}
    numbers = table["cell"].to_numpy(np.int64)

    def load(image_id: str) -> ImageTruth:
        mask = masks.read(image_id)
        rows = groups.get(image_id, np.zeros(0, np.int64))
        own = masks_of(mask, table.iloc[rows], where, masks.path(image_id))
        return ImageTruth(image_id, mask.shape, own, numbers[rows], labels[rows], group_of[rows])

    empty = [image_id for image_id in masks.image_ids if image_id not in groups and not masks.read(image_id).any()]
    return Truth(_cells(table, labels, group_of), (*groups, *empty), load, image_labels)


def _group_of(table: pd.DataFrame, where: str | os.PathLike) -> np.ndarray:
    """Return which rows are regions of many cells, bool [N]."""
    if "group_of" not in table:
        return np.zeros(len(table), bool)
    texts = table["group_of"].map(str)
    flags = {text: parse_flag(text, "group_of", where) for text in texts.unique()}
    return np.array([flags[text] for text in texts], bool)


def _cells(table: pd.DataFrame, labels: np.ndarray, group_of: np.ndarray) -> pd.DataFrame:
    lines = {"cell_line": table["cell_line"].to_numpy()} if "cell_line" in table else {}
    values = pd.DataFrame(labels, columns=cell_table.VALUES)
    keys = table[cell_table.KEYS].reset_index(drop=True)
    return pd.concat([keys, values, pd.DataFrame({"group_of": group_of, **lines})], axis=1)


def _from_submission(path: str | os.PathLike) -> Truth:
    images, parts = {}, []
    for row in submission.read(path):
        labels = np.zeros((len(row.mask_texts), NUM_CLASSES), bool)
        true = row.confidences > 0.5
        labels[row.mask_index[true], row.class_ids[true]] = True
        masks, cells = row.decode_masks(path), np.arange(1, len(labels) + 1)
        group_of = np.zeros(len(cells), bool)
        images[row.image_id] = ImageTruth(row.image_id, (row.height, row.width), masks, cells, labels, group_of)
        kept = run_length.areas(masks) > 0
        parts.append(cell_table.from_values([row.image_id] * int(kept.sum()), cells[kept], labels[kept]))
    table = pd.concat(parts, ignore_index=True) if parts else cell_table.from_values([], [], np.zeros((0, NUM_CLASSES)))
    cells = _cells(table, cell_table.values(table) > 0.5, np.zeros(len(table), bool))
    return Truth(cells, tuple(images), images.__getitem__)

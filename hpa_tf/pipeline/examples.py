"""Which cells are trained on or evaluated, and with which labels: one table in memory, computed before any epoch."""

import os
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd

from hpa_tf import cell_table, files, image_table, records
from hpa_tf.classes import CLASSES, MITOTIC_SPINDLE
from hpa_tf.data_folder import index_of, read_cells, read_images
from hpa_tf.errors import InputError
from hpa_tf.imaging import rules
from hpa_tf.imaging.cells import BOX
from hpa_tf.label_rules.label_table import MARKS, is_marked
from hpa_tf.pipeline.vanished import CENTRES, image_centres
from hpa_tf.views import View

UnknownCells = Literal["error", "keep", "drop"]
"""What to do with cells that a table of labels does not have: stop; keep the labels of the shards; leave them out."""

ANTIBODY = "antibody"
"""Column of the name of the antibody that stained an image, where the data were built with it."""

_NEEDED = ("fold", "shard", "offset", "cleaning_value")
"""Columns of a data folder's cell table that are read beside the keys and the labels: the others take three times the
memory."""
_FURTHER = (*MARKS, ANTIBODY, *BOX, "height", "width", cell_table.AREA)
"""Columns that are read if they are there: where a cell lies tells whether the frame cuts it, its area which it is."""
Found = TypeVar("Found")

FIELD_NUMBER = "field_number"
"""Column of a cell's number in the masks of its field of view, where the folder has any."""


@dataclass(frozen=True)
class Examples:
    """N cells of M images of a dataset folder in stored order, and their labels.

    Attributes:
        folder: Dataset folder, local or remote.
        table: N rows of its cell table; the 19 values are the labels of training, NaN = not known.
        image_table: A row for each image (and perhaps others): image_id and the 19 values that are known of the whole
            image; where the folder has fields of view also shard and offset of their records, and `centres` of all
            of their cells. None = the largest of its cells'.
    """

    folder: str
    table: pd.DataFrame
    image_table: pd.DataFrame | None = None
    _found: dict[Hashable, Any] = field(default_factory=dict, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.table)

    def once(self, name: Hashable, make: Callable[[], Found]) -> Found:
        """Return what `make` makes of these examples; it is called the first time only."""
        if name not in self._found:
            self._found[name] = make()
        return self._found[name]

    @cached_property
    def values(self) -> np.ndarray:
        """float32 [N, 19] in 0..1; NaN = not known."""
        return np.ascontiguousarray(cell_table.values(self.table, np.float32))

    @cached_property
    def known(self) -> np.ndarray:
        """bool [N, 19]: which labels are known."""
        return ~np.isnan(self.values)

    @cached_property
    def labels(self) -> np.ndarray:
        """float32 [N, 19] in 0..1; 0 where not known."""
        return self.values if self.known.all() else np.nan_to_num(self.values)

    @property
    def areas(self) -> dict[str, pd.Series]:
        """The column that tells these cells from others with the same numbers: `cell_table.AREA`, if it is there."""
        return {cell_table.AREA: self.table[cell_table.AREA]} if cell_table.AREA in self.table else {}

    @cached_property
    def antibodies(self) -> np.ndarray:
        """int32 [N]: the antibody of each cell's image, numbered from 0 in the order of the names; -1 = not known.

        All cells of the folder are numbered together, so that a number means the same to all trainings on it.
        """
        if ANTIBODY not in self.table:
            return np.full(len(self), -1, np.int32)
        return self.table[ANTIBODY].cat.codes.to_numpy(np.int32)

    @cached_property
    def shards(self) -> tuple[list[str], np.ndarray]:
        """Names of the shards, and int32 [N]: which of them holds each record."""
        shard_of, names = pd.factorize(self.table["shard"])
        return [str(name) for name in names], shard_of.astype(np.int32)

    @property
    def offsets(self) -> np.ndarray:
        """int64 [N]: where in its shard each record begins, bytes."""
        return self.table["offset"].to_numpy(np.int64)

    @cached_property
    def _images(self) -> tuple[np.ndarray, pd.Index]:
        return pd.factorize(self.table["image_id"])

    @property
    def image_of(self) -> np.ndarray:
        """int64 [N]: each cell's image, 0 to M - 1, in stored order."""
        return self._images[0]

    @cached_property
    def by_image(self) -> np.ndarray:
        """int64 [N]: all rows, those of an image after each other."""
        return np.argsort(self.image_of, kind="stable")

    @cached_property
    def first_of_image(self) -> np.ndarray:
        """int64 [M + 1]: where the rows of each image begin in `by_image`, and N."""
        return np.searchsorted(self.image_of[self.by_image], np.arange(len(self._images[1]) + 1))

    @cached_property
    def images(self) -> "Examples":
        """The M images as examples of their own: what an epoch is drawn from where a view draws images."""
        ids = pd.Index(self._images[1])
        table = image_labels(self.table) if self.image_table is None else self.image_table
        rows = pd.Index(table["image_id"]).get_indexer(ids)
        if (rows < 0).any():
            found = f"no row for image {ids[int(np.argmax(rows < 0))]}"
            raise InputError(self.folder, found, "a row for each image", index_of(self.folder))
        return Examples(self.folder, table.iloc[rows].reset_index(drop=True))

    @property
    def field_numbers(self) -> np.ndarray:
        """int64 [N]: each cell's number in the masks of its field of view, from 1."""
        return self.table[FIELD_NUMBER].to_numpy(np.int64)

    @property
    def fields(self) -> "Examples":
        """The M images with the places of their records.

        Raises:
            InputError: The folder has none.
        """
        if "offset" not in self.images.table or FIELD_NUMBER not in self.table:
            found = "no fields of view with a table of their places"
            there = f"where shards of fields are there already: {index_of(self.folder)}"
            fix = f"{image_table.ADD_FIELDS}; {there}"
            raise InputError(self.folder, found, f"{image_table.NAME} for a recipe that looks at whole fields", fix)
        return self.images

    @cached_property
    def centres(self) -> tuple[np.ndarray, np.ndarray]:
        """Where all cells of the M images are, also those that are no examples: see `image_centres`.

        float64 [all, 2], an image's after each other in the order of their numbers in its masks; int64 [M + 1]: where
        the rows of each image begin, and their number.
        """
        of_images = self.fields.table[CENTRES]
        return np.concatenate(list(of_images)), np.concatenate([[0], np.cumsum(of_images.map(len))])

    def drawn_by(self, view: View) -> "Examples":
        """Return what an epoch of a view is drawn from: these cells, or their images."""
        return self.images if view.draws == "image" else self

    def select(self, rows: np.ndarray) -> "Examples":
        """Return the examples that a bool [N] or an index array picks."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        return Examples(self.folder, self.table.iloc[rows], self.image_table)


def image_labels(table: pd.DataFrame) -> pd.DataFrame:
    """Return image_id and the largest known label of any of its cells, by image, of a table of cells.

    The shards give each cell the labels of its image, so these are the image's own.
    """
    image_of, image_ids = pd.factorize(table["image_id"])
    order = np.argsort(image_of, kind="stable")
    first = np.searchsorted(image_of[order], np.arange(len(image_ids)))
    values = np.fmax.reduceat(cell_table.values(table, np.float32)[order], first, axis=0)
    return pd.DataFrame({"image_id": image_ids, **dict(zip(cell_table.VALUES, values.T, strict=True))})


def read_examples(
    folder: str | os.PathLike,
    *,
    folds: Collection[int] | None = None,
    clean: bool = True,
    labels: str | os.PathLike | None = None,
    unknown_cells: UnknownCells = "error",
) -> Examples:
    """Read the cells of a dataset folder.

    Args:
        folder: Dataset folder, local or remote.
        folds: Only these folds; None = all.
        clean: Leave out cells with a cleaning value < 1, unless their image has the label mitotic spindle
            (METHODS 3, training set).
        labels: A cell table whose 19 values replace the labels of the shards by (image_id, cell); NaN = not known.
        unknown_cells: What to do with cells that `labels` does not have.

    Raises:
        InputError: The folder is no dataset, a fold does not exist, nothing is left, or `labels` does not fit.
    """
    manifest = records.read_manifest(folder)  # refuses an unfinished or damaged folder
    table = read_cells(folder, manifest, columns=(*_NEEDED, *_FURTHER))
    where = files.join(folder, records.CELL_TABLE_NAME)
    missing = sorted(set(_NEEDED) - set(table.columns))
    if missing:
        raise InputError(where, f"no column {missing}", "the cell table of a build", "build the data again")
    if ANTIBODY in table:
        names = table[ANTIBODY]
        table[ANTIBODY] = pd.Categorical(names.where(names != ""))
    keep = np.ones(len(table), bool)
    if clean:
        keep &= clean_cells(table)
    if folds is not None:
        _check_folds(where, manifest, folds)
        keep &= table["fold"].isin(list(folds)).to_numpy()
    images, table = _images_of(folder, table)
    if labels is not None:
        other = cell_table.read(labels)
        if cell_table.kind(labels) == "grades" and "graded" not in other.columns:
            other = other.assign(graded=True)
        table, found = overlay_labels(table, other, labels, unknown_cells)
        keep &= found
    if not keep.any():
        of_folds = f" of fold {', '.join(map(str, sorted(folds)))}" if folds is not None else ""
        found = f"0 of {len(table)} cells left{of_folds}{f' with labels in {labels}' if labels is not None else ''}"
        raise InputError(where, found, "at least one cell", "choose other folds or labels")
    return Examples(str(folder), table[keep].reset_index(drop=True), images)


def _images_of(folder: str | os.PathLike, table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the table of images, and that of the cells with their numbers in the fields' masks if there are any."""
    if not files.exists(files.join(folder, image_table.NAME)):
        return image_labels(table), table
    image_of = pd.factorize(table["image_id"])[0]
    order = np.argsort(image_of, kind="stable")
    first = np.searchsorted(image_of[order], image_of[order])
    numbers = np.empty(len(table), np.int32)
    numbers[order] = np.arange(len(table)) - first + 1
    images = read_images(folder)
    return images.assign(**{CENTRES: image_centres(folder, table, images)}), table.assign(**{FIELD_NUMBER: numbers})


def clean_cells(table: pd.DataFrame) -> np.ndarray:
    """Return bool [N]: cells that stay in a training set. The table's labels must be those of the shards."""
    mitotic = table[CLASSES[MITOTIC_SPINDLE]].to_numpy()
    return rules.stay_in_training(table["cleaning_value"].to_numpy(), mitotic, pd.factorize(table["image_id"])[0])


def overlay_labels(
    table: pd.DataFrame, other: pd.DataFrame, where: str | os.PathLike, unknown_cells: UnknownCells
) -> tuple[pd.DataFrame, np.ndarray]:
    """Replace the labels of `table` by those of `other`, matched by (image_id, cell).

    The columns in `MARKS` come along; they are false for a cell that `other` lacks.

    Returns:
        The table with the new labels, and bool [N]: cells that stay.

    Raises:
        InputError: No cell is in both tables, or `unknown_cells` is "error" and one of the two has a cell that the
            other lacks, or they are of other masks.
    """
    cell_table.check_same_cells(table, other, where)
    keys, other_keys = (pd.MultiIndex.from_frame(one[cell_table.KEYS]) for one in (table, other))
    rows = other_keys.get_indexer(keys)
    found = rows >= 0
    if not found.any():
        first, own = (f"image {one[0][0]!r} cell {one[0][1]}" if len(one) else "none" for one in (other_keys, keys))
        fix = "give the table of these data, with their image ids and the numbers of their cells"
        raise InputError(where, f"no row of a cell of the dataset: the first is {first}", f"such as {own}", fix)
    surplus = len(other) - int(found.sum())
    if unknown_cells == "error" and (surplus or not found.all()):
        raise InputError(
            where,
            f"{int((~found).sum())} of the dataset's {len(table)} cells without a row, {surplus} rows without a cell",
            "one row for each cell of the dataset",
            "complete the table, or choose --unknown-cells keep (labels of the shards) or drop (leave them out)",
        )
    table = table.copy()
    labels = cell_table.values(table, np.float32).copy()
    labels[found] = cell_table.values(other, np.float32)[rows[found]]
    table[cell_table.VALUES] = labels
    for mark in MARKS:
        if mark in other.columns:
            marked = other.loc[is_marked(other[mark], where), cell_table.KEYS]
            table[mark] = keys.isin(pd.MultiIndex.from_frame(marked))
    return table, found if unknown_cells == "drop" else np.ones(len(table), bool)


def _check_folds(where: str, manifest: records.Manifest, folds: Collection[int]) -> None:
    """Refuse folds that the data have not, and folds none of which has a cell; one among others may be empty."""
    asked, there = set(folds), manifest.folds_with_cells
    missing = asked - set(range(manifest.num_folds)) if asked & set(there) else asked
    if missing:
        found, expected = f"no cell of fold {sorted(missing)}", f"folds among {list(there)}"
        raise InputError(where, found, expected, "choose other folds")

"""The cells of a data folder as a few columns in memory; their pixels are read one record at a time, by offset."""

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hpa_tf import cell_table, files, framing, records
from hpa_tf.classes import CHANNELS, CLASSES, MITOTIC_SPINDLE, NEGATIVE
from hpa_tf.data_folder import CELL_COLUMNS, check_file, graded_data, repair_of
from hpa_tf.encoding import picture_shape
from hpa_tf.errors import InputError
from hpa_tf.file_names import check_image_id
from hpa_tf.grade_decisions import GradedData
from hpa_tf.imaging import rules

MAX_PIXELS = 1 << 26
"""Largest picture that is decoded, px."""
_PLACE = ("shard", "offset", "fold", "cleaning_value")
_SUMS = tuple(f"sum_{channel}" for channel in CHANNELS)


@dataclass(frozen=True)
class Cells:
    """N cells of a data folder in stored order, as one class sees them.

    Attributes:
        folder: Data folder.
        data: What grades say of the data that they are of.
        field_shards: Name of the field shard that goes with each cell shard; empty if no fields are stored.
        image_ids: Ids of the images.
        image: int32 [N], index into `image_ids`.
        cell: int32 [N], number of the cell in its mask.
        shards: Names of the shards.
        shard: int32 [N], index into `shards`.
        offset: int64 [N], byte at which the record begins.
        fold: int32 [N].
        clean: bool [N]: not cut by the frame, no outlier, or in an image with mitotic spindles.
        label: float32 [N]: current label of the class, NaN = not known.
        alone: bool [N]: the class is the only one with a label > 0.
        score: float32 [N]: probability of the class by a table of predictions; NaN = none.
        brightness: float32 [N, 4]: mean of each channel over the cell, as a share of the brightest cell of its image.
    """

    folder: str
    data: GradedData
    field_shards: dict[str, str]
    image_ids: list[str]
    image: np.ndarray
    cell: np.ndarray
    shards: list[str]
    shard: np.ndarray
    offset: np.ndarray
    fold: np.ndarray
    clean: np.ndarray
    label: np.ndarray
    alone: np.ndarray
    score: np.ndarray
    brightness: np.ndarray

    def __len__(self) -> int:
        return len(self.cell)

    def key(self, row: int) -> tuple[str, int]:
        """Return (image_id, cell) of a row."""
        return self.image_ids[self.image[row]], int(self.cell[row])

    def finder(self) -> Callable[[str, int], int]:
        """Return a function from (image_id, cell) to the row, -1 where there is none."""
        images = {image_id: index for index, image_id in enumerate(self.image_ids)}
        keys = (self.image.astype(np.int64) << 32) + self.cell
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]

        def find(image_id: str, cell: int) -> int:
            key = (images.get(image_id, -1) << 32) + cell
            place = int(np.searchsorted(ordered, key))
            return int(order[place]) if place < len(ordered) and ordered[place] == key else -1

        return find

    def record(self, row: int) -> dict:
        """Read the record of a row; its pictures are not decoded, their size is checked.

        Raises:
            InputError: The shard is damaged or is not the one that the cell table was written for.
        """
        shard, offset = self.shards[self.shard[row]], int(self.offset[row])
        where = f"{shard}, byte {offset}"
        try:
            record = records.decode(framing.read_frame_at(files.join(self.folder, shard), offset) or b"")
            for name, channels in (("crop", 4), ("region", 1)):
                height, width, _, found = picture_shape(record[name])
                if found != channels or height * width > MAX_PIXELS:
                    raise ValueError(f"{name} of {height} x {width} px with {found} channels")
        except (OSError, ValueError) as error:
            found, what = f"no intact record ({error})", "the record of a cell"
            raise InputError(where, found, what, repair_of(self.folder)) from error
        image_id, cell = record["image_id"].decode(errors="replace"), record["cell"]
        if (image_id, cell) != self.key(row):
            raise InputError(where, f"image {image_id!r} cell {cell}", f"{self.key(row)}", repair_of(self.folder))
        return record


def read_cells(
    folder: str | os.PathLike,
    class_id: int,
    labels: str | os.PathLike | None = None,
    predictions: str | os.PathLike | None = None,
) -> Cells:
    """Read the cells of a data folder.

    Args:
        folder: Data folder.
        class_id: The class.
        labels: Cell table of the current labels; cells that it lacks are not known. None: those of the data folder.
        predictions: Cell table of the scores, if any.

    Raises:
        InputError: The folder is no finished data folder; its cell table is not that of the manifest, is damaged, lacks
            columns or names foreign shards; or another table is no cell table, has none of the cells, or is of other
            masks.
    """
    manifest = records.read_manifest(folder)
    check_file(folder, records.CELL_TABLE_NAME, manifest)
    path = files.join(folder, records.CELL_TABLE_NAME)
    try:
        with files.open_file(path) as stream:
            there = set(pq.read_schema(stream).names)
            columns = [*CELL_COLUMNS, *cell_table.VALUES, *_PLACE]
            if missing := [name for name in columns if name not in there]:
                raise InputError(path, f"no column {missing}", "the cell table of a build", "build the data again")
            columns += [name for name in _SUMS if name in there]
            stream.seek(0)
            arrow = pq.read_table(stream, columns=columns, read_dictionary=["image_id", "shard"])
    except InputError:
        raise
    except (OSError, pa.ArrowException, ValueError) as error:
        raise InputError(path, f"{error}", "the cell table of a build", "build the data again") from error
    image, image_ids = _codes(arrow["image_id"])
    shard, shards = _codes(arrow["shard"])
    known = {one.name for one in manifest.shards_of("cells")}
    for name in shards:
        check_image_id(name, path)  # a shard is a file of the folder itself
        if name not in known:
            raise InputError(path, f"shard {name!r}", f"a shard of {records.MANIFEST_NAME}", "build the data again")
    own = np.column_stack([arrow[name].to_numpy() for name in cell_table.VALUES]).astype(np.float32)
    cells = arrow.select(CELL_COLUMNS).to_pandas()
    current = own if labels is None else _joined(cells, folder, labels, cell_table.VALUES)
    if predictions is None:
        score = np.full(len(image), np.nan, np.float32)
    else:
        score = _joined(cells, folder, predictions, [CLASSES[class_id]])[:, 0]
    fields = {one.name for one in manifest.shards_of("fields")}
    pairs = {name: name.replace("cells-", "fields-", 1) for name in shards}
    return Cells(
        folder=str(folder),
        data=graded_data(folder, manifest, cells),
        field_shards={cells: field for cells, field in pairs.items() if field in fields},
        image_ids=image_ids,
        image=image,
        cell=arrow["cell"].to_numpy().astype(np.int32),
        shards=shards,
        shard=shard,
        offset=arrow["offset"].to_numpy().astype(np.int64),
        fold=arrow["fold"].to_numpy().astype(np.int32),
        clean=rules.stay_in_training(arrow["cleaning_value"].to_numpy(), own[:, MITOTIC_SPINDLE], image),
        label=current[:, class_id].copy(),
        alone=_alone(current, class_id),
        score=score,
        brightness=_brightness(arrow, image),
    )


def _joined(cells: pd.DataFrame, folder: str | os.PathLike, path: str | os.PathLike, names: list[str]) -> np.ndarray:
    """Return some classes' values in another table, float32 [N, names]; NaN for cells that it lacks.

    Args:
        cells: `CELL_COLUMNS` of the N cells.
        folder: Their data folder.
        path: The other table.
        names: The classes.

    Raises:
        InputError: It is no cell table, has none of the cells, or is of other masks.
    """
    other = cell_table.read(path, cell_table.PLACES)
    there, wanted = (pd.MultiIndex.from_frame(table[cell_table.KEYS]) for table in (other, cells))
    rows = there.get_indexer(wanted)
    if not (rows >= 0).any():
        raise InputError(path, f"none of the {len(cells)} cells of {folder}", "a table of these cells", "check")
    cell_table.check_same_cells(cells, other, path)
    values = other[names].to_numpy(np.float32)
    return np.where(rows[:, None] >= 0, values[rows], np.float32(np.nan))


def _alone(labels: np.ndarray, class_id: int) -> np.ndarray:
    return (labels[:, class_id] > 0) & ((labels > 0).sum(axis=1) == 1) & (class_id != NEGATIVE)


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    whole = column.unify_dictionaries().combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if not pa.types.is_dictionary(whole.type):
        whole = whole.dictionary_encode()
    return whole.indices.to_numpy().astype(np.int32), whole.dictionary.to_pylist()


def _brightness(arrow: pa.Table, image: np.ndarray) -> np.ndarray:
    if not set(_SUMS) <= set(arrow.column_names):
        return np.ones((len(image), len(CHANNELS)), np.float32)
    area = np.maximum(arrow["cell_area"].to_numpy(), 1)
    means = np.column_stack([arrow[name].to_numpy() / area for name in _SUMS])
    brightest = pd.DataFrame(means).groupby(image).transform("max").to_numpy()
    return (means / np.maximum(brightest, 1e-9)).astype(np.float32)


def in_folds(cells: Cells, folds: Collection[int]) -> np.ndarray:
    """Return bool [N]: cells of some folds; all for an empty collection.

    Raises:
        InputError: The data has no such fold.
    """
    there = sorted(set(cells.fold.tolist()))
    if missing := sorted(set(folds) - set(there)):
        raise InputError("--fold", f"{missing}", f"folds among {there}", "choose other folds")
    return np.isin(cells.fold, list(folds)) if folds else np.ones(len(cells), bool)

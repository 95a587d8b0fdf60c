"""The cell table: one row a cell, one format for labels, grades, predictions and out-of-fold predictions.

A Parquet file with the columns `image_id` (text), `cell` (the number of the cell in its mask), the 19 class names
(floating point; NaN = not known) and any further columns (measurements, fold, cell line, ...). The pair (image_id,
cell) is unique. The file's metadata holds the format's version, what the values are (`kind`), and for labels the rules
that made them (`steps`: see `hpa_tf.label_rules`).
"""

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hpa_tf import files
from hpa_tf.classes import CLASSES, NUM_CLASSES
from hpa_tf.csv_tables import clean
from hpa_tf.errors import InputError
from hpa_tf.imaging.cells import BOX

VERSION = 1
KEYS = ["image_id", "cell"]
VALUES = list(CLASSES)
AREA = "cell_area"
"""Column of a cell's area in its mask, px."""
PLACES = (*BOX, AREA)
"""Columns that tell which cells a table's numbers mean: every build and prediction writes them."""

Kind = Literal["labels", "truth", "grades", "predictions", "out_of_fold"]
_DAMAGE = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError)
"""What reading a damaged Parquet file raises; also a file that the system does not let be read."""
_METADATA_VERSION, _METADATA_KIND = b"hpa_tf.cell_table.version", b"hpa_tf.cell_table.kind"
_METADATA_STEPS = b"hpa_tf.cell_table.steps"


def from_values(
    image_ids: Sequence[str], cells: Sequence[int], values: np.ndarray, columns: Mapping[str, Sequence] | None = None
) -> pd.DataFrame:
    """Build a cell table.

    Args:
        image_ids: N image ids.
        cells: N cell numbers (mask values, > 0).
        values: [N, 19] labels, probabilities or scores in 0..1; NaN where not known.
        columns: Further columns of N values each.
    """
    values = np.asarray(values)
    if values.ndim != 2 or values.shape[1] != NUM_CLASSES:
        raise ValueError(f"values: found shape {values.shape}; expected [N, {NUM_CLASSES}]")
    keys = pd.DataFrame({"image_id": pd.Series(image_ids, dtype="str"), "cell": np.asarray(cells, np.int32)})
    return pd.concat([keys, pd.DataFrame(values, columns=VALUES), pd.DataFrame(dict(columns or {}))], axis=1)


def values(table: pd.DataFrame, dtype: type = np.float64) -> np.ndarray:
    """Return the 19 values of each row as [N, 19]; NaN = not known."""
    return table[VALUES].to_numpy(dtype)


def first_classes(scores: np.ndarray) -> np.ndarray:
    """Return the class that each cell scores highest, int [N]; -1 for a cell without a score: all are 0 or not known.

    Args:
        scores: [N, C]; NaN = not known, 0 for cells that a rule removes.
    """
    scored = np.nan_to_num(scores).any(axis=1)
    return np.where(scored, np.nan_to_num(scores, nan=-np.inf).argmax(axis=1), -1)


def check(table: pd.DataFrame, where: str | os.PathLike) -> pd.DataFrame:
    """Return `table` if it is a cell table.

    Raises:
        InputError: A column is missing, values lie outside 0..1, a cell number is < 1, or a cell appears twice.
    """
    missing = [name for name in KEYS + VALUES if name not in table.columns]
    if missing:
        raise InputError(where, f"no column {missing}", f"the columns {KEYS} and the 19 class names", "add them")
    for name in VALUES:
        if not pd.api.types.is_numeric_dtype(table[name]) and table[name].notna().any():
            found = f"{table[name].dropna().iloc[0]!r} in column {name!r}"
            raise InputError(where, found, "numbers in 0..1 or missing", "change the column's type to a number")
    if not pd.api.types.is_integer_dtype(table["cell"]) and not _whole(table["cell"]).all():
        found = f"the cell number {table['cell'][~_whole(table['cell'])].iloc[0]}"
        raise InputError(where, found, "whole numbers > 0", "mend the table")
    if len(table) and pd.api.types.is_numeric_dtype(table["image_id"]):
        found = f"the number {table['image_id'].iloc[0]} in column 'image_id'"
        raise InputError(where, found, "ids as text", "change the column's type to text")
    if outside := _first_outside(table):
        row, name = outside
        found = f"{table[name].to_numpy(np.float64)[row]} for {name!r} in row {row}"
        raise InputError(where, found, "values in 0..1 or missing", "mend the table")
    if len(table) and table["cell"].min() < 1:
        raise InputError(where, f"cell number {table['cell'].min()}", "numbers > 0", "0 is the background of a mask")
    twice = _repeated(table)
    if twice.any():
        first = table.loc[twice, KEYS].iloc[0]
        raise InputError(
            where,
            f"{int(twice.sum())} repeated cells, first {first['image_id']} cell {first['cell']}",
            "one row a cell",
            "remove the repeated rows",
        )
    return table


def check_same_cells(own: pd.DataFrame, other: pd.DataFrame, where: str | os.PathLike) -> None:
    """Check that equal numbers are the same cells in two tables, by those of the columns `PLACES` that both have.

    Args:
        own: The cells that a data folder or a table of labels has.
        other: What is joined with them by (image_id, cell); cells that one of the two lacks are not looked at.
        where: The file of `other`, for the error.

    Raises:
        InputError: A cell has another box or area: the tables are of other masks.
    """
    shared = [name for name in PLACES if name in own and name in other]
    if not shared:
        return
    rows = pd.MultiIndex.from_frame(other[KEYS]).get_indexer(pd.MultiIndex.from_frame(own[KEYS]))
    both = own.loc[rows >= 0, [*KEYS, *shared]]
    found, expected = (one[shared].to_numpy(np.float64) for one in (other.iloc[rows[rows >= 0]], both))
    differs = (found != expected) & ~np.isnan(found) & ~np.isnan(expected)
    if differs.any():
        row, column = np.argwhere(differs)[0]
        image_id, cell = both[KEYS].iloc[row]
        what = f"image {image_id} cell {cell} with {shared[column]!r} {found[row, column]:.0f}"
        what += f" ({int(differs.any(axis=1).sum())} of {len(both)} cells differ)"
        fix = "a number is another cell in other masks: make both tables with the same masks"
        raise InputError(where, what, f"{expected[row, column]:.0f}, as in what it is joined with", fix)


def _first_outside(table: pd.DataFrame) -> tuple[int, str] | None:
    """Return row and class of the first value outside 0..1; a column at a time, so that no copy of all is made."""
    found = []
    for i, name in enumerate(VALUES):
        column = table[name].to_numpy(np.float64 if table[name].dtype == object else None)
        outside = (column < 0) | (column > 1)
        if outside.any():
            found.append((int(np.argmax(outside)), i))
    return (min(found)[0], VALUES[min(found)[1]]) if found else None


def _repeated(table: pd.DataFrame) -> np.ndarray:
    """Return bool [N]: rows whose cell an earlier row has."""
    image_of, ids = pd.factorize(table["image_id"])
    cells = table["cell"].to_numpy(np.int64)
    most = int(cells.max(initial=0)) + 1
    if most * (len(ids) + 1) > np.iinfo(np.int64).max:
        return table.duplicated(KEYS).to_numpy()
    return pd.Series((image_of + 1) * most + cells).duplicated().to_numpy()


def _whole(numbers: pd.Series) -> pd.Series:
    return pd.to_numeric(numbers, errors="coerce").mod(1) == 0


def write(table: pd.DataFrame, path: str | os.PathLike, kind: Kind, steps: Sequence[Mapping] | None = None) -> None:
    """Check and write a cell table atomically; equal tables give equal bytes.

    Args:
        table: The table.
        path: Parquet file, appears whole.
        kind: What the values are.
        steps: JSON values that say how the values were made, kept in the file's metadata.

    Raises:
        InputError: See `check`.
    """
    with parts_writer(path, kind, steps) as write_part:
        write_part(table)


def write_parts(tables: Iterable[pd.DataFrame], path: str | os.PathLike, kind: Kind) -> None:
    """Check and write one cell table that comes in parts, such as one an image, holding one part in memory.

    Args:
        tables: At least one; all have the columns and types of the first that has rows. No cell may be in two of
            them: that is not checked here.
        path: Parquet file, appears whole.
        kind: What the values are.

    Raises:
        InputError: See `check`.
    """
    with parts_writer(path, kind) as write_part:
        for table in tables:
            write_part(table)


@contextlib.contextmanager
def parts_writer(
    path: str | os.PathLike, kind: Kind, steps: Sequence[Mapping] | None = None
) -> Iterator[Callable[[pd.DataFrame], None]]:
    """Open a cell table for writing in parts: what is yielded takes one part after the other, as `write_parts` does.

    `steps` as in `write`.

    Raises:
        InputError: See `check`.
        ValueError: The kind is unknown, or no part was written.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind: found {kind!r}; expected one of {get_args(Kind)}")
    ours = {_METADATA_VERSION: str(VERSION).encode(), _METADATA_KIND: kind.encode()}
    if steps is not None:
        ours[_METADATA_STEPS] = json.dumps(list(steps), sort_keys=True).encode()
    writer: pq.ParquetWriter | None = None
    empty: pd.DataFrame | None = None  # a part without rows does not say of which type its texts would be
    with files.atomic_writer(path) as stream, contextlib.ExitStack() as stack:

        def append(table: pd.DataFrame) -> None:
            nonlocal writer
            arrow = pa.Table.from_pandas(table, writer and writer.schema, preserve_index=False)
            if writer is None:
                schema = arrow.schema.with_metadata({**(arrow.schema.metadata or {}), **ours})
                writer = stack.enter_context(pq.ParquetWriter(stream, schema, compression="zstd"))
                arrow = arrow.cast(schema)
            writer.write_table(arrow)

        def write_part(table: pd.DataFrame) -> None:
            nonlocal empty
            if len(check(table, path)):
                append(table)
            else:
                empty = table

        yield write_part
        if writer is None and empty is not None:
            append(empty)
        if writer is None:
            raise ValueError(f"{path}: no part was written")


def read(path: str | os.PathLike, columns: Collection[str] | None = None) -> pd.DataFrame:
    """Read and check a cell table; its image ids get the form of `csv_tables.clean`.

    Args:
        path: Parquet file.
        columns: Read only these of the columns beside `KEYS` and `VALUES`, as far as they are there; None = all.

    Raises:
        InputError: The file is missing, is no Parquet, has another version, or fails `check`.
    """
    try:
        with files.open_file(path) as stream:
            arrow = _read_columns(pq.ParquetFile(stream), columns)
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "a cell table (.parquet)", "check the path") from error
    except IsADirectoryError as error:
        raise InputError(path, "a folder", "a cell table (.parquet)", "check the path") from error
    except _DAMAGE as error:
        raise InputError(path, f"no Parquet file ({error})", "a cell table (.parquet)", "make it again") from error
    version = (arrow.schema.metadata or {}).get(_METADATA_VERSION)
    if version not in (None, str(VERSION).encode()):
        found = f"cell table version {version.decode(errors='replace')}"
        raise InputError(path, found, f"version {VERSION}", "make the table again")
    try:
        return check(_with_clean_ids(arrow.to_pandas()), path)
    except InputError:
        raise
    except _DAMAGE as error:
        found = f"values of another kind ({error})"
        raise InputError(path, found, "numbers in the 19 classes and in cell", "make the table again") from error


def _with_clean_ids(table: pd.DataFrame) -> pd.DataFrame:
    ids = pd.unique(table["image_id"]) if "image_id" in table else ()
    cleaned = {one: clean(one) for one in ids if isinstance(one, str)}
    if all(one == its for one, its in cleaned.items()):
        return table
    return table.assign(image_id=[cleaned.get(one, one) for one in table["image_id"]])


def _read_columns(file: pq.ParquetFile, columns: Collection[str] | None) -> pa.Table:
    names = file.schema_arrow.names
    if columns is None:
        return file.read()
    return file.read([name for name in names if name in {*KEYS, *VALUES, *columns}])


def read_parts(path: str | os.PathLike, columns: Sequence[str], num_rows: int = 65_536) -> Iterator[pd.DataFrame]:
    """Yield some columns of a cell table in parts of at most `num_rows` rows, holding one part in memory; unchecked.

    Raises:
        InputError: The file is missing, is no Parquet or lacks a column.
    """
    try:
        with files.open_file(path) as stream:
            for batch in pq.ParquetFile(stream).iter_batches(num_rows, columns=list(columns)):
                yield batch.to_pandas()[list(columns)]
    except _DAMAGE as error:
        expected = f"a cell table (.parquet) with {list(columns)[:3]} ..."
        raise InputError(path, f"no such table ({error})", expected, "make it again") from error


def kind(path: str | os.PathLike) -> str | None:
    """Return what the table's values are, or None for a Parquet file that another program wrote."""
    with files.open_file(path) as stream:
        found = (pq.read_schema(stream).metadata or {}).get(_METADATA_KIND)
    return found.decode() if found else None


def steps(path: str | os.PathLike) -> list[dict[str, Any]] | None:
    """Return what `write` was told of how the values were made, or None.

    Raises:
        InputError: The metadata is damaged.
    """
    with files.open_file(path) as stream:
        found = (pq.read_schema(stream).metadata or {}).get(_METADATA_STEPS)
    try:
        return json.loads(found) if found else None
    except ValueError as error:
        raise InputError(path, f"damaged metadata ({error})", "the steps of its labels", "make it again") from error

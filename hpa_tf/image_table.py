"""The table of the fields of view in a data folder: one row for each that has a record, and where that record is.

Columns: image_id, fold, shard (a file of the folder), offset (bytes), the 19 labels of the image under the names of the
classes (NaN = not known), and cells, the number of its cells in the cell table; in the order of shards and records.
"""

import io
import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hpa_tf import files
from hpa_tf.classes import CLASSES
from hpa_tf.errors import InputError

NAME = "images.parquet"
COLUMNS = ("image_id", "fold", "shard", "offset", *CLASSES, "cells")
ADD_FIELDS = "the command that built it with --fields SIZE adds them, its cells stay as they are"
"""What gives a data folder without fields of view some."""
_INDEX = "python -m tfrecords_builder index DIR"


def make(
    image_ids: list[str], folds: list[int], shards: list[str], offsets: list[int], labels: np.ndarray, cells: list[int]
) -> pd.DataFrame:
    """Return the table of M fields of view.

    Args:
        image_ids: Their names.
        folds: Their folds.
        shards: Names of the files that hold their records.
        offsets: Where in those the records begin, bytes.
        labels: float [M, 19].
        cells: Numbers of cells.
    """
    placed = {"image_id": pd.Series(image_ids, dtype="str"), "fold": np.asarray(folds, np.int32)}
    placed |= {"shard": pd.Series(shards, dtype="str"), "offset": np.asarray(offsets, np.int64)}
    named = dict(zip(CLASSES, np.asarray(labels, np.float32).reshape(-1, len(CLASSES)).T, strict=True))
    return pd.DataFrame({**placed, **named, "cells": np.asarray(cells, np.int32)})


def write(table: pd.DataFrame, folder: str | os.PathLike) -> None:
    """Write the table into a data folder, atomically."""
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(table[list(COLUMNS)], preserve_index=False), stream, compression="zstd")
    files.write_bytes(files.join(folder, NAME), stream.getvalue())


def read(folder: str | os.PathLike) -> pd.DataFrame:
    """Read the table of a data folder.

    Raises:
        InputError: There is none, it is damaged, or it has other columns.
    """
    path = files.join(folder, NAME)
    if not files.exists(path):
        raise InputError(path, "no such file", "the table of a folder's fields of view", _INDEX)
    try:
        table = pq.read_table(io.BytesIO(files.read_bytes(path))).to_pandas()
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise InputError(path, f"a damaged file ({error})", "a Parquet table", _INDEX) from error
    if missing := sorted(set(COLUMNS) - set(table.columns)):
        raise InputError(path, f"no column {missing}", f"the columns {list(COLUMNS)}", _INDEX)
    return table

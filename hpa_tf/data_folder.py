"""Read a data folder's cell table and check its files against the manifest before anything is computed from them.

A damaged or foreign file is named with the command that mends it; a name in a table never leads out of the folder.
"""

import hashlib
import json
import os
import shlex
from collections.abc import Collection, Iterable

import numpy as np
import pandas as pd

from hpa_tf import cell_table, files, image_table
from hpa_tf.errors import InputError
from hpa_tf.grade_decisions import GradedData, Place
from hpa_tf.manifest import CELL_TABLE_NAME, Manifest, Shard, read_manifest

CELL_COLUMNS = (*cell_table.KEYS, *cell_table.PLACES)
"""Columns that say which cells a table numbers: every build writes them."""


def read_cells(
    folder: str | os.PathLike, manifest: Manifest | None = None, columns: Collection[str] | None = None
) -> pd.DataFrame:
    """Read the cell table of a data folder.

    Args:
        folder: Local or remote.
        manifest: Its manifest, if it has been read already.
        columns: Only these beside the keys and the labels, as far as they are there; None = all.

    Raises:
        InputError: The table is not the one that the manifest speaks of, or it is damaged.
    """
    manifest = manifest or read_manifest(folder)
    check_file(folder, CELL_TABLE_NAME, manifest)
    path = files.join(folder, CELL_TABLE_NAME)
    table = cell_table.read(path, columns)
    if len(table) != manifest.num_cells:
        raise InputError(path, f"{len(table)} rows", f"{manifest.num_cells} as in the manifest", repair_of(folder))
    _check_shard_names(table, path, manifest)
    return table


def read_images(folder: str | os.PathLike, manifest: Manifest | None = None) -> pd.DataFrame:
    """Read the table of the fields of view of a data folder; arguments and errors as of `read_cells`."""
    manifest = manifest or read_manifest(folder)
    check_file(folder, image_table.NAME, manifest)
    table = image_table.read(folder)
    _check_shard_names(table, files.join(folder, image_table.NAME), manifest)
    return table


def graded_data(folder: str | os.PathLike, manifest: Manifest, table: pd.DataFrame) -> GradedData:
    """Return what tells the cells of a data folder from others with the same numbers, in whatever order they stand.

    Args:
        folder: The folder.
        manifest: Its manifest.
        table: Its cell table, with `CELL_COLUMNS` at least.

    Raises:
        InputError: The table lacks some of them.
    """
    if missing := [name for name in CELL_COLUMNS if name not in table]:
        path = files.join(folder, CELL_TABLE_NAME)
        raise InputError(path, f"no column {missing}", "the cell table of a build", "build the data again")
    image_of, image_ids = pd.factorize(table["image_id"].astype("str"), sort=True)
    numbers = np.column_stack([image_of, *(table[name] for name in CELL_COLUMNS[1:])]).astype("<i8")
    numbers = numbers[np.lexsort((numbers[:, 1], numbers[:, 0]))]
    digest = hashlib.sha256(json.dumps(list(image_ids)).encode())
    digest.update(numbers.tobytes())
    starts = np.searchsorted(numbers[:, 0], np.arange(len(image_ids) + 1))
    rows_of = {image_id: slice(*starts[i : i + 2]) for i, image_id in enumerate(image_ids)}

    def place_of(image_id: str, cell: int) -> Place | None:
        own = numbers[rows_of.get(image_id, slice(0))]
        places = own[own[:, 1] == cell, 2:].tolist()
        return tuple(places[0]) if places else None

    return GradedData(digest.hexdigest(), manifest.fingerprint, place_of, rows_of.__contains__)


def _check_shard_names(table: pd.DataFrame, path: str, manifest: Manifest) -> None:
    known = {shard.name for shard in manifest.shards}
    unknown = next((name for name in table["shard"].unique() if name not in known), None) if "shard" in table else None
    if unknown is not None:
        fix = repair_of(os.path.dirname(path))
        raise InputError(path, f"the shard {str(unknown)[:220]!r}", "shards of the manifest", fix)


def check_file(folder: str | os.PathLike, name: str, manifest: Manifest) -> None:
    """Check one file that is not a shard by its checksum; what a manifest of version 1 does not say is not checked.

    Raises:
        InputError: The file is missing, cannot be read, or has another content.
    """
    expected = (manifest.checksums or {}).get(name)
    if expected is None:
        return
    path, what = files.join(folder, name), "the file that the manifest speaks of"
    try:
        found = files.sha256(path)
    except OSError as error:
        text = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or error
        raise InputError(path, str(text), what, repair_of(folder)) from error
    if found != expected:
        raise InputError(path, "another content (its checksum differs)", what, repair_of(folder))


def check_shards(folder: str | os.PathLike, shards: Iterable[Shard]) -> None:
    """Check that some shards of the manifest are there at their full size; one listing, no shard is read.

    Raises:
        InputError: One is missing or of another size; says how many more are.
    """
    stamps = files.list_stamps(folder)
    wrong = [shard for shard in shards if stamps.get(shard.name, (-1,))[0] != shard.num_bytes]
    if not wrong:
        return
    first = wrong[0]
    size = f"{stamps[first.name][0]} bytes" if first.name in stamps else "no such file"
    more = f" (and {len(wrong) - 1} more shards)" if len(wrong) > 1 else ""
    expected = f"{first.num_bytes} bytes as in the manifest"
    raise InputError(files.join(folder, first.name), size + more, expected, repair_of(folder))


def repair_of(folder: str | os.PathLike) -> str:
    """Return the fix of a damaged data folder."""
    quoted = shlex.quote(str(folder))
    return f"python -m tfrecords_builder verify {quoted} says what is damaged; repair mends it from the images"


def index_of(folder: str | os.PathLike) -> str:
    """Return the fix of a data folder whose table of fields of view is missing, or of others."""
    return f"python -m tfrecords_builder index {shlex.quote(str(folder))}"

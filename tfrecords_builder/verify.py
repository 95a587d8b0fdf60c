"""Check a data folder against its manifest and cell table, at the speed of checksums; `deep` decodes every picture."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

import numpy as np
import pandas as pd

from hpa_tf import cell_table, files, framing, image_table, records
from hpa_tf.data_folder import check_file, read_cells
from hpa_tf.encoding import decode_picture, picture_shape
from hpa_tf.errors import InputError
from hpa_tf.imaging.cells import find_boxes, is_cell, measure
from hpa_tf.progress import progress
from hpa_tf.records import Shard
from hpa_tf.worker_processes import Pool
from tfrecords_builder import state
from tfrecords_builder.field_shards import table_problem
from tfrecords_builder.table import OWN_COLUMNS
from tfrecords_builder.unit import SIDECAR, STATE_FOLDER, is_intact


@dataclass(frozen=True)
class Fault:
    """Something that is not as it should be.

    Attributes:
        kind: A few words, the same for faults of one kind.
        shard: File name.
        record: Ordinal of the record, or None where it is the whole file.
        found: What was there.
    """

    kind: str
    shard: str
    record: int | None
    found: str


def verify(folder: str | os.PathLike, deep: bool = False, workers: int = 1) -> list[Fault]:
    """Return all faults of a data folder, in stored order; at most one of each kind a shard.

    Args:
        folder: Data folder, local or remote.
        deep: Also decode every picture and measure every cell again.
        workers: Processes.

    Raises:
        InputError: There is no manifest, or another program version wrote it.
    """
    manifest = records.read_manifest(folder)
    faults = [*_check_files(folder, manifest), *_check_state(folder)]
    try:
        table = read_cells(folder, manifest)
        faults += _check_table(table, manifest)
        if problem := table_problem(folder, manifest, table):
            faults.append(Fault("table of the fields of view", image_table.NAME, None, problem))
        parts = dict(iter(table.groupby("shard", sort=False)))
        jobs = [(shard, parts.get(_cell_shard(shard), table.iloc[:0])) for shard in manifest.shards]
    except InputError as error:
        faults.append(Fault("unreadable cell table", records.CELL_TABLE_NAME, None, error.found))
        jobs = [(shard, None) for shard in manifest.shards]
    check = partial(_check_shard, str(folder), deep)
    with progress(total=sum(s.num_bytes for s in manifest.shards), unit="B", unit_scale=True, desc="verify") as bar:
        for shard, found in zip(manifest.shards, _map(check, jobs, workers), strict=True):
            faults += found
            bar.update(shard.num_bytes)
    return faults


_Job = tuple[Shard, pd.DataFrame | None]
"""A shard, and its rows of the cell table where that can be read."""


def _map(check: Callable[[_Job], list[Fault]], jobs: list[_Job], workers: int) -> Iterator[list[Fault]]:
    workers = min(workers, len(jobs))
    if workers <= 1:
        yield from map(check, jobs)
        return
    with Pool(workers) as pool:
        yield from pool.map(check, jobs, limit=4 * workers)


def _check_files(folder: str | os.PathLike, manifest: records.Manifest) -> Iterator[Fault]:
    """Check the files beside shards and cell table by their checksums."""
    for name in sorted((manifest.checksums or {}).keys() - {records.CELL_TABLE_NAME, image_table.NAME}):
        try:
            check_file(folder, name, manifest)
        except InputError as error:
            yield Fault("checksum of a file", name, None, error.found)


def _check_state(folder: str | os.PathLike) -> Iterator[Fault]:
    """Check what a later build or repair of this folder reads, if it is there: the plan and the sidecars."""
    inner = files.join(folder, STATE_FOLDER)
    try:
        names = files.list_shown(inner)
        state.load_plan(str(folder))
    except InputError as error:
        if files.exists(inner):
            yield Fault("plan of the build", f"{STATE_FOLDER}/{state.PLAN_NAME}", None, error.found)
        return
    for name in (name for name in names if name.endswith(SIDECAR)):
        try:
            found = None if is_intact(files.join(inner, name)) else "another content than was written"
        except OSError as error:
            found = str(error.strerror or error)
        if found is not None:
            yield Fault("sidecar of a shard", f"{STATE_FOLDER}/{name}", None, found)


def _cell_shard(shard: Shard) -> str:
    """Return the name of the cell shard with the same images."""
    return shard.name.replace("fields-", "cells-", 1) if shard.kind == "fields" else shard.name


def _check_table(table: pd.DataFrame, manifest: records.Manifest) -> Iterator[Fault]:
    """Check what spans the shards: counts, and that no image is in two folds or shards."""
    name = records.CELL_TABLE_NAME
    missing = sorted(set(OWN_COLUMNS) - set(table.columns))
    if missing:
        raise InputError(name, f"no column {missing}", "the columns of a build", "repair it")
    cells = sum(shard.num_records for shard in manifest.shards_of("cells"))
    if not manifest.num_cells == len(table) == cells:
        yield Fault("counts", name, None, f"{len(table)} rows, {cells} records, {manifest.num_cells} cells in manifest")
    for column, kind in (("fold", "image in two folds"), ("shard", "image in two shards")):
        several = table.groupby("image_id")[column].nunique()
        if (several > 1).any():
            yield Fault(kind, name, None, f"image {several.index[several > 1][0]}")
    unknown = set(table["shard"]) - {shard.name for shard in manifest.shards}
    if unknown:
        yield Fault("unknown shard", name, None, sorted(unknown)[0])
    for label in ("fold", "bits"):
        allowed = range(manifest.num_folds) if label == "fold" else manifest.bits
        outside = ~table[label].isin(list(allowed))
        if outside.any():
            yield Fault(
                f"{label} of the table", name, int(np.flatnonzero(outside)[0]), f"{table[label][outside].iloc[0]}"
            )


class _HashingStream:
    """Reads a stream and hashes what was read."""

    def __init__(self, stream: IO[bytes]):
        self._stream, self.hash, self.num_bytes = stream, hashlib.sha256(), 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self.hash.update(data)
        self.num_bytes += len(data)
        return data


def _check_shard(folder: str, deep: bool, job: _Job) -> list[Fault]:
    """Read one shard; return at most one fault of each kind."""
    shard, rows = job
    first: dict[str, Fault] = {}
    try:
        with files.open_file(files.join(folder, shard.name)) as raw:
            stream = _HashingStream(raw)
            for fault in _check_records(stream, shard, rows, deep):
                first.setdefault(fault.kind, fault)
            if not first and stream.hash.hexdigest() != shard.sha256:
                first["SHA-256"] = Fault("SHA-256", shard.name, None, "intact records, but not the manifest's file")
    except FileNotFoundError:
        first["missing shard"] = Fault("missing shard", shard.name, None, "no such file")
    except OSError as error:
        first["unreadable shard"] = Fault("unreadable shard", shard.name, None, str(error))
    return list(first.values())


def _check_records(stream: _HashingStream, shard: Shard, rows: pd.DataFrame | None, deep: bool) -> Iterator[Fault]:
    count = 0
    frames = framing.read_frames(stream, shard.name)
    fields = records.CELL_FIELDS if shard.kind == "cells" else records.IMAGE_FIELDS
    table_rows = rows.to_dict("records") if rows is not None and shard.kind == "cells" else []
    values = cell_table.values(rows, np.float32) if rows is not None else []
    while True:
        try:
            data = next(frames)
        except StopIteration:
            break
        except InputError as error:
            yield Fault("damaged record", shard.name, count, error.found)
            return
        try:
            record = records.decode(data, fields)
            if rows is None:
                problems = _common_problems(record, shard)
            elif shard.kind == "fields":
                problems = _field_problems(record, rows, shard, deep)
            elif count < len(table_rows):
                problems = _cell_problems(record, table_rows[count], values[count], shard, count, deep)
            else:
                problems = [("no row in the cell table", f"image {record['image_id']!r}")]
        except ValueError as error:
            problems = [("content of a record", str(error))]
        for kind, found in problems:
            yield Fault(kind, shard.name, count, found)
        count += 1
    if count != shard.num_records or stream.num_bytes != shard.num_bytes:
        found = f"{count} records, {stream.num_bytes} bytes; manifest: {shard.num_records}, {shard.num_bytes}"
        yield Fault("size of a shard", shard.name, None, found)


Problems = list[tuple[str, str]]


def _common_problems(record: dict[str, Any], shard: Shard) -> Problems:
    problems = []
    if record["fold"] != shard.fold:
        problems.append(("fold", f"{record['fold']} in a shard of fold {shard.fold}"))
    labels = record["labels"]
    if ((labels < 0) | (labels > 1)).any():
        problems.append(("label range", f"{labels.tolist()}"))
    return problems


def _cell_problems(
    record: dict[str, Any], row: dict[str, Any], values: np.ndarray, shard: Shard, ordinal: int, deep: bool
) -> Problems:
    problems = _common_problems(record, shard)
    expected = (row["image_id"], row["cell"], row["fold"], row["record"])
    found = (record["image_id"].decode(errors="replace"), record["cell"], record["fold"], ordinal)
    if found != expected:
        problems.append(("cell table", f"image, cell, fold, record {found}; its row says {expected}"))
    if not np.array_equal(record["labels"], values, equal_nan=True):
        problems.append(("labels of the cell table", f"image {found[0]} cell {found[1]}"))
    top, left, bottom, right = record["crop_box"]
    size, bits = (int(bottom - top), int(right - left)), record["bits"]
    for name, shape in (("crop", (*size, bits, 4)), ("region", (*size, 8, 1))):
        if picture_shape(record[name]) != shape:
            problems.append((f"shape of {name}", f"{picture_shape(record[name])}; expected {shape}"))
    box, whole = record["box"], record["image_size"]
    if not (0 <= top <= box[0] < box[2] <= bottom <= whole[0] and 0 <= left <= box[1] < box[3] <= right <= whole[1]):
        problems.append(("box", f"box {box.tolist()}, crop {record['crop_box'].tolist()}, image {whole.tolist()}"))
    return problems + (_measured_problems(record) if deep and not problems else [])


def _measured_problems(record: dict[str, Any]) -> Problems:
    """Decode the pictures and measure the cell again."""
    crop, region = decode_picture(record["crop"]), decode_picture(record["region"])
    if region.max() > 3:
        return [("region map", f"value {region.max()}")]
    own = is_cell(region).astype(np.int32)
    tight = [[rows.start, columns.start, rows.stop, columns.stop] for _, (rows, columns) in find_boxes(own)]
    stored_box = (record["box"] - np.tile(record["crop_box"][:2], 2)).tolist()
    if [stored_box] != tight:
        return [("tight box", f"{stored_box} in the crop; the region map has the cell in {tight}")]
    again = measure(crop, region)
    sums = [again.sum_red, again.sum_green, again.sum_blue, again.sum_yellow]
    found = [again.cell_area, again.nucleus_area, again.nucleus_blue, *sums]
    stored = [record["cell_area"], record["nucleus_area"], record["nucleus_blue"], *record["channel_sums"].tolist()]
    if found != stored:
        return [("measurements", f"measured again {found}; stored {stored}")]
    return []


def _field_problems(record: dict[str, Any], rows: pd.DataFrame, shard: Shard, deep: bool) -> Problems:
    problems = _common_problems(record, shard)
    height, width, bits, channels = picture_shape(record["image"])
    if (bits, channels) != (record["bits"], 4) or height != width:
        problems.append(("shape of image", f"{height} x {width}, {bits} bit, {channels} channels"))
    if picture_shape(record["masks"]) != (height, width, 16, 1):
        problems.append(("shape of masks", f"{picture_shape(record['masks'])}"))
    if deep and not problems:
        decode_picture(record["image"])
        num_cells = int((rows["image_id"] == record["image_id"].decode()).sum())
        if (largest := int(decode_picture(record["masks"]).max())) > num_cells:
            problems.append(("masks", f"cell {largest} of an image of {num_cells} cells"))
    return problems


def report(faults: Iterable[Fault]) -> str:
    """Return one line for each kind of fault: how often it is there and where first."""
    kinds: dict[str, list[Fault]] = {}
    for fault in faults:
        kinds.setdefault(fault.kind, []).append(fault)
    lines = []
    for kind, found in kinds.items():
        first = found[0]
        where = first.shard + ("" if first.record is None else f", record {first.record}")
        more = f" (and in {len(found) - 1} more shards)" if len(found) > 1 else ""
        lines.append(f"{kind}: {where}: {first.found}{more}")
    return "\n".join(lines)

"""Shards of whole fields of view: added to a folder whose cell shards are done, and the table of where they are."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from hpa_tf import files, framing, image_table, records
from hpa_tf.classes import NUM_CLASSES
from hpa_tf.data_folder import read_cells
from hpa_tf.errors import InputError
from tfrecords_builder import labels
from tfrecords_builder.image import Settings, build_field
from tfrecords_builder.plan import Unit
from tfrecords_builder.unit import (
    Report,
    ShardWriter,
    UnitResult,
    build_unit,
    clear_write_errors,
    read_sidecar,
    read_sidecar_table,
    write_sidecar,
)

_FRAME_BYTES = 16
"""Length, its checksum and that of the data, around each record."""


def run_unit(
    unit: Unit, settings: Settings, report: Report, poisoned: Mapping[str, InputError] | None = None
) -> UnitResult:
    """Build a unit, or only its field shard where its cells are done; arguments as of `build_unit`."""
    if not unit.fields_only:
        return build_unit(unit, settings, report, poisoned)
    result = read_sidecar(settings.out, unit)
    if result is None:
        raise InputError(
            settings.out, f"no result of {unit.name} any more", "its sidecar", "run the same command again"
        )
    return add_fields(unit, result, settings, report)


def add_fields(unit: Unit, result: UnitResult, settings: Settings, report: Report) -> UnitResult:
    """Write the field shard of a unit whose cells are done; the cell shard is left as it is.

    Args:
        unit: The unit.
        result: What its sidecar says.
        settings: See `Settings`.
        report: Told before and after each image.

    Raises:
        InputError: An image cannot be read any more, or the data folder cannot be written.
    """
    table = read_sidecar_table(settings.out, unit)
    numbers = {image_id: rows.tolist() for image_id, rows in table.groupby("image_id", sort=False)["cell"]}
    done = set(result.images)
    path = files.join(settings.out, unit.shard("fields"))
    with clear_write_errors(settings.out), files.atomic_writer(path) as stream:
        writer = ShardWriter(stream, "fields", unit)
        for image in unit.images:
            if image.image_id in done:
                report(image.image_id, -1)
                writer.write(build_field(image, unit.fold, numbers.get(image.image_id, []), settings))
                report(image.image_id, 0)
    shards = (*(shard for shard in result.shards if shard.kind != "fields"), writer.shard())
    result = replace(result, shards=shards, fields=settings.fields, field_offsets=tuple(writer.offsets))
    with clear_write_errors(settings.out):
        write_sidecar(settings.out, unit, result, table)
    return result


def image_rows(units: Iterable[Unit], results: Iterable[UnitResult], out: str) -> pd.DataFrame:
    """Return the table of the fields of view that a build has written: see `image_table`."""
    parts = []
    for unit, result in zip(units, results, strict=True):
        known = {image.image_id: image.class_ids for image in unit.images}
        values = [labels.from_image_labels(known[image_id], 1) for image_id in result.images]
        values = np.concatenate([np.zeros((0, NUM_CLASSES), np.float32), *values])
        cells = read_sidecar_table(out, unit)["image_id"].value_counts()
        count = len(result.images)
        places = [unit.fold] * count, [unit.shard("fields")] * count, list(result.field_offsets)
        parts.append(image_table.make(list(result.images), *places, values, [cells.get(i, 0) for i in result.images]))
    return pd.concat(parts, ignore_index=True)


def table_problem(folder: str | os.PathLike, manifest: records.Manifest, cells: pd.DataFrame) -> str | None:
    """Return what is wrong with the table of a folder's fields of view, if anything is.

    Args:
        folder: Data folder.
        manifest: Its manifest.
        cells: Its cell table.
    """
    shards = manifest.shards_of("fields")
    if not shards:
        return None
    try:
        table = image_table.read(folder)
    except InputError as error:
        return f"{error.found}; {error.fix}"
    counts = cells["image_id"].value_counts()
    if [counts.get(image_id, 0) for image_id in table["image_id"]] != table["cells"].tolist():
        return "other numbers of cells than in the cell table"
    by_shard = dict(iter(table.groupby("shard", sort=False)))
    for shard in shards:
        offsets = by_shard[shard.name]["offset"].to_numpy() if shard.name in by_shard else np.zeros(0, np.int64)
        inside = len(offsets) == 0 or (
            offsets[0] == 0 and (np.diff(offsets) > 0).all() and offsets[-1] < shard.num_bytes
        )
        if len(offsets) != shard.num_records or not inside:
            return f"{len(offsets)} places in {shard.name}, which holds {shard.num_records} records"
    expected = (manifest.checksums or {}).get(image_table.NAME)
    if expected is not None and files.sha256(files.join(folder, image_table.NAME)) != expected:
        return "another file than the manifest's (its checksum differs)"
    return None


def index(folder: str | os.PathLike) -> pd.DataFrame:
    """Write the table of the fields of view of a finished folder, from their shards.

    Raises:
        InputError: The folder is not finished or has no shards of fields, or a shard is damaged.
    """
    manifest = records.read_manifest(folder)
    shards = manifest.shards_of("fields")
    if not shards:
        fix = "the command that built it with --fields SIZE adds them; its cells stay as they are"
        raise InputError(folder, "no shards of whole fields of view", "some", fix)
    cells = read_cells(folder, manifest)["image_id"].value_counts()
    ids, folds, names, offsets, values = [], [], [], [], []
    for shard in shards:
        path, offset = files.join(folder, shard.name), 0
        with files.open_file(path) as stream:
            for data in framing.read_frames(stream, path):
                record = records.decode(data, records.IMAGE_FIELDS)
                ids.append(record["image_id"].decode())
                folds.append(shard.fold)
                names.append(shard.name)
                offsets.append(offset)
                values.append(record["labels"])
                offset += len(data) + _FRAME_BYTES
    table = image_table.make(ids, folds, names, offsets, np.array(values), [cells.get(i, 0) for i in ids])
    image_table.write(table, folder)
    if manifest.checksums is not None:  # earlier manifests have none
        checksums = {**manifest.checksums, image_table.NAME: files.sha256(files.join(folder, image_table.NAME))}
        records.write_manifest(folder, replace(manifest, checksums=checksums))
    return table

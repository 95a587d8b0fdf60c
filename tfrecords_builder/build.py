"""The build: plan, run what is not done yet, then make the folder whole: cell table, failures, manifest last."""

import time
import warnings
from codecs import BOM_UTF8
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from hpa_tf import cell_table, files, folder_lock, image_table, interrupts, records
from hpa_tf.beam import LOCAL, pipeline_options
from hpa_tf.classes import CHANNELS, CLASSES
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.identity import check_kind
from hpa_tf.imaging.brightness import brightness_range, warn_of_full_scale
from hpa_tf.imaging.segmentation.masks_on_disk import MasksOnDisk
from hpa_tf.progress import progress
from hpa_tf.records import Manifest
from hpa_tf.reporting import csv_bytes
from tfrecords_builder import state, summary
from tfrecords_builder.field_shards import image_rows
from tfrecords_builder.image import Settings
from tfrecords_builder.options import BuildOptions, asked_options, with_masks
from tfrecords_builder.plan import Plan, Unit, find_inputs, make_plan
from tfrecords_builder.pool import run_units, warm_up
from tfrecords_builder.tfds_metadata import check_tfds, write_tfds_metadata
from tfrecords_builder.unit import SIDECAR, STATE_FOLDER, UnitResult, read_sidecar, read_sidecar_table, sidecar_path

FAILURES_NAME = "failures.csv"
TFDS_NAMES = ("dataset_info.json", "features.json")
_REWRITTEN = (records.CELL_TABLE_NAME, image_table.NAME, FAILURES_NAME, *TFDS_NAMES)
_ROWS_A_PART = 20_000
Results = dict[str, UnitResult]


def build(options: BuildOptions, bad_shards: Collection[str] | None = None) -> Manifest:
    """Build or continue a data folder.

    A build that was stopped, however it was, continues; one that is finished is only checked. Inputs are checked before
    anything in the folder changes.

    Args:
        options: What is asked.
        bad_shards: What is there is repaired: these shards and all that spans the shards are written again, and the
            manifest stays until the new one takes its place.

    Raises:
        InputError: Inputs cannot be used, options or inputs changed since the folder was begun (`on_change="fail"`),
            or another build is writing to the folder.
    """
    check_kind(options.out, records.MANIFEST_NAME)
    if options.tfds:
        check_tfds()
    if options.runner != LOCAL:
        pipeline_options(options.runner, options.beam_options, options.workers)  # refused before anything changes
    elif not files.exists(files.join(options.out, records.MANIFEST_NAME)):
        warm_up()
    repairing = bad_shards is not None
    saved = _saved_plan(options, repairing)
    inputs = find_inputs(options, state.drawn_folds(saved))

    def check_unchanged(asked: BuildOptions) -> None:
        if saved:
            _results_so_far(asked, make_plan(asked, inputs), saved, bad_shards)

    options = with_masks(options, check_unchanged)  # hours, perhaps: what is wrong with the inputs was said before
    plan = make_plan(options, inputs)
    interrupts.keeps("finished shards are kept; the same command continues")
    for folder in (options.out, files.join(options.out, STATE_FOLDER)):
        files.make_folder(folder)
    with folder_lock.locked(options.out):
        results, todo = _results_so_far(options, plan, saved, bad_shards)
        if todo or repairing or not _is_finished(options, plan, results):
            if not repairing:
                files.remove(files.join(options.out, records.MANIFEST_NAME))
            _open_folder(options, plan)
            results |= _run(todo, options)
            _finish(options, plan, results)
        manifest = records.read_manifest(options.out)
        tables = cell_table.read_parts(files.join(options.out, records.CELL_TABLE_NAME), summary.COLUMNS)
        summary.show(plan, list(results.values()), tables, manifest)
    return manifest


def _failures_csv(plan: Plan, results: Iterable[UnitResult]) -> bytes:
    """Return the table of the images and rows that were left out; nothing where there are none, and so no file."""
    rows = [(image_id, e.where, e.found, e.expected, e.fix) for image_id, e in plan.faults]
    rows += [failure for result in results for failure in result.failures]
    table = pd.DataFrame(sorted(rows), columns=["image_id", "where", "found", "expected", "fix"])
    return csv_bytes(table, marked=True) if rows else b""


def _saved_plan(options: BuildOptions, repairing: bool) -> dict[str, Any] | None:
    """Return the plan that the folder was begun with; an empty one where it is damaged and is to be written again."""
    try:
        return state.load_plan(options.out)
    except InputError:
        if not repairing and options.on_change != "rebuild":
            raise
        return {}


def _results_so_far(
    options: BuildOptions, plan: Plan, saved: dict[str, Any] | None, bad_shards: Collection[str] | None
) -> tuple[Results, list[Unit]]:
    """Return the results of the units that are done, and the others, some of which lack only their fields of view.

    Raises:
        InputError: Something changed since the folder was begun (`on_change="fail"`), or it is not ours.
    """
    stamps = files.list_stamps(options.out) if files.exists(options.out) else {}
    if saved is None:
        foreign = [name for name in stamps if name == records.MANIFEST_NAME or ".tfrecord" in name]
        if foreign:
            fix = "choose another --out, or remove the folder"
            raise InputError(options.out, f"{foreign[0]}, but no record of a build", "a new folder", fix)
        return {}, list(plan.units)
    found = {unit.name: read_sidecar(options.out, unit) for unit in plan.units}
    # a build tries failed images again: they are the reason why somebody runs the command again; a repair does not
    repairing = bad_shards is not None
    failures = {} if repairing else {name: result.failures for name, result in found.items() if result}
    has_shards = any(".tfrecord-" in name or name == records.MANIFEST_NAME for name in stamps)
    if options.on_change == "fail" and has_shards:  # else nothing is lost by beginning anew
        failed = {failure[0] for its in failures.values() for failure in its}
        _check_unchanged(options, plan, saved, failed, repairing)
    results, todo = {}, []
    for unit in plan.units:
        result = found[unit.name]
        is_bad = not {unit.shard("cells"), unit.shard("fields")}.isdisjoint(bad_shards or ())
        if result is None or failures.get(unit.name) or is_bad or not state.is_done(unit, result, stamps):
            todo.append(unit)
        elif options.fields is None or _has_fields(options, unit, result, stamps):
            results[unit.name] = result
        else:
            todo.append(replace(unit, fields_only=True))
    return results, todo


def _check_unchanged(
    options: BuildOptions, plan: Plan, saved: dict[str, Any], failed: set[str], repairing: bool
) -> None:
    """Check that the folder was begun with the same options and inputs; of a damaged plan its manifest knows it.

    Raises:
        InputError: It was not.
    """
    if saved:
        changed = state.changes(saved, plan, failed)
    else:
        is_same = records.read_manifest(options.out).fingerprint == plan.fingerprint
        changed = [] if is_same else [f"{state.PLAN_NAME} is damaged and does not say which"]
    if changed:
        fix = "undo the change, choose another --out, or give --on-change rebuild"
        if repairing:
            fix = "undo the change, or run the build's own command with --on-change rebuild, then repair again"
        raise InputError(options.out, f"changes since it was begun: {'; '.join(changed)}", "the same inputs", fix)


def _has_fields(options: BuildOptions, unit: Unit, result: UnitResult, stamps: dict[str, tuple[int, str]]) -> bool:
    is_whole = len(result.field_offsets) == len(result.images)  # an earlier version kept no offsets
    return result.fields == options.fields and is_whole and state.is_done(unit, result, stamps, "fields")


def _is_finished(options: BuildOptions, plan: Plan, results: Results) -> bool:
    names = [records.MANIFEST_NAME, records.CELL_TABLE_NAME, *(TFDS_NAMES if options.tfds else ())]
    names += [image_table.NAME] if options.fields is not None else []
    if not all(files.exists(files.join(options.out, name)) for name in names):
        return False
    path = files.join(options.out, FAILURES_NAME)
    listed = files.read_bytes(path) if files.exists(path) else b""
    if listed.removeprefix(BOM_UTF8) != _failures_csv(plan, results.values()).removeprefix(BOM_UTF8):
        return False  # earlier versions wrote it without the mark; a new manifest would be that of other data to runs
    try:
        return records.read_manifest(options.out) == _manifest(options, plan, results)
    except InputError:  # damaged: it is written anew
        return False


def _open_folder(options: BuildOptions, plan: Plan) -> None:
    """Take away shards and sidecars of another plan, and what was half written; then write down the plan."""
    mine = {shard for unit in plan.units for shard in (unit.shard("cells"), unit.shard("fields"))}
    sidecars = {unit.name + SIDECAR for unit in plan.units}
    if options.fields is None:
        mine -= {unit.shard("fields") for unit in plan.units}
    for name in files.list_names(options.out) if files.exists(options.out) else []:
        if (".tfrecord-" in name and name not in mine) or _is_temporary(name):
            files.remove(files.join(options.out, name))
    folder = files.join(options.out, STATE_FOLDER)
    for name in files.list_names(folder) if files.exists(folder) else []:
        if (name.endswith((SIDECAR, ".parquet")) and name not in sidecars) or _is_temporary(name):
            files.remove(files.join(folder, name))
    state.save_plan(options.out, plan, options)


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(files.TEMPORARY_SUFFIX)


def _run(todo: list[Unit], options: BuildOptions) -> Results:
    results: Results = {}
    for unit in todo:
        if not unit.fields_only:
            files.remove(sidecar_path(options.out, unit))
    num_images = sum(len(unit.images) for unit in todo)
    cells, start = 0, time.monotonic()
    with progress(total=num_images, unit="image", desc="build", disable=not todo) as bar:

        def count(num_cells: int) -> None:
            nonlocal cells
            cells += num_cells
            bar.set_postfix_str(f"{cells / max(time.monotonic() - start, 1e-3):.0f} cells/s", refresh=False)
            bar.update()

        for unit, result in _runner(options)(todo, Settings.of(options), options.workers, count):
            results[unit.name] = result
    return results


Runner = Callable[..., Iterator[tuple[Unit, UnitResult]]]


def _runner(options: BuildOptions) -> Runner:
    if options.runner == LOCAL:
        return run_units
    from tfrecords_builder.beam_runner import run_units_on_beam  # Beam is an optional extra

    return partial(run_units_on_beam, runner=options.runner, beam_options=options.beam_options)


def _finish(options: BuildOptions, plan: Plan, results: Results) -> None:
    """Write what spans all units; the manifest comes last."""
    missing = [unit.name for unit in plan.units if unit.name not in results]
    if missing:
        found = f"{len(missing)} of {len(plan.units)} units not written, first {missing[0]}"
        raise InputError(options.out, found, "all units", "run the same command again")
    for name in _REWRITTEN:
        files.remove(files.join(options.out, name))
    ordered = [results[unit.name] for unit in plan.units]
    for text in dict.fromkeys(text for result in ordered for text in result.warnings):
        warnings.warn(text, HpaWarning, stacklevel=2)
    summary.warn_of_dark_images(options, plan, ordered, _brightness(ordered))
    manifest = _manifest(options, plan, results)
    warn_of_full_scale(manifest.bits, manifest.brightness or {}, bool(options.full_scale))
    cell_table.write_parts(
        _table_parts(options, plan, manifest), files.join(options.out, records.CELL_TABLE_NAME), "labels"
    )
    if options.fields is not None:
        image_table.write(image_rows(plan.units, ordered, options.out), options.out)
    if failures := _failures_csv(plan, ordered):
        files.write_bytes(files.join(options.out, FAILURES_NAME), failures)
    if options.tfds:
        write_tfds_metadata(options.out, manifest)
    records.write_manifest(options.out, replace(manifest, checksums=_checksums(options)))


def _table_parts(options: BuildOptions, plan: Plan, manifest: Manifest) -> Iterator[pd.DataFrame]:
    """Join the units' tables to parts of some size: two million rows at once would be gigabytes."""
    waiting, num_waiting, num_rows = [], 0, 0
    for unit in plan.units:
        waiting.append(read_sidecar_table(options.out, unit))
        num_waiting += len(waiting[-1])
        num_rows += len(waiting[-1])
        if num_waiting >= _ROWS_A_PART:
            yield pd.concat(waiting, ignore_index=True)
            waiting, num_waiting = [], 0
    if num_rows != manifest.num_cells:
        found = f"{num_rows} rows for {manifest.num_cells} records"
        raise InputError(options.out, found, "one row a record", "remove the folder and build again")
    if waiting:
        yield pd.concat(waiting, ignore_index=True)


def _manifest(options: BuildOptions, plan: Plan, results: Results) -> Manifest:
    ordered = [results[unit.name] for unit in plan.units]
    kinds = ("cells", "fields") if options.fields is not None else ("cells",)
    shards = [shard for kind in kinds for result in ordered for shard in result.shards if shard.kind == kind]
    segmenters = dict.fromkeys(
        segmenter.made_by if isinstance(segmenter, MasksOnDisk) else segmenter.name
        for segmenter in options.segmenters()
    )
    return Manifest(
        schema_version=records.SCHEMA_VERSION,
        classes=CLASSES,
        channels=CHANNELS,
        encoding=options.encoding,
        um_per_px=tuple(sorted({um_per_px for result in ordered for um_per_px in result.um_per_px})),
        bits=tuple(sorted({bits for result in ordered for bits in result.bits})),
        margin=options.margin,
        segmenter=" + ".join(segmenters),
        num_folds=plan.num_folds,
        num_images=sum(len(result.images) for result in ordered),
        num_cells=sum(shard.num_records for shard in shards if shard.kind == "cells"),
        shards=tuple(shards),
        options=asked_options(options),
        fingerprint=plan.fingerprint,
        brightness=brightness_range(_brightness(results.values())),
        checksums=_checksums(options),
        without=tuple(dict.fromkeys(source.layout.without for source in options.sources)),
    )


def _brightness(results: Iterable[UnitResult]) -> np.ndarray:
    """Return the brightness of all images, float64 [N, 4]; NaN = blank channel."""
    return np.array([row for result in results for row in result.brightness], np.float64).reshape(-1, len(CHANNELS))


def _checksums(options: BuildOptions) -> dict[str, str]:
    """Return the SHA-256 of each file of the folder that is neither a shard nor the manifest."""
    paths = {name: files.join(options.out, name) for name in _REWRITTEN}
    return {name: files.sha256(path) for name, path in paths.items() if files.exists(path)}

"""Rebuild exactly the shards that `verify` finds bad, from the inputs that the folder was built from."""

import contextlib
import os
from typing import Any

from hpa_tf import files, records
from hpa_tf.errors import InputError
from hpa_tf.worker_processes import num_cores
from tfrecords_builder import state
from tfrecords_builder.build import build
from tfrecords_builder.options import BuildOptions
from tfrecords_builder.unit import SIDECAR, STATE_FOLDER
from tfrecords_builder.verify import Fault, verify


def repair(folder: str, deep: bool = False, workers: int | None = None) -> list[str]:
    """Rebuild the bad shards of a data folder, and the cell table and manifest where they are bad.

    Where the inputs are not there any more, or changed, the folder stays as it is.

    Args:
        folder: Data folder.
        deep: Look for bad shards as `verify --deep` does.
        workers: Processes; default all cores.

    Returns:
        The names of the shards that were rebuilt.

    Raises:
        InputError: The folder was not made by `build`, its inputs changed, or a rebuilt shard differs from the
            manifest's.
    """
    folder = folder if files.is_remote(folder) else os.path.abspath(folder)
    workers = workers or num_cores()
    asked, where = _asked(folder)
    before, faults = _state(folder, deep, workers)
    if not faults:
        return []
    bad = sorted({fault.shard for fault in faults if ".tfrecord-" in fault.shard and not fault.shard.endswith(SIDECAR)})
    with contextlib.chdir(where):  # relative paths are relative to where the build ran
        manifest = build(_options(asked, folder, workers), bad)
    if not before:  # no shard could be checked without the manifest: now they can
        return repair(folder, deep, workers)
    other = [shard.name for shard in manifest.shards if shard.name in before and before[shard.name] != shard]
    if other:
        found = f"{len(other)} rebuilt shards that differ from the first ones, first {other[0]}"
        fix = "they are intact; copies made of the folder before should be made again"
        raise InputError(folder, found, "the same bytes", fix)
    return bad


def _asked(folder: str) -> tuple[dict[str, Any], str]:
    """Return the options that a folder was built with, and the folder that its paths are relative to.

    They are in the plan and, but for that folder, in the manifest too: where one is damaged the other says it.
    """
    try:
        saved = state.load_plan(folder)
    except InputError:
        return dict(records.read_manifest(folder).options), os.curdir
    if saved is None:
        found = f"no {STATE_FOLDER}/{state.PLAN_NAME}"
        raise InputError(
            folder, found, "a folder that was built here", "build it again: python -m tfrecords_builder build"
        )
    where = saved.get("folder", os.curdir)
    return saved["asked"], where if os.path.isdir(where) else os.curdir


def _options(asked: dict[str, Any], folder: str, workers: int) -> BuildOptions:
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in asked.items()}
    try:
        return BuildOptions(**values, out=folder, workers=workers)
    except TypeError as error:
        fix = "build it again: python -m tfrecords_builder build"
        raise InputError(folder, f"options of another version ({error})", "options of this version", fix) from error


def _state(folder: str, deep: bool, workers: int) -> tuple[dict[str, records.Shard], list[Fault]]:
    """Return the shards of the manifest by name and the faults of the folder; a folder may lack a usable manifest."""
    try:
        manifest = records.read_manifest(folder)
    except InputError as error:
        return {}, [Fault("manifest", records.MANIFEST_NAME, None, error.found)]
    return {shard.name: shard for shard in manifest.shards}, verify(folder, deep, workers)

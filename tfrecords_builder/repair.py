"""Rebuild exactly the shards that `verify` finds bad, from the inputs that the folder was built from."""

import os

from hpa_tf import files, records
from hpa_tf.errors import InputError
from tfrecords_builder import state
from tfrecords_builder.build import build
from tfrecords_builder.options import BuildOptions
from tfrecords_builder.unit import STATE_FOLDER
from tfrecords_builder.verify import Fault, verify


def repair(folder: str, deep: bool = False, workers: int | None = None) -> list[str]:
    """Rebuild the bad shards of a data folder, and the cell table and manifest where they are bad.

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
    saved = state.load_plan(folder)
    if saved is None:
        found = f"no {STATE_FOLDER}/{state.PLAN_NAME}"
        raise InputError(
            folder, found, "a folder that was built here", "build it again: python -m tfrecords_builder build"
        )
    workers = workers or os.cpu_count() or 1
    before, faults = _state(folder, deep, workers)
    bad = sorted({fault.shard for fault in faults if ".tfrecord-" in fault.shard})
    with state.locked(folder):
        if faults:
            files.remove(files.join(folder, records.MANIFEST_NAME))  # so that the build writes table and manifest again
        for name in bad:
            files.remove(files.join(folder, name))
            files.remove(files.join(folder, STATE_FOLDER, f"{name.replace('fields-', 'cells-', 1)}.parquet"))
    asked = {name: tuple(v) if isinstance(v, list) else v for name, v in saved["asked"].items()}
    manifest = build(BuildOptions(**asked, out=folder, workers=workers))
    other = [shard.name for shard in manifest.shards if shard.name in before and before[shard.name] != shard]
    if other:
        found = f"{len(other)} rebuilt shards that differ from the first ones, first {other[0]}"
        fix = "they are intact; copies made of the folder before should be made again"
        raise InputError(folder, found, "the same bytes", fix)
    return bad


def _state(folder: str, deep: bool, workers: int) -> tuple[dict[str, records.Shard], list[Fault]]:
    """Return the shards of the manifest by name and the faults of the folder; a folder may lack a usable manifest."""
    try:
        manifest = records.read_manifest(folder)
    except InputError as error:
        return {}, [Fault("manifest", records.MANIFEST_NAME, None, error.found)]
    return {shard.name: shard for shard in manifest.shards}, verify(folder, deep, workers)

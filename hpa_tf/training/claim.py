"""Make a folder this run's own: it holds no other run, no other training writes to it, all workers see it."""

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

from hpa_tf import checksums, files, folder_lock, image_table
from hpa_tf.errors import InputError
from hpa_tf.identity import check_kind, check_same, same_place
from hpa_tf.models.weights import backbone_of, file_of
from hpa_tf.recipes import Recipe, load, recipe_to_json, save
from hpa_tf.records import CELL_TABLE_NAME, Manifest, manifest_json
from hpa_tf.run_folder import (
    BEST_WEIGHTS,
    CHECKPOINTS,
    DATASET,
    INPUTS,
    MEND,
    RECIPE,
    SAVED_MODEL,
    WEIGHTS,
    is_finished,
)
from hpa_tf.training import checkpoint
from hpa_tf.training.site import Data, Site
from hpa_tf.training.strategy import gathered, leave_together, worker

SEEN_WITHIN = 40.0
"""Seconds until a network disk shows to other machines what was written: clients keep what they saw for 30 s."""
_WEIGHTS_SUM = "weights_sha256"
"""Of the file that the first weights were read from; None = there is none, or it is not known."""


@contextlib.contextmanager
def claimed(
    recipe: Recipe, data: Data, manifest: Manifest, out: str, site: Site, parts: Sequence[str] = ()
) -> Iterator[None]:
    """Own the run folder `out` inside the block; what identifies the run is written into it.

    Where a new run fails or is killed before its first checkpoint (bad input, memory, a loss that is no number), the
    folder is free for other options again: nothing is lost, and the failure was most likely about the options.

    Args:
        recipe: How the run is trained.
        data: On what.
        manifest: That of the data.
        out: Run folder.
        site: Where the training runs.
        parts: Folders of the networks that the run consists of, where `out` itself is none.

    Raises:
        InputError: It holds another run (names the fields that differ), another training writes to it, or a worker
            does not see it.
    """
    identity = {RECIPE: recipe_to_json(recipe), DATASET: manifest_json(manifest), INPUTS: _inputs(recipe, data, site)}
    of_cells = all(view.reads == "cells" for view in (recipe.view, recipe.asked_view))
    if not site.is_chief:
        check_shared(site, out, 0)
        check_same_run(out, identity, of_cells)
        yield
        return
    check_kind(out, RECIPE)
    is_new = not any(map(_has_weights, (out, *parts)))  # or was killed before its first checkpoint
    if not is_new:
        check_same_run(out, identity, of_cells)
        identity[INPUTS][_WEIGHTS_SUM] = (_written(out, INPUTS) or {}).get(_WEIGHTS_SUM)  # those that it began with
    for folder in (out, files.join(out, CHECKPOINTS), files.join(out, WEIGHTS)):
        files.make_folder(folder)
    with folder_lock.locked(out) as owner:
        weights = [files.join(folder, WEIGHTS) for folder in (out, *parts)]
        for folder in (out, *weights, os.path.dirname(files.join(out, SAVED_MODEL))):
            folder_lock.remove_unfinished(folder)  # checkpoints remove their own
        save(recipe, files.join(out, RECIPE))  # first: it says that the folder is a run's
        files.write_json(files.join(out, DATASET), identity[DATASET])
        files.write_json(files.join(out, INPUTS), checksums.sealed_json(identity[INPUTS]))
        check_shared(site, out, owner.token)
        try:
            yield
        except Exception:
            if is_new and not any(map(_has_weights, (out, *parts))):
                for name in reversed(identity):
                    files.remove(files.join(out, name))
            raise


def check_same_run(out: str, identity: dict[str, dict], of_cells: bool = False) -> None:
    """Check that a folder holds no run, or the same.

    First weights are the same where their files have the same content, however they are spelled. Where that is not
    known (the file is gone, or an earlier version began the run), their places are compared.

    Args:
        out: Run folder.
        identity: JSON values by the name of their file.
        of_cells: It reads single cells alone: fields of view may have been added to the data since.

    Raises:
        InputError: It holds another one.
    """
    written = {name: found for name in identity if (found := _written(out, name)) is not None}
    sums = [values.get(INPUTS, {}).get(_WEIGHTS_SUM) for values in (written, identity)]
    for name, before in written.items():
        now = {key: value for key, value in identity[name].items() if key != checksums.KEY}
        if name == RECIPE and _same_weights(before["weights"], now["weights"], sums):
            before = {**before, "weights": now["weights"]}
        if name == INPUTS and None in sums:
            before, now = ({**one, _WEIGHTS_SUM: None} for one in (before, now))
        if name == DATASET:
            before, now = _as_trained_on(before, of_cells), _as_trained_on(now, of_cells)
        check_same(files.join(out, name), before, now, "run", "choose another --out")


def _written(out: str, name: str) -> dict[str, Any] | None:
    """Return the JSON values of a file of a run folder, without their checksum; None where it is not there."""
    path = files.join(out, name)
    if not files.exists(path):
        return None
    return recipe_to_json(load(path)) if name == RECIPE else checksums.read_json(path, MEND)


def _same_weights(before: str, now: str, sums: Sequence[str | None]) -> bool:
    """Tell whether two recipes name the same first weights, whose files have these checksums."""
    backbones = [backbone_of(source) for source in (before, now)]
    if backbones.count(None) == 1:
        return False
    if None not in sums:
        return sums[0] == sums[1]
    return same_place(backbones[0] or before) == same_place(backbones[1] or now)


def _as_trained_on(dataset: dict, of_cells: bool) -> dict:
    """Return of a manifest, as JSON, what a training sees, of single cells alone or of fields of view, too.

    What the build was asked is in the fingerprint, and in the shards and tables: there may be another spelling of it.
    """
    kinds, tables = {"cells"}, {CELL_TABLE_NAME}
    if not of_cells:
        kinds, tables = kinds | {"fields"}, tables | {image_table.NAME}
    kept = {"shards": [shard for shard in dataset.get("shards", []) if shard["kind"] in kinds]}
    kept |= {"options": {} if of_cells else {"fields": dataset.get("options", {}).get("fields")}}
    sums = dataset.get("checksums") or {}
    return {**dataset, **kept, "checksums": {name: value for name, value in sums.items() if name in tables}}


def check_shared(site: Site, out: str, token: int) -> None:
    """Check that every worker sees what the first one wrote: its lock, and the checkpoint to go on from.

    Args:
        site: Where the training runs; every worker calls this.
        out: Run folder.
        token: Of the first worker's lock; 0 on the others.

    Raises:
        InputError: A worker does not; every worker raises it.
    """
    index, count = worker(site.strategy)
    if count == 1:
        return
    expected = gathered(site.strategy, [token, _newest(out) if index == 0 else 0])[0]
    end = time.monotonic() + SEEN_WITHIN
    while not (seen := _sees(out, *expected)) and time.monotonic() < end:
        time.sleep(0.5)
    blind = [i for i, (sees,) in enumerate(gathered(site.strategy, [int(seen)])) if not sees]
    if blind:
        leave_together(site.strategy)
        found = f"worker {', '.join(map(str, blind))} does not see what worker 0 wrote there"
        fix = "give all workers the same --out on a disk that they share, or on an object store (gs://, s3://)"
        raise InputError(f"--out {out}", found, "one folder for all workers", fix)


def _sees(out: str, token: int, step: int) -> bool:
    owner = folder_lock.read(out)
    return owner is not None and owner.token == token and _newest(out) == step


def _newest(out: str) -> int:
    return max(checkpoint.steps_in(files.join(out, CHECKPOINTS)), default=0)


def _has_weights(folder: str) -> bool:
    """Tell whether a network was trained here, or is being trained."""
    return bool(_newest(folder)) or files.exists(files.join(folder, BEST_WEIGHTS)) or is_finished(folder)


def _inputs(recipe: Recipe, data: Data, site: Site) -> dict:
    tables = {"labels_sha256": data.labels}
    if data.validation_labels:
        tables["validation_labels_sha256"] = data.validation_labels
    sums = {name: path and hashlib.sha256(files.read_bytes(path)).hexdigest() for name, path in tables.items()}
    first = file_of(recipe.weights)
    return {
        **sums,
        _WEIGHTS_SUM: files.sha256(first) if first and files.exists(first) else None,
        "unknown_cells": data.unknown_cells if data.labels else None,
        "clean": data.clean,
        "precision": site.policy,
    }

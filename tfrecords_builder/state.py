"""The state of a build between runs: the plan that the folder was begun with, and what changed since."""

import os
import shlex
from typing import Any

from hpa_tf import files
from hpa_tf.errors import InputError
from tfrecords_builder.options import CODE, BuildOptions, asked_options, digest
from tfrecords_builder.plan import FIELDS, DrawnFolds, Plan, Unit
from tfrecords_builder.unit import STATE_FOLDER, UnitResult

PLAN_NAME = "plan.json"
_CHECKSUM = "sha256"
_MAX_NAMED = 5
_CODE_CHANGED = "version of the code that reads, segments, cuts and encodes"


def save_plan(out: str, plan: Plan, options: BuildOptions) -> None:
    """Write down what the folder is built from."""
    images = {
        image_id: [unit.name, stamp.files, stamp.row] for unit in plan.units for image_id, stamp in unit.stamps.items()
    }
    folds = {"key": plan.folds.key, "folds": plan.folds.folds}
    value = {"options": plan.options, "asked": asked_options(options), "images": images, "folds": folds}
    value["folder"] = os.getcwd()  # what relative paths are relative to
    files.write_json(files.join(out, STATE_FOLDER, PLAN_NAME), {**value, _CHECKSUM: digest(value)})


def load_plan(out: str) -> dict[str, Any] | None:
    """Return what `save_plan` wrote, or None.

    Raises:
        InputError: It is damaged.
    """
    path = files.join(out, STATE_FOLDER, PLAN_NAME)
    if not files.exists(path):
        return None
    fix = f"python -m tfrecords_builder repair {shlex.quote(out)}, or the build's own command with --on-change rebuild"
    try:
        value = files.read_json(path)
    except InputError as error:
        raise InputError(path, error.found, "the plan of a build", fix) from error
    rest = {name: item for name, item in value.items() if name != _CHECKSUM} if isinstance(value, dict) else {}
    if not {"options", "asked", "images", "folds"} <= rest.keys() or value.get(_CHECKSUM, digest(rest)) != digest(rest):
        raise InputError(path, "another content than was written", "the plan of a build", fix)
    return rest


def drawn_folds(saved: dict[str, Any] | None) -> DrawnFolds | None:
    """Return the folds that `save_plan` wrote."""
    return DrawnFolds(saved["folds"]["key"], tuple(saved["folds"]["folds"])) if saved else None


def changes(saved: dict[str, Any], plan: Plan, failed: set[str]) -> list[str]:
    """Name what differs between the plan a folder was begun with and now.

    Args:
        saved: See `load_plan`.
        plan: The plan now.
        failed: Images that could not be used; that their files change is what one hopes for.
    """
    before, now = saved["options"], plan.options
    differing = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if before.get(FIELDS) is None:
        differing = [name for name in differing if name != FIELDS]  # they are added
    named = [
        f"{_CODE_CHANGED if name == CODE else f'option {name}'}: was {before.get(name)!r}, is {now.get(name)!r}"
        for name in differing
    ]
    images = {image_id: stamp for unit in plan.units for image_id, stamp in unit.stamps.items()}
    old = saved["images"]
    kinds: dict[str, list[str]] = {}
    kinds["image removed"] = sorted(old.keys() - images.keys())
    kinds["image added"] = sorted(images.keys() - old.keys())
    for image_id in sorted(old.keys() & images.keys()):
        stamp = images[image_id]
        if stamp.row != old[image_id][2]:
            kinds.setdefault("row of the label table changed", []).append(image_id)
        if stamp.files != old[image_id][1] and image_id not in failed:
            kinds.setdefault("image or mask files changed (size or time)", []).append(image_id)
    for what, ids in kinds.items():
        if ids:
            more = f" and {len(ids) - _MAX_NAMED} more" if len(ids) > _MAX_NAMED else ""
            named.append(f"{what}: {', '.join(ids[:_MAX_NAMED])}{more}")
    return named


def is_done(unit: Unit, result: UnitResult | None, stamps: dict[str, tuple[int, str]], kind: str = "cells") -> bool:
    """Tell whether a unit's sidecar belongs to this plan and its shard of a kind is there at its full size.

    Args:
        unit: The unit.
        result: What its sidecar says, or None.
        stamps: Sizes of the files in the data folder, see `files.list_stamps`.
        kind: cells or fields.
    """
    if result is None or result.fingerprint != unit.fingerprint:
        return False
    shards = [shard for shard in result.shards if shard.kind == kind]
    return bool(shards) and all(stamps.get(shard.name, (-1,))[0] == shard.num_bytes for shard in shards)

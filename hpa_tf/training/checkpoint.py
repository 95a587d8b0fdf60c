"""Checkpoints: one file holds everything a training needs to go on as if nothing had happened.

A file `step-00001234.npz` holds every array of the state (weights, optimizer, loss scale, moving average) and the
log state as JSON. It appears whole under its name (`files.atomic_writer`), so a kill at any moment leaves the one
before; older ones are deleted only after the new one is there. No pickles.
"""

import io
import json
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from hpa_tf import files
from hpa_tf.errors import InputError

_NAME = re.compile(r"step-(\d{8})\.npz")
_LOG = "log"


def name_of(step: int) -> str:
    """Return the file name of the checkpoint after `step` steps."""
    return f"step-{step:08d}.npz"


def steps_in(folder: str | os.PathLike) -> list[int]:
    """Return the steps of which the folder holds a checkpoint, rising."""
    if not files.exists(folder):
        return []
    return sorted(int(match[1]) for name in files.list_names(folder) if (match := _NAME.fullmatch(name)))


def write(folder: str | os.PathLike, step: int, arrays: Mapping[str, np.ndarray], log: Any, keep: int) -> None:
    """Write a checkpoint, then delete all but the newest `keep` and what killed writers left.

    Args:
        folder: Where the checkpoints are.
        step: Steps taken so far.
        arrays: The state.
        log: JSON values.
        keep: Checkpoints to keep, >= 1.
    """
    stream = io.BytesIO()
    encoded = np.frombuffer(json.dumps(log).encode(), np.uint8)
    np.savez(stream, **{_LOG: encoded}, **{f"array/{name}": array for name, array in arrays.items()})
    files.write_bytes(files.join(folder, name_of(step)), stream.getvalue())
    stale = [name_of(old) for old in steps_in(folder)[:-keep]]
    leftovers = [name for name in files.list_names(folder) if name.endswith(files.TEMPORARY_SUFFIX)]
    for name in stale + leftovers:
        files.remove(files.join(folder, name))


def read(folder: str | os.PathLike, step: int) -> tuple[dict[str, np.ndarray], Any]:
    """Read a checkpoint.

    Returns:
        (arrays, log) as `write` was given them.

    Raises:
        InputError: The file is damaged (a disk that lies, not a kill).
    """
    path = files.join(folder, name_of(step))
    try:
        with np.load(io.BytesIO(files.read_bytes(path)), allow_pickle=False) as stored:
            arrays = {name.removeprefix("array/"): stored[name] for name in stored.files if name != _LOG}
            return arrays, json.loads(stored[_LOG].tobytes())
    except files.DAMAGED_NPZ as error:
        fix = "delete this file; the training goes on from the one before"
        raise InputError(path, f"a damaged file ({error})", "a checkpoint", fix) from error

"""Where a run is on this machine: its folder, the starter's, or a copy of one that is on an object store.

A copy stands in the user's cache under a name that follows from the run's address and the state of its files: a run
that was trained further is copied anew, a copy that is there is never changed, and one that was damaged is made again.
Checkpoints and logs stay behind.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from hpa_tf import files, run_folder
from hpa_tf.errors import InputError
from hpa_tf.file_names import check_name
from hpa_tf.serving import starter
from hpa_tf.serving.cache import new_folder, user_cache

_NEEDED = (
    *(run_folder.RECIPE, run_folder.DATASET, run_folder.INPUTS, run_folder.RESULT),
    *(f"{run_folder.WEIGHTS}/", f"{run_folder.SAVED_MODEL}/"),
)
"""Files of a run, and folders of which all files, that predict."""
_SUMS = "sha256.json"
"""Beside a copy: the checksums of its files."""


def resolve(run: str) -> str:
    """Return a run folder on this machine.

    Args:
        run: A local folder, a URL such as s3://bucket/run, or "starter".

    Raises:
        InputError: It cannot be read, or the cache cannot be written.
    """
    return local_copy(run) if files.is_remote(run) else starter.resolve(run)


def local_copy(run: str, cache: str | os.PathLike | None = None) -> str:
    """Return the copy of a remote run; make it if it is not there yet.

    Args:
        run: Its URL.
        cache: Folder to make it below; by default the user's cache.

    Raises:
        InputError: There is no run, it cannot be read, or the cache cannot be written.
    """
    run = run.rstrip("/")
    stamps = _needed(run)
    state = hashlib.sha256(json.dumps([run, sorted(stamps.items())]).encode()).hexdigest()[:16]
    name = check_name(run.rsplit("/", 1)[-1], run)
    final = Path(cache or user_cache()) / "runs" / state
    if _is_whole(final):
        return str(final / name)
    try:
        with new_folder(final, _is_whole) as made:
            sums = {}
            for below in stamps:
                path = made.joinpath(name, *below.split("/"))
                path.parent.mkdir(parents=True, exist_ok=True)
                with files.open_file(files.join(run, below)) as reading, open(path, "wb") as writing:
                    shutil.copyfileobj(reading, writing)
                sums[f"{name}/{below}"] = files.sha256(path)
            files.write_json(made / _SUMS, sums)
    except OSError as error:
        fix = "check the address and the rights to it, and that XDG_CACHE_HOME names a folder with room"
        raise InputError(run, f"a run that cannot be copied to {final} ({error})", "a copy here", fix) from error
    return str(final / name)


def _is_whole(folder: Path) -> bool:
    """Tell whether every file of a copy is as it was copied: what is in a cache may be lost."""
    try:
        sums = files.read_json(folder / _SUMS)
        return all(files.sha256(folder / name) == one for name, one in sums.items())
    except (InputError, OSError, AttributeError):
        return False


def _needed(run: str) -> Mapping[str, tuple[int, str]]:
    """Return size and tag of the files of a run that predict, by their names below it.

    Raises:
        InputError: There are none, or one has a name that leads out of the folder.
    """
    found = files.list_below(run)
    needed = {name: stamp for name, stamp in found.items() if name.startswith(_NEEDED)}
    if run_folder.RECIPE not in needed:
        fix = "check the address"
        raise InputError(run, f"no {run_folder.RECIPE} ({len(found)} files)", "a run folder", fix)
    for name in needed:
        for part in name.split("/"):
            check_name(part, run)
    return needed

"""The starter network as a run folder: made in the user's cache from the package's data, at its first use.

    ~/.cache/hpa_tf/DIGEST/starter/{recipe.json, dataset.json, weights/best.weights.h5, saved_model/1/, result.json}

`XDG_CACHE_HOME` moves it. The digest is over the data, the code and the versions, so a new version
never meets an old folder.
"""

import hashlib
import os
from pathlib import Path

import keras
import tensorflow as tf

import hpa_tf
from hpa_tf import __version__, files, run_folder, starter
from hpa_tf.errors import InputError
from hpa_tf.models import packed, weights
from hpa_tf.recipes.serialization import load
from hpa_tf.records import read_manifest
from hpa_tf.serving.cache import FIX, new_folder, user_cache
from hpa_tf.serving.exporting import export

_SOURCES = ("classes.py", "imaging/cells.py", "models/*.py", "views/*.py", "serving/*.py")
"""Code that decides what is in a SavedModel of ours."""
_KEY = 16
"""Hexadecimal digits of the digest in the name of the folder."""


def resolve(run: str) -> str:
    """Return the run folder that a name stands for: the starter's, or the name itself.

    Raises:
        InputError: The starter's folder cannot be made.
    """
    return prepare() if run_folder.is_starter(run) else run


def prepare(cache: str | os.PathLike | None = None) -> str:
    """Return the starter's run folder; make it if it is not there yet, or damaged (10 to 20 s).

    Args:
        cache: Folder to make it below; by default the user's cache.

    Raises:
        InputError: The cache cannot be written, or the package's data are not there.
    """
    if not starter.WEIGHTS.is_file():
        raise InputError(starter.FOLDER, f"no {starter.WEIGHTS.name}", "the starter's data", "run make starter")
    folder = Path(cache or user_cache()) / digest()[:_KEY] / starter.NAME
    if _is_whole(folder):
        return str(folder)
    try:
        with new_folder(folder, _is_whole) as made:
            _make(made)
    except (OSError, tf.errors.OpError) as error:  # TensorFlow has its own word for a full disk
        raise InputError(folder, f"a folder that cannot be written ({error})", "the user's cache", FIX) from error
    return str(folder)


def _make(folder: Path) -> None:
    """Write the run folder, with the checksums of its files in its result."""
    (folder / run_folder.WEIGHTS).mkdir(parents=True)
    for name in (run_folder.RECIPE, run_folder.DATASET):
        files.write_bytes(folder / name, (starter.FOLDER / name).read_bytes())
    recipe, manifest = load(folder / run_folder.RECIPE), read_manifest(folder)
    network = recipe.network.build(recipe.view.specs())
    packed.unpack(network, starter.WEIGHTS)
    weights.save(network, folder / run_folder.BEST_WEIGHTS)
    export(str(folder), network, recipe, manifest)
    below = [path for path in folder.rglob("*") if path.is_file()]
    sums = {path.relative_to(folder).as_posix(): files.sha256(path) for path in below}
    run_folder.write_result(folder, {run_folder.BEST_WEIGHTS: 1.0}, {"files": sums})


def _is_whole(folder: Path) -> bool:
    """Tell whether every file of the run folder is as it was written (0.05 s): what is in a cache may be lost."""
    try:
        sums = run_folder.read_result(folder)["files"]
        return all(files.sha256(folder / name) == one for name, one in sums.items())
    except (InputError, OSError, KeyError):
        return False


def digest() -> str:
    """Return the SHA-256 of what the starter is made from: the package's data, the code and the versions.

    Each export of it differs in its bytes, since TensorFlow writes random numbers into it, but in no answer.
    """
    total = hashlib.sha256(f"{__version__} {tf.__version__} {keras.__version__}".encode())
    package = Path(hpa_tf.__file__).parent
    sources = [path for name in _SOURCES for path in sorted(package.glob(name))]
    data = [starter.FOLDER / name for name in (run_folder.RECIPE, run_folder.DATASET, starter.WEIGHTS.name)]
    for path in sources + data:
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def is_made_here(run: str) -> bool:
    """Tell whether a run folder is one that `prepare` made from the data, code and versions of now."""
    path = Path(run)
    return path.name == starter.NAME and path.parent.name == digest()[:_KEY]

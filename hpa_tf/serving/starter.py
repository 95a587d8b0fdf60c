"""The starter network as a run folder: made in the user's cache from the package's data, at its first use.

    ~/.cache/hpa_tf/DIGEST/starter/{recipe.json, dataset.json, weights/best.weights.h5, saved_model/1/, result.json}

`XDG_CACHE_HOME` moves it. The digest is over the data, the versions and the code of the export, so a
new version never meets an old folder.
"""

import hashlib
import importlib.metadata
import os
from pathlib import Path

from hpa_tf import __version__, files, run_folder, starter
from hpa_tf.errors import InputError
from hpa_tf.models import packed, weights
from hpa_tf.recipes.serialization import load
from hpa_tf.records import read_manifest
from hpa_tf.serving.exporting import export


def resolve(run: str) -> str:
    """Return the run folder that a name stands for: "starter", unless a run folder of that name is here, is ours.

    Raises:
        InputError: The starter's folder cannot be made.
    """
    if run != starter.NAME or files.exists(files.join(run, run_folder.RECIPE)):
        return run
    return prepare()


def prepare(cache: str | os.PathLike | None = None) -> str:
    """Return the starter's run folder; make it if it is not there yet (10 to 20 s).

    Args:
        cache: Folder to make it below; by default the user's cache.

    Raises:
        InputError: The cache cannot be written, or the package's data are not there.
    """
    if not starter.WEIGHTS.is_file():
        raise InputError(starter.FOLDER, f"no {starter.WEIGHTS.name}", "the starter's data", "run make starter")
    folder = Path(cache or cache_folder()) / _digest() / starter.NAME
    if run_folder.is_finished(folder):
        return str(folder)
    try:
        files.make_folder(folder / run_folder.WEIGHTS)
        for name in (run_folder.RECIPE, run_folder.DATASET):
            files.write_bytes(folder / name, (starter.FOLDER / name).read_bytes())
        recipe, manifest = load(folder / run_folder.RECIPE), read_manifest(folder)
        network = recipe.network.build(recipe.view.specs())
        packed.unpack(network, starter.WEIGHTS)
        weights.save(network, folder / run_folder.BEST_WEIGHTS)
        export(str(folder), network, recipe, manifest)
        run_folder.write_result(folder, {run_folder.BEST_WEIGHTS: 1.0}, {})
    except OSError as error:
        fix = "set XDG_CACHE_HOME to a folder that can be written"
        raise InputError(folder, f"a folder that cannot be written ({error})", "the user's cache", fix) from error
    return str(folder)


def cache_folder() -> Path:
    """Return the folder of the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hpa_tf"


def _digest() -> str:
    total = hashlib.sha256(f"{__version__} {importlib.metadata.version('tensorflow')}".encode())
    for name in ("exporting.py", "heat_maps.py"):  # what a SavedModel of ours holds
        total.update(Path(__file__).with_name(name).read_bytes())
    for name in (run_folder.RECIPE, run_folder.DATASET, starter.WEIGHTS.name):
        total.update(hashlib.sha256((starter.FOLDER / name).read_bytes()).digest())
    return total.hexdigest()[:16]

"""A trained run, read from its folder, for those who use its network."""

import os
from dataclasses import dataclass

from hpa_tf import files
from hpa_tf.recipes.recipe import Recipe
from hpa_tf.recipes.serialization import load
from hpa_tf.records import Manifest, read_manifest
from hpa_tf.run_folder import BEST_WEIGHTS, RECIPE, is_finished, read_result


@dataclass(frozen=True)
class Run:
    """A trained run, read from its folder.

    Attributes:
        folder: Run folder, local or remote.
        recipe: How it was trained.
        manifest: What it was trained on.
        checkpoints: (path of a weights file, its share) for the weighted mean of probabilities; shares sum to 1.
    """

    folder: str
    recipe: Recipe
    manifest: Manifest
    checkpoints: tuple[tuple[str, float], ...]


def read_run(folder: str | os.PathLike) -> Run:
    """Read a run folder; a run that is not finished predicts with its best weights so far.

    Raises:
        InputError: The folder is no run, or another version wrote it.
    """
    recipe, manifest = load(files.join(folder, RECIPE)), read_manifest(folder)
    shares = {BEST_WEIGHTS: 1.0}
    if is_finished(folder):
        shares = read_result(folder)["checkpoints"]
    total = sum(shares.values())
    checkpoints = tuple((files.join(folder, name), share / total) for name, share in shares.items())
    return Run(str(folder), recipe, manifest, checkpoints)

"""Runs and systems as networks with a weight each: what is averaged, and how its cells are prepared."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpa_tf import files, serving
from hpa_tf.classes import CHANNELS
from hpa_tf.errors import InputError
from hpa_tf.models import weights
from hpa_tf.recipes import Recipe, System, run_folder, system_named
from hpa_tf.serving import Served, starter
from hpa_tf.views import Crop


@dataclass(frozen=True)
class Network:
    """One set of weights.

    Attributes:
        name: Name of the run; with `@epoch-0003` for one of several checkpoints.
        weight: Its weight in the mean of probabilities.
        served: The network with its preparation.
        digest: SHA-256 of its files.
        run: Its run folder.
    """

    name: str
    weight: float
    served: Served
    digest: str
    run: str


def load_networks(runs: Sequence[str], weights: Sequence[float] | None = None) -> list[Network]:
    """Load every network of some runs; a run that averages several checkpoints gives one for each.

    Args:
        runs: Run folders; "starter" for the network that comes with hpa_tf.
        weights: One weight a run; None = equal.

    Raises:
        InputError: A run has no SavedModel, is damaged, or two runs have the same name.
    """
    runs = [starter.resolve(run) for run in runs]
    names = [Path(run).resolve().name for run in runs]
    if len(set(names)) < len(names):
        found = ", ".join(sorted({name for name in names if names.count(name) > 1}))
        raise InputError("--run", f"several runs named {found}", "different names", "rename a run folder")
    networks = []
    for run, name, weight in zip(runs, names, weights or [1.0] * len(runs), strict=True):
        networks += _networks_of(run, name, weight)
    return networks


def _networks_of(run: str, name: str, weight: float) -> list[Network]:
    earlier = _weights_beside(run)
    if earlier and not serving.has_checkpoints(run):  # exported before SavedModels held all checkpoints
        return [_checkpoint(run, name, path, weight * share) for path, share in earlier]
    served = serving.load(run)
    check_view(served.recipe, run)
    sha256 = digest(served.folder)
    if not served.checkpoints:
        return [Network(name, weight, served, sha256, run)]
    total = sum(share for _, share in served.checkpoints)
    return [
        Network(f"{name}@{epoch}", weight * (share / total), served.only(number), f"{sha256}, {epoch}", run)
        for number, (epoch, share) in enumerate(served.checkpoints)
    ]


def check_view(recipe: Recipe, run: str) -> None:
    """Refuse a network that does not see one cell in all four channels.

    Raises:
        InputError: It sees whole fields, bags or other channels: predict.py cannot prepare those yet.
    """
    view = recipe.asked_view
    if not isinstance(view, Crop) or view.channels != CHANNELS:
        channels = f" with the channels {', '.join(view.channels)}" if isinstance(view, Crop) else ""
        found = f"a network that sees {type(view).__name__}{channels} ({recipe.name})"
        expected = f"Crop with the channels {', '.join(CHANNELS)}"
        raise InputError(run, found, expected, "predict with a run of single cells; its SavedModel answers this view")


def _weights_beside(run: str) -> tuple[tuple[str, float], ...]:
    """Return the weights files of a run that predicts with several, and their shares; else nothing."""
    if not files.exists(files.join(run, run_folder.RECIPE)):
        return ()
    checkpoints = run_folder.read_run(run).checkpoints
    return checkpoints if len(checkpoints) > 1 else ()


def _checkpoint(run: str, name: str, path: str, weight: float) -> Network:
    """Build a run's network with the weights of one epoch."""
    trained = run_folder.read_run(run)
    network = trained.recipe.network.build(trained.recipe.asked_view.specs())
    weights.load(network, path)
    served = serving.from_network(network, trained.recipe, trained.manifest, path)
    return Network(f"{name}@{Path(path).name.removesuffix('.weights.h5')}", weight, served, digest(path), run)


def digest(path: str | os.PathLike) -> str:
    """Return the SHA-256 over a file, or over the names and contents of the files below a folder."""
    path, total = Path(path), hashlib.sha256()
    below = sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]
    for item in below:
        with open(item, "rb") as stream:
            content = hashlib.file_digest(stream, "sha256").digest()
        total.update(str(item.relative_to(path)).encode() + b"\0" + content)
    return total.hexdigest()


def find_system(name: str, runs: str) -> tuple[System, list[str]]:
    """Return a system and the run folders of its members.

    Raises:
        InputError: There is no such system, or members are missing: names them and the command that trains them.
    """
    system = system_named(name)
    for member in system.members:
        check_view(member.recipe, f"--system {name}")
    if system.postprocessing.negative == "predicted":
        found = f"a system whose networks predict Negative ({name})"
        raise InputError("--system", found, "one that derives it", "predict with a run, or another system")
    folders = {member.recipe.name: files.join(runs, member.recipe.name) for member in system.members}
    missing = [member for member, folder in folders.items() if not run_folder.is_finished(folder)]
    if missing:
        found = f"no finished run of {', '.join(missing)} ({len(missing)} of {len(folders)} members)"
        fix = f"python train.py --strategy mirrored --data DIR --system {name} --out {runs}"
        raise InputError(runs, found, f"one run folder a member of {name}", fix)
    return system, list(folders.values())

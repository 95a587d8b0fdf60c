"""Runs and systems as networks with a weight each: what is averaged, and how each of them sees an image."""

import hashlib
import os
import shlex
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from hpa_tf import files, run_folder, serving
from hpa_tf.classes import CHANNELS, CLASSES, NUM_CLASSES
from hpa_tf.errors import HpaWarning, InputError, counted
from hpa_tf.imaging.cells import narrowed
from hpa_tf.imaging.squares import Square
from hpa_tf.models import weights
from hpa_tf.models.network import LOCATED
from hpa_tf.postprocessing import FINAL_2, PostProcessing
from hpa_tf.prediction.member_data import Known, check_same_data
from hpa_tf.prediction.needs import Needs
from hpa_tf.recipes import Recipe, System
from hpa_tf.recipes.recipe import Specialist, Tta
from hpa_tf.recipes.runs import read_run
from hpa_tf.serving import Served, starter
from hpa_tf.views import AnyView, Bag, Crop
from hpa_tf.views.asking import square_of

_ALL_CLASSES = tuple(range(NUM_CLASSES))


@dataclass(frozen=True)
class Network:
    """One set of weights, asked through one view.

    Attributes:
        name: Name of the run; with `@epoch-0003` for one of several checkpoints, with `.Crop` before that where a
            system asks it through another view than its recipe does, and `.fold0` before that where it is one of a
            system's folds.
        weight: Its weight in the mean of probabilities.
        served: The network with its preparation.
        digest: SHA-256 of its files; of the starter, of what it is made from.
        run: Its run folder.
        column: Column of the cell table that the answer of a specialist becomes; None = it is a member of the mean.
        tta: Views of each cell, where the prediction does not say otherwise.
    """

    name: str
    weight: float
    served: Served
    digest: str
    run: str
    column: str | None = None
    tta: Tta = "none"

    @property
    def view(self) -> AnyView:
        """What it sees."""
        return self.served.recipe.asked_view

    @property
    def crop(self) -> Crop | None:
        """How it cuts cells out; None where it does not."""
        view = self.view.cell if isinstance(self.view, Bag) else self.view
        return view if isinstance(view, Crop) else None

    @property
    def margin(self) -> int:
        """Pixels around a cell's tight box that it can see: those of its training data; 0 where it looks at none."""
        looks = self.crop is not None and (self.crop.square == "grow" or self.crop.margin > 0)
        return self.served.dataset["margin"] if looks else 0

    @property
    def square(self) -> Square | None:
        """How a field of view is shrunk for it; None where it sees single cells."""
        return square_of(self.view, self.served.dataset)

    @property
    def has_negative(self) -> bool:
        """Whether it answers Negative itself."""
        return self.served.recipe.network.classes == _ALL_CLASSES

    def prepare(self, **stored: np.ndarray) -> Mapping[str, tf.Tensor]:
        """Turn one record into its part of the inputs as `Served.prepare`, with no more around a cell than `margin`."""
        if "crop" in stored:
            stored["crop"], stored["region"] = narrowed(stored["crop"], stored["region"], self.margin)
        return self.served.prepare(**stored)


def load_networks(runs: Sequence[str]) -> list[Network]:
    """Load every network of some runs, with equal weights; a run that averages checkpoints gives one for each.

    Args:
        runs: Run folders, local or remote; "starter" for the network that comes with hpa_tf.

    Raises:
        InputError: A run has no SavedModel, is damaged, does not answer all classes, or two have the same name.
    """
    runs = [serving.resolve(run) for run in runs]
    names = [Path(run).resolve().name for run in runs]
    if len(set(names)) < len(names):
        found = ", ".join(sorted({name for name in names if names.count(name) > 1}))
        raise InputError("--run", f"several runs named {found}", "different names", "rename a run folder")
    return [one for run, name in zip(runs, names, strict=True) for one in _networks_of(run, name, 1.0)]


def load_members(system: System, folder: str) -> list[Network]:
    """Load every network of a system's members from the folder that `train.py --system` wrote.

    Where it was trained for several folds (`--folds`), each member is the mean of its networks of all of them. A fold
    whose members were trained one by one, each by its recipe, may hold some of them: team 2 had 5 folds of some and 2
    of others.

    Raises:
        InputError: Members are missing (names them and the command that trains them), the folder holds both folds and
            members, members answer other classes than their recipes say, or were trained on other data than the
            others (see `check_same_data`); or as of `load_networks`.
    """
    folds = run_folder.folds_in(folder)
    places = {f".fold{fold}": run_folder.fold_folder(folder, fold) for fold in folds} or {"": folder}
    _check_no_members_beside(system, folder, folds)
    _check_finished(system, folder, list(places.values()), len(folds))
    _tell_of_fewer_folds(system, folder, list(places.values()))
    networks: list[Network] = []
    known: Known = {}
    for member in system.members:
        trained = {suffix: place for suffix, place in places.items() if _is_finished(place, member.recipe.name)}
        for suffix, place in trained.items():
            name, run = member.recipe.name + suffix, serving.resolve(files.join(place, member.recipe.name))
            name = name if member.asked is None else f"{name}.{type(member.asked).__name__}"
            own = _networks_of(run, name, member.weight / len(trained), member.asked)
            _check_classes_of(member.recipe, own[0])
            check_same_data(own[0].run, own[0].served, known)
            networks += [replace(one, tta=member.tta) for one in own]
    available = networks[0].served.dataset.get("num_folds", 0)
    if 0 < len(folds) < available:
        found = (
            f"{folder}: the mean of {counted(len(folds), 'fold')}, as many as are trained; the data have {available}"
        )
        warnings.warn(f"{found} (train.py --folds {available} trains the others)", HpaWarning, stacklevel=2)
    for specialist in system.specialists:
        own = _load_specialist(specialist, system, folder, known)
        if not specialist.own_labels:  # then it was trained beside the members
            check_same_data(own[0].run, own[0].served, known)
        networks += own
    return networks


def _names_of(system: System) -> list[str]:
    return list(dict.fromkeys(member.recipe.name for member in system.members))


def _is_finished(place: str, name: str) -> bool:
    return run_folder.is_finished(files.join(place, name))


def _is_due(place: str, name: str) -> bool:
    """Tell whether a fold has to hold a member: its training has begun, or `train.py --system` was asked for all."""
    return any(files.exists(files.join(place, one)) for one in (run_folder.SYSTEM, f"{name}/{run_folder.RECIPE}"))


def _tell_of_fewer_folds(system: System, folder: str, places: Sequence[str]) -> None:
    """Warn of members that are the mean of fewer folds than others."""
    counts = {name: sum(_is_finished(place, name) for place in places) for name in _names_of(system)}
    most = max(counts.values())
    fewer = [f"{name} of {count}" for name, count in counts.items() if count < most]
    if fewer:
        text = f"{folder}: members are the mean of unlike numbers of folds: {', '.join(fewer)}, the others of {most}"
        warnings.warn(text, HpaWarning, stacklevel=3)


def _check_no_members_beside(system: System, folder: str, folds: Sequence[int]) -> None:
    """Refuse a folder with folds of a system and, beside them, members that were trained once."""
    beside = [name for name in _names_of(system) if _is_finished(folder, name)]
    if folds and beside:
        found = f"fold{folds[0]} and, beside it, {', '.join(beside)}"
        fix = f"move one of the two elsewhere; --runs {run_folder.fold_folder(folder, folds[0])} asks one fold alone"
        raise InputError(folder, found, f"members of {system.name}, or folders of folds with all of them", fix)


def _check_finished(system: System, folder: str, places: Sequence[str], num_folds: int) -> None:
    """Refuse a system whose training has not come to its end: in `folder`, or in its folds, the `places`."""
    names = _names_of(system)
    nowhere = [name for name in names if not any(_is_finished(place, name) for place in places)]
    for place in places:
        missing = [
            name for name in names if not _is_finished(place, name) and (name in nowhere or _is_due(place, name))
        ]
        if not missing:
            continue
        found = f"no finished run of {', '.join(missing)} ({len(missing)} of {len(names)} members)"
        out = (f" --folds {num_folds}" if num_folds else "") + f" --out {shlex.quote(folder)}"
        fix = f"python train.py --strategy mirrored --data DIR --system {system.name}{out}"
        if files.exists(files.join(own := files.join(folder, system.name), run_folder.SYSTEM)):
            fix = f"--runs {shlex.quote(own)}, or {fix}"
        raise InputError(place, found, f"one run folder a member of {system.name}", fix)


def _load_specialist(specialist: Specialist, system: System, folder: str, known: Known) -> list[Network]:
    """Load a specialist of a system from beside its members, or from beside the folder of a fold or second stage.

    Raises:
        InputError: It is missing: names the command that trains it; or it answers another class.
    """
    name = specialist.recipe.name
    places = [files.join(folder, name), files.join(os.path.dirname(folder.rstrip("/")), name)]
    run = next((place for place in places if run_folder.is_finished(place)), None)
    if run is None:
        _, clean = known.get("clean", ("", True))
        words = " --labels TABLE" if specialist.own_labels else "" if clean else " --no-clean"  # as the members
        fix = f"python train.py --data DIR --recipe {name}{words} --out {places[0]}"
        found = f"no finished run of {name}, whose answer becomes {specialist.column!r}"
        raise InputError(folder, found, f"it beside the members of {system.name}", fix)
    networks = _networks_of(run, name, 1.0, alone=True)
    _check_classes_of(specialist.recipe, networks[0])
    return [replace(network, column=specialist.column) for network in networks]


def _check_classes_of(recipe: Recipe, network: Network) -> None:
    """Refuse a run that answers other classes than the recipe of a system that it stands for.

    Raises:
        InputError: It does.
    """
    own, wanted = network.served.recipe.network.classes, recipe.network.classes
    if own != wanted:
        fix = "train it again, or give the folder of this system with --runs"
        raise InputError(network.run, f"a network of {_named(own)}", f"{_named(wanted)} as {recipe.name}", fix)


def _networks_of(
    run: str, name: str, weight: float, asked: AnyView | None = None, alone: bool = False
) -> list[Network]:
    """Load a run's networks; `asked`: through this view, if any; `alone`: one class, which is no member of a mean."""
    if asked is not None and asked != read_run(run).recipe.asked_view:
        return _from_weights(run, name, weight, asked)
    if serving.lacks_checkpoints(run):
        return _from_weights(run, name, weight, alone=alone)
    served = serving.load(run)
    _check_classes(served.recipe, run, alone)
    sha256 = starter.digest() if starter.is_made_here(run) else digest(served.folder)
    if not served.checkpoints:
        return [Network(name, weight, served, sha256, run)]
    total = sum(share for _, share in served.checkpoints)
    return [
        Network(f"{name}@{epoch}", weight * (share / total), served.only(number), f"{sha256}, {epoch}", run)
        for number, (epoch, share) in enumerate(served.checkpoints)
    ]


def _from_weights(
    run: str, name: str, weight: float, asked: AnyView | None = None, alone: bool = False
) -> list[Network]:
    """Build a run's network anew with each of the weights that it predicts with; arguments as of `_networks_of`.

    Raises:
        InputError: The weights are missing or damaged, or the view has other channels than the network.
    """
    trained = read_run(run)
    recipe = trained.recipe if asked is None else replace(trained.recipe, asked=asked)
    _check_classes(recipe, run, alone)
    networks = []
    for path, share in trained.checkpoints:
        network = recipe.network.build(recipe.asked_view.specs())
        weights.load(network, path)
        epoch = f"@{Path(path).name.removesuffix('.weights.h5')}" if len(trained.checkpoints) > 1 else ""
        served = serving.from_network(network, recipe, trained.manifest, path)
        networks.append(Network(f"{name}{epoch}", weight * share, served, digest(path), run))
    return networks


def _check_classes(recipe: Recipe, run: str, alone: bool = False) -> None:
    """Refuse a network that does not answer all classes, or all but Negative; `alone`: that answers more than one.

    Raises:
        InputError: It does not: its answer cannot be mixed with others, nor be a submission.
    """
    classes = recipe.network.classes
    if alone and len(classes) > 1:
        raise InputError(run, f"a network of {_named(classes)} ({recipe.name})", "one class", "predict with --run")
    if not alone and classes not in (LOCATED, _ALL_CLASSES):
        found = f"a network of {_named(classes)} ({recipe.name})"
        expected = f"all {NUM_CLASSES} classes, or all but Negative"
        raise InputError(run, found, expected, "predict with another run; `train.py --out-of-fold` asks this one")


def _named(classes: Sequence[int]) -> str:
    return f"{len(classes)} classes" if len(classes) > 3 else " and ".join(CLASSES[c] for c in classes)


def digest(path: str | os.PathLike) -> str:
    """Return the SHA-256 over a file, or over the names and contents of the files below a folder but hidden ones."""
    path, total = Path(path), hashlib.sha256()
    below = sorted(item for item in path.rglob("[!.]*") if item.is_file()) if path.is_dir() else [path]
    for item in below:
        total.update(str(item.relative_to(path)).encode() + b"\0" + bytes.fromhex(files.sha256(item)))
    return total.hexdigest()


def usual_postprocessing(networks: Sequence[Network]) -> PostProcessing:
    """Return the steps after runs that are no system: team 4's Final 2, with Negative as the networks predict it.

    Where one of them does not answer Negative, it is derived.
    """
    return replace(FINAL_2, negative="predicted") if all(one.has_negative for one in networks) else FINAL_2


# -- what they see ----------------------------------------------------------------------------------------------------


def needs_of(networks: Sequence[Network], pictures: bool = False) -> Needs:
    """Return what the networks need of an image.

    Args:
        networks: What predicts.
        pictures: Whether the report shows cells.
    """
    squares = dict.fromkeys(square for network in networks if (square := network.square))
    first = networks[0].crop
    shows_cells = first is not None and first.channels == CHANNELS
    margin = max(network.margin for network in networks)
    crops = any(network.view.reads == "cells" for network in networks)
    return Needs(crops, margin, tuple(squares), pictures and not shows_cells)

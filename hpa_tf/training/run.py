"""From a recipe and a data folder to a finished run folder: check, train (or go on), choose weights, export."""

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import tensorflow as tf

from hpa_tf import files, serving
from hpa_tf.errors import InputError
from hpa_tf.models import weights
from hpa_tf.pipeline import Examples, describe_sampling, read_examples
from hpa_tf.pipeline.examples import UnknownCells
from hpa_tf.recipes import ALL_FOLDS, Recipe, differences, load, recipe_to_json, save
from hpa_tf.recipes.optimization import best_epoch
from hpa_tf.recipes.run_folder import (
    BEST_WEIGHTS,
    CHECKPOINTS,
    DATASET,
    INPUTS,
    RECIPE,
    RESULT,
    WEIGHTS,
    epoch_weights,
    is_finished,
)
from hpa_tf.records import Manifest, manifest_json, read_manifest
from hpa_tf.training import checkpoint
from hpa_tf.training.inputs import check_batch_size
from hpa_tf.training.logs import Logs, final_table
from hpa_tf.training.loop import Loop, Pace, Progress
from hpa_tf.training.preemption import Preemption
from hpa_tf.training.strategy import worker
from hpa_tf.training.trainee import Trainee


@dataclass(frozen=True)
class Data:
    """What is trained on."""

    data: str
    """Data folder that tfrecords_builder wrote, local or remote."""
    labels: str | None = None
    """Cell table whose labels replace those of the data folder, by image_id and cell."""
    unknown_cells: UnknownCells = "error"
    """Cells that the labels table lacks: error, keep (the data folder's labels) or drop."""
    clean: bool = True
    """Leave out cells cut by the frame and outliers, unless their image has mitotic spindles."""
    validation_labels: str | None = None
    """Cell table, such as hand grades: validation measures, and chooses the epoch, by its known labels of cells of the
    validation fold alone."""

    def validation_examples(self, fold: int) -> Examples:
        """Return the cells that validation measures: those of a fold.

        Raises:
            InputError: The table of validation labels knows none of them.
        """
        if self.validation_labels is None:
            return self.examples({fold})
        found = read_examples(
            self.data, folds={fold}, clean=self.clean, labels=self.validation_labels, unknown_cells="drop"
        )
        if not found.known.any():
            what = f"no known label of a cell of fold {fold}"
            fix = (
                "grade cells of that fold (python -m hpa_tf.grading --fold), or choose another --recipe.validation-fold"
            )
            raise InputError(self.validation_labels, what, "labels of validation cells", fix)
        return found.select(found.known.any(axis=1))

    def examples(self, folds: set[int] | None) -> Examples:
        """Return the cells of some folds; None = all."""
        return read_examples(
            self.data, folds=folds, clean=self.clean, labels=self.labels, unknown_cells=self.unknown_cells
        )


@dataclass(frozen=True)
class Site:
    """Where a training runs."""

    strategy: tf.distribute.Strategy
    policy: str
    pace: Pace = field(default_factory=Pace)

    @property
    def is_chief(self) -> bool:
        """Tell whether this process is the one that writes."""
        return worker(self.strategy)[0] == 0


def train(recipe: Recipe, data: Data, out: str, site: Site) -> None:
    """Train one network into the run folder `out`; goes on where a stopped run left, does nothing if it is finished.

    Raises:
        InputError: `out` holds another run, or data, recipe and devices do not fit.
        Interrupted: Stopped on request.
        Diverged: The loss is no longer a number.
    """
    manifest = read_manifest(data.data)
    check_batch_size(recipe, site.strategy)
    training, validation = split(recipe, data, manifest)
    claim_folder(recipe, data, manifest, out, site)
    logs = Logs(out, site.is_chief)
    if is_finished(out):
        logs.say(f"{out} is finished: nothing to do")
        return
    trainee = Trainee(recipe, site.strategy, site.policy)
    if not checkpoint.steps_in(files.join(out, CHECKPOINTS)):
        weights.initialize(trainee.network, recipe.network, recipe.weights, recipe.view.channels)
        trainee.start_average()
    with Preemption() as preemption:
        progress = Loop(recipe, trainee, training, validation, logs).run(site.pace, preemption)
    logs.close()
    if site.is_chief:
        finish(recipe, manifest, out, progress)
        if validation is not None:
            row = progress.rows[best_epoch(progress.past)]
            logs.say(final_table(row, (validation.labels >= 0.5).sum(axis=0)))


def split(recipe: Recipe, data: Data, manifest: Manifest) -> tuple[Examples, Examples | None]:
    """Return the training cells and those of the validation fold (None = all folds are trained on).

    Raises:
        InputError: There is no such fold, or no other.
    """
    if recipe.validation_fold == ALL_FOLDS:
        if data.validation_labels is not None:
            fix = "give --recipe.validation-fold K: its cells are kept out of training"
            raise InputError("--validation-labels", "no validation fold", "a fold to measure", fix)
        return data.examples(None), None
    folds = set(range(manifest.num_folds))
    if recipe.validation_fold not in folds or len(folds) < 2:
        found = f"fold {recipe.validation_fold} of {manifest.num_folds}"
        fix = "--recipe.validation-fold -1 trains without validation"
        raise InputError("recipe.validation_fold", found, "one of two folds or more", fix)
    return data.examples(folds - {recipe.validation_fold}), data.validation_examples(recipe.validation_fold)


def claim_folder(recipe: Recipe, data: Data, manifest: Manifest, out: str, site: Site) -> None:
    """Write what identifies a run into its folder, or check that the folder holds the same run.

    Raises:
        InputError: It holds another one; names the fields that differ.
    """
    identity = {RECIPE: recipe_to_json(recipe), DATASET: manifest_json(manifest), INPUTS: _inputs(data, site)}
    for name in identity:
        if files.exists(files.join(out, name)):
            path = files.join(out, name)
            before = recipe_to_json(load(path)) if name == RECIPE else files.read_json(path)
            lines = differences(before, identity[name])
            if lines:
                shown = "; ".join(lines[:20]) + (f"; and {len(lines) - 20} more" if len(lines) > 20 else "")
                raise InputError(
                    files.join(out, name), f"another run ({shown})", "the same run", "choose another --out"
                )
    if not site.is_chief:
        return
    for folder in (out, files.join(out, CHECKPOINTS), files.join(out, WEIGHTS)):
        files.make_folder(folder)
    for name in (DATASET, INPUTS):
        files.write_json(files.join(out, name), identity[name])
    save(recipe, files.join(out, RECIPE))


def _inputs(data: Data, site: Site) -> dict:
    tables = {"labels_sha256": data.labels}
    if data.validation_labels:
        tables["validation_labels_sha256"] = data.validation_labels
    sums = {name: path and hashlib.sha256(files.read_bytes(path)).hexdigest() for name, path in tables.items()}
    return {
        **sums,
        "unknown_cells": data.unknown_cells if data.labels else None,
        "clean": data.clean,
        "precision": site.policy,
    }


def finish(recipe: Recipe, manifest: Manifest, out: str, progress: Progress) -> None:
    """Choose the weights that predict, export the SavedModel, and mark the run as finished."""
    epochs = len(progress.rows)
    if recipe.ensemble:
        shares = recipe.ensemble[-epochs:]  # fewer when the training stopped early
        chosen = {epoch_weights(epochs - len(shares) + i): share for i, share in enumerate(shares)}
    else:
        chosen = {BEST_WEIGHTS: 1.0}
    conclude(recipe, manifest, out, chosen, {"epochs": epochs, "best": progress.rows[best_epoch(progress.past)]})


def conclude(recipe: Recipe, manifest: Manifest, out: str, shares: Mapping[str, float], facts: Mapping) -> None:
    """Export the SavedModel and mark a run as finished.

    Args:
        recipe: How it was trained.
        manifest: What it was trained on.
        out: Run folder.
        shares: Weights files, below it, that predict, and their shares in the mean.
        facts: JSON values for the result.
    """
    export(recipe, manifest, out, max(shares, key=shares.get))
    files.write_json(files.join(out, RESULT), {"checkpoints": dict(shares), **facts})


def export(recipe: Recipe, manifest: Manifest, out: str, weights_name: str) -> None:
    """Write the SavedModel of one weights file: float32, one device, whatever the training ran on."""
    network = recipe.network.build(recipe.asked_view.specs())
    weights.load(network, files.join(out, weights_name))
    if not files.is_remote(out):
        serving.export(out, network, recipe, manifest)
        return
    with tempfile.TemporaryDirectory() as folder:
        serving.export(folder, network, recipe, manifest)
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                files.write_bytes(files.join(out, *path.relative_to(folder).parts), path.read_bytes())


def show_sampling(recipe: Recipe, data: Data) -> str:
    """Return the table of cells, expected and drawn cells by class, for the first epoch."""
    training, _ = split(recipe, data, read_manifest(data.data))
    return describe_sampling(training.drawn_by(recipe.view), recipe.sampling, recipe.seed).to_string(
        index=False, float_format="{:.1f}".format
    )

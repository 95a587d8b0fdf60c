"""From a recipe and a data folder to a finished run folder: check, train (or go on), choose weights, export."""

import shlex
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

from hpa_tf import files, interrupts, serving
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.image_table import ADD_FIELDS
from hpa_tf.models import weights
from hpa_tf.pipeline import Examples, describe_sampling, whole_cells
from hpa_tf.pipeline.damage import check_shard_sizes, damage_explained
from hpa_tf.recipes import ALL_FOLDS, Recipe
from hpa_tf.recipes.optimization import Plateau, best_epoch
from hpa_tf.records import Manifest, read_manifest
from hpa_tf.run_folder import (
    BEST_WEIGHTS,
    CHECKPOINTS,
    epoch_weights,
    has_saved_model,
    is_finished,
    read_result,
    write_result,
)
from hpa_tf.training import checkpoint, start
from hpa_tf.training.claim import claimed
from hpa_tf.training.inputs import (
    check_antibodies,
    check_batch_size,
    check_epoch,
    check_validation_labels,
    field_size,
    warn_of_donors,
    warn_of_small_fields,
)
from hpa_tf.training.leaks import warn_of_other_antibodies, warn_of_seen_fold, who_may_have_seen
from hpa_tf.training.logs import Logs, final_table
from hpa_tf.training.loop import Loop, Progress, kept
from hpa_tf.training.model_card import CARD, write_card
from hpa_tf.training.preemption import Preemption
from hpa_tf.training.site import Data, Site
from hpa_tf.training.trainee import Trainee
from hpa_tf.training.validation import can_measure

FEWER_FOLDS = "build the data with fewer folds (--num-folds)"


def train(recipe: Recipe, data: Data, out: str, site: Site) -> None:
    """Train one network into the run folder `out`; goes on where a stopped run left.

    Of a finished run it makes the SavedModel again if that is missing, and nothing else.

    Raises:
        InputError: `out` holds another run, another training writes to it, or data, recipe and devices do not fit.
        Interrupted: Stopped on request.
        Diverged: The loss is no longer a number.
    """
    check_fields_together(recipe)
    manifest = read_manifest(data.data)
    check_batch_size(recipe, site.strategy)
    training, validation = split(recipe, data, manifest)
    check_examples(recipe, training, validation)
    check_fields(recipe, manifest)
    check_shard_sizes(manifest, records_of(recipe, training, validation))
    if site.is_chief and not is_finished(out):
        warn_of_small_fields(recipe, manifest)
        warn_of_tight_crops(recipe, manifest)
        warn_of_donors(recipe, training)
        warn_of_no_measure(recipe, validation)
        warn_of_seen_fold(recipe, manifest)
        warn_of_other_antibodies(recipe, manifest)
    with claimed(recipe, data, manifest, out, site):
        logs = Logs(out, site.is_chief)
        if is_finished(out):
            is_whole = has_saved_model(out)
            todo = "nothing to do" if is_whole else "its SavedModel is missing and is made again from its weights"
            logs.say(f"{out} is finished: {todo}")
            if site.is_chief:
                if not is_whole:
                    interrupts.keeps(f"{out} keeps its weights; the same command makes the SavedModel")
                    export(recipe, manifest, out, read_result(out)["checkpoints"])
                write_card(out)
            return
        progress = _train(recipe, training, validation, logs, site)
        interrupts.keeps(f"{out} keeps every epoch; the same command makes the SavedModel")
        if site.is_chief:
            finish(recipe, manifest, out, progress)
            if validation is not None:
                cells = (validation.labels >= 0.5).sum(axis=0)
                logs.say(final_table(scored(recipe, progress), cells, len(recipe.ensemble[-len(progress.rows) :])))
            command = f"python predict.py --run {shlex.quote(str(out))} --images DIR"
            logs.say(f"{out}: {CARD} says what it is. Next: {command}")
    interrupts.keeps(f"{out} is finished; the same command goes on with what is not")


def _train(recipe: Recipe, training: Examples, validation: Examples | None, logs: Logs, site: Site) -> Progress:
    steps = checkpoint.steps_in(files.join(logs.folder, CHECKPOINTS))
    interrupts.keeps(kept(logs.folder, steps[-1] if steps else 0))
    trainee = Trainee(recipe, site.strategy, site.policy)
    if not steps:
        start.initialize(trainee.network, recipe)
        trainee.start_average()
    with damage_explained(records_of(recipe, training, validation)), Preemption() as preemption:
        progress = Loop(recipe, trainee, training, validation, logs).run(site.pace, preemption)
    logs.close()
    return progress


def check_fields_together(recipe: Recipe) -> None:
    """Check that no field of a recipe is without effect beside the others.

    Raises:
        InputError: One is.
    """
    check_views(recipe)
    if recipe.validation_fold == ALL_FOLDS and (needs := what_validation_decides(recipe)):
        found = f"{' and '.join(needs)} without a validation fold, which decides"
        raise InputError("recipe.validation_fold", found, "a fold >= 0", "choose a fold, or leave that out")
    if recipe.optimization.measure == "loss" and type(recipe.asked_view) is not type(recipe.view):
        found = f"loss, of a network that is asked through a {type(recipe.asked_view).__name__}"
        expected = f"a {type(recipe.view).__name__}, as it is trained: the terms need its outputs"
        raise InputError("recipe.optimization.measure", found, expected, "choose mAP or AUC")


def what_validation_decides(recipe: Recipe) -> list[str]:
    """Return the names of the fields that have no effect without a validation."""
    optimization = recipe.optimization
    fields = {
        "schedule Plateau": isinstance(optimization.schedule, Plateau),
        "early_stopping": optimization.early_stopping > 0,
        f"measure {optimization.measure}": optimization.measure != "mAP",
    }
    return [name for name, is_set in fields.items() if is_set]


def check_views(recipe: Recipe) -> None:
    """Check that a network takes what it is shown while it is trained, and while it is asked.

    Raises:
        InputError: It does not.
    """
    network = recipe.network
    for name, view in (("view", recipe.view), ("asked", recipe.asked_view)):
        if type(view).__name__ not in network.views:
            found = f"{type(view).__name__} for {type(network).__name__}"
            raise InputError(f"recipe.{name}", found, " or ".join(network.views), "change it, or recipe.network")


def check_first(recipe: Recipe, manifest: Manifest) -> None:
    """Check what can be checked of one of several trainings before the first of them: days later it would be late.

    Raises:
        InputError: Its fields do not go together, it looks at fields of view and the data have none, or they have not
            the fold that it keeps out.
    """
    check_fields_together(recipe)
    check_fold(recipe, manifest)
    check_fields(recipe, manifest)


def check_fields(recipe: Recipe, manifest: Manifest) -> None:
    """Check that the data have fields of view where a network looks at them.

    Raises:
        InputError: They have none; it names the size that the network sees.
    """
    size = field_size(recipe)
    if size and not manifest.shards_of("fields"):
        found, expected = f"no fields of view, which {recipe.name} looks at", "a data folder with them"
        raise InputError("--data", found, expected, ADD_FIELDS.replace("SIZE", str(size)))


def check_fold(recipe: Recipe, manifest: Manifest) -> None:
    """Check that the data have cells of the fold that is kept out of training, if one is, and of another one.

    Raises:
        InputError: They have not.
    """
    fold, folds = recipe.validation_fold, manifest.folds_with_cells
    if fold == ALL_FOLDS or (fold in folds and len(folds) > 1):
        return
    found, expected = f"fold {fold} of {manifest.num_folds}", "one of two folds or more"
    fix = "--recipe.validation-fold -1 trains without validation"
    if manifest.num_folds > 1:
        expected = f"fold 0 to {manifest.num_folds - 1}"
        if fold < manifest.num_folds:
            found = f"{found}, and cells of fold {', '.join(map(str, folds))} alone"
            expected, fix = "a fold with cells, beside another one", f"{FEWER_FOLDS}; {fix}"
        if len(folds) > 1:
            fix = f"choose fold {' or '.join(map(str, folds))}; {fix}"
    raise InputError("recipe.validation_fold", found, expected, fix)


def check_examples(recipe: Recipe, training: Examples, validation: Examples | None) -> None:
    """Check that the cells have what a training needs: a batch, antibodies, and what its validation decides by.

    Raises:
        InputError: They have not.
    """
    check_antibodies(recipe, training)
    check_epoch(recipe, training)
    needs = what_validation_decides(recipe)
    if needs and validation is not None and not can_measure(recipe, validation):
        found = f"{' and '.join(needs)} of {recipe.name}, and {_nothing_to_measure(recipe)}"
        fix = "choose another fold, or measure loss (recipe.optimization.measure), or leave out what it decides"
        raise InputError("recipe.validation_fold", found, "a fold to decide by", fix)


def warn_of_no_measure(recipe: Recipe, validation: Examples | None) -> None:
    """Warn where validation measures nothing, so that the last epoch counts as the best."""
    if validation is not None and not can_measure(recipe, validation):
        found = f"{recipe.name}: {_nothing_to_measure(recipe)}"
        warnings.warn(f"{found}; the last epoch's weights are taken for the best", HpaWarning, 2)


def _nothing_to_measure(recipe: Recipe) -> str:
    beside = ", beside one known to be without it" if recipe.optimization.measure == "AUC" else ""
    return f"no cell of fold {recipe.validation_fold} with a class that it answers (label .5 or more){beside}"


def warn_of_tight_crops(recipe: Recipe, manifest: Manifest) -> None:
    """Warn where a network wants more of the image around a cell than is stored: it gets what there is."""
    crops = [getattr(view, "cell", view) for view in (recipe.view, recipe.asked_view) if view.reads == "cells"]
    wanted = max((max(crop.margin, int(crop.square == "grow")) for crop in crops), default=0)
    if manifest.margin < wanted:
        found = f"{recipe.name}: crops with {wanted} px or more around the cell, stored with {manifest.margin} px"
        fix = f"build the data with --margin {wanted} or more, or change recipe.view.margin and recipe.view.square"
        warnings.warn(f"{found}; {fix}", HpaWarning, 2)


def records_of(recipe: Recipe, *some: Examples | None) -> list[Examples]:
    """Return the examples whose records are read: cells, or their fields of view, as the recipe's views see them."""
    kinds = {view.reads for view in (recipe.view, recipe.asked_view)}
    return [one.fields if kind == "fields" else one for one in some if one is not None for kind in sorted(kinds)]


def split(recipe: Recipe, data: Data, manifest: Manifest) -> tuple[Examples, Examples | None]:
    """Return the training cells and those of the validation fold (None = all folds are trained on).

    Raises:
        InputError: There is no such fold, or no other, or a table of validation labels has no part in the validation.
    """
    check_validation_labels(recipe, data.validation_labels)
    if recipe.validation_fold == ALL_FOLDS:
        data.check_validation([ALL_FOLDS])
        examples = data.examples(None)
        return whole_cells(examples) if recipe.augmentation.cut else examples, None
    check_fold(recipe, manifest)
    others = set(range(manifest.num_folds)) - {recipe.validation_fold}
    validation = data.validation_examples(recipe.validation_fold)
    if recipe.asked_view.draws == "image":
        validation = data.with_their_images(validation)
    return data.examples(others), validation


def finish(recipe: Recipe, manifest: Manifest, out: str, progress: Progress) -> None:
    """Choose the weights that predict, export the SavedModel, and mark the run as finished."""
    epochs = len(progress.rows)
    if recipe.ensemble:
        shares = recipe.ensemble[-epochs:]  # fewer when the training stopped early
        chosen = {epoch_weights(epochs - len(shares) + i): share for i, share in enumerate(shares)}
    else:
        chosen = {BEST_WEIGHTS: 1.0}
    facts = {"epochs": epochs, "best": best_row(recipe, progress), "scored": scored(recipe, progress)}
    conclude(recipe, manifest, out, chosen, facts)


def best_row(recipe: Recipe, progress: Progress) -> dict:
    """Return the history row of the epoch that did best in validation; of the last one without validation."""
    return progress.rows[best_epoch(progress.past(recipe.optimization.measure))]


def scored(recipe: Recipe, progress: Progress) -> dict:
    """Return the history row that says how good what predicts is: with an ensemble that of its last epoch alone."""
    return progress.rows[-1] if recipe.ensemble else best_row(recipe, progress)


def conclude(recipe: Recipe, manifest: Manifest, out: str, shares: Mapping[str, float], facts: Mapping) -> None:
    """Export the SavedModel, mark a run as finished, and write its card.

    Args:
        recipe: How it was trained.
        manifest: What it was trained on.
        out: Run folder.
        shares: Weights files, below it, that predict, and their shares in the mean.
        facts: JSON values for the result.
    """
    export(recipe, manifest, out, shares)
    write_result(out, shares, {**facts, "may_have_seen_fold": who_may_have_seen(recipe, manifest) is not None})
    write_card(out)


def export(recipe: Recipe, manifest: Manifest, out: str, shares: Mapping[str, float]) -> None:
    """Write the SavedModel of the weights files that predict: float32, one device, whatever the training ran on."""
    network = []
    for name, share in shares.items():
        one = recipe.network.build(recipe.asked_view.specs())
        weights.load(one, files.join(out, name))
        network.append(serving.Checkpoint(Path(name).name.removesuffix(".weights.h5"), one, share))
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

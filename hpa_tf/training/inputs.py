"""The pipeline's batches, distributed over the replicas of a strategy."""

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from hpa_tf import cell_table
from hpa_tf.classes import CLASSES
from hpa_tf.errors import HpaWarning, InputError, counted
from hpa_tf.objectives import Antibodies
from hpa_tf.pipeline import Examples, evaluation_batches, training_batches
from hpa_tf.pipeline.batches import draws_per_epoch
from hpa_tf.pipeline.examples import ANTIBODY
from hpa_tf.recipes import Recipe
from hpa_tf.recipes.optimization import Cosine
from hpa_tf.records import Manifest
from hpa_tf.views import AnyView, Bag, Batch, Crop


def check_batch_size(recipe: Recipe, strategy: tf.distribute.Strategy) -> None:
    """Check that the replicas divide the batch.

    Raises:
        InputError: They do not.
    """
    size, replicas = recipe.optimization.batch_size, strategy.num_replicas_in_sync
    if size % replicas:
        fix = f"--recipe.optimization.batch-size {max(1, size // replicas) * replicas}"
        raise InputError("batch_size", f"{size} of {recipe.name} for {replicas} replicas", "a multiple", fix)


def check_epoch(recipe: Recipe, examples: Examples) -> None:
    """Check that an epoch has at least one batch.

    Raises:
        InputError: It has not.
    """
    size, draws = recipe.optimization.batch_size, draws_per_epoch(examples, recipe.view, recipe.sampling)
    if draws < size:
        found = f"{size} of {recipe.name} for an epoch of {counted(draws, recipe.view.draws)}"
        raise InputError("batch_size", found, "one batch or more", f"--recipe.optimization.batch-size {draws} or less")


def check_antibodies(recipe: Recipe, examples: Examples) -> None:
    """Check that training cells have antibodies, which a term of the objective tells apart, and the data not too many.

    Raises:
        InputError: They do not.
    """
    if not any(isinstance(term, Antibodies) for term in recipe.objective):
        return
    if (examples.antibodies < 0).all():
        found = f"no antibody of any cell (column {ANTIBODY!r} of the cell table)"
        fix = f"build the data with --columns {ANTIBODY}: the public list says it, other label tables need the column"
        raise InputError(examples.folder, found, "antibodies, for a term of the objective", fix)
    count = len(examples.table[ANTIBODY].cat.categories)
    if count > recipe.network.antibodies:
        found, fix = f"{recipe.network.antibodies} for {count} antibodies", f"--recipe.network.antibodies {count}"
        raise InputError("recipe.network.antibodies", found, "at least as many as the data have", fix)


def warn_of_donors(recipe: Recipe, examples: Examples) -> None:
    """Warn where cells of a class shall be pasted into other fields, and none is known, or only images that have it."""
    if not recipe.pastes:
        return
    paste = recipe.augmentation.paste
    donors = examples.known[:, paste.class_id] & (examples.labels[:, paste.class_id] >= paste.least)
    cells, own = (np.bincount(examples.image_of[chosen], minlength=1) for chosen in (slice(None), donors))
    of_donors = cells[: len(own)][own > 0]
    name = CLASSES[paste.class_id]
    if not donors.any():
        found = f"{recipe.name}: no training cell has the label {name} of {paste.least:g} or more"
        fix = "give such labels (--labels), or lower recipe.augmentation.paste.least"
        warnings.warn(f"{found}, so none is pasted into other fields; {fix}", HpaWarning, stacklevel=2)
    elif donors.sum() == of_donors.sum() and (of_donors > 1).any():
        found = f"{recipe.name}: every cell of {counted(len(of_donors), 'image')} has the label {name}"
        found += (
            ", as by labels of images, and any of them is pasted into other fields, whether it shows the class or not"
        )
        fix = "give labels of cells (--labels), or no pasting: --recipe.augmentation.paste.probability 0"
        warnings.warn(f"{found}; {fix}", HpaWarning, stacklevel=2)


def warn_of_unused_labels(recipes: Sequence[Recipe], labels: str | None) -> None:
    """Warn where a table of labels of cells is given to networks none of which learns from labels of cells.

    Likewise where it brings corrected labels of images, and some learn from those of the shards.
    """
    if labels is None:
        return
    of_images = [recipe.name for recipe in recipes if recipe.has_loss_of_images]
    if of_images and (table := _corrected_images(labels)):
        found = f"--labels {labels}: {', '.join(of_images)} learn from labels of images, which stay those of --data"
        fix = f"build the data again with the corrected ones (build --labels {table} --on-change rebuild)"
        warnings.warn(f"{found}; {fix}", HpaWarning, stacklevel=2)
    if any(recipe.learns_from_cells for recipe in recipes):
        return
    found = f"--labels {labels}: {', '.join(recipe.name for recipe in recipes)} learn from labels of images alone"
    fix = "the table only says which cells there are, how they are drawn, and what validation compares with"
    warnings.warn(f"{found}; {fix}", HpaWarning, stacklevel=2)


def _corrected_images(labels: str) -> str | None:
    """Return the name of the table of image labels that a table of labels was made from, if one was."""
    try:
        steps = cell_table.steps(labels) or []
    except (OSError, ValueError, InputError):  # said where the table is read
        return None
    tables = (name for step in steps if step["rule"] == "from_image" for name in step["inputs"] if name != "data")
    return next(tables, None)


def warn_of_schedules(recipes: Sequence[Recipe]) -> None:
    """Warn where the epochs of a training are not those over which its learning rate falls, by more than one."""
    for recipe in recipes:
        schedule, epochs = recipe.optimization.schedule, recipe.optimization.epochs
        if not isinstance(schedule, Cosine) or abs(schedule.epochs - epochs) <= 1:
            continue
        end = "does not come to its end" if schedule.epochs > epochs else "then stays at its lowest"
        found = f"{recipe.name}: the learning rate falls over {schedule.epochs:g} epochs of {epochs}, and {end}"
        fix = f"--recipe.optimization.schedule.epochs {epochs} lets it fall over all"
        warnings.warn(f"{found}; {fix}", HpaWarning, stacklevel=2)


def check_asked(before: Recipe, now: Recipe, arguments: Sequence[str]) -> None:
    """Check that a network whose view was given another size is not asked at the old one without a word.

    Nor with the old surroundings, square or margin of its cells.

    Args:
        before: The chosen recipe.
        now: With the changes of the command line.
        arguments: Of the command line.

    Raises:
        InputError: It is.
    """
    view, asked = now.view, now.asked
    if asked is None or asked.reads != view.reads:
        return
    named = {argument.partition("=")[0].replace("_", "-") for argument in arguments}
    compared = {"size": (side_of(before.view), side_of(view), asked.size)}
    crops = [one.cell if isinstance(one, Bag) else one for one in (before.view, view, asked)]
    if all(isinstance(crop, Crop) for crop in crops):
        compared |= {name: [getattr(crop, name) for crop in crops] for name in ("surroundings", "square", "margin")}
    for name, (old, trained, shown) in compared.items():
        option = f"--recipe.asked{'.cell' if isinstance(asked, Bag) else ''}.{name}"
        if trained in (old, shown) or named & {option, "--recipe.asked"}:
            continue
        found = f"{now.name}, trained with {name} {trained}, and still validated and asked with {shown}"
        fix = f"give {option} {trained}, too (or {option} {shown}, where two are meant)"
        raise InputError("recipe.view", found, f"one {name}", fix)


def side_of(view: AnyView) -> int:
    """Return the side that a view shrinks or enlarges what it sees to, px: of a cell's image, or of the whole field."""
    return getattr(view, "whole", 0) or view.size


def field_size(recipe: Recipe) -> int:
    """Return the side of the fields of view that a network sees, trained or asked, px; 0 = it sees cells alone."""
    views = [view for view in (recipe.view, recipe.asked_view) if view.reads == "fields"]
    return max(map(side_of, views), default=0)


def warn_of_small_fields(recipe: Recipe, manifest: Manifest) -> None:
    """Warn where a network sees fields of view larger than they are stored: they are enlarged, and show no more."""
    stored = int(manifest.options.get("fields") or 0)
    seen = field_size(recipe)
    if 0 < stored < seen:
        found = f"{recipe.name}: fields of view of {seen} px, stored with {stored} px, are enlarged and show no more"
        views = {name: view for name in ("view", "asked") if (view := getattr(recipe, name)) and view.reads == "fields"}
        sides = {f"recipe.{name}.{one}": getattr(views[name], one, 0) for name in views for one in ("whole", "size")}
        fix = f"lower {' and '.join(name for name, side in sides.items() if side > stored)}"
        warnings.warn(f"{found}; build the data with --fields {seen}, or {fix}", HpaWarning, 2)


def check_validation_labels(recipe: Recipe, labels: str | None) -> None:
    """Check that a table of labels of cells has a part in the measure by which a training is judged.

    Raises:
        InputError: It has none: that is a loss of labels of images alone, which are not in the table.
    """
    if labels is not None and recipe.optimization.measure == "loss" and not recipe.has_loss_of_cells:
        found = f"{recipe.name}, which is judged by a loss of labels of images"
        expected = "a measure that compares with the labels of cells in that table"
        raise InputError("--validation-labels", found, expected, "--recipe.optimization.measure mAP")


class Batches:
    """An iterator over global batches; `close` it when no more are wanted.

    Attributes:
        iterator: TensorFlow's own, for functions that take several batches themselves.
    """

    def __init__(self, dataset: tf.distribute.DistributedDataset):
        self.iterator = iter(dataset)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self.iterator)

    def close(self) -> None:
        """Free the iterator in a thread: TensorFlow waits until its tuning thread wakes up, which may take a minute."""
        held = [self.iterator]
        del self.iterator
        threading.Thread(target=held.clear, daemon=True).start()


def distributed_training_batches(
    strategy: tf.distribute.Strategy, recipe: Recipe, examples: Examples, epoch: int, first_step: int
) -> Batches:
    """Return an epoch's global batches from `first_step` on."""

    def make(shard: tuple[int, int]) -> tf.data.Dataset:
        return training_batches(
            examples,
            recipe.view,
            recipe.augmentation,
            recipe.sampling,
            batch_size=recipe.optimization.batch_size,
            seed=recipe.seed,
            epoch=epoch,
            first_step=first_step,
            shard=shard,
        )

    return Batches(_distribute(strategy, make, recipe.optimization.batch_size))


def distributed_evaluation_batches(strategy: tf.distribute.Strategy, recipe: Recipe, examples: Examples) -> Batches:
    """Return every cell once, in stored order; the last batch is padded."""
    size = recipe.optimization.batch_size

    def make(shard: tuple[int, int]) -> tf.data.Dataset:
        return evaluation_batches(examples, recipe.asked_view, batch_size=size, shard=shard)

    return Batches(_distribute(strategy, make, size))


def _distribute(strategy: tf.distribute.Strategy, make: Callable, batch_size: int) -> tf.distribute.DistributedDataset:
    def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        dataset = make((context.input_pipeline_id, context.num_input_pipelines))
        if context.num_replicas_in_sync > context.num_input_pipelines:
            dataset = dataset.rebatch(batch_size // context.num_replicas_in_sync, drop_remainder=True)
        return dataset

    return strategy.distribute_datasets_from_function(of_worker)

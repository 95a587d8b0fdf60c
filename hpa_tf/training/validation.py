"""Measure a network on the cells of its validation fold."""

import contextlib
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from hpa_tf import metrics
from hpa_tf.classes import CLASSES, NUM_CLASSES
from hpa_tf.models.network import LOCATED
from hpa_tf.pipeline import Examples, plan_everything
from hpa_tf.postprocessing import with_negative
from hpa_tf.recipes import Recipe
from hpa_tf.training.inputs import distributed_evaluation_batches

VALIDATION_LOSS = "validation_loss"
"""Column of the history, where the recipe is judged by it."""


def predict(
    strategy: tf.distribute.Strategy,
    predict_step: Callable,
    recipe: Recipe,
    examples: Examples,
    between: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Return the probabilities of each cell, float32 [N, classes of the network], in stored order.

    `between` is called before each batch.
    """
    rows = plan_everything(examples, recipe.asked_view, recipe.optimization.batch_size).rows
    parts = []
    with contextlib.closing(distributed_evaluation_batches(strategy, recipe, examples)) as batches:
        for _ in range(len(rows) // recipe.optimization.batch_size):
            between()
            parts.append(predict_step(next(batches)).numpy())
    found = np.concatenate(parts)  # [E, K or 1, classes]
    probabilities = np.full((len(examples), found.shape[-1]), np.nan, np.float32)
    is_real = rows >= 0
    probabilities[rows[is_real]] = np.broadcast_to(found, (*rows.shape, found.shape[-1]))[is_real]
    return probabilities


def mean_loss(
    strategy: tf.distribute.Strategy,
    loss_step: Callable,
    recipe: Recipe,
    examples: Examples,
    between: Callable[[], None] = lambda: None,
) -> float:
    """Return the mean loss of the examples through which a network is asked; arguments as of `predict`."""
    rows = plan_everything(examples, recipe.asked_view, recipe.optimization.batch_size).rows
    sums = np.zeros(2)
    with contextlib.closing(distributed_evaluation_batches(strategy, recipe, examples)) as batches:
        for _ in range(len(rows) // recipe.optimization.batch_size):
            between()
            sums += loss_step(next(batches)).numpy()
    return float(sums[0] / sums[1])


def of_all_classes(probabilities: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Return the answer [N, classes] of a network as [N, 19]; NaN for classes that it does not answer.

    Negative is derived where the network has the others.
    """
    if tuple(classes) == LOCATED:
        return with_negative(probabilities)
    whole = np.full((len(probabilities), NUM_CLASSES), np.nan, probabilities.dtype)
    whole[:, list(classes)] = probabilities
    return whole


def has_cells(examples: Examples) -> np.ndarray:
    """Return for each class whether a cell has it, by a known label of .5 or more: bool [19]."""
    return metrics.has_positive(examples.labels, examples.known)


def can_measure(recipe: Recipe, examples: Examples) -> bool:
    """Tell whether cells have what the measure by which a recipe's network is judged compares with."""
    name, classes = recipe.optimization.measure, recipe.network.classes
    if name == "loss":
        return True
    return not np.isnan(measure(examples, np.zeros((len(examples), len(classes)), np.float32), classes)[name])


def measure(examples: Examples, probabilities: np.ndarray, classes: Sequence[int] = LOCATED) -> dict[str, float]:
    """Return a history row's validation columns: means over classes, and the AP of each class that cells have.

    Args:
        examples: N cells.
        probabilities: [N, classes] of a network; see `of_all_classes`.
        classes: Those that it answers; the others are not measured.

    Source: METHODS 3 (soft-label AP); which classes are measured is ours: softened labels are above 0 everywhere.
    """
    probabilities = of_all_classes(probabilities, classes)
    known = examples.known & ~np.isnan(probabilities)
    precision = metrics.soft_average_precision(examples.labels, probabilities, known & has_cells(examples))
    return {
        "mAP": metrics.mean_over_classes(precision),
        "AUC": metrics.mean_over_classes(metrics.area_under_curve(examples.labels, probabilities, known)),
        "calibration_error": metrics.mean_over_classes(
            metrics.calibration_error(examples.labels, probabilities, known)
        ),
        **{f"AP: {name}": float(value) for name, value in zip(CLASSES, precision, strict=True)},
    }

"""Measure a network on the cells of its validation fold."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from hpa_tf import metrics
from hpa_tf.classes import CLASSES
from hpa_tf.pipeline import Examples
from hpa_tf.postprocessing import with_negative
from hpa_tf.recipes import Recipe
from hpa_tf.training.inputs import distributed_evaluation_batches


def predict(strategy: tf.distribute.Strategy, predict_step: Callable, recipe: Recipe, examples: Examples) -> np.ndarray:
    """Return the probabilities of each example, float32 [N, 18], in stored order."""
    batches = distributed_evaluation_batches(strategy, recipe, examples)
    count, size = len(examples), recipe.optimization.batch_size
    parts = [predict_step(next(batches)).numpy() for _ in range(-(-count // size))]
    return np.concatenate(parts)[:count]


def measure(examples: Examples, probabilities: np.ndarray) -> dict[str, float]:
    """Return a history row's validation columns: means over classes, and the AP of each class.

    Args:
        examples: N cells.
        probabilities: [N, 18]; Negative is derived.

    Source: METHODS 3 (soft-label AP).
    """
    probabilities = with_negative(probabilities)
    precision = metrics.soft_average_precision(examples.labels, probabilities, examples.known)
    return {
        "mAP": metrics.mean_over_classes(precision),
        "AUC": metrics.mean_over_classes(metrics.area_under_curve(examples.labels, probabilities, examples.known)),
        "calibration_error": metrics.mean_over_classes(
            metrics.calibration_error(examples.labels, probabilities, examples.known)
        ),
        **{f"AP: {name}": float(value) for name, value in zip(CLASSES, precision, strict=True)},
    }

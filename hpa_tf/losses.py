"""Losses of logits against soft labels: small frozen dataclasses that a recipe names, all with the same call.

    loss(labels, logits, weights) -> [B, K]
        labels   float32 [B, K, classes] in 0..1
        logits   float32 [B, K, classes]
        weights  float32 [B, K, classes]: how much each value counts; 0 = not known, or a row that is padding

Elementwise losses are the mean over the classes of loss x weight: an unknown value adds nothing, and every known value
of a batch weighs the same. A loss that looks at the whole batch returns its one number in every row.
"""

from dataclasses import dataclass

import tensorflow as tf
from keras import ops


@dataclass(frozen=True)
class Focal:
    """Focal loss on soft labels: (1 - pt)^gamma x BCE with pt = exp(-BCE). Source: METHODS 3 (model); W 6."""

    gamma: float = 2.0
    """How much well-predicted values count less."""

    def __call__(self, labels: tf.Tensor, logits: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """Return the mean over the classes, [B, K]."""
        return ops.mean(focal(labels, logits, self.gamma) * weights, axis=-1)


@dataclass(frozen=True)
class CrossEntropy:
    """Binary cross-entropy: -(positive_weight y log p + (1 - y) log(1 - p))."""

    positive_weight: float = 1.0
    """Weight of the positive part."""

    def __call__(self, labels: tf.Tensor, logits: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """Return the mean over the classes, [B, K]."""
        if self.positive_weight == 1:
            return ops.mean(focal(labels, logits, 0) * weights, axis=-1)
        # -log p = softplus(-z), -log(1 - p) = softplus(z)
        positive, negative = ops.softplus(-logits), ops.softplus(logits)
        return ops.mean((self.positive_weight * labels * positive + (1 - labels) * negative) * weights, axis=-1)


@dataclass(frozen=True)
class FocalSum:
    """Team 1's focal loss: the sum over the classes of BCE x sigmoid(-z (2 y - 1))^2.

    On labels of 0 and 1 it is `Focal(2)` but for the sum instead of the mean. Source: SYSTEMS 1d.
    """

    def __call__(self, labels: tf.Tensor, logits: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """Return the sum over the classes, [B, K]."""
        share = ops.square(ops.sigmoid(-logits * (2 * labels - 1)))
        return ops.sum(focal(labels, logits, 0) * share * weights, axis=-1)


@dataclass(frozen=True)
class SquaredError:
    """Mean square of sigmoid(z) - y: for students of an ensemble's probabilities. Source: SYSTEMS 3 (Z, h)."""

    def __call__(self, labels: tf.Tensor, logits: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """Return the mean over the classes, [B, K]."""
        return ops.mean(ops.square(ops.sigmoid(logits) - labels) * weights, axis=-1)


def focal(labels: tf.Tensor, logits: tf.Tensor, gamma: float) -> tf.Tensor:
    """Return the focal loss on soft labels, elementwise: (1 - pt)^gamma * BCE with pt = exp(-BCE).

    Args:
        labels: 0..1, any shape.
        logits: Same shape.
        gamma: >= 0; 0 gives binary cross-entropy.

    Source: METHODS 3 (model).
    """
    # max(x, 0) - x y + log(1 + exp(-|x|)): no overflow for any logit
    loss = ops.maximum(logits, 0) - logits * labels + ops.log1p(ops.exp(-ops.abs(logits)))
    if gamma == 0:
        return loss
    # -expm1(-loss) = 1 - pt without cancellation; the maximum keeps pow's gradient finite where the loss is 0
    return ops.power(ops.maximum(-ops.expm1(-loss), 1e-12), gamma) * loss

"""Team 1's losses that look at more than one value at a time; called as those of `hpa_tf.losses`.

SymmetricLovasz   ranks the classes of each row
HardNegatives     ranks the examples of a batch for each class
ArcFace           a margin between antibodies
"""

import math
from dataclasses import dataclass

import tensorflow as tf
from keras import ops

from hpa_tf.losses import focal

_FAR_BELOW = -1e9
ARCFACE_MARGIN, ARCFACE_SCALE = 0.5, 30.0


@dataclass(frozen=True)
class SymmetricLovasz:
    """Lovasz hinge over the classes of each row, for present and for absent ones. Source: SYSTEMS 1d; Berman 2018.

    A class counts wholly or, where its weight is 0, not at all.
    """

    def __call__(self, labels: tf.Tensor, logits: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """Return (hinge of the labels + hinge of their opposite) / 2, [B, K]."""
        known = ops.cast(weights > 0, "float32")
        present, absent = _lovasz_hinge(labels, logits, known), _lovasz_hinge(1 - labels, -logits, known)
        return (present + absent) / 2


def _lovasz_hinge(labels: tf.Tensor, logits: tf.Tensor, known: tf.Tensor) -> tf.Tensor:
    errors = ops.where(known > 0, 1 - logits * (2 * labels - 1), _FAR_BELOW)
    order = ops.argsort(-errors, axis=-1)
    present, absent = (ops.take_along_axis(one * known, order, axis=-1) for one in (labels, 1 - labels))
    total = ops.sum(present, axis=-1, keepdims=True)
    union = total + ops.cumsum(absent, axis=-1)
    jaccard = 1 - (total - ops.cumsum(present, axis=-1)) / ops.maximum(union, 1e-9)
    steps = jaccard - ops.concatenate([ops.zeros_like(jaccard[..., :1]), jaccard[..., :-1]], axis=-1)
    # back in the order of the classes: the gradient of sorted errors would have no static shape
    steps = ops.take_along_axis(steps, ops.argsort(order, axis=-1), axis=-1)
    return ops.sum(ops.relu(errors) * ops.stop_gradient(steps), axis=-1)


@dataclass(frozen=True)
class HardNegatives:
    """Cross-entropy of each class over its positives and its N highest negatives in the batch. Source: SYSTEMS 1d.

    N = min(n-, n+ + max(2, floor(share n-)), floor(most n-) + 2). The batch is that of all replicas.
    """

    share: float = 0.5
    """Negatives beside as many as there are positives, of all negatives."""
    most: float = 0.7
    """Largest share of the negatives, before 2 are added."""

    def __call__(self, labels: tf.Tensor, logits: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """Return the mean over the classes of the mean over the chosen rows; the same number in every row, [B, K]."""
        rows, classes = ops.shape(logits)[:2], logits.shape[2]
        whole_batch = _of_all_replicas(ops.stack([labels, logits, weights], axis=1))
        labels, logits, weights = (ops.reshape(whole_batch[:, i], (-1, classes)) for i in range(3))
        known = weights > 0
        positive = known & (labels > 0)
        negative = known & (labels == 0)
        num_positive, num_negative = (ops.sum(ops.cast(one, "float32"), axis=0) for one in (positive, negative))
        wanted = num_positive + ops.maximum(2.0, ops.floor(self.share * num_negative))
        wanted = ops.minimum(num_negative, ops.minimum(wanted, ops.floor(self.most * num_negative) + 2))
        heights = ops.transpose(ops.stop_gradient(ops.where(negative, logits, _FAR_BELOW)))
        rank = ops.argsort(ops.argsort(-heights, axis=1), axis=1)  # along axis 0 oneDNN complains of whole numbers
        chosen = positive | (negative & (ops.transpose(ops.cast(rank, "float32")) < wanted))
        chosen = ops.cast(chosen, "float32")
        mean = ops.sum(focal(labels, logits, 0) * chosen * weights, axis=0) / ops.maximum(ops.sum(chosen, axis=0), 1.0)
        return ops.mean(mean) * ops.ones(rows)


def _of_all_replicas(values: tf.Tensor) -> tf.Tensor:
    """Return the values [B, ...] of every replica, one after the other, [replicas B, ...]; each gets its gradients."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return values
    # a sum of slots of which each replica fills its own: unlike a gather its shape is static, as TPUs need
    own = tf.one_hot(context.replica_id_in_sync_group, context.num_replicas_in_sync)
    slots = ops.where(ops.reshape(own, (-1, *[1] * len(values.shape))) > 0, values, 0.0)
    return ops.reshape(context.all_reduce(tf.distribute.ReduceOp.SUM, slots), (-1, *values.shape[1:]))


def arc_face(cosines: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Return (CE(30 c') + CE(c)) / 2 of each example, float32 [B]; c' has the target's angle widened by .5.

    Where the angle would pass pi, c' = c - .5 sin(pi - .5). Examples without an id add nothing.

    Args:
        cosines: Between an embedding and each id's direction, float32 [B, ids].
        targets: int [B], the id; -1 = none.

    Source: SYSTEMS 1d; Deng et al. 2019.
    """
    known = ops.cast(targets >= 0, "float32")
    target = ops.one_hot(ops.maximum(targets, 0), cosines.shape[1], dtype="float32")
    cosines = ops.clip(cosines, -1.0, 1.0)
    sines = ops.sqrt(ops.maximum(1 - ops.square(cosines), 1e-12))
    widened = cosines * math.cos(ARCFACE_MARGIN) - sines * math.sin(ARCFACE_MARGIN)
    far = cosines <= math.cos(math.pi - ARCFACE_MARGIN)
    widened = ops.where(far, cosines - ARCFACE_MARGIN * math.sin(math.pi - ARCFACE_MARGIN), widened)
    with_margin = ARCFACE_SCALE * ops.where(target > 0, widened, cosines)
    losses = [ops.categorical_crossentropy(target, one, from_logits=True) for one in (with_margin, cosines)]
    return (losses[0] + losses[1]) / 2 * known

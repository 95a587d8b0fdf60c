"""Batch norm on TensorFlow's fused kernel: the numbers of Keras' layer in half the passes over memory.

Keras 3 computes mean, variance, scale and shift as separate operations, each of which reads the whole feature map;
EfficientNetB0 has 49 such layers. One training step at 128 px and batch 16 on 2 cores took a quarter to a third less
with the fused kernel (`benchmarks/train_step.py`), and its graph is smaller, so the first step comes sooner.
"""

import contextlib
from collections.abc import Iterator, Mapping

import keras
import numpy as np
import tensorflow as tf

from hpa_tf.models.noise import ExampleDropout


@keras.saving.register_keras_serializable("hpa_tf")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` over the last axis of [B, H, W, C], fused while training.

    Outside training, and where replicas are synchronised (the kernel knows one device only), it is Keras' own.
    """

    def call(self, inputs, training: bool | None = None, mask=None):
        """Normalise; while training, with the batch's statistics, which also move the moving ones."""
        if not training or self.synchronized or not self.trainable or mask is not None or len(inputs.shape) != 4:
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, self.gamma.value, self.beta.value, epsilon=self.epsilon, is_training=True
        )
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
        biased = variance * ((count - 1) / count)  # the kernel returns n / (n - 1) times what Keras keeps
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, biased)):
            moving.assign(moving * self.momentum + batch * (1 - self.momentum))
        return outputs


def moving_statistics(network: keras.Model) -> list[keras.Variable]:
    """Return the moving means and variances that each replica moves by its own examples while it trains."""
    layers = (layer for layer in network._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization))
    own = (layer for layer in layers if layer.trainable and not layer.synchronized)
    return [variable for layer in own for variable in (layer.moving_mean, layer.moving_variance)]


def batch_norms(network: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Return a network's layers of batch norm, those inside other layers, too."""
    return [layer for layer in network._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]


def re_estimate(network: keras.Model, inputs: Mapping[str, np.ndarray], share: float, batch_size: int) -> int:
    """Move the means and variances of batch norm towards those of other inputs; trained weights stay as they are.

    Each layer sees what the layers before it give under the statistics of the batch, as in training, but without
    dropout; means and variances are then those of all whole batches together.

    Args:
        network: Whose statistics are moved.
        inputs: [N, ...] each, by the network's names; a last batch that is not full is left out if there is another.
        share: Weight of the new statistics, 0..1; the old ones keep the rest.
        batch_size: Examples a batch.

    Returns:
        The number of layers; 0 = the network has no batch norm.
    """
    layers = batch_norms(network)
    if not layers:
        return 0
    old = [(layer.moving_mean.numpy(), layer.moving_variance.numpy()) for layer in layers]
    count = len(next(iter(inputs.values())))
    starts = range(0, max(1, count - batch_size + 1), batch_size)
    means, squares = ([0.0] * len(layers) for _ in range(2))
    with _statistics_of_each_batch(network, layers):
        for start in starts:
            network({name: tf.constant(x[start : start + batch_size]) for name, x in inputs.items()}, training=True)
            for i, layer in enumerate(layers):
                mean = layer.moving_mean.numpy().astype(np.float64)
                means[i] += mean / len(starts)
                squares[i] += (layer.moving_variance.numpy() + mean**2) / len(starts)
    for layer, (old_mean, old_variance), mean, square in zip(layers, old, means, squares, strict=True):
        layer.moving_mean.assign((1 - share) * old_mean + share * mean)
        layer.moving_variance.assign((1 - share) * old_variance + share * np.maximum(square - mean**2, 0))
    return len(layers)


@contextlib.contextmanager
def _statistics_of_each_batch(network: keras.Model, layers: list[keras.layers.BatchNormalization]) -> Iterator[None]:
    """While training, moving statistics are those of the last batch, and nothing is dropped."""
    dropouts = [layer for layer in network._flatten_layers() if isinstance(layer, ExampleDropout)]
    momenta, rates = [layer.momentum for layer in layers], [layer.rate for layer in dropouts]
    try:
        for layer in layers:
            layer.momentum = 0.0
        for layer in dropouts:
            layer.rate = 0.0
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for layer, rate in zip(dropouts, rates, strict=True):
            layer.rate = rate

"""Batch norm on TensorFlow's fused kernel: the numbers of Keras' layer in half the passes over memory.

Keras 3 computes mean, variance, scale and shift as separate operations, each of which reads the whole feature map;
EfficientNetB0 has 49 such layers. One training step at 128 px and batch 16 on 2 cores took a quarter to a third less
with the fused kernel (`benchmarks/train_step.py`), and its graph is smaller, so the first step comes sooner.
"""

import keras
import tensorflow as tf


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

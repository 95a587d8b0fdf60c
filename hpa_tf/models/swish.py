"""Swish with a gradient that passes over memory once on a CPU.

TensorFlow runs the six operations of its own gradient one after the other, each through memory; XLA makes one loop of
them. EfficientNetB0 has 33 such layers, and a training step at 128 px and batch 16 takes a tenth less processor time
(`benchmarks/train_step.py`). The values, and every graph without a gradient, are those of `tf.nn.silu`.
"""

import sys

import keras
import tensorflow as tf


def runs_on_cpu() -> bool:
    """Tell whether TensorFlow has no GPU and no TPU here."""
    return all(device.device_type == "CPU" for device in tf.config.list_logical_devices())


@keras.saving.register_keras_serializable("hpa_tf")
def swish(x: tf.Tensor) -> tf.Tensor:
    """Return x * sigmoid(x), of any shape and floating type. Source: Ramachandran et al. 2017."""
    return _with_gradient(x)


@tf.custom_gradient
def _with_gradient(x: tf.Tensor) -> tf.Tensor:
    one_loop = runs_on_cpu() and sys.platform == "linux"  # the other wheels for CPUs come without XLA's compiler
    return x * tf.sigmoid(x), lambda upstream: (_compiled_gradient if one_loop else _gradient)(x, upstream)


def _gradient(x: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    share = tf.sigmoid(x)
    return upstream * share * (1 + x * (1 - share))


_compiled_gradient = tf.function(_gradient, jit_compile=True)

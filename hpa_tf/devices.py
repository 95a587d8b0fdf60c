"""The devices of this machine, for training, prediction and segmentation alike."""

import contextlib
import warnings

import tensorflow as tf

from hpa_tf.errors import HpaWarning


def find_gpus() -> list[tf.config.PhysicalDevice]:
    """Return the GPUs of this machine; their memory is taken as it is needed, not all at once."""
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        with contextlib.suppress(RuntimeError):  # already in use: then it is set
            tf.config.experimental.set_memory_growth(gpu, True)
    return gpus


def mirrored_strategy() -> tf.distribute.MirroredStrategy:
    """Return the strategy of --strategy mirrored: all GPUs, or all logical CPU devices where there is none."""
    gpus = tf.config.list_logical_devices("GPU")
    devices = gpus or tf.config.list_logical_devices("CPU")
    if not gpus:
        text = f"--strategy mirrored found no GPU: it runs on {len(devices)} logical CPU device(s)"
        warnings.warn(text, HpaWarning, stacklevel=3)
    elif len(gpus) == 1:
        warnings.warn(f"--strategy mirrored found one device: {gpus[0].name}", HpaWarning, stacklevel=3)
    return tf.distribute.MirroredStrategy([device.name for device in devices])

"""The devices of this machine, for training, prediction and segmentation alike."""

import contextlib
import re
import warnings
from collections.abc import Iterator

import tensorflow as tf

from hpa_tf.errors import HpaWarning, InputError

_NO_MEMORY = re.compile(r"Failed to allocate (?:memory\b|\d+ bytes).*|std::bad_alloc|bad allocation")


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


@contextlib.contextmanager
def memory_explained(smaller: str) -> Iterator[None]:
    """Turn a runtime's word for too little memory inside the block into an error that says what to do.

    The runtimes are Python, TensorFlow, onnxruntime and OpenVINO.

    Args:
        smaller: What makes a batch smaller.

    Raises:
        InputError: A batch does not fit.
    """
    try:
        yield
    except Exception as error:
        said = _NO_MEMORY.search(str(error))  # onnxruntime and OpenVINO have no class of errors for it
        if said is None and not isinstance(error, tf.errors.ResourceExhaustedError | MemoryError):
            raise
        reason = (said[0] if said else str(error).partition("\n")[0])[:200] or type(error).__name__
        found = f"not enough memory ({reason})"
        raise InputError("device", found, "memory for a batch", f"{smaller}, or a device with more memory") from error

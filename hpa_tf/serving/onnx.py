"""A network as ONNX: float32 [B, S, S, 4] prepared images -> probabilities [B, 19] and embedding. Extra: [onnx].

Preparation stays in TensorFlow; ONNX holds the network alone, for runtimes that are faster on CPUs.
"""

import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from hpa_tf import files
from hpa_tf.errors import InputError
from hpa_tf.serving.loading import Served, load

OPSET = 17
FILE = "onnx/network.onnx"
TOLERANCE = 1e-4
"""Largest difference of a probability between TensorFlow and another runtime."""


def to_onnx(served: Served, outputs: Sequence[str] | None = None) -> bytes:
    """Convert a served network.

    Args:
        served: The network.
        outputs: Names of the outputs to keep; None = all.

    Raises:
        InputError: tf2onnx is not installed.
    """
    try:
        import tf2onnx
    except ImportError as error:
        raise InputError("tf2onnx", "it is not installed", "tf2onnx", "pip install 'hpa_tf[onnx]'") from error
    spec = tf.TensorSpec([None, served.size, served.size, len(served.recipe.view.channels)], tf.float32, "image")

    @tf.function(input_signature=[spec])
    def infer(image: tf.Tensor) -> dict[str, tf.Tensor]:
        answer = served.signatures["prepared"](image=image)
        return {name: answer[name] for name in outputs or answer}

    model, _ = tf2onnx.convert.from_function(infer, [spec], opset=OPSET)
    return model.SerializeToString()


def export_onnx(run_folder: str | os.PathLike) -> tuple[str, float]:
    """Write `RUN/onnx/network.onnx` and compare it with TensorFlow under onnxruntime.

    Returns:
        The path, and the largest difference of a probability on random images.

    Raises:
        InputError: The run has no SavedModel, a package is missing, or the difference is too large.
    """
    served = load(run_folder)
    data = to_onnx(served)
    images = np.random.default_rng(0).random(
        (4, served.size, served.size, len(served.recipe.view.channels)), np.float32
    )
    difference = check(data, served, images)
    path = os.path.join(run_folder, FILE)
    files.make_folder(os.path.dirname(path))
    files.write_bytes(path, data)
    return path, difference


def check(data: bytes, served: Served, images: np.ndarray) -> float:
    """Return the largest difference of a probability between onnxruntime and TensorFlow.

    Args:
        data: The network as ONNX.
        served: The same network.
        images: float32 [B, S, S, 4].

    Raises:
        InputError: onnxruntime is not installed, or the difference is too large.
    """
    expected = served.signatures["prepared"](image=tf.constant(images))["probabilities"].numpy()
    difference = float(np.abs(onnx_session(data).run(["probabilities"], {"image": images})[0] - expected).max())
    if not difference <= TOLERANCE:
        raise InputError(
            served.folder, f"a difference of {difference:.2g}", f"at most {TOLERANCE}", "stay with TensorFlow"
        )
    return difference


def onnx_session(data: bytes):
    """Return an onnxruntime session on all cores that sleeps, not spins, while it waits.

    Raises:
        InputError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError("onnxruntime", "it is not installed", "onnxruntime", "pip install 'hpa_tf[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the workers need the cores
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

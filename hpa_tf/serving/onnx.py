"""A network as ONNX: its prepared inputs -> probabilities and embedding. Extra: [onnx].

Of a network of single crops: image, float32 [B, S, S, C] -> probabilities [B, 19]. Of bags and whole fields: the inputs
of their view by name, such as image, masks and present -> probabilities [B, K or 1, 19].

Preparation stays in TensorFlow; ONNX holds the network alone, for runtimes that are faster on CPUs.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from hpa_tf import files, run_folder
from hpa_tf.errors import InputError
from hpa_tf.serving.loading import Served, load
from hpa_tf.worker_processes import num_cores

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

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
        InputError: tf2onnx is not installed, or does not know an operation of the network.
    """
    try:
        import tf2onnx
    except ImportError as error:
        raise InputError("tf2onnx", "it is not installed", "tf2onnx", "pip install 'hpa_tf[onnx]'") from error
    given = served.recipe.asked_view.specs().items()
    specs = [tf.TensorSpec([None, *one.shape], one.dtype, name) for name, one in given]

    @tf.function(input_signature=specs)
    def infer(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        answer = served.signatures["prepared"](**{spec.name: one for spec, one in zip(specs, inputs, strict=True)})
        return {name: answer[name] for name in outputs or answer}

    try:
        model, _ = tf2onnx.convert.from_function(infer, specs, opset=OPSET)
    except ValueError as error:
        found = f"a network that ONNX cannot hold ({str(error).splitlines()[0][:200]})"
        raise InputError(served.folder, found, "operations that tf2onnx knows", "--runtime tensorflow") from error
    return model.SerializeToString()


def names_in(data: bytes) -> tuple[list[str], list[str]]:
    """Return the names of the inputs and outputs of an ONNX file."""
    import onnx

    graph = onnx.load_from_string(data).graph
    return [one.name for one in graph.input], [one.name for one in graph.output]


def export_onnx(run: str | os.PathLike, out: str | os.PathLike | None = None) -> tuple[str, float]:
    """Write a run's network as an ONNX file and compare it with TensorFlow under onnxruntime.

    Args:
        run: Run folder, local or remote, or "starter".
        out: The file to write; None = `RUN/onnx/network.onnx`.

    Returns:
        The path, and the largest difference of a probability on random images.

    Raises:
        InputError: The run has no SavedModel, or no folder of its own here and `out` is None; a package is missing; the
            difference is too large; or the file cannot be written.
    """
    if out is None and (files.is_remote(run) or run_folder.is_starter(str(run))):
        found = f"no file to write, and {run} is no run folder on this machine"
        raise InputError("--out", found, "a file to write", "--out network.onnx")
    path = os.path.join(run, FILE) if out is None else str(out)
    served = load(run)
    files.check_can_be_written("--out", path)
    data = to_onnx(served)
    difference = check(data, served, _examples(served))
    files.write_bytes(path, data)
    return path, difference


def _examples(served: Served) -> dict[str, np.ndarray]:
    """Return inputs of 4 examples: random pixels, all cells there; a few rows of pixels for each in the masks."""
    rng, view = np.random.default_rng(0), served.recipe.asked_view
    inputs = {name: np.ones((4, *spec.shape), spec.dtype) for name, spec in view.specs().items()}
    inputs["image"] = rng.random(inputs["image"].shape, np.float32)
    if "masks" in inputs:
        inputs["masks"][:] = (np.arange(view.size) % (view.num_cells + 1))[:, None]
    return inputs


def check(data: bytes, served: Served, inputs: dict[str, np.ndarray]) -> float:
    """Return the largest difference of a probability between onnxruntime and TensorFlow.

    Args:
        data: The network as ONNX.
        served: The same network.
        inputs: By name, each [B, ...].

    Raises:
        InputError: onnxruntime is not installed, or the difference is too large.
    """
    tensors = {name: tf.constant(value) for name, value in inputs.items()}
    expected = served.signatures["prepared"](**tensors)["probabilities"].numpy()
    session = onnx_session(data)
    given = {one.name: inputs[one.name] for one in session.get_inputs()}
    found = session.run(["probabilities"], given)[0]
    same = np.isnan(found) == np.isnan(expected)  # NaN: classes that the network does not answer
    difference = float(np.nanmax(np.abs(found - expected), initial=0)) if same.all() else np.inf
    if not difference <= TOLERANCE:
        raise InputError(
            served.folder, f"a difference of {difference:.2g}", f"at most {TOLERANCE}", "stay with TensorFlow"
        )
    return difference


def onnx_session(data: bytes) -> "InferenceSession":
    """Return an onnxruntime session on all cores that sleeps, not spins, while it waits.

    Raises:
        InputError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError("onnxruntime", "it is not installed", "onnxruntime", "pip install 'hpa_tf[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the workers need the cores
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

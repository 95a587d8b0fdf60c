"""A network's weights as one small file: float16 arrays by layer, half the size of a run's weights.

Rounding to float16 keeps 3 digits of each weight; batch norm's variances can be too large or small for it, so that
arrays that do not survive within `_LARGEST_ERROR` stay float32. A .npz without pickles: nothing in it is run.
"""

import io
import os
from collections.abc import Iterator

import keras
import numpy as np

from hpa_tf import files
from hpa_tf.errors import InputError

_LARGEST_ERROR = 2e-3
"""Largest relative error of an array, in the L2 norm, at which it is stored as float16."""


def pack(network: keras.Model, path: str | os.PathLike) -> None:
    """Write the weights of a network, atomically."""
    arrays = {
        f"{layer.name}/{number}": _smaller(array)
        for layer in layers_with_weights(network)
        for number, array in enumerate(layer.get_weights())
    }
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    files.write_bytes(path, stream.getvalue())


def unpack(network: keras.Model, path: str | os.PathLike) -> None:
    """Set the weights of a network of the same kind, float32 again.

    Raises:
        InputError: The file is missing, damaged, or of another network.
    """
    if not files.exists(path):
        raise InputError(path, "no such file", "packed weights", "install hpa_tf again")
    try:
        with np.load(io.BytesIO(files.read_bytes(path)), allow_pickle=False) as stored:
            arrays = {name: stored[name].astype(np.float32) for name in stored.files}
    except files.DAMAGED_NPZ as error:
        raise InputError(path, f"a damaged file ({error})", "packed weights", "install hpa_tf again") from error
    layers = list(layers_with_weights(network))
    wanted = {f"{layer.name}/{number}" for layer in layers for number in range(len(layer.weights))}
    if differing := sorted(wanted ^ arrays.keys()):
        found = f"other layers ({', '.join(differing[:3])}, {len(differing)} in all)"
        raise InputError(path, found, f"the weights of {network.name}", "use the recipe they were made with")
    for layer in layers:
        try:
            layer.set_weights([arrays[f"{layer.name}/{number}"] for number in range(len(layer.weights))])
        except ValueError as error:
            found = f"weights that do not fit {layer.name}: {str(error).splitlines()[0]}"
            raise InputError(path, found, f"the weights of {network.name}", "use the same recipe") from error


def layers_with_weights(network: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yield the innermost layers that have weights, in order."""
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from layers_with_weights(layer)
        elif layer.weights:
            yield layer


def _smaller(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    error = np.linalg.norm(half.astype(np.float32) - array)  # infinite where a number is too large
    return half if error <= _LARGEST_ERROR * np.linalg.norm(array) else array.astype(np.float32)

"""Where a network's weights come from: random, ImageNet, a file, or another run.

ImageNet networks have 3 channels, ours 4 in the order red, green, blue, yellow: the first three take the filters of
the RGB image's channels, the fourth their mean or a copy of one of them.
"""

import os
import tempfile
from pathlib import Path

import keras
import numpy as np

from hpa_tf import files
from hpa_tf.classes import CHANNELS
from hpa_tf.errors import InputError
from hpa_tf.models import lite0
from hpa_tf.models.efficientnet import EfficientNet

NONE, IMAGENET = "none", "imagenet"
OWN_SUFFIX = ".weights.h5"
IMAGENET_SUFFIXES = (".h5", ".pth")
BEST_WEIGHTS = "weights/best" + OWN_SUFFIX
"""Where a run folder keeps the weights that did best in validation."""
STEM, HEAD = "stem_conv", "head_"
_DOWNLOADS = "https://storage.googleapis.com/keras-applications/"


def initialize(network: keras.Model, spec: object, source: str) -> None:
    """Set the weights of a freshly built network.

    Args:
        network: What `spec.build` returned.
        spec: The network's description in the recipe.
        source: "none" (leave them random), "imagenet", an ImageNet file of `keras.applications` without top (.h5) or of
            Lite0 (.pth), a weights file of a run (.weights.h5), or a run folder (its best weights).

    Raises:
        InputError: There is no such file, ImageNet weights cannot be had, or the weights do not fit the network.
    """
    if source == NONE:
        return
    if source != IMAGENET and not files.exists(source):
        expected = f"{NONE!r}, {IMAGENET!r}, a weights file or a run folder"
        raise InputError("--weights", f"{source!r}, which does not exist", expected, "check the path")
    if source != IMAGENET and not source.endswith(IMAGENET_SUFFIXES):
        load(network, files.join(source, BEST_WEIGHTS))
    elif source.endswith(OWN_SUFFIX):
        load(network, source)
    elif isinstance(spec, EfficientNet):
        _transplant(network, _imagenet_layers(spec, source), spec, source)
    else:
        fix = "use --weights none, or a recipe with an EfficientNet"
        raise InputError("--weights", f"ImageNet weights for {type(spec).__name__}", "an EfficientNet", fix)


def save(network: keras.Model, path: str | os.PathLike) -> None:
    """Write a network's weights, atomically, to a local or remote `.weights.h5` file."""
    with tempfile.TemporaryDirectory() as folder:
        local = os.path.join(folder, "all" + OWN_SUFFIX)
        network.save_weights(local)
        files.write_bytes(path, Path(local).read_bytes())


def load(network: keras.Model, path: str | os.PathLike) -> None:
    """Read weights that `save` wrote for the same kind of network.

    Raises:
        InputError: The file is missing, damaged, or belongs to another network.
    """
    if not files.exists(path):
        fix = "give a run that has finished an epoch, or a weights file"
        raise InputError(path, "no such file", "the weights of a run", fix)
    with tempfile.TemporaryDirectory() as folder:
        local = os.path.join(folder, "all" + OWN_SUFFIX)
        Path(local).write_bytes(files.read_bytes(path))
        try:
            network.load_weights(local)
        except (OSError, ValueError, KeyError) as error:
            found = f"weights that do not fit: {str(error).splitlines()[0]}"
            raise InputError(path, found, f"weights of {network.name}", "use the recipe they were made with") from error


def _imagenet_layers(spec: EfficientNet, source: str) -> dict[str, list[np.ndarray]]:
    """Return the ImageNet weights of each layer of the 3-channel network, by its name."""
    if spec.variant == "Lite0":
        return lite0.read_layers(lite0.installed_file() if source == IMAGENET else source)
    return {layer.name: layer.get_weights() for layer in _keras_network(spec, source).layers if layer.weights}


def _keras_network(spec: EfficientNet, source: str) -> keras.Model:
    """Return the 3-channel network of `keras.applications` with its ImageNet weights."""
    build = getattr(keras.applications, f"EfficientNet{spec.variant}")
    name = f"efficientnet{spec.variant.lower()}_notop.h5"
    try:
        return build(include_top=False, weights=source)
    except Exception as error:  # urllib, OSError and bare Exception, by kind of failure and Keras version
        if source != IMAGENET:
            found = f"a file that does not fit: {str(error).splitlines()[0]}"
            raise InputError(source, found, f"the Keras file {name}", f"download {_DOWNLOADS}{name}") from error
        cache = os.path.join(os.environ.get("KERAS_HOME", os.path.expanduser("~/.keras")), "models")
        fix = f"on a machine with internet download {_DOWNLOADS}{name}, put it into {cache}, or use --weights FILE"
        raise InputError("--weights imagenet", "no download (is there internet?)", name, fix) from error


def _transplant(network: keras.Model, donors: dict[str, list[np.ndarray]], spec: EfficientNet, source: str) -> None:
    """Copy the weights of every layer of the body, by name; the stem grows a 4th channel."""
    try:
        for layer in network.layers:
            if layer.weights and not layer.name.startswith(HEAD):
                arrays = donors[layer.name]
                layer.set_weights([inflate(*arrays, spec.stem)] if layer.name == STEM else arrays)
    except (KeyError, ValueError) as error:
        found = f"weights that do not fit: {str(error).splitlines()[0]}"
        raise InputError(source, found, f"weights of {network.name}", "use the file of that network") from error


def inflate(kernel: np.ndarray, fill: str) -> np.ndarray:
    """Return the stem's kernel [3, 3, 3, F] with a 4th input channel, [3, 3, 4, F].

    Args:
        kernel: Filters over red, green, blue.
        fill: "mean" of the three, or the channel to copy: "red", "green" or "blue".
    """
    fourth = kernel.mean(axis=2) if fill == "mean" else kernel[:, :, CHANNELS.index(fill)]
    return np.concatenate([kernel, fourth[:, :, None]], axis=2)

"""Where a network's weights come from: random, ImageNet, a file, or another run.

ImageNet networks have 3 channels, ours those of their view: red, green and blue take the filters of the RGB image's
channels, every other one their mean, a copy of one of them, or chance; a new stem (`network.Stem`) takes none.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import h5py
import keras
import numpy as np

from hpa_tf import checksums, files, starter
from hpa_tf.classes import CHANNELS
from hpa_tf.errors import InputError
from hpa_tf.models import packed
from hpa_tf.models.network import HEAD, Backbone, Network
from hpa_tf.models.published import is_published, load_published
from hpa_tf.models.torch_backbone import check_no_block_is_left_over
from hpa_tf.models.weights_file import HDF5, TENSORS, check_weights_file
from hpa_tf.run_folder import BEST_WEIGHTS, is_starter

NONE, IMAGENET = "none", "imagenet"
OWN_SUFFIX = ".weights.h5"
IMAGENET_SUFFIXES = HDF5 + TENSORS
_RGB = CHANNELS[:3]
_BACKBONE_OF = "backbone:"


def backbone_of(source: str) -> str | None:
    """Return RUN of `backbone:RUN`, a run that lends its backbone alone (`training.start`); None of other sources."""
    return source.removeprefix(_BACKBONE_OF) if source.startswith(_BACKBONE_OF) else None


def file_of(source: str) -> str | None:
    """Return the file, which need not be there, that a source of weights reads: a run's best weights, or itself.

    None = it has no file of its own: "none", "imagenet" and "starter".
    """
    source = backbone_of(source) or source
    if source in (NONE, IMAGENET) or is_starter(source):
        return None
    return source if source.endswith(IMAGENET_SUFFIXES) else files.join(source, BEST_WEIGHTS)


def initialize(network: keras.Model, spec: Network, source: str, channels: Sequence[str] = CHANNELS) -> None:
    """Set the weights of a freshly built network.

    Args:
        network: What `spec.build` returned.
        spec: The network's description in the recipe.
        source: "none" (leave them random), "imagenet", "starter" (the network that comes with hpa_tf), an ImageNet file
            that the backbone knows (.h5, .pth), a file that a team published (`published`), a weights file of a run
            (.weights.h5), or a run folder (its best weights).
        channels: Names of the channels of the network's input.

    Raises:
        InputError: There is no such file, ImageNet weights cannot be had, or the weights do not fit the network.
    """
    if source == NONE:
        return
    if is_starter(source):
        packed.unpack(network, starter.WEIGHTS)
        return
    if source != IMAGENET and not files.exists(source):
        expected = f"{NONE!r}, {IMAGENET!r}, {starter.NAME!r}, a weights file, a run folder or backbone:RUN"
        raise InputError("--weights", f"{source!r}, which does not exist", expected, "check the path")
    if source != IMAGENET:
        check_weights_file(source)
    path = file_of(source)
    if path and path.endswith(OWN_SUFFIX):
        load(network, path)
    elif path and is_published(path):
        load_published(network, path, channels)
    else:
        _transplant(network, spec.backbone, channels, source)


def save(network: keras.Model, path: str | os.PathLike) -> None:
    """Write a network's weights, atomically, to a local or remote `.weights.h5` file with their checksum."""
    with tempfile.TemporaryDirectory() as folder:
        local = os.path.join(folder, "all" + OWN_SUFFIX)
        network.save_weights(local)
        with h5py.File(local, "r+") as stored:
            stored.attrs["checksum"] = np.bytes_(checksums.PLACE)
        files.write_bytes(path, checksums.seal(Path(local).read_bytes()))


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
        data = files.read_bytes(path)
        checksums.check_seal(data, path, "the weights as they were written", "copy the file again, or train again")
        Path(local).write_bytes(data)
        try:
            network.load_weights(local)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:  # by h5py and Keras
            found = f"weights that do not fit: {(str(error).splitlines() or [type(error).__name__])[0]}"
            raise InputError(path, found, f"weights of {network.name}", "use the recipe they were made with") from error


def _transplant(network: keras.Model, backbone: Backbone, channels: Sequence[str], source: str) -> None:
    """Copy the ImageNet weights of every layer of the backbone, by name; the stem gets the input's channels."""
    donors = backbone.imagenet(source)
    layers = list(packed.layers_with_weights(network))
    try:
        check_no_block_is_left_over(donors, (layer.name for layer in layers))
        for layer in layers:
            if layer.name.startswith(HEAD) or (layer.name == backbone.stem_layer and backbone.stem == "new"):
                continue
            arrays = donors[layer.name]
            if layer.name == backbone.stem_layer:
                kernel, *others = arrays
                arrays = [inflate(kernel, channels, backbone.stem, layer.get_weights()[0]), *others]
            layer.set_weights(arrays)
    except (KeyError, ValueError) as error:
        found = f"weights that do not fit: {str(error).splitlines()[0]}"
        raise InputError(source, found, f"weights of {network.name}", "use the file of that network") from error


def inflate(kernel: np.ndarray, channels: Sequence[str], fill: str, random: np.ndarray) -> np.ndarray:
    """Return the stem's kernel [h, w, 3, F] for other channels, [h, w, C, F].

    Args:
        kernel: Filters over red, green, blue.
        channels: Names of the C channels of the input.
        fill: Filters of a channel that is none of the three: "mean" of them, the channel to copy ("red", "green" or
            "blue"), or "random".
        random: The kernel as the network was built, [h, w, C, F].
    """
    if kernel.shape[2] != len(_RGB):
        raise ValueError(f"a stem of {kernel.shape[2]} channels; expected {len(_RGB)}")
    others = {name: kernel[:, :, i] for i, name in enumerate(_RGB)}
    filling = None if fill == "random" else kernel.mean(axis=2) if fill == "mean" else others[fill]
    planes = [others.get(name, random[:, :, i] if filling is None else filling) for i, name in enumerate(channels)]
    return np.stack(planes, axis=2)

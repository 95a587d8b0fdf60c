"""Weights that teams 1 and 3 published, read into our networks: `CbamClassifier`, `Fcan` and `PuzzleCam`.

Team 1: `12.00_ema.pth` of its InceptionV3 cell model, or a checkpoint of its EfficientNetB0. Team 3: `model_best.pt` of
Puzzle-CAM. What stands around the names ("module.", "base_model.", "cnn1.") is left away, and so are tensors that the
networks have no use for (the first weights' classifier, the auxiliary head). Source: the published code; SYSTEMS 1, 3.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np

from hpa_tf.classes import CHANNELS
from hpa_tf.errors import InputError
from hpa_tf.models import efficientnet_files, torch_backbone
from hpa_tf.models.heads import Cbam, MeanMaxHead
from hpa_tf.models.network import HEAD
from hpa_tf.models.tensor_file import SUFFIXES, read_tensors

_AROUND = re.compile(r"^((state_dict|model_state_dict|model|module|base_model|cnn1)\.)*((backbone|mfeatures)\.)?")


_HEADS = ("att_module.", "mclassifier.")
"""How names of tensors begin, without what is around them, that no file of ImageNet weights has."""


def is_published(path: str | os.PathLike) -> bool:
    """Tell whether a file has the tensors of a team's head.

    Raises:
        InputError: The file cannot be read.
    """
    return os.fspath(path).endswith(SUFFIXES) and any(
        _AROUND.sub("", name).startswith(_HEADS) for name in read_tensors(path)
    )


def load_published(network: keras.Model, path: str | os.PathLike, channels: Sequence[str] = CHANNELS) -> None:
    """Set all weights of a network from a team's file.

    Args:
        network: What `CbamClassifier`, `Fcan` or `PuzzleCam` built, with the file's backbone and head.
        path: A PyTorch or safetensors file.
        channels: Names of the channels of the network's input.

    Raises:
        InputError: The file cannot be read or does not fit, or the channels are others.
    """
    if tuple(channels) != CHANNELS:
        found, expected = f"a network of {', '.join(channels)}", f"one of {', '.join(CHANNELS)}, as the team's"
        raise InputError(path, found, expected, "use a view of these channels")
    try:
        load_state(network, read_tensors(path))
    except (KeyError, ValueError) as error:
        found = f"weights that do not fit: {str(error).splitlines()[0]}"
        fix = "build the network with the backbone and head of that file"
        raise InputError(path, found, f"weights of {network.name}", fix) from error


def load_state(network: keras.Model, state: Mapping[str, np.ndarray]) -> None:
    """Set all weights of a network from a team's state dict.

    Raises:
        KeyError: A tensor is missing.
        ValueError: A tensor has another shape, or a stage of the backbone more layers than the network's.
    """
    state = {_AROUND.sub("", name): array for name, array in state.items()}
    layers = list(_layers(network))
    if "_conv_stem.weight" in state:
        found = efficientnet_files.layers_of(state, [name for name, _ in layers])
        found = torch_backbone.layers_of(state) | found
    else:
        found = torch_backbone.layers_of(state)
    torch_backbone.check_no_block_is_left_over(found, (name for name, _ in layers))
    for name, layer in layers:
        arrays = found[name]
        wanted = [tuple(weight.shape) for weight in layer.weights]
        layer.set_weights(
            [
                array.reshape(shape) if array.ndim == 4 and len(shape) == 2 else array
                for array, shape in zip(arrays, wanted, strict=True)
            ]
        )


def _layers(network: keras.Model) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yield (the file's name without the last part, layer) of everything that has weights."""
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        elif isinstance(layer, Cbam):
            yield from ((f"{layer.name.removeprefix(HEAD)}.{name}", part) for name, part in layer.parts.items())
        elif isinstance(layer, MeanMaxHead):
            yield from layer.parts.items()
        elif layer.weights:
            yield layer.name.removeprefix(HEAD), layer

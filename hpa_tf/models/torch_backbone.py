"""The shared part of backbones that follow timm layer for layer: `resnet`, `nfnet`, `inception`, `swin`, `vit`.

Layers are named by the paths of timm's modules, and a state dict of timm is a file of their ImageNet weights. keras-hub
has some of these networks, but its dropout draws from a generator instead of from each example's seed, none can be cut
or differs in its stem and gates, and it asks for tensorflow-text, a wheel that follows TensorFlow's versions late.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import keras
import numpy as np

from hpa_tf.errors import InputError
from hpa_tf.models.layers import Layers
from hpa_tf.models.network import Stem
from hpa_tf.models.pixels import AnyPixels, UnitRange
from hpa_tf.models.tensor_file import SUFFIXES, read_tensors

_PARTS = ("weight", "gain", "bias", "running_mean", "running_var", "relative_position_bias_table")
"""Tensors of a module, in the order in which the Keras layer has them."""
_EMBEDDING = ("cls_token", "pos_embed")
_BLOCKS = re.compile(r"(layer\d|stages\.\d|(?:layers\.\d\.)?blocks)\.\d+\.")
"""What the names of a stage's layers begin with: the stage and the number of the block."""
NO_BATCH_NORM = {"synchronized": "batch norm", "norm_momentum": "batch norm"}
"""`TorchBackbone.WITHOUT` of networks that have none."""


@dataclass(frozen=True)
class TorchBackbone:
    """The fields and the building of every network that is defined as timm defines it."""

    stride: int = 0
    """Pixels of the input, a side, that one place of the map stands for: the network is cut after the last such map;
    0 = the whole network."""
    drop_connect: float = 0.0
    """Share of examples that skip the last residual branch while training (earlier ones: less), 0..1."""
    synchronized: bool = False
    """Compute batch norm over all replicas."""
    norm_momentum: float = 0.9
    """Share of batch norm's moving statistics that a step keeps."""
    stem: Stem = "mean"
    """What the filters of channels that ImageNet does not have start from; "new": no channel takes ImageNet's."""
    pixels: AnyPixels = field(default_factory=UnitRange)
    """What is done to the 0..1 pixels first."""

    EPSILON: ClassVar[float] = 1e-5
    """Added to batch norm's variance."""
    WITHOUT: ClassVar[Mapping[str, str]] = {}
    """Fields that have no use in this network, and which layers they are about, none of which it has."""

    def __post_init__(self):
        """Refuse options without effect.

        Raises:
            InputError: A field of `WITHOUT` is not as it is by default.
        """
        for name, layers in self.WITHOUT.items():
            value, default = getattr(self, name), getattr(TorchBackbone, name)
            if value != default:
                kind = type(self).__name__
                where, expected = f"recipe: {name} of {kind}", f"{default}: {kind} has no {layers}"
                raise InputError(where, str(value), expected, "leave the option out")

    @property
    def stem_layer(self) -> str:
        """Name of the convolution that sees the pixels."""
        raise NotImplementedError

    def body(self, x, layers: Layers) -> Iterator[tuple[int, object]]:
        """Yield (stride, map) at the end of each stride, in order; what is not asked for is not built."""
        raise NotImplementedError

    def build(self, shape: tuple[int, int, int], policy: str = "float32") -> keras.Model:
        """Build the network with random weights: see `hpa_tf.models.network.Backbone`.

        Raises:
            InputError: The network has no map of that stride, or the image is too small for its layers.
        """
        layers = Layers(policy, self.EPSILON, self.norm_momentum, self.synchronized)
        image, maps = keras.Input(shape, name="image"), {}
        pixels = self.pixels.apply(image, policy)
        try:
            for stride, features in self.body(pixels, layers):
                maps[stride] = features
                if stride == self.stride:
                    break
        except ValueError as error:  # Keras: a layer would leave nothing of the map
            found = f"{shape[0]} x {shape[1]} px for {type(self).__name__} ({str(error).splitlines()[0]})"
            raise InputError("recipe.view.size", found, "a place left after every layer", "make it larger") from error
        if self.stride and self.stride not in maps:
            where, expected = f"recipe: stride of {type(self).__name__}", f"one of {list(maps)}, or 0 for the last"
            raise InputError(where, str(self.stride), expected, "choose one of them")
        return keras.Model(image, list(maps.values())[-1], name=type(self).__name__.lower())

    def imagenet(self, source: str) -> dict[str, list[np.ndarray]]:
        """Return the weights in a state dict of timm, by the layer's name.

        Raises:
            InputError: `source` is no such file.
        """
        if not os.fspath(source).endswith(SUFFIXES):
            found = f"{source!r} for {type(self).__name__}"
            fix = "download the network's weights from timm's page and give the file"
            raise InputError("--weights", found, "a state dict of timm (.pth, .safetensors)", fix)
        return layers_of(read_tensors(source))


def layers_of(state: Mapping[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    """Return the weights of each layer, in Keras' order and layout, from a state dict in timm's names.

    A kernel [O, I, H, W] becomes [H, W, I, O], a matrix [O, I] becomes [I, O]; everything else stays as it is.
    """
    found: dict[str, list[np.ndarray]] = {}
    state = _in_todays_names(state)
    for name, array in state.items():
        module, _, part = name.rpartition(".")
        if part == _PARTS[0] or (part in _PARTS and f"{module}.{_PARTS[0]}" not in state and module not in found):
            parts = [state[f"{module}.{part}"] for part in _PARTS if f"{module}.{part}" in state]
            found[module] = [_in_keras_layout(tensor, module) for tensor in parts]
        elif part == "skipinit_gain":
            found[name] = [array]
    if all(part in state for part in _EMBEDDING):
        found["embedding"] = [state[part] for part in _EMBEDDING]
    return found


def check_no_block_is_left_over(weights: Iterable[str], layers: Iterable[str]) -> None:
    """Check that a file has no layer beside a network's in any of its stages: a deeper network's first blocks fit, too.

    Args:
        weights: Names of the layers of the file.
        layers: Names of the network's layers; a stage that it is cut before has none.

    Raises:
        ValueError: There is one; the message names it.
    """
    known = set(layers)
    stages = {found[1] for name in known if (found := _BLOCKS.match(name))}
    for name in weights:
        if name not in known and (found := _BLOCKS.match(name)) and found[1] in stages:
            raise ValueError(f"{name}, a layer that the network does not have")


def _in_keras_layout(tensor: np.ndarray, module: str) -> np.ndarray:
    if tensor.ndim == 4 and tensor.shape[1:] == (1, 1, 1):  # the gain of a filter
        return tensor.reshape(-1)
    if tensor.ndim == 2 and module.endswith(".attn"):  # a table of biases
        return tensor
    axes = {2: (1, 0), 3: (2, 1, 0), 4: (2, 3, 1, 0)}.get(tensor.ndim)
    return tensor.transpose(axes) if axes else tensor


def _in_todays_names(state: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Return a state dict with Swin's patch merging at the beginning of a stage: before timm 0.9 it was at the end."""
    if "layers.0.downsample.reduction.weight" not in state:
        return state
    return {re.sub(r"^layers\.(\d)\.downsample", _next_stage, name): array for name, array in state.items()}


def _next_stage(found: re.Match) -> str:
    return f"layers.{int(found[1]) + 1}.downsample"

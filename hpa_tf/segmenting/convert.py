"""Published PyTorch files of HPACellSegmentator -> weights of the Keras networks, without PyTorch."""

import dataclasses
import os
import warnings
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from hpa_tf import files
from hpa_tf.errors import HpaWarning
from hpa_tf.models.torch_file import read_torch_file
from hpa_tf.segmenting.published import (
    DEFAULT_FOLDER,
    Converted,
    recognise,
    weights_path,
    write_description,
)


@dataclass(frozen=True)
class ConvertOptions:
    """Convert a published file of HPACellSegmentator: a pickled module (.pth) or TorchScript (.pt).

    PyTorch is not needed, and nothing in the file is run.
    """

    file: Annotated[str, tyro.conf.Positional]
    """The file."""
    out: str = DEFAULT_FOLDER
    """Folder for the converted weights; both networks' go into one."""
    network: Literal["nuclei", "cells"] | None = None
    """Which network it is; default: told by its checksum or name."""


def convert(options: ConvertOptions, architecture: object | None = None) -> Converted:
    """Convert one file; return what was written beside the weights.

    Args:
        options: What to convert.
        architecture: `DpnUnet` of other than the published sizes.

    Raises:
        InputError: The file cannot be read, calls for code, or is of another network.
    """
    from hpa_tf.models import weights
    from hpa_tf.models.dpn_unet import DpnUnet, set_tensors

    out = os.path.expanduser(options.out)
    read = read_torch_file(options.file)
    digest = files.sha256(options.file)
    network_name, yellow = recognise(options.file, digest, options.network)
    architecture = architecture or DpnUnet()
    network = architecture.build()
    set_tensors(network, read.tensors, options.file)
    if read.training:
        text = (
            f"{options.file}: saved in training mode. HPACellSegmentator itself would then normalise by each batch's "
            "own statistics; here the running ones are used, as after PyTorch's eval()"
        )
        warnings.warn(text, HpaWarning, stacklevel=2)
    files.make_folder(out)
    files.remove(files.join(out, f"{network_name}.json"))  # it would describe other weights, if this is stopped
    weights.save(network, weights_path(out, network_name))
    sizes = dataclasses.asdict(architecture)
    converted = Converted(network_name, os.path.basename(str(options.file)), digest, yellow, sizes)
    write_description(out, converted)
    return converted

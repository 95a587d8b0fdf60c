"""HPACellSegmentator's weights: where they are published, and the folder that they are kept in once converted."""

import dataclasses
import os
import re
import shlex
from dataclasses import dataclass
from typing import Any, Literal

from hpa_tf import files
from hpa_tf.errors import InputError

NetworkName = Literal["nuclei", "cells"]
DEFAULT_FOLDER = "~/.hpa_tf/hpa_segmenter"
FORMAT_VERSION = 1
CONVERT = "python -m hpa_tf.segmenting convert FILE"


@dataclass(frozen=True)
class Published:
    """One published file.

    Attributes:
        network: What it segments.
        address: Where it is.
        file: Name to give it.
        licence: Under which it was published.
        sha256: Its checksum; None where none was published.
        yellow: Whether the network was trained with the yellow channel; without it, that channel is 0.
    """

    network: NetworkName
    address: str
    file: str
    licence: str
    sha256: str | None = None
    yellow: bool = True


_BIOIMAGE, _ZENODO = "CC-BY-4.0", "no licence stated with the files; see the record"
FILES = (
    Published(
        "nuclei",
        "https://zenodo.org/api/records/7690494/files/nuclei_model.pt/content",
        "nuclei_model.pt",
        _BIOIMAGE,
        "8d3af116378b12d54a15d880b942c2d7e74ba52e11421a7ba16c702d1a112ba5",
    ),
    Published(
        "cells",
        "https://zenodo.org/api/records/7702687/files/cell_model.pt/content",
        "cell_model.pt",
        _BIOIMAGE,
        "7e94848c41f2a8a2e881a194fbd0228af15d3df864313c53bf3b130e90ca0275",
    ),
    *(
        Published(network, f"https://zenodo.org/records/4665863/files/{name}", name, _ZENODO, None, yellow)
        for network, name, yellow in (
            ("nuclei", "dpn_unet_nuclei_v1.pth", True),
            ("cells", "dpn_unet_cell_3ch_v1.pth", True),
            ("cells", "dpn_unet_cell_v2.pth", False),
        )
    ),
)
_WORDS: dict[NetworkName, str] = {"nuclei": "nuc", "cells": "cell"}
"""What file names say of each network."""
_CELL_SEGMENTATOR = re.compile(r"cell[\W_]*seg[a-z]*")
"""The program, in lower case: files of both networks are named after it."""
_GIGABYTES = "0.56 GB"  # 139 million float32


@dataclass(frozen=True)
class Converted:
    """What is written beside converted weights.

    Attributes:
        network: What it segments.
        source: Name of the file that it was converted from.
        sha256: Checksum of that file.
        yellow: See `Published`.
        architecture: Sizes of the network, as `DpnUnet` has them.
    """

    network: NetworkName
    source: str
    sha256: str
    yellow: bool
    architecture: dict[str, Any]


def weights_path(folder: str, network: NetworkName) -> str:
    """Return the path of a network's weights in a folder."""
    return files.join(folder, f"{network}.weights.h5")


def write_description(folder: str, converted: Converted) -> None:
    """Write what belongs to converted weights: last, so that what is there is whole."""
    value = {"format_version": FORMAT_VERSION, **dataclasses.asdict(converted)}
    files.write_json(files.join(folder, f"{converted.network}.json"), value)


def read_description(folder: str, network: NetworkName) -> Converted:
    """Read what `write_description` wrote.

    Raises:
        InputError: It is not there (the message says where the weights are published), or is something else.
    """
    path = files.join(folder, f"{network}.json")
    if not files.exists(path):
        raise _missing(folder, network)
    value = files.read_json(path)
    names = {field.name for field in dataclasses.fields(Converted)}
    if not isinstance(value, dict) or value.get("format_version") != FORMAT_VERSION or not names <= value.keys():
        raise InputError(path, "something else", f"what `{CONVERT}` writes", "convert the file again")
    return Converted(**{name: value[name] for name in names})


def read_descriptions(folder: str) -> dict[NetworkName, Converted]:
    """Return what is known of both networks in a folder; errors as `read_description`."""
    return {name: read_description(os.path.expanduser(folder), name) for name in ("nuclei", "cells")}


def _missing(folder: str, network: NetworkName) -> InputError:
    choices = " or ".join(
        f"{one.address} ({_GIGABYTES}, {one.licence}{f', sha256 {one.sha256[:12]}...' if one.sha256 else ''})"
        for one in FILES
        if one.network == network and one.yellow
    )
    converted = f"{CONVERT} --out {shlex.quote(folder)}"
    fix = f"download {choices}, then: {converted}; or segment without published weights: --segmenter small"
    return InputError(folder, f"no weights of HPACellSegmentator's {network} network", f"{network}.weights.h5", fix)


def _is_copy(name: str, published: Published) -> bool:
    """Tell whether a name is what a download makes of a published one: "dpn_unet_cell_v2 (1).pth"."""
    stem = os.path.splitext(published.file)[0]
    return stem.startswith("dpn_unet_") and stem in name


def recognise(path: str, sha256: str, network: NetworkName | None) -> tuple[NetworkName, bool]:
    """Tell which network a file holds: by its checksum, else what the user says, else its name.

    Returns:
        The network, and whether it sees the yellow channel.

    Raises:
        InputError: It cannot be told, or the user says otherwise than the checksum.
    """
    name = os.path.basename(str(path)).lower()
    known = next((one for one in FILES if one.sha256 == sha256), None)
    known = known or next((one for one in FILES if one.file == name or _is_copy(name, one)), None)
    if known is not None:
        if network not in (None, known.network):
            raise InputError("--network", network, f"{known.network}: {path} is {known.file}", "leave --network out")
        return known.network, known.yellow
    said = _CELL_SEGMENTATOR.sub("", name)
    guessed: set[NetworkName] = {kind for kind, word in _WORDS.items() if word in said}
    if network is None and len(guessed) != 1:
        found = f"a file whose name does not say whether it is the nuclei or the cell network ({name})"
        raise InputError(path, found, "a published name, or --network", "add --network nuclei or --network cells")
    return network or guessed.pop(), True

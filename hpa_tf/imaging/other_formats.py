"""Files of microscopes in formats that are not read here, and the way to convert them."""

import os
from collections.abc import Sequence

from hpa_tf import files

_OTHER_FORMATS = {
    ".czi": "Zeiss CZI",
    ".nd2": "Nikon ND2",
    ".lif": "Leica LIF",
    ".lsm": "Zeiss LSM",
    ".oib": "Olympus OIB",
    ".oif": "Olympus OIF",
    ".vsi": "Olympus VSI",
    ".ims": "Imaris",
    ".zarr": "Zarr",
    ".dv": "DeltaVision",
    ".svs": "Aperio SVS",
}
CONVERT = (
    "convert each to OME-TIFF: bfconvert IN OUT.ome.tif (Bio-Formats), or Fiji, Save As OME-TIFF; see docs/data.md"
)


def other_formats(folder: str | os.PathLike, names: Sequence[str]) -> str:
    """Return in words which files, and folders, are of a format that is not read here; "" for none."""
    every = [*names, *folders(folder)]
    counts = {kind: sum(name.lower().endswith(ending) for name in every) for ending, kind in _OTHER_FORMATS.items()}
    return ", ".join(f"{count} of {kind}" for kind, count in counts.items() if count)


def folders(folder: str | os.PathLike) -> list[str]:
    """Return the names of the folders in a local folder; of one that is Zarr itself, its ending, too."""
    if files.is_remote(folder):
        return []
    own = [".zarr"] if any(os.path.exists(os.path.join(folder, name)) for name in (".zgroup", "zarr.json")) else []
    with os.scandir(folder) as entries:
        return own + [entry.name for entry in entries if entry.is_dir()]

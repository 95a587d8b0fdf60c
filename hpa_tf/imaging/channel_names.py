"""What a TIFF file calls its channels: in OME-XML, in ImageJ's labels or in tifffile's own words.

That it is marked RGB says nothing: tifffile and scikit-image mark every array of 3 or 4 channels so.
"""

import re
from collections.abc import Sequence
from typing import Any

import tifffile

from hpa_tf.imaging import ome

_LABEL = re.compile(r"^(?:[czt]:\d+/\d+\s*)+(?:-\s*)?")


def channel_names(opened: tifffile.TiffFile, metadata: ome.Ome | None, count: int, samples: int) -> tuple[str, ...]:
    """Return what the channels are called, "" where nothing says it.

    Args:
        opened: The file.
        metadata: Its OME-XML, if it has any.
        count: Channels that are planes of their own.
        samples: Numbers a pixel of each of them.
    """
    names: Sequence[str] = ()
    if metadata is not None:
        names = metadata.names
    elif opened.is_imagej:
        labels = _strings((opened.imagej_metadata or {}).get("Labels"))
        names = [_LABEL.sub("", label.split("\n")[0]).strip() for label in labels[:count]]
    elif opened.is_shaped:
        named = (opened.shaped_metadata or ({},))[0].get("Channel")
        names = _strings(named.get("Name") if isinstance(named, dict) else None)
    names = [name.strip() for name in names][: count * samples]
    return (*names, *[""] * (count * samples - len(names)))


def _strings(value: Any) -> list[str]:
    values = [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else []
    return [one for one in values if isinstance(one, str)]

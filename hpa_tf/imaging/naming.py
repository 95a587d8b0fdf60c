"""File names: which image, and which of its channels, a name speaks of.

Patterns, names of channels and file names are compared in Unicode's composed form (NFC): file systems differ in theirs.
"""

import itertools
import re
import unicodedata
from collections.abc import Iterable
from functools import cached_property

from hpa_tf.classes import CHANNELS
from hpa_tf.errors import InputError
from hpa_tf.imaging.layout import STAINS, Layout

EXTENSIONS = (".png", ".tif", ".tiff", ".tif.gz", ".tiff.gz", ".jpg", ".jpeg")
"""In lower or upper case; `.ome.tif` is a `.tif`."""

_ENDING = r"\.(?:png|(?:ome\.)?tiff?(?:\.gz)?|jpe?g)"
_STACK = r"(?:\.ome)?\.tiff?"
_OME = re.compile(r"\.ome$", re.I)
_PART = re.compile(r"(\{[^{}]*\}|\*)")
_ID, _CHANNEL, _ANY = "{ID}", "{channel}", "*"


class Naming:
    """A layout's pattern, ready to be matched.

    Args:
        layout: Its pattern, or None: `{ID}_{channel}` with any ending of an image.

    Raises:
        InputError: The pattern cannot be used.
    """

    def __init__(self, layout: Layout):
        self._layout = layout
        self.pattern = _composed(layout.pattern) if layout.pattern is not None else "{ID}_{channel}"
        parts = [part for part in _PART.split(self.pattern) if part]
        if layout.pattern is not None:
            _check(layout.pattern, parts)
        self.one_file_a_channel = _CHANNEL in parts
        self._parts = parts

    @cached_property
    def _channel_names(self) -> dict[str, str]:
        """Our channel by its name in a file name, in lower case."""
        own = {channel: (channel,) for channel in CHANNELS} if self._layout.pattern is None else STAINS
        names = {_folded(name): channel for channel, its in own.items() for name in its}
        given = {_folded(name): channel for channel, name in self._layout.channels}
        if self._layout.pattern is not None:  # what is given is all that such a channel is called
            names = {name: channel for name, channel in names.items() if channel not in self._layout.given}
        return {**names, **given}

    @cached_property
    def _regex(self) -> re.Pattern:
        names = sorted(self._channel_names, key=len, reverse=True)
        return self._compile("|".join(map(_spelled, names)))

    def _compile(self, channel: str) -> re.Pattern:
        ids = iter(range(len(self._parts)))
        text = ""
        for part in self._parts:
            if part == _ID:
                text += f"(?P<id{next(ids)}>.+)"
            elif part == _CHANNEL:
                text += f"(?P<channel>{channel})" if "(?P<channel>" not in text else "(?P=channel)"
            else:
                text += ".*?" if part == _ANY else re.escape(part)
        if not re.search(rf"{_ENDING}$", self.pattern, re.I):
            text += _ENDING if self.one_file_a_channel else _STACK
        return re.compile(text, re.I | re.S)

    def match(self, name: str) -> tuple[str, str | None] | None:
        """Return (image id, channel) of a file name, the channel None for a file of all channels; None for others.

        Where {ID} stands several times, the parts are joined by `_`.
        """
        found = self._regex.fullmatch(_composed(name))
        if found is None:
            return None
        groups = found.groupdict()
        channel = groups.pop("channel", None)
        image_id = "_".join(groups.values())
        if not self.one_file_a_channel:
            image_id = _OME.sub("", image_id)
        return image_id, None if channel is None else self._channel_names[_folded(channel)]

    def channels_seen(self, names: Iterable[str]) -> list[str]:
        """Return what stands in the place of {channel} in names, sorted: for errors where none is known."""
        is_cut_short = _CHANNEL + _ANY in self.pattern
        anything = self._compile(r"\d+|[^\W\d_]+\d*|.+?" if is_cut_short else ".+")
        found = (anything.fullmatch(_composed(name)) for name in names)
        return sorted({match["channel"] for match in found if match}) if self.one_file_a_channel else []

    def uses_given(self, name: str) -> bool:
        """Tell whether a matching name has one of the channel names that were given."""
        given = {_folded(name) for _, name in self._layout.channels}
        found = self._regex.fullmatch(_composed(name))
        return found is not None and _folded(found["channel"]) in given

    def uses_number(self, name: str) -> bool:
        """Tell whether a matching name has a number for a channel."""
        found = self._regex.fullmatch(_composed(name))
        return found is not None and found["channel"].isdecimal()


def _check(pattern: str, parts: list[str]) -> None:
    expected = "a file name with {ID}, and {channel} where each channel has its own file, such as {ID}_{channel}.tif"
    if "/" in pattern or "\\" in pattern or ".." in pattern or "\0" in pattern:
        fix = "give --images the folder itself, and one folder at a time"
        raise InputError("--pattern", repr(pattern), f"{expected}, without folders", fix)
    unknown = [part for part in parts if part.startswith("{") and part not in (_ID, _CHANNEL)]
    if unknown or _ID not in parts or "{" in "".join(part for part in parts if part not in (_ID, _CHANNEL)):
        raise InputError("--pattern", repr(pattern), expected, "correct it; what differs from image to image is {ID}")
    varying = (a + b for a, b in itertools.pairwise(parts) if a[0] in "{*" and b[0] in "{*")
    meeting = next((both for both in varying if both != _CHANNEL + _ANY), None)  # the names of channels are known
    if meeting is not None:
        fix = "write what stands between them"
        raise InputError("--pattern", f"{meeting} in {pattern!r}", "text between two places that vary", fix)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    folded = _composed(name.casefold())
    return re.sub(r"[\W_]+", " ", folded) if re.search(r"\w", name) else folded


def _spelled(name: str) -> str:
    """Return a regular expression of a name, with any signs between its words."""
    return r"[\W_]+".join(map(re.escape, name.split(" "))) if name.strip() else re.escape(name)

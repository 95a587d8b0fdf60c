"""The options by which every command is told how the images lie in files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hpa_tf.classes import CHANNELS
from hpa_tf.errors import InputError
from hpa_tf.imaging.layout import MEANINGS, Layout, Project, channel_of, words
from hpa_tf.imaging.naming import Naming


@dataclass(frozen=True)
class LayoutOptions:
    """How the images lie in files; docs/data.md has examples."""

    pattern: str | None = None
    """Names of the images' files where they are others: {ID} for the image id, {channel} for the channel (without it, a
    file holds all channels), * for any text, such as '{ID}_w{channel}*.tif'."""
    channels: tuple[str, ...] = ()
    """What the channels are called in file names or inside the files, or their numbers there (from 1; #1 where they are
    called by other numbers), where no name says it: microtubules=ch01 protein=ch00 nucleus=ch02 er=ch03."""
    without: str | None = None
    """Channels that there are not, or that are not to be used: yellow, red, or red,yellow; they are black."""
    project: Project | None = None
    """What becomes of several planes in depth or time: max = the brightest of each pixel. Default: they are refused."""

    @property
    def given(self) -> dict[str, Any]:
        """Those that are not the defaults, by name."""
        return {name: value for name, value in vars(self).items() if value != vars(USUAL_LAYOUT)[name]}

    def parse(self) -> Layout:
        """Return the layout that they ask for.

        Raises:
            InputError: Names the option.
        """
        if self.project not in (None, "max"):
            raise InputError("--project", repr(self.project), "max", "correct the option")
        layout = Layout(self.pattern, _parse_channels(self.channels), _parse_without(self.without), self.project)
        twice = next((channel for channel in layout.given if channel in layout.without), None)
        if twice is not None:
            found = f"{MEANINGS[twice]}, which --without leaves out"
            raise InputError("--channels", found, "names of channels that are read", "drop one of the two")
        Naming(layout)
        return layout


USUAL_LAYOUT = LayoutOptions()
"""Files named `{ID}_{channel}`, or a file an image whose channels have known names."""


def _parse_without(text: str | None) -> tuple[str, ...]:
    """Return the channels that are black, in our order.

    Raises:
        InputError: One is no channel that a network can do without.
    """
    if text is None or words(text) == "none":
        return ()
    found = {channel_of(part) for part in text.split(",")}
    if not found <= {"red", "yellow"}:
        expected = "yellow (er), red (microtubules), both joined by a comma, or none"
        fix = "the protein and the nucleus are needed; correct the option"
        raise InputError("--without", repr(text), expected, fix)
    return tuple(channel for channel in CHANNELS if channel in found)


def _parse_channels(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for text in texts:
        stain, sign, name = text.partition("=")
        channel = channel_of(stain)
        if channel is None or not sign or not name.strip():
            expected = f"STAIN=NAME with a stain of {', '.join(MEANINGS.values())}, such as microtubules=ch01"
            raise InputError("--channels", repr(text), expected, "correct it")
        other = next((one for one, its in found.items() if its.casefold() == name.strip().casefold()), None)
        if channel in found or other is not None:
            twice = MEANINGS[channel] if channel in found else repr(name.strip())
            raise InputError("--channels", f"{twice} twice", "one name a stain and one stain a name", "correct it")
        found[channel] = name.strip()
    return tuple(found.items())

"""How the four channels lie in files: what each is called, which are missing, and what becomes of stacks.

What a channel shows is never guessed from its place: a name that says the stain, or `--channels`, decides.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from hpa_tf.classes import CHANNELS
from hpa_tf.errors import InputError

STAINS: Mapping[str, tuple[str, ...]] = {
    "red": ("red", "microtubules", "microtubule", "mt", "mts", "tubulin", "alpha tubulin", "beta tubulin"),
    "green": ("green", "protein", "protein of interest", "poi", "antibody"),
    "blue": ("blue", "nucleus", "nuclei", "nuclear", "dna", "dapi", "hoechst"),
    "yellow": ("yellow", "er", "endoplasmic reticulum", "calreticulin"),
}
"""Names that say what a channel shows, by our channel, in lower case; signs between words do not count. A dye that is
used for anything (GFP, Alexa 488, FITC) is not among them."""

MEANINGS: Mapping[str, str] = {"red": "microtubules", "green": "protein", "blue": "nucleus", "yellow": "er"}
"""What each channel shows, in one word of `STAINS`: for `--channels` and errors."""
Project = Literal["max"]
_NUM_SHOWN = 12


@dataclass(frozen=True)
class Layout:
    """How fields of view lie in files.

    Attributes:
        pattern: File name with {ID} for the image id and {channel} for the channel's name (without it, a file holds
            all channels); * is any text. None: `{ID}_red.png` and so on, else a TIFF file an image.
        channels: (our channel, its name in file names, or its name or number, from 1, in the file), for those that
            are not called by one of `STAINS`; "#1" is a number, whatever the names are.
        without: Channels that are black, whether there is a file or not.
        project: What becomes of planes in depth or time: "max" = the brightest; None = they are refused.
    """

    pattern: str | None = None
    channels: tuple[tuple[str, str], ...] = ()
    without: tuple[str, ...] = ()
    project: Project | None = None

    @cached_property
    def present(self) -> tuple[str, ...]:
        """The channels that are read."""
        return tuple(channel for channel in CHANNELS if channel not in self.without)

    @cached_property
    def given(self) -> dict[str, str]:
        """Names that were given, by channel."""
        return dict(self.channels)


def channel_of(name: str) -> str | None:
    """Return our channel that a name speaks of, as a whole or by one of its words; None where it is none, or several.

    "Hoechst 33342" and "ER (Concanavalin A)" say what they show; "Alexa 488" does not, nor a colour in a dye's name
    ("Texas Red").
    """
    said = words(name)
    whole = [channel for channel, stains in STAINS.items() if said in stains]
    if whole:
        return whole[0]
    found = {c for c, stains in STAINS.items() if any(f" {stain} " in f" {said} " for stain in stains if stain != c)}
    return found.pop() if len(found) == 1 else None


def words(name: str) -> str:
    """Return the words of a name in lower case, without the signs between them."""
    return " ".join(re.findall(r"[^\W_]+", name.casefold()))


def choose_channels(
    names: Sequence[str], layout: Layout, where: str, wanted: Sequence[str] | None = None
) -> dict[str, int]:
    """Return which of a file's channels each of ours is.

    Args:
        names: What the file calls its channels, in order; "" = it has no name.
        layout: Names that were given; the others are told by `STAINS`.
        where: The file, for errors.
        wanted: Those that are needed; None = all that the layout does not leave out.

    Returns:
        Index in `names`, by channel.

    Raises:
        InputError: A channel is not there, or two may be meant: lists what there is.
    """
    chosen: dict[str, int] = {}
    for channel in layout.present if wanted is None else wanted:
        found = _meant(channel, names, layout)
        if len(found) != 1:
            raise _not_one(channel, found, names, layout, where)
        chosen[channel] = found[0]
    if len(set(chosen.values())) < len(chosen):
        raise InputError(where, f"{_listed(names)}, one of them for two stains", "one a stain", "correct --channels")
    return chosen


def count_channels(names: Sequence[str], layout: Layout) -> dict[str, int]:
    """Return how many of a file's channels may be each of ours; arguments as of `choose_channels`."""
    return {channel: len(_meant(channel, names, layout)) for channel in layout.present}


def _meant(channel: str, names: Sequence[str], layout: Layout) -> list[int]:
    """Return the indices of a file's channels that may be one of ours."""
    if channel in layout.given:
        return _by_name(names, layout.given[channel])
    taken = {index for given in layout.given.values() for index in _by_name(names, given)}
    return [index for index, name in enumerate(names) if channel_of(name) == channel and index not in taken]


def _by_name(names: Sequence[str], wanted: str) -> list[int]:
    """Return the indices of a name, or of a number counted from 1: both, where "1" is the name of the second.

    "#1" is the number alone.
    """
    found: list[int] = []
    for same in (str, str.casefold, *(() if wanted.startswith("#") else (words,))):
        found = found or [index for index, name in enumerate(names) if name and same(name) == same(wanted)]
    digits = wanted.removeprefix("#")
    number = int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 6 else 0
    if not 1 <= number <= len(names) or (found and digits != str(number)):  # "01" is a name, where there is one
        return found
    return sorted({*found, number - 1})


def _numbered(number: int, names: Sequence[str]) -> str:
    """Return what `--channels` takes for a number alone."""
    return str(number) if _by_name(names, str(number)) == [number - 1] else f"#{number}"


def _not_one(channel: str, found: Sequence[int], names: Sequence[str], layout: Layout, where: str) -> InputError:
    meaning = MEANINGS[channel]
    if found:
        what = f"{len(found)} channels that may be {meaning}"
    elif channel in layout.given:
        what = f"no channel {layout.given[channel]!r} (a name, or a number from 1)"
    else:
        what = f"no channel named as {meaning}"
    fix = f"say what each is, by name or number: --channels {_suggested(names, layout)}"
    if any(_numbered(number, names).startswith("#") for number in range(1, len(names) + 1)):
        fix += "; #1 is number 1 here, whatever the names are"
    if channel in ("red", "yellow"):
        fix += f"; if there is none: --without {channel}"
    return InputError(where, f"{what} among {_listed(names)}", f"a channel of the {meaning} ({channel})", fix)


def _suggested(names: Sequence[str], layout: Layout) -> str:
    """Return values for `--channels`: the numbers that are known, and for the others those that are left."""
    known = {c: found[0] + 1 for c in layout.present if len(found := _meant(c, names, layout)) == 1}
    left = iter(number for number in range(1, len(names) + 1) if number not in known.values())
    numbers = {c: known.get(c) or next(left, None) for c in layout.present}
    return " ".join(f"{MEANINGS[c]}={_numbered(n, names) if n else 'NUMBER'}" for c, n in numbers.items())


def _listed(names: Sequence[str]) -> str:
    shown = [f"{k} {name[:60]!r}" if name else f"{k} without name" for k, name in enumerate(names, start=1)]
    more = ", ..." if len(shown) > _NUM_SHOWN else ""
    return f"{len(names)} channels ({', '.join(shown[:_NUM_SHOWN])}{more})"

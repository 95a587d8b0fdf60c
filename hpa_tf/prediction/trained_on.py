"""Whether images are like those that networks were trained on: scale, channels, segmenter, margin, brightness."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpa_tf.errors import HpaWarning, InputError, counted
from hpa_tf.imaging.brightness import Range, brightness_range, unlike
from hpa_tf.imaging.segmentation.choosing import choice_named

if TYPE_CHECKING:  # TensorFlow: not in the workers
    from hpa_tf.prediction.members import Network
    from hpa_tf.serving import Served

_SCALE_TOLERANCE = 0.1
_MUCH_FINER = 5
_DARK_FIX = (
    "expect wrong scores; if the camera has 12 bits, give --full-scale 4095 (14 bits: 16383; Python: full_scale)"
)


def check_scale(um_per_px: float, trained: Sequence[tuple[str, Sequence[float]]], is_said: bool = True) -> None:
    """Warn, once, of images at another scale than a network was trained on.

    Every view shrinks what it sees to the network's input. So finer images are no fault, as far as was measured: the
    full-size images of the Human Protein Atlas, four times as fine as those that the starter was trained on
    (docs/troubleshooting.md). But a scale that is wrong, said or not, lets the wrong cells be found without a word.

    Args:
        um_per_px: Micrometres per pixel of the images.
        trained: (network, micrometres per pixel of its training data) each; those that do not say it are passed over.
        is_said: Whether somebody gave the images' scale; False = it is the one that is taken by default.
    """
    for name, scales in trained:
        if not scales or any(abs(um_per_px / one - 1) < _SCALE_TOLERANCE for one in scales):
            continue
        images = "images of" if is_said else "images are taken to have"
        found = f"{images} {um_per_px:g} um per px, but {name} was trained at {' and '.join(map(str, scales))}"
        if not is_said:
            fix = f"say --um-per-px {um_per_px:g} if they have (Python: um_per_px), else their own scale"
        elif um_per_px > max(scales):
            fix = "they show less of a cell than it knows, so expect worse scores"
        elif um_per_px * _MUCH_FINER < min(scales):
            fix = "so much finer ones were not tried: shrink them, or look at the scores before you trust them"
        else:
            fix = "right for full-size images of the Human Protein Atlas, 0.08; if these are others, check --um-per-px"
        warnings.warn(f"{found}: {fix}", HpaWarning, stacklevel=4)
        return


def scales_of(networks: Sequence["Network"]) -> tuple[tuple[str, tuple[float, ...]], ...]:
    """Return (name, micrometres per pixel of its training data) of each network."""
    return tuple((network.name, tuple(network.served.dataset.get("um_per_px") or ())) for network in networks)


def check_channels(without: Sequence[Sequence[str]], networks: Sequence["Network"], allowed: bool = False) -> None:
    """Refuse images without channels that a network was trained with, or with channels that it has never seen.

    Args:
        without: The channels that are black, for each kind of image: () = all four are there.
        networks: `members.Network`s.
        allowed: Warn only.

    Raises:
        InputError: Names the network and what it was trained with.
    """
    for network in networks:
        known = trained_without(network.served)
        other = next((one for one in map(frozenset, without) if one not in known), None)
        if other is None:
            continue
        found = f"images {_without_in_words(other)}"
        expected = f"images {' or '.join(sorted(map(_without_in_words, known)))}, as {network.name} was trained"
        if not allowed:
            own = " or ".join(f"--without {','.join(sorted(one)) or 'none'}" for one in sorted(known, key=sorted))
            fix = f"give {own}, or another run; --allow-other-channels: expect worse scores"
            raise InputError("--without", found, expected, fix)
        warnings.warn(f"{found}, not {expected}: expect worse scores", HpaWarning, stacklevel=3)


def check_segmenter(found_by: str | None, networks: Sequence["Network"]) -> None:
    """Warn, once, of cells that another segmenter finds than the one that a network's training data were built with.

    Args:
        found_by: Name of the segmenter; None = the masks were given.
        networks: `members.Network`s; one that learned from masks of unknown origin is passed over.
    """
    for network in networks if found_by else ():
        known = str(network.served.dataset.get("segmenter")).split(" + ")  # one for each source
        choices = dict.fromkeys(map(choice_named, known))
        if found_by in known or None in choices:
            continue
        text = f"cells are found by {found_by}, but {network.name} was trained on those of {' and '.join(known)}"
        if choice_named(found_by) in choices:
            fix = "expect somewhat other scores, as two versions of one segmenter do not find the same cells"
        else:
            fix = f"find them with --segmenter {' or '.join(choices)}, or expect somewhat other scores"
        warnings.warn(f"{text}: {fix}", HpaWarning, stacklevel=2)
        return


def check_margin(stored: int, networks: Sequence["Network"]) -> None:
    """Warn, once, of crops in shards that show a network less around a cell than those that it learned from.

    Args:
        stored: Pixels around a cell's tight box.
        networks: `members.Network`s; what is stored beyond their own margins is not seen.
    """
    for network in networks:
        crop, trained = network.crop, network.margin
        if stored < (trained if crop is None or crop.square == "grow" else min(crop.margin, trained)):
            found = f"crops stored with {stored} px around the cell, but {network.name} was trained on {trained} px"
            fix = f"expect other scores; predict from --images, or build the data with --margin {trained}"
            warnings.warn(f"{found}: {fix}", HpaWarning, stacklevel=3)
            return


def trained_without(served: "Served") -> set[frozenset[str]]:
    """Return the sets of black channels that a network has seen in training; frozenset() = all four were there."""
    known = {frozenset(one) for one in served.dataset.get("without") or ((),)}  # earlier manifests do not say it
    for channel in served.recipe.augmentation.dropped:
        known |= {one | {channel} for one in known}
    return known


def _without_in_words(channels: frozenset[str]) -> str:
    return f"without {','.join(sorted(channels))}" if channels else "with all four channels"


class LightCheck:
    """Gathers the images' brightness and warns once of a folder that is far darker or brighter.

    Args:
        networks: What predicts; one whose training data's brightness is not known is passed over.
    """

    def __init__(self, networks: Sequence["Network"]):
        known = {network.name: network.served.dataset.get("brightness") for network in networks}
        self._trained: dict[str, Range] = {name: found for name, found in known.items() if found}
        self._shares: list[tuple[float, ...]] = []

    def add(self, brightness: tuple[float, ...] | None) -> None:
        """Note an image's brightness; None = not measured."""
        if brightness is not None and self._trained:
            self._shares.append(brightness)

    def check(self) -> None:
        """Warn, once, where the images seen so far are unlike the training data."""
        if self._shares:
            count = len(self._shares)
            self.check_range(brightness_range(np.array(self._shares)), counted(count, "image"), count)

    def check_range(self, found: Range | None, what: str, num_images: int) -> None:
        """Warn, once, where a range of brightness is unlike that of the training data.

        Args:
            found: Of the images; None = not known.
            what: Whose it is.
            num_images: How many images it is of.
        """
        for name, trained in self._trained.items():
            if found and (text := unlike(found, trained, num_images)):
                warnings.warn(
                    f"{what}: another brightness range than {name} was trained on: {text}; {_DARK_FIX}", HpaWarning, 2
                )
                self._trained = {}
                return

"""Whether images are like those that networks were trained on: their scale, and which channels there are."""

import warnings
from collections.abc import Sequence
from typing import Any

from hpa_tf.errors import HpaWarning, InputError

_SCALE_TOLERANCE = 0.1


def check_scale(um_per_px: float, trained: Sequence[tuple[str, Sequence[float]]]) -> None:
    """Warn of images at another scale than a network was trained on: crops are not scaled to it.

    Args:
        um_per_px: Micrometres per pixel of the images.
        trained: (network, micrometres per pixel of its training data) each; those that do not say it are passed over.
    """
    for name, scales in trained:
        if scales and not any(abs(um_per_px / one - 1) < _SCALE_TOLERANCE for one in scales):
            known = " and ".join(map(str, scales))
            text = f"images of {um_per_px:g} um per px (--um-per-px), but {name} was trained at {known}"
            warnings.warn(f"{text}: say what the images have, or expect worse scores", HpaWarning, stacklevel=4)


def scales_of(networks: list) -> tuple[tuple[str, tuple[float, ...]], ...]:
    """Return (name, micrometres per pixel of its training data) of each network."""
    return tuple((network.name, tuple(network.served.dataset.get("um_per_px") or ())) for network in networks)


def check_channels(without: Sequence[Sequence[str]], networks: list, allowed: bool = False) -> None:
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


def trained_without(served: Any) -> set[frozenset[str]]:
    """Return the sets of black channels that a network has seen in training; frozenset() = all four were there."""
    known = {frozenset(one) for one in served.dataset.get("without") or ((),)}  # earlier manifests do not say it
    for channel in served.recipe.augmentation.dropped:
        known |= {one | {channel} for one in known}
    return known


def _without_in_words(channels: frozenset[str]) -> str:
    return f"without {','.join(sorted(channels))}" if channels else "with all four channels"

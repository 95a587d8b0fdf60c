"""How bright images are, as a share of their files' full scale: what a network saw, and whether others are like it.

A 12-bit camera writes counts up to 4095 into 16-bit files: a network sees a sixteenth of the light. Nothing in the
file says so, but the brightest pixels do: of each channel the 99.9th percentile, so that hot pixels do not count.
"""

import warnings
from collections.abc import Collection, Mapping, Sequence

import cv2
import numpy as np

from hpa_tf.classes import CHANNELS
from hpa_tf.errors import HpaWarning

QUANTILE = 0.999
Range = Mapping[str, tuple[float, float, float] | None]
"""Smallest, median and largest brightness of each channel over the images, 0..1; None where every image is blank."""

NOTHING_STRETCHED = "--full-scale: no image has 16 bits, so nothing was stretched"
"""What a command says whose option had no effect."""
_DARK = 4095 / 65535
"""Brightest channel of an image of 12 bits in 16-bit files. The darkest of 76 real fields of view has .16."""
_DARKER = 1 / 12
"""The same against the brightest image of its folder: for 8 bits in 16-bit files beside 12 bits, and the like."""
_ENOUGH_IMAGES = 8
"""From how many images on the usual one counts: a single field may be dark."""
_DIGITS = 6


def brightness(pixels: np.ndarray) -> np.ndarray:
    """Return the 99.9th percentile of each channel as a share of full scale, float64 [C] in 0..1; NaN = blank channel.

    Args:
        pixels: uint8 or uint16 [H, W, C], counts.
    """
    full = np.iinfo(pixels.dtype).max
    shares = np.full(pixels.shape[-1], np.nan)
    for channel in range(len(shares)):
        plane = cv2.extractChannel(pixels, channel)
        counts = cv2.calcHist([plane], [0], None, [full + 1], [0, full + 1]).ravel()  # 5 ms at 2048 px, exact
        if np.count_nonzero(counts) > 1:
            below = np.cumsum(counts, dtype=np.float64)
            shares[channel] = round(int(np.searchsorted(below, QUANTILE * below[-1])) / full, _DIGITS)
    return shares


def brightness_range(shares: np.ndarray) -> Range:
    """Return smallest, median and largest of each channel.

    Args:
        shares: float [N, 4] of N images, see `brightness`; blank channels (NaN) do not count.
    """
    found: dict[str, tuple[float, float, float] | None] = {}
    for channel, column in zip(CHANNELS, np.reshape(shares, (-1, len(CHANNELS))).T, strict=True):
        known = column[~np.isnan(column)]
        numbers = (known.min(), np.median(known), known.max()) if known.size else ()
        found[channel] = tuple(round(float(number), _DIGITS) for number in numbers) or None
    return found


def unlike(found: Range, trained: Range, num_images: int = 1) -> str | None:
    """Say in which channels images are far darker or brighter than those that a network was trained on.

    Far: the median is below half of the smallest, or above twice the largest. Training data may hold an image that is
    nearly black, below which nothing is, and one that is full: so also where no image has more light than 12 bits can
    say in 16-bit files, or several images usually have less than a quarter (14 bits) of what the training data has: in
    all channels, or in one of those that are alike in every cell, which the protein's is not. Where the training data
    holds a full image, nothing is brighter.

    Args:
        found: Range of the images.
        trained: Range of the training data, from its manifest.
        num_images: How many images `found` is of.

    Returns:
        The end of a sentence that begins with what the images are, or None where they are alike.
    """
    far, dim = [], []
    for channel in CHANNELS:
        if found.get(channel) is None or trained.get(channel) is None:
            continue
        median, (smallest, usual, largest) = found[channel][1], trained[channel]
        word = "darker" if median < usual else "brighter"
        text = f"{channel} {word}: median {median:.3f} of full scale, training data {smallest:.3f} to {largest:.3f} "
        text += f"(median {usual:.3f})"
        if median < smallest / 2 or median > largest * 2:
            far.append(text)
        elif channel != "green" and num_images >= _ENOUGH_IMAGES and 4 * median < usual:
            dim.append(text)
    return "; ".join(far) or _fewer_bits(found, trained, num_images) or "; ".join(dim) or None


def at_most_12_bits(found: Range) -> bool:
    """Tell whether no image has more light than counts up to 4095 say in 16-bit files; False where none is known."""
    return 0 < _largest(found, 2) <= _DARK


def warn_of_full_scale(bits: Collection[int], found: Range, is_given: bool) -> None:
    """Warn of images of 12 bits in 16-bit files where `--full-scale` is missing, or that it had no effect.

    Args:
        bits: Which bits per channel the images have; none where no image was read.
        found: Range of the images.
        is_given: Whether the option is.
    """
    if is_given and set(bits) == {8}:
        warnings.warn(NOTHING_STRETCHED, HpaWarning, stacklevel=3)
    if not is_given and set(bits) == {16} and at_most_12_bits(found):
        text = "no 16-bit image is brighter than 4095 of 65535, so networks will see nearly black pictures"
        fix = "if the camera has 12 bits, give --full-scale 4095, here and to every later command; else 65535"
        warnings.warn(f"{text}; {fix}", HpaWarning, stacklevel=3)


def _fewer_bits(found: Range, trained: Range, num_images: int) -> str | None:
    usual, median, most = _largest(trained, 1), _largest(found, 1), _largest(found, 2)
    if at_most_12_bits(found) and usual >= 4 * _DARK:
        return f"all darker: no channel above {most:.3f} of full scale, training data usually up to {usual:.3f}"
    if num_images >= _ENOUGH_IMAGES and 0 < 4 * median < usual:
        return f"darker: no channel's median above {median:.3f} of full scale, training data {usual:.3f}"
    return None


def _largest(found: Range, place: int) -> float:
    return max((one[place] for one in found.values() if one), default=0)


def dark_images(image_ids: Sequence[str], shares: np.ndarray) -> list[str]:
    """Return the images that are of another kind of brightness than the rest: far darker, in every channel.

    Args:
        image_ids: N names.
        shares: float [N, 4], see `brightness`. Images all of whose channels are blank do not count.
    """
    brightest = np.max(np.nan_to_num(np.reshape(shares, (-1, len(CHANNELS)))), axis=1, initial=0)
    most = brightest.max(initial=0)
    bound = _DARK if most > 4 * _DARK else _DARKER * most
    dark, bright = (brightest > 0) & (brightest <= bound), brightest > bound
    return [image_ids[k] for k in np.flatnonzero(dark)] if bright.any() else []

"""Nuclei from the blue channel alone: threshold, split at necks, outline at a fixed part of each one's brightness.

One low threshold finds bright and dim nuclei alike; each then ends where its own light has fallen to 40 %, so that a
bright nucleus does not swell and a dim one beside it does not vanish. Nothing is found where there is nothing: noise,
a ramp of light or a blank channel lack the contrast of real nuclei.
"""

import cv2
import numpy as np
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from hpa_tf.imaging.segmentation.resolution import largest_piece, regions, smooth

MIN_NUCLEUS_UM2 = 20.0
"""Smallest nucleus, um2; debris is smaller, the smallest real nuclei measure about 40 um2."""

MIN_CONTRAST = 4.5
"""(mean above the threshold - mean below) / standard deviation below; noise, ramps and vignettes of any strength
reach 3.1, the poorest of 76 real fields 7.2 (ours: measured, on the square root of the smoothed channel)."""

_SMOOTHING_UM = 0.5
_SURROUNDINGS_UM = 12.0
_SEED_DISTANCE_UM = 3.2
_NECK = 0.8
_EDGE_BRIGHTNESS = 0.4


def find_nuclei(blue: np.ndarray, um_per_px: float) -> np.ndarray:
    """Find the nuclei of a field of view.

    Args:
        blue: float32 [h, w], not negative, any unit.
        um_per_px: Micrometres per pixel, best near 0.32.

    Returns:
        int32 [h, w], numbered 1..N; each nucleus is one 4-connected piece without holes.
    """
    smoothed = smooth(blue, _SMOOTHING_UM / um_per_px)
    parts = split_at_necks(nuclear_pixels(smoothed, um_per_px), um_per_px)
    nuclei = np.zeros(blue.shape, np.int32)
    found = 0
    for number, box in regions(parts):
        nucleus = _outline(parts[box] == number, smoothed[box])
        if nucleus.sum() * um_per_px**2 >= MIN_NUCLEUS_UM2:
            found += 1
            nuclei[box][nucleus] = found
    return nuclei


def nuclear_pixels(smoothed: np.ndarray, um_per_px: float) -> np.ndarray:
    """Threshold the smoothed blue channel, float32 [h, w], to bool [h, w]: bright, and brighter than around."""
    root = np.sqrt(smoothed)  # evens out the noise of photon counts and the brightness of nuclei
    threshold = threshold_otsu(root) if np.ptp(root) > 1e-3 * root.max() else np.inf
    above, below = root[root > threshold], root[root <= threshold]
    if not above.size or above.mean() - below.mean() < MIN_CONTRAST * below.std():
        return np.zeros(smoothed.shape, bool)
    pixels = (root > 0.6 * threshold) & (root > 0.9 * smooth(root, _SURROUNDINGS_UM / um_per_px))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * max(1, round(0.5 / um_per_px)) + 1,) * 2)
    return ndimage.binary_fill_holes(cv2.morphologyEx(pixels.astype(np.uint8), cv2.MORPH_OPEN, disc))


def split_at_necks(pixels: np.ndarray, um_per_px: float) -> np.ndarray:
    """Split touching nuclei by a watershed of the distance to the background.

    Args:
        pixels: bool [h, w].
        um_per_px: Micrometres per pixel.

    Returns:
        int32 [h, w]. Two parts stay one where their neck is wider than 0.8 of the narrower part: long and bent
        nuclei have several distance maxima but no neck.
    """
    if not pixels.any() or pixels.all():
        return np.zeros(pixels.shape, np.int32)
    distance = cv2.distanceTransform(pixels.astype(np.uint8), cv2.DIST_L2, 5)
    distance = smooth(distance, 0.7 / um_per_px)
    peaks = peak_local_max(
        distance,
        min_distance=max(1, round(_SEED_DISTANCE_UM / um_per_px)),
        threshold_abs=1.2 / um_per_px,
        exclude_border=False,
    )
    seeds = np.zeros(pixels.shape, np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return _join_without_neck(watershed(-distance, seeds, mask=pixels), distance)


def _join_without_neck(parts: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Give neighbouring parts one number, widest neck first, unless a neck lies between them."""
    width = np.zeros(int(parts.max()) + 1)
    np.maximum.at(width, parts, distance)
    owner = np.arange(len(width))
    for neck, one, other in sorted(_necks(parts, distance), reverse=True):
        wide, narrow = sorted((owner[one], owner[other]), key=lambda part: -width[part])
        if neck > _NECK * width[narrow]:
            owner[owner == narrow] = wide
    return owner[parts].astype(np.int32)


def _necks(parts: np.ndarray, distance: np.ndarray) -> list[tuple[float, int, int]]:
    """List (largest distance on the common border, part, part) of the parts that touch."""
    widest: dict[tuple[int, int], float] = {}
    for here, there in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        touching = (parts[here] != parts[there]) & (parts[here] > 0) & (parts[there] > 0)
        height = np.minimum(distance[here], distance[there])[touching]
        for one, other, value in zip(parts[here][touching], parts[there][touching], height, strict=True):
            pair = (int(min(one, other)), int(max(one, other)))
            widest[pair] = max(widest.get(pair, 0.0), float(value))
    return [(value, *pair) for pair, value in widest.items()]


def _outline(part: np.ndarray, smoothed: np.ndarray) -> np.ndarray:
    """Cut one part, bool [h, w], where its light falls below 40 % of its bright quarter; fill its holes."""
    bright = part & (smoothed > _EDGE_BRIGHTNESS * np.percentile(smoothed[part], 75))
    return ndimage.binary_fill_holes(largest_piece(bright))

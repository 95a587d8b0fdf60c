"""Nuclei from the blue channel: threshold, split where they touch, outline at a fixed part of each one's brightness.

One low threshold finds bright and dim nuclei alike; each then ends where its own light has fallen to 40 %, so that a
bright nucleus does not swell and a dim one beside it does not vanish. Nothing is found where there is nothing: noise,
a ramp of light or a blank channel lack the contrast of real nuclei. Fields that nuclei cover have little contrast too
(`confluent`).
"""

import cv2
import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.morphology import remove_small_holes

from hpa_tf.imaging.segmentation.confluent import LEAST_CONTRAST, disc, nuclei_between_seams
from hpa_tf.imaging.segmentation.resolution import largest_piece, regions, smooth
from hpa_tf.imaging.segmentation.touching import HOLE_UM2, split_touching

MIN_NUCLEUS_UM2 = 20.0
"""Smallest nucleus, um2; debris is smaller, the smallest real nuclei measure about 40 um2."""

MIN_CONTRAST = 4.5
"""(mean above the threshold - mean below) / standard deviation below; noise, ramps and vignettes of any strength
reach 3.5, the poorest of 76 real fields 7.2 (ours: measured, on the square root of the smoothed channel)."""

CLEAR_CONTRAST = 7.0
"""From there on a threshold is sure; below, nuclei may cover the field: those between seams are looked for first."""

_SMOOTHING_UM = 0.5
_SURROUNDINGS_UM = 12.0
_EDGE_BRIGHTNESS = 0.4


def find_nuclei(blue: np.ndarray, um_per_px: float, border: np.ndarray | None = None) -> np.ndarray:
    """Find the nuclei of a field of view.

    Args:
        blue: float32 [h, w], not negative, any unit.
        um_per_px: Micrometres per pixel, best near 0.32.
        border: float32 [h, w], probability that two cells meet there, where something tells it.

    Returns:
        int32 [h, w], numbered 1..N; each nucleus is one 4-connected piece without holes.
    """
    smoothed = smooth(blue, _SMOOTHING_UM / um_per_px)
    parts = _parts(smoothed, um_per_px, border)
    nuclei = np.zeros(blue.shape, np.int32)
    found = 0
    for number, box in regions(parts):
        nucleus = _outline(parts[box] == number, smoothed[box])
        if nucleus.sum() * um_per_px**2 >= MIN_NUCLEUS_UM2:
            found += 1
            nuclei[box][nucleus] = found
    return nuclei


def _parts(smoothed: np.ndarray, um_per_px: float, border: np.ndarray | None) -> np.ndarray:
    """Return the nuclei without their outlines, int32 [h, w]; none where the light has no contrast of nuclei."""
    root = np.sqrt(smoothed)  # evens out the noise of photon counts and the brightness of nuclei
    threshold = threshold_otsu(root) if np.ptp(root) > 1e-3 * root.max() else np.inf
    above, below = root[root > threshold], root[root <= threshold]
    if not above.size:
        return np.zeros(smoothed.shape, np.int32)
    contrast = (above.mean() - below.mean()) / max(float(below.std()), 1e-9)
    if contrast < LEAST_CONTRAST:
        return np.zeros(smoothed.shape, np.int32)
    pixels = nuclear_pixels(root, threshold, um_per_px)
    if contrast < CLEAR_CONTRAST:
        parts = nuclei_between_seams(pixels, smoothed, um_per_px, border)
        if parts.any() or contrast < MIN_CONTRAST:
            return parts
    return split_touching(pixels, smoothed, um_per_px, border)


def nuclear_pixels(root: np.ndarray, threshold: float, um_per_px: float) -> np.ndarray:
    """Return where the root of the smoothed blue channel, float32 [h, w], is bright and brighter than around; bool."""
    pixels = (root > 0.6 * threshold) & (root > 0.9 * smooth(root, _SURROUNDINGS_UM / um_per_px))
    opened = cv2.morphologyEx(pixels.astype(np.uint8), cv2.MORPH_OPEN, disc(0.5, um_per_px)) > 0
    return remove_small_holes(opened, max_size=HOLE_UM2 / um_per_px**2)


def _outline(part: np.ndarray, smoothed: np.ndarray) -> np.ndarray:
    """Cut one part, bool [h, w], where its light falls below 40 % of its bright quarter; fill its holes."""
    bright = part & (smoothed > _EDGE_BRIGHTNESS * np.percentile(smoothed[part], 75))
    return ndimage.binary_fill_holes(largest_piece(bright))

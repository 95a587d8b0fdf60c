"""Nuclei that cover a field, so that hardly any background is left to tell them from.

There the mean light of what is dark says little, and a low threshold takes the seams between nuclei too. Such a field
differs from an empty one in what stands out: round pieces as large as nuclei, with sharp edges. Ramps and vignettes
have no seams; the pieces of noise and of clouds of stray light are ragged where their edges are sharp.
"""

import cv2
import numpy as np

from hpa_tf.imaging.segmentation.resolution import regions
from hpa_tf.imaging.segmentation.touching import solidity, split_touching

_SEAM_UM = 4.0  # widest
_LEAST_DEPTH = 0.1  # share of the light beside a seam that it lacks
_NUCLEUS_UM2 = (20.0, 800.0)
_FEWEST = 3
LEAST_CONTRAST = 2.75
"""As `nuclei.MIN_CONTRAST`, of fields whose bright pieces have all that is asked for below. Noise and clouds of stray
light reach 2.65, the fourth power of such clouds 3.4, drawn dense fields 2.9 to 4.7 (ours: measured)."""
_LEAST_EDGE = 0.38
"""Slope at the edges, um-1, of the difference between bright and dark, on the square root of the light: drawn dense
fields .50 to .96, real fields .38 to .53; clouds as smooth as nuclei .32 at most."""
_SMOOTH_UM, _LEAST_SMOOTH = 2.2, 0.93
"""Share of the bright pixels that a disc of this radius reaches: drawn dense fields .96 to 1; clouds with edges as
sharp .78 at most."""
_MOST_BRIGHT = 0.97
"""Share of the field: drawn dense fields up to .95; a ramp of light with photon noise, whose few specks pass for edges,
.996 and more (ours: measured)."""
_LEAST_SOLIDITY = 0.88
"""Mean of the pieces: drawn dense fields .92 to .97."""


def nuclei_between_seams(
    pixels: np.ndarray, smoothed: np.ndarray, um_per_px: float, border: np.ndarray | None = None
) -> np.ndarray:
    """Find the nuclei of a field where they may be all over, or not at all.

    Args:
        pixels: bool [h, w], what is bright.
        smoothed: float32 [h, w], the blue channel, smoothed.
        um_per_px: Micrometres per pixel.
        border: float32 [h, w], probability that two cells meet there, where something tells it.

    Returns:
        int32 [h, w], one number a nucleus; all 0 where what is bright does not look like nuclei.
    """
    beside = cv2.morphologyEx(smoothed, cv2.MORPH_CLOSE, disc(_SEAM_UM / 2, um_per_px), borderType=cv2.BORDER_REFLECT)
    depth = 1 - smoothed / np.maximum(beside, 1e-9)
    deep = max(_LEAST_DEPTH, 0.5 * float(np.percentile(depth, 99)))
    between = cv2.morphologyEx((pixels & (depth < deep)).astype(np.uint8), cv2.MORPH_OPEN, disc(0.5, um_per_px)) > 0
    smooth_outlines = cv2.morphologyEx(
        between.astype(np.uint8), cv2.MORPH_OPEN, disc(_SMOOTH_UM, um_per_px), borderType=cv2.BORDER_REPLICATE
    )
    is_ragged = smooth_outlines.sum() < _LEAST_SMOOTH * between.sum()
    if is_ragged or between.mean() > _MOST_BRIGHT or _edge(between, np.sqrt(smoothed), um_per_px) < _LEAST_EDGE:
        return np.zeros(pixels.shape, np.int32)
    parts = split_touching(between, smoothed, um_per_px, border)
    least, most = (area / um_per_px**2 for area in _NUCLEUS_UM2)
    nuclei = [parts[box] == number for number, box in regions(parts)]
    nuclei = [nucleus for nucleus in nuclei if least < nucleus.sum() < most]
    if len(nuclei) < _FEWEST or np.mean([solidity(nucleus) for nucleus in nuclei]) < _LEAST_SOLIDITY:
        return np.zeros(pixels.shape, np.int32)
    return parts


def _edge(bright: np.ndarray, root: np.ndarray, um_per_px: float) -> float:
    """Return the median slope at the edges of what is bright / how much brighter it is than the rest; 1 / um."""
    edge = cv2.morphologyEx(bright.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    if not edge.any() or bright.all():
        return 0.0
    slope = cv2.magnitude(*(cv2.Sobel(root, cv2.CV_32F, *axis, ksize=1, scale=0.5) for axis in ((1, 0), (0, 1))))
    apart = float(root[bright].mean() - root[~bright].mean())
    return float(np.median(slope[edge])) / um_per_px / apart if apart > 0 else 0.0


def disc(radius_um: float, um_per_px: float) -> np.ndarray:
    """Return a disc as a structuring element, uint8, at least 3 px wide."""
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * max(1, round(radius_um / um_per_px)) + 1,) * 2)

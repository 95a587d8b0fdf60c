"""What the small network sees of a field of view: three channels at 0.64 um/px, evened out. Training sees the same."""

import cv2
import numpy as np

from hpa_tf.classes import BLUE, RED, YELLOW

UM_PER_PX = 0.64
"""Micrometres per pixel of what the network sees: a cell is 20 to 90 px wide."""
SEEN = (RED, BLUE, YELLOW)
"""Channels of a field of view, in the order in which the network takes them."""
_PERCENTILES = (1, 99.5)
_LEAST_RANGE = 2 / 255
"""A channel whose bright pixels are no further than this above its dark ones is blank: not enlarged to full range."""
_COMPRESSION = np.float32(30)
_LARGEST = np.float32(4)
_MOST_ENLARGED = 4


def working_pixels(pixels: np.ndarray, um_per_px: float) -> np.ndarray:
    """Bring a field to 0.64 um/px.

    Args:
        pixels: uint8 or uint16 [H, W, 4], counts.
        um_per_px: Micrometres per pixel of `pixels`. Fields coarser than 2.56 are enlarged four times and no more.

    Returns:
        float32 [h, w, 3]: red, blue, yellow in 0..1 of the full range of the type.
    """
    factor = min(um_per_px / UM_PER_PX, _MOST_ENLARGED)
    scaled = pixels[..., SEEN].astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    height, width = (max(1, round(size * factor)) for size in scaled.shape[:2])
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return cv2.resize(scaled, (width, height), interpolation=how).reshape(height, width, len(SEEN))


def brightness_range(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the dark and the bright end of each channel of float32 [h, w, 3], float32 [3] each."""
    dark, bright = np.percentile(pixels.reshape(-1, pixels.shape[-1]), _PERCENTILES, axis=0).astype(np.float32)
    return dark, np.maximum(bright, dark + np.float32(_LEAST_RANGE))


def compressed(relative: np.ndarray) -> np.ndarray:
    """Even out bright and dim cells: 0 = dark, 1 = bright, float32 of any shape; dim cells fill much of the range."""
    return np.log1p(_COMPRESSION * np.clip(relative, 0, _LARGEST)) / np.log1p(_COMPRESSION)


def network_view(pixels: np.ndarray) -> np.ndarray:
    """Return what the network sees of `working_pixels`, float32 [h, w, 3]."""
    dark, bright = brightness_range(pixels)
    return compressed((pixels - dark) / (bright - dark))

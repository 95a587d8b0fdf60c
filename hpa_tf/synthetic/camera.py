"""Optics and camera: what turns four stains into counts."""

import cv2
import numpy as np

from hpa_tf.synthetic.config import SyntheticConfig

_GREY_LEVELS = 255.0
_PEAKS = {"red": (215, 0.35), "green": (103, 0.55), "blue": (165, 0.2), "yellow": (270, 0.35)}
"""Grey levels (of 255) that a stain of 1 gives: median, and spread (log) between images; chosen so that pictures have
the grey levels of 76 real images (`python -m hpa_tf.synthetic statistics`)."""


def illumination(rng: np.random.Generator, shape: tuple[int, int], largest_drop: float) -> np.ndarray:
    """Return the light on each pixel, float32 [H, W], at most 1: a bowl whose middle lies somewhere in the frame."""
    rows, columns = (np.linspace(0, 1, length, dtype=np.float32) for length in shape)
    middle = rng.uniform(0.25, 0.75, 2).astype(np.float32)
    down, right = (rows[:, None] - middle[0]) ** 2, (columns[None, :] - middle[1]) ** 2
    return 1 - np.float32(rng.uniform(0, largest_drop) / (down.max() + right.max())) * (down + right)


def draw_exposure(rng: np.random.Generator, channel: str) -> float:
    """Draw the grey levels (of 255) that a stain of 1 gives in this image."""
    median, spread = _PEAKS[channel]
    return median * rng.lognormal(0, spread)


def take_picture(
    stain: np.ndarray, exposure: float, rng: np.random.Generator, config: SyntheticConfig, margin: int
) -> np.ndarray:
    """Blur, light, expose, count photons, read out and cut the border off.

    Args:
        stain: float32 [H, W], border included; about 1 where bright.
        exposure: Grey levels (of 255) of a stain of 1.
        margin: Width of the border, px.

    Returns:
        uint8 or uint16 [size, size] counts.
    """
    sigma = rng.uniform(*config.blur_um) / config.pixel_um
    image = cv2.GaussianBlur(stain.astype(np.float32, copy=False), (0, 0), max(sigma, 0.3))
    image = image[margin : margin + config.size, margin : margin + config.size]
    image = image * (exposure * illumination(rng, image.shape, config.illumination))
    photons = float(np.exp(rng.uniform(*np.log(config.photons))))
    read = rng.uniform(*config.read_noise)
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    noise *= np.sqrt(np.maximum(image, 0) / photons + read**2)
    image += noise
    image += rng.uniform(*config.background)
    return counts(image, config.bits)


def counts(grey_levels: np.ndarray, bits: int) -> np.ndarray:
    """Turn grey levels (of 255) into what is stored, uint8 or uint16."""
    full = 255 if bits == 8 else 65535
    stored = np.clip(grey_levels * (full / _GREY_LEVELS) + 0.5, 0, full)
    return stored.astype(np.uint8 if bits == 8 else np.uint16)

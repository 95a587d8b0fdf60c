"""Random textures and dots: the small brushes that several stains share."""

import cv2
import numpy as np


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], grain_px: float) -> np.ndarray:
    """Return float32 [H, W] noise of mean 0, deviation 1, whose grains are about `grain_px` wide.

    Drawn on a grid of a third of a grain, blurred there (so that the grid does not show) and interpolated.
    """
    step = max(grain_px / 3, 1.0)
    blur = grain_px / (3 * step)
    coarse = (max(2, int(np.ceil(shape[0] / step))), max(2, int(np.ceil(shape[1] / step))))
    noise = rng.standard_normal(coarse, dtype=np.float32)
    if blur > 0.35:
        noise = cv2.GaussianBlur(noise, (0, 0), blur)
        noise *= np.float32(1 / max(float(noise.std()), 1e-6))
    if step > 1:
        noise = cv2.resize(noise, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return noise


def soft_step(values: np.ndarray, middle: float, width: float) -> np.ndarray:
    """Rise smoothly from 0 to 1 around `middle` over about `width`."""
    return np.clip((values - middle) / width + 0.5, 0, 1)


def add_disks(
    canvas: np.ndarray, centres: np.ndarray, radii: np.ndarray, values: np.ndarray, softness_px: float = 0.6
) -> None:
    """Put soft disks on float32 `canvas` [H, W] in place (the brighter value wins).

    Args:
        centres: [N, 2] row, column, px.
        radii: [N] px.
        values: [N] brightness.
        softness_px: Width of the edge, px.
    """
    height, width = canvas.shape
    for (row, column), radius, value in zip(centres, radii, values, strict=True):
        reach = int(np.ceil(radius + 2 * softness_px)) + 1
        top, left = max(0, int(row) - reach), max(0, int(column) - reach)
        bottom, right = min(height, int(row) + reach + 1), min(width, int(column) + reach + 1)
        if top >= bottom or left >= right:
            continue
        rows, columns = np.ogrid[top:bottom, left:right]
        distance = np.sqrt((rows - row) ** 2 + (columns - column) ** 2)
        disk = value * np.clip((radius - distance) / (2 * softness_px) + 0.5, 0, 1)
        if radius < 0.7:  # smaller than a pixel: keep its light, not its size
            disk *= (radius / 0.7) ** 2
        patch = canvas[top:bottom, left:right]
        np.maximum(patch, disk, out=patch)

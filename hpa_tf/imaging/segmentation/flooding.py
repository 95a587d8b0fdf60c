"""Watersheds of 8-bit heights: scikit-image's results, and compiled code where Numba is installed."""

import functools
import importlib.util

import numpy as np

_MAX_PIXELS = 1 << 28  # of a picture with its frame: the compiled entries have 28 bits for a pixel


@functools.cache
def has_numba() -> bool:
    """Tell whether the compiled functions can be used."""
    return importlib.util.find_spec("numba") is not None


def _is_compiled(shape: tuple[int, int]) -> bool:
    return has_numba() and (shape[0] + 2) * (shape[1] + 2) <= _MAX_PIXELS


def flood(height: np.ndarray, seeds: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Spread seeds over a region, lowest pixels first; `skimage.segmentation.watershed(height, seeds, mask=region)`.

    Args:
        height: uint8 [H, W].
        seeds: int32 [H, W]; 0 = none. Seeds outside the region are dropped.
        region: bool [H, W].

    Returns:
        int32 [H, W]: the seeds' numbers; 0 outside the region and where no seed gets to.
    """
    if not _is_compiled(height.shape):
        from skimage.segmentation import watershed

        return watershed(height, seeds, mask=region).astype(np.int32, copy=False)
    from hpa_tf.imaging.segmentation import compiled_flood

    labels, inside, num_free = _framed(seeds, region)
    compiled_flood.flood(np.pad(height, 1).ravel(), labels.ravel(), inside.ravel(), labels.shape[1], num_free)
    return labels[1:-1, 1:-1]


def flood_with_lines(seeds: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Spread seeds evenly over a region, with lines of zeros where they meet; arguments as for `flood`.

    `skimage.segmentation.watershed(region, seeds, mask=region, watershed_line=True)`.
    """
    if _is_compiled(seeds.shape):
        from hpa_tf.imaging.segmentation import compiled_flood

        labels, inside, num_free = _framed(seeds, region)
        if compiled_flood.flood_with_lines(labels.ravel(), inside.ravel(), labels.shape[1], num_free):
            return labels[1:-1, 1:-1]
    from skimage.segmentation import watershed

    return watershed(region, seeds, mask=region, watershed_line=True).astype(np.int32, copy=False)


def _framed(seeds: np.ndarray, region: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return seeds inside the region and the region with a frame of zeros, and the number of its free pixels."""
    labels = np.pad(seeds * region.view(np.uint8), 1).astype(np.int32, copy=False)
    return labels, np.pad(region.view(np.uint8), 1), int(np.count_nonzero(region & (seeds == 0)))

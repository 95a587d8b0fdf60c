"""From a field's pixels to what the networks see, and from what they answer to maps of the field's size.

Every number here is HPACellSegmentator's, checked against its own outputs. Without TensorFlow.
"""

import cv2
import numpy as np

from hpa_tf.errors import InputError

PADDING = 32
"""Rows and columns mirrored around the shrunk field, px; at the bottom and the right up to 32 more."""
MIN_SIZE = 32
"""Smallest height and width of a field, px."""

_MEAN = np.array([124, 117, 104], np.float32) / np.float32(255)
_STD = np.float32(1 / (0.0167 * 255))


def check_size(image_id: str, shape: tuple[int, ...], scale: float) -> None:
    """Refuse a field that is too small to hold a cell.

    Raises:
        InputError: A side is below `MIN_SIZE` px, or vanishes when it is scaled.
    """
    if min(shape[:2]) < MIN_SIZE or min(_scaled(size, scale) for size in shape[:2]) < 1:
        found = f"a field of {shape[1]} x {shape[0]} px"
        fix = "leave the image out (--on-error skip), or correct --um-per-px"
        raise InputError(f"image {image_id}", found, f"at least {MIN_SIZE} px a side", fix)


def _scaled(size: int, scale: float) -> int:
    return round(scale * size)  # half to even


def shrink(plane: np.ndarray, scale: float) -> np.ndarray:
    """Rescale one channel: a Gaussian against aliasing, then linear interpolation at the pixels' centres.

    Args:
        plane: uint8 or uint16 [H, W], counts.
        scale: Size of the result / size of the plane; each axis is rounded by itself.

    Returns:
        float32 [h, w], 0..1 of the full range of the type.
    """
    image = plane.astype(np.float32) / np.float32(np.iinfo(plane.dtype).max)
    rows, columns = (_scaled(size, scale) for size in plane.shape)
    sigmas = [max(0.0, (old / new - 1) / 2) for old, new in zip(plane.shape, (rows, columns), strict=True)]
    # SciPy's kernel: cut at 4 sigma; its "mirror" does not repeat the edge pixel
    kernel_rows, kernel_columns = (_gaussian(sigma) for sigma in sigmas)
    image = cv2.sepFilter2D(image, cv2.CV_32F, kernel_columns, kernel_rows, borderType=cv2.BORDER_REFLECT_101)
    return cv2.resize(image, (columns, rows), interpolation=cv2.INTER_LINEAR)


def _gaussian(sigma: float) -> np.ndarray:
    radius = int(4 * sigma + 0.5)
    if radius == 0:
        return np.ones(1)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return kernel / kernel.sum()


def network_input(planes: tuple[np.ndarray, np.ndarray, np.ndarray], padding: bool = True) -> np.ndarray:
    """Stack, pad and normalise three shrunk channels.

    Args:
        planes: Three of float32 [h, w], 0..1: blue three times for nuclei; red, yellow, blue for cells.
        padding: Mirror the surroundings, edge pixels included; without, sides must be divisible by 32.

    Returns:
        float32 [h', w', 3].
    """
    stacked = np.stack(planes, axis=-1)
    if padding:
        ends = [(PADDING, PADDING - size % PADDING) for size in stacked.shape[:2]]
        stacked = np.pad(stacked, (*ends, (0, 0)), mode="symmetric")
    return (stacked - _MEAN) / _STD


def crop(probabilities: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Cut the padding of `network_input` off: [h', w', C] -> [h, w, C]."""
    return probabilities[PADDING : PADDING + shape[0], PADDING : PADDING + shape[1]]


def nuclei_map(probabilities: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Round the nucleus network's answer, then enlarge it.

    Args:
        probabilities: float32 [h, w, 3]: background, border, foreground.
        shape: (H, W) of the field, px.

    Returns:
        uint8 [H, W, 3], 255 = 1; the background is 0.
    """
    return _enlarged(_rounded(_without_background(probabilities)), shape)


def cells_map(probabilities: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Enlarge the cell network's answer, then round it; arguments and result as for `nuclei_map`."""
    return _rounded(_enlarged(_without_background(probabilities), shape))


def _without_background(probabilities: np.ndarray) -> np.ndarray:
    return probabilities * np.array([0, 1, 1], np.float32)


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.rint(values * np.float32(255)).astype(np.uint8)


def _enlarged(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    # "area" repeats pixels where the factor is whole
    return cv2.resize(values, shape[::-1], interpolation=cv2.INTER_AREA)

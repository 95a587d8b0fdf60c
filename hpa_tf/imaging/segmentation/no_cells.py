"""A word where no cell was found although the field does not look empty."""

import warnings

import numpy as np

from hpa_tf.classes import BLUE, RED, YELLOW
from hpa_tf.errors import HpaWarning
from hpa_tf.imaging.fields import FieldOfView
from hpa_tf.imaging.segmentation.resolution import smooth

_LIT = (0.1, 0.2)  # the darkest places of a field with nuclear light everywhere, of full scale and of the brightest
_NOISE = 0.15  # standard deviation from pixel to pixel / mean: above, a stretched picture of nothing
_BANDS_UM = (0.5, 3.0, 10.0)
_OVER_GRAIN, _OVER_SHAPE, _OVER_MEAN = 0.5, 0.26, 0.1
"""Spread of the light at the scale of cells (3 to 10 um) / that of the grain (0.5 to 3 um), that of all above 3 um, and
the mean: at least. Red and yellow of 70 real fields: .57, .26, .12 and more; noise reaches .16 of the grain, ramps and
vignettes .23 of the shape (ours: measured)."""
_LEAST_SPREAD = 1e-4  # of full scale
_LEAST_SIDE_UM = 40.0  # a field that is less wide says nothing of cells all over it
_MOST_UM_PER_PX = 2.0  # coarser pixels do not show what is as large as a cell


def warn_of_no_cells(field: FieldOfView, reduced: np.ndarray, um_per_px: float, *, by_networks: bool = False) -> None:
    """Warn of a field in which no cell was found, where its light says that there are some; an empty one is none.

    Args:
        field: The field.
        reduced: float32 [h, w, 4], the same on the working grid, 0..1.
        um_per_px: Micrometres per pixel of that.
        by_networks: Whether HPACellSegmentator's networks looked for them, which need no nuclei that stand out.
    """
    blue = field.pixels[..., BLUE]
    if min(reduced.shape[:2]) * um_per_px < _LEAST_SIDE_UM or um_per_px > _MOST_UM_PER_PX:
        return
    if _is_lit(blue, reduced[..., BLUE], um_per_px):
        seen = "though blue has light everywhere" if by_networks else "which has light everywhere"
    elif spread := [name for name, c in (("red", RED), ("yellow", YELLOW)) if _is_uneven(reduced[..., c], um_per_px)]:
        seen = f"though {' and '.join(spread)} look{'s' if len(spread) == 1 else ''} as if cells covered the field"
    else:
        return
    found = "the networks find none" if by_networks else "no nuclei can be told apart in the blue channel"
    other = "small" if by_networks else "hpa"
    fix = f"see whether blue is the stain of nuclei, or find them with --segmenter {other}, or give masks"
    text = f"image {field.image_id}: no cells: {found}, {seen}; if it has cells, {fix}"
    warnings.warn(text, HpaWarning, stacklevel=3)


def _is_lit(blue: np.ndarray, reduced: np.ndarray, um_per_px: float) -> bool:
    """Tell whether even the darkest places of the blue channel are bright, and it is not blank (files say that)."""
    if min(blue.shape) < 2 or blue.min() == blue.max():
        return False
    light = blue.astype(np.float32)
    noise = float(np.diff(light, axis=1).std()) / np.sqrt(2)
    dark, bright = np.percentile(smooth(reduced, _BANDS_UM[0] / um_per_px), (1, 99))
    return bool(dark > max(_LIT[0], _LIT[1] * bright)) and noise < _NOISE * float(light.mean())


def _is_uneven(plane: np.ndarray, um_per_px: float) -> bool:
    """Tell whether the light of a channel, float32 [h, w], is uneven all over the field at the scale of cells."""
    fine, middle, coarse = (smooth(plane, um / um_per_px) for um in _BANDS_UM)
    least = max(
        _OVER_GRAIN * _spread(fine - middle),
        _OVER_SHAPE * _spread(middle),
        _OVER_MEAN * float(plane.mean()),
        _LEAST_SPREAD,
    )
    return _spread(middle - coarse) >= least


def _spread(values: np.ndarray) -> float:
    """Return the range of the middle half: a few bright specks do not count."""
    low, high = np.percentile(values, (25, 75))
    return float(high - low) / 1.35

"""Single cells: crop, region map and the measurements that the border and outlier rules need.

Measurements are raw numbers; the rules that turn them into values are in `rules`, their thresholds in the recipes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TypeVar

import cv2
import numpy as np
import pandas as pd
from scipy import ndimage

from hpa_tf.classes import BLUE, CHANNELS
from hpa_tf.errors import InputError
from hpa_tf.imaging.fields import FieldOfView
from hpa_tf.imaging.segmentation import Masks

BACKGROUND, THIS_CELL, THIS_NUCLEUS, OTHER_CELL = range(4)
"""Values of a region map."""

Pixels = TypeVar("Pixels")
"""Integers [H, W] of NumPy or TensorFlow."""

Box = tuple[int, int, int, int]
"""(top, left, bottom, right), px, half-open."""

_MAX_DIRECT_NUMBER = 1_000_000  # find_objects makes a list as long as the largest number


@dataclass(frozen=True)
class Measurements:
    """What the border and outlier rules are computed from; counts are in the image's own bit depth.

    Attributes:
        cell_area: Area of the cell, px.
        nucleus_area: Area of its nucleus, px; 0 = no nucleus.
        nucleus_blue: Sum of blue over the nucleus, counts.
        border_ud: (W - longest of top and bottom side) / W of the nucleus in its tight H x W box, 0..1; a nucleus
            that the frame cuts has one long flat side. 0 without a nucleus. Source: METHODS 3.
        border_lr: The same for the left and right sides and H.
        sum_red: Sum of red over the cell, counts; also for the other channels.
    """

    cell_area: int
    nucleus_area: int
    nucleus_blue: int
    border_ud: float
    border_lr: float
    sum_red: int
    sum_green: int
    sum_blue: int
    sum_yellow: int


BOX = ("top", "left", "bottom", "right")
MEASURED: Mapping[str, type[np.generic]] = {
    **dict.fromkeys((*BOX, "height", "width"), np.int32),
    **{"um_per_px": np.float64, "bits": np.int32},
    **{field.name: np.float64 if field.type is float else np.int64 for field in fields(Measurements)},
}
"""Columns of what is measured of a cell, and their types: tight box and image size, px, scale, bits a channel,
`Measurements`."""


@dataclass(frozen=True)
class Cell:
    """One cell of a field of view.

    Attributes:
        image_id: Its field of view.
        number: Its value in the cell mask, > 0.
        box: Tight box of the cell mask in the image.
        crop_box: Box of `crop` in the image: `box` with a margin, clipped at the frame.
        crop: uint8 or uint16 [H, W, 4], counts; the surroundings are kept.
        region: uint8 [H, W]: 0 background, 1 this cell, 2 its nucleus, 3 another cell.
        measurements: See `Measurements`.
    """

    image_id: str
    number: int
    box: Box
    crop_box: Box
    crop: np.ndarray
    region: np.ndarray
    measurements: Measurements


def is_cell(region: Pixels) -> Pixels:
    """Tell which pixels of a region map are this cell or its nucleus, bool [H, W]."""
    return (region == THIS_CELL) | (region == THIS_NUCLEUS)


def measured_table(cells: Sequence[Cell], field: FieldOfView) -> pd.DataFrame:
    """Return one row a cell: its number as `cell`, and the columns `MEASURED`; no cells give the same types."""
    height, width = field.pixels.shape[:2]
    image = {"height": height, "width": width, "um_per_px": field.um_per_px, "bits": field.bits}
    rows = [{**dict(zip(BOX, cell.box, strict=True)), **image, **asdict(cell.measurements)} for cell in cells]
    columns = {name: np.array([row[name] for row in rows], kind) for name, kind in MEASURED.items()}
    return pd.DataFrame({"cell": np.array([cell.number for cell in cells], np.int32), **columns})


def cut_cells(field: FieldOfView, masks: Masks, margin: int = 0) -> Iterator[Cell]:
    """Cut every cell out of a field of view, in the order of their numbers.

    Args:
        field: Pixels [H, W, 4].
        masks: int32 [H, W] each.
        margin: Pixels kept around the tight box, clipped at the frame.
    """
    height, width = masks.cell.shape
    for number, (rows, columns) in find_boxes(masks.cell):
        box = (rows.start, columns.start, rows.stop, columns.stop)
        crop_box = (
            max(box[0] - margin, 0),
            max(box[1] - margin, 0),
            min(box[2] + margin, height),
            min(box[3] + margin, width),
        )
        window = np.s_[crop_box[0] : crop_box[2], crop_box[1] : crop_box[3]]
        crop = np.ascontiguousarray(field.pixels[window])
        region = region_map(masks.cell[window], masks.nucleus[window], number)
        yield Cell(field.image_id, number, box, crop_box, crop, region, measure(crop, region))


def find_boxes(mask: np.ndarray) -> Iterator[tuple[int, tuple[slice, slice]]]:
    """Yield (number, tight box as slices) of each number in a label image [H, W]; numbers may have gaps."""
    largest = int(mask.max(initial=0))
    if largest <= _MAX_DIRECT_NUMBER:
        boxes = ndimage.find_objects(mask, max_label=largest)
        yield from ((number, box) for number, box in enumerate(boxes, start=1) if box is not None)
        return
    numbers, compact = np.unique(mask, return_inverse=True)  # sorts all pixels: ten times slower
    boxes = ndimage.find_objects(compact.reshape(mask.shape) + int(numbers[0] != 0))
    yield from zip(numbers[numbers > 0].tolist(), boxes, strict=True)


def region_map(cell_mask: np.ndarray, nucleus_mask: np.ndarray, number: int) -> np.ndarray:
    """Return the uint8 [H, W] region map of cell `number` from windows of both masks."""
    inside = cell_mask == number
    region = np.where(cell_mask > 0, np.uint8(OTHER_CELL), np.uint8(BACKGROUND))
    region[inside] = THIS_CELL
    region[inside & (nucleus_mask == number)] = THIS_NUCLEUS
    return region


def narrowed(crop: np.ndarray, region: np.ndarray, margin: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a crop [H, W, 4] and its region map as `cut_cells` cuts them with this margin, where theirs is larger."""
    left, top, width, height = cv2.boundingRect(is_cell(region).view(np.uint8))
    rows = slice(max(top - margin, 0), top + height + margin)
    columns = slice(max(left - margin, 0), left + width + margin)
    return crop[rows, columns], region[rows, columns]


def check_region(region: np.ndarray, where: str) -> np.ndarray:
    """Return a region map, integer [H, W], if its values can be those of one.

    Args:
        region: From outside, such as a request.
        where: Named in the error.

    Raises:
        InputError: A value is not in 0..3 (a mask of 0 and 255 has no pixel of this cell), or none is 1 or 2.
    """
    outside = region[(region < BACKGROUND) | (region > OTHER_CELL)]
    expected = f"{BACKGROUND} background, {THIS_CELL} this cell, {THIS_NUCLEUS} its nucleus, {OTHER_CELL} another cell"
    if outside.size:
        fix = "write these numbers: a mask of 0 and 255 divided by 255 is one"
        raise InputError(where, f"the value {outside.flat[0]} in a region map", expected, fix)
    if not is_cell(region).any():
        raise InputError(where, "a region map without a pixel of this cell", expected, "mark the cell with 1")
    return region


def measure(crop: np.ndarray, region: np.ndarray) -> Measurements:
    """Measure one cell.

    Args:
        crop: uint8 or uint16 [H, W, 4], counts.
        region: uint8 [H, W] region map.
    """
    nucleus = region == THIS_NUCLEUS
    cell_area, cell_sums = _area_and_sums(crop, is_cell(region))
    nucleus_area, nucleus_sums = _area_and_sums(crop, nucleus)
    up_down, left_right = border_ratios(nucleus)
    return Measurements(
        cell_area=cell_area,
        nucleus_area=nucleus_area,
        nucleus_blue=nucleus_sums[BLUE],
        border_ud=up_down,
        border_lr=left_right,
        **{f"sum_{channel}": total for channel, total in zip(CHANNELS, cell_sums, strict=True)},
    )


def _area_and_sums(crop: np.ndarray, mask: np.ndarray) -> tuple[int, list[int]]:
    """Return the area, px, and the sum of each channel, counts, over a mask, bool [H, W]."""
    area = cv2.countNonZero(mask.view(np.uint8))
    # several times as fast as crop[mask].sum(axis=0), and exact: the sums stay far below 2^53
    return area, [round(mean * area) for mean in cv2.mean(crop, mask.view(np.uint8))]


def border_ratios(nucleus: np.ndarray) -> tuple[float, float]:
    """Return (ud, lr) of a nucleus mask, bool [H, W]: the share of its box that its longest flat side leaves free.

    Source: METHODS 3, border rule. (0, 0) for an empty mask.
    """
    rows, columns = np.flatnonzero(nucleus.any(axis=1)), np.flatnonzero(nucleus.any(axis=0))
    if not rows.size:
        return 0.0, 0.0
    tight = nucleus[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = tight.shape
    up_down = (width - max(int(tight[0].sum()), int(tight[-1].sum()))) / width
    left_right = (height - max(int(tight[:, 0].sum()), int(tight[:, -1].sum()))) / height
    return up_down, left_right

"""From the files of an image to its cells: read, segment, cut, measure. The one way of the builder and the predictor.

Runs in worker processes, without TensorFlow.
"""

import time
from dataclasses import dataclass

import pandas as pd

from hpa_tf.imaging.cells import Cell, cut_cells, measured_table
from hpa_tf.imaging.fields import MAX_PIXELS, FieldFiles, FieldOfView, read_field
from hpa_tf.imaging.segmentation import Masks, Segmenter


@dataclass(frozen=True)
class Reading:
    """How the images of a folder are read and segmented; picklable.

    Attributes:
        segmenter: Finds their cells, or reads masks.
        um_per_px: Micrometres per pixel; None = what the files say, or 0.08.
        full_scale: Largest count of the camera in 16-bit files; None = all of their range.
        max_pixels: Larger images are refused, height x width in px.
    """

    segmenter: Segmenter
    um_per_px: float | None = None
    full_scale: int | None = None
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True)
class ImageCells:
    """An image and its cells.

    Attributes:
        field: The image.
        masks: Its nuclei and cells.
        cells: Cut out and measured, in the order of their numbers.
        seconds: Time of the steps read, segment and cut, s; those that were taken.
    """

    field: FieldOfView
    masks: Masks
    cells: tuple[Cell, ...]
    seconds: dict[str, float]

    @property
    def measured(self) -> pd.DataFrame:
        """What is measured of them, see `measured_table`."""
        return measured_table(self.cells, self.field)


def read_cells(image: FieldFiles, reading: Reading, margin: int = 0) -> ImageCells:
    """Read an image, find its cells, cut them out and measure them.

    Args:
        image: Its files.
        reading: How.
        margin: Pixels kept around the tight box of each cell, clipped at the frame.

    Raises:
        InputError: The image or its masks cannot be used.
    """
    field, masks, seconds = _read(image, reading)
    found = cells_of(field, masks, margin)
    return ImageCells(field, masks, found.cells, {**seconds, **found.seconds})


def read_masks(image: FieldFiles, reading: Reading) -> tuple[FieldOfView, Masks]:
    """Read an image and find its cells, for those who want it whole; arguments and errors as of `read_cells`."""
    return _read(image, reading)[:2]


def cells_of(field: FieldOfView, masks: Masks, margin: int = 0) -> ImageCells:
    """Cut and measure the cells of an image in memory; arguments as of `read_cells`."""
    start = time.perf_counter()
    cells = tuple(cut_cells(field, masks, margin))
    return ImageCells(field, masks, cells, {"cut": time.perf_counter() - start})


def _read(image: FieldFiles, reading: Reading) -> tuple[FieldOfView, Masks, dict[str, float]]:
    start = time.perf_counter()
    field = read_field(image, reading.um_per_px, reading.max_pixels, reading.full_scale)
    done = time.perf_counter()
    masks = reading.segmenter(field)
    return field, masks, {"read": done - start, "segment": time.perf_counter() - done}

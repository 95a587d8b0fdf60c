"""What worker processes do before and after the networks: read and shrink a field, label its maps, write its masks.

Without TensorFlow.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpa_tf.classes import CHANNELS
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.imaging.brightness import brightness
from hpa_tf.imaging.fields import FieldFiles, FieldOfView, channel_counts, read_planes
from hpa_tf.imaging.segmentation import Masks
from hpa_tf.imaging.segmentation.components import equal_regions
from hpa_tf.imaging.segmentation.label_cell import label_cell
from hpa_tf.imaging.segmentation.no_cells import warn_of_no_cells
from hpa_tf.imaging.segmentation.resolution import enlarge, reduce
from hpa_tf.segmenting import mask_folder, preparation
from hpa_tf.segmenting.options import network_scale

_CHANNELS = ("red", "yellow", "blue")


@dataclass(frozen=True)
class Field:
    """A field of view on its way through the program.

    Attributes:
        files: Where it is.
        stamp: State of its files; see `mask_folder`.
        shape: (H, W), px.
        um_per_px: Micrometres per pixel.
        seen: What the networks need of it.
        bits: Bits per channel of its files: 8 or 16.
        brightness: Of each channel, see `imaging.brightness`; NaN also where it was not read.
        warnings: What is unusual about it.
    """

    files: FieldFiles
    stamp: str
    shape: tuple[int, int]
    um_per_px: float
    seen: np.ndarray
    bits: int = 8
    brightness: tuple[float, ...] = ()
    warnings: tuple[str, ...] = ()


def light(planes: Mapping[str, np.ndarray]) -> tuple[int, tuple[float, ...]]:
    """Return bits and brightness, as `Field` has them, of planes uint8 or uint16 [H, W] by channel."""
    shares = {channel: float(brightness(plane[..., None])[0]) for channel, plane in planes.items()}
    bits = next(iter(planes.values())).dtype.itemsize * 8
    return bits, tuple(shares.get(channel, np.nan) for channel in CHANNELS)


@dataclass(frozen=True)
class Reader:
    """Reads a field and shrinks what HPACellSegmentator's networks see of it: red, yellow, blue, float32 [h, w, 3].

    Attributes:
        um_per_px: Micrometres per pixel; None = what the files say, or 0.08.
        scale: Size of what the networks see / size of the field; None = what gives 0.32 um/px.
        yellow: Whether the cell network sees yellow; else that channel is 0 and its file not needed.
        max_pixels: Larger fields are refused.
        full_scale: Largest count of the camera in 16-bit files, or None.
    """

    um_per_px: float | None
    scale: float | None
    yellow: bool
    max_pixels: int
    full_scale: int | None = None

    def __call__(self, field_files: FieldFiles, stamp: str) -> Field:
        """Return the field.

        Raises:
            InputError: It cannot be used.
        """
        channels = _CHANNELS if self.yellow else ("red", "blue")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", HpaWarning)
            read = read_planes(field_files, channels, self.um_per_px, self.max_pixels, self.full_scale)
        planes = list(read.by_channel.values())
        shape, scale = planes[0].shape, network_scale(read.um_per_px, self.scale)
        preparation.check_size(field_files.image_id, shape, scale)
        shrunk = [preparation.shrink(plane, scale) for plane in planes]
        if not self.yellow:
            shrunk.insert(1, np.zeros_like(shrunk[0]))
        texts = tuple(str(warning.message) for warning in caught)
        seen = np.stack(shrunk, axis=-1)
        return Field(field_files, stamp, shape, read.um_per_px, seen, *light(read.by_channel), texts)


@dataclass(frozen=True)
class Labeller:
    """Makes masks from the networks' answers.

    Attributes:
        scale: As of `Reader`.
        at_full_size: Tell cells apart at the fields' size, or at the networks' size and enlarge the masks.
    """

    scale: float | None
    at_full_size: bool

    def __call__(self, answers: tuple[np.ndarray, np.ndarray], field: Field) -> Masks:
        """Return the masks of one field.

        Args:
            answers: Probabilities of the nucleus and of the cell network, float32 [h, w, 3].
            field: The field; what was seen of it is not needed.
        """
        (nuclei, cells), shape, um_per_px = answers, field.shape, field.um_per_px
        if self.at_full_size:
            maps = preparation.nuclei_map(nuclei, shape), preparation.cells_map(cells, shape)
            return Masks(*label_cell(*maps, um_per_px))
        maps = (preparation.nuclei_map(nuclei, nuclei.shape[:2]), preparation.cells_map(cells, cells.shape[:2]))
        return enlarged(*label_cell(*maps, um_per_px / network_scale(um_per_px, self.scale)), shape)


def enlarged(nuclei: np.ndarray, cells: np.ndarray, shape: tuple[int, int]) -> Masks:
    """Return small masks at a field's size, with smooth outlines; a cell may have several nuclei."""
    cell = enlarge(cells, shape)
    pieces = enlarge(equal_regions(nuclei), shape)
    return Masks(nucleus=np.where(pieces > 0, cell, 0), cell=cell)


@dataclass(frozen=True)
class Finisher:
    """Labels a field's maps and writes its masks.

    Attributes:
        label: Makes the masks of (answers, field); the field comes without what was seen of it.
        out: Folder of masks.
        overlays: Also draw the masks on the field.
        max_pixels: As for reading.
        full_scale: As for reading.
    """

    label: Callable[[Any, Field], Masks]
    out: str
    overlays: bool
    max_pixels: int
    full_scale: int | None = None

    def __call__(self, field: Field, answers: Any) -> tuple[int, tuple[str, ...]]:
        """Return the number of cells, and what is unusual about them.

        Raises:
            InputError: The masks cannot be written.
        """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", HpaWarning)
            masks = self.label(answers, field)
            said_itself = bool(caught)  # the small segmenter has
            whole = None if masks.cell.any() and not self.overlays else self._whole(field)
            if whole and not masks.cell.any() and not said_itself:
                warn_of_no_cells(whole, *reduce(whole.pixels, whole.um_per_px), by_networks=True)
        said = tuple(str(warning.message) for warning in caught if issubclass(warning.category, HpaWarning))
        if whole and self.overlays:
            mask_folder.write_overlay(self.out, whole, masks)
        num_cells = mask_folder.write(self.out, field.files.image_id, masks, field.stamp)
        return num_cells, said

    def _whole(self, field: Field) -> FieldOfView:
        """Read all channels that are known; what is unusual about them was said when they were read first."""
        counts = channel_counts(field.files, self.max_pixels)
        there = [channel for channel in CHANNELS if counts.get(channel) == 1]
        how = (field.um_per_px, self.max_pixels, self.full_scale)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HpaWarning)
            try:
                read, wrong = read_planes(field.files, there, *how).by_channel, None
            except InputError as error:  # the protein, which the networks did not need
                others = [channel for channel in there if channel != "green"]
                read, wrong = read_planes(field.files, others, *how).by_channel, error
        if wrong is not None:
            warnings.warn(f"the protein is left out of the picture: {wrong}", HpaWarning, stacklevel=2)
        blank = np.zeros(field.shape, next(iter(read.values())).dtype)
        pixels = np.stack([read.get(channel, blank) for channel in CHANNELS], axis=-1)
        return FieldOfView(field.files.image_id, pixels, field.um_per_px)

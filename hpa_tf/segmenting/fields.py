"""What worker processes do before and after the networks: read and shrink a field, label its maps, write its masks.

Without TensorFlow.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.imaging.fields import FieldFiles, FieldOfView, read_channel, to_full_scale
from hpa_tf.imaging.segmentation import Masks
from hpa_tf.imaging.segmentation.components import equal_regions
from hpa_tf.imaging.segmentation.label_cell import label_cell
from hpa_tf.imaging.segmentation.resolution import enlarge
from hpa_tf.segmenting import mask_folder, preparation

_CHANNELS = ("red", "yellow", "blue")


@dataclass(frozen=True)
class Field:
    """A field of view on its way through the program.

    Attributes:
        files: Where it is.
        stamp: State of its files; see `mask_folder`.
        shape: (H, W), px.
        seen: What the networks need of it.
        warnings: What is unusual about it.
    """

    files: FieldFiles
    stamp: str
    shape: tuple[int, int]
    seen: np.ndarray
    warnings: tuple[str, ...] = ()


def read_planes(
    field_files: FieldFiles, channels: tuple[str, ...], max_pixels: int, full_scale: int | None = None
) -> list[np.ndarray]:
    """Read some channels of a field; a blank one is a warning. Arguments as for `imaging.fields.read_field`.

    Raises:
        InputError: One is missing, cannot be read, or differs from the others in size or type.
    """
    missing = [channel for channel in channels if channel not in field_files.paths]
    if missing:
        beside = next(iter(field_files.paths.values()))
        expected = f"the channels {', '.join(channels)} of image {field_files.image_id}"
        raise InputError(beside, f"no {', '.join(missing)} channel beside it", expected, "add or rename it")
    planes = [read_channel(field_files.paths[channel], channel, max_pixels) for channel in channels]
    for channel, plane in zip(channels, planes, strict=True):
        path = field_files.paths[channel]
        if plane.shape != planes[0].shape or plane.dtype != planes[0].dtype:
            found, expected = (f"{p.shape[1]} x {p.shape[0]} px, {p.dtype}" for p in (plane, planes[0]))
            expected += f" as {field_files.paths[channels[0]]}"
            raise InputError(path, found, expected, "export the channels alike")
        if plane.max() == plane.min():
            warnings.warn(f"{path}: the {channel} channel is blank", HpaWarning, stacklevel=2)
    if full_scale is None:
        return planes
    return [to_full_scale(plane, full_scale, field_files.paths[c]) for c, plane in zip(channels, planes, strict=True)]


@dataclass(frozen=True)
class Reader:
    """Reads a field and shrinks what HPACellSegmentator's networks see of it: red, yellow, blue, float32 [h, w, 3].

    Attributes:
        scale: See `preparation.shrink`.
        yellow: Whether the cell network sees yellow; else that channel is 0 and its file not needed.
        max_pixels: Larger fields are refused.
        full_scale: Largest count of the camera in 16-bit files, or None.
    """

    scale: float
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
            planes = read_planes(field_files, channels, self.max_pixels, self.full_scale)
        shape = planes[0].shape
        preparation.check_size(field_files.image_id, shape, self.scale)
        shrunk = [preparation.shrink(plane, self.scale) for plane in planes]
        if not self.yellow:
            shrunk.insert(1, np.zeros_like(shrunk[0]))
        texts = tuple(str(warning.message) for warning in caught)
        return Field(field_files, stamp, shape, np.stack(shrunk, axis=-1), texts)


@dataclass(frozen=True)
class Labeller:
    """Makes masks from the networks' answers.

    Attributes:
        um_per_px: Micrometres per pixel of the fields.
        scale: See `preparation.shrink`.
        at_full_size: Tell cells apart at the fields' size, or at the networks' size and enlarge the masks.
    """

    um_per_px: float
    scale: float
    at_full_size: bool

    def __call__(self, answers: tuple[np.ndarray, np.ndarray], shape: tuple[int, int]) -> Masks:
        """Return the masks of one field.

        Args:
            answers: Probabilities of the nucleus and of the cell network, float32 [h, w, 3].
            shape: (H, W) of the field, px.
        """
        nuclei, cells = answers
        if self.at_full_size:
            maps = preparation.nuclei_map(nuclei, shape), preparation.cells_map(cells, shape)
            return Masks(*label_cell(*maps, self.um_per_px))
        maps = (preparation.nuclei_map(nuclei, nuclei.shape[:2]), preparation.cells_map(cells, cells.shape[:2]))
        return enlarged(*label_cell(*maps, self.um_per_px / self.scale), shape)


def enlarged(nuclei: np.ndarray, cells: np.ndarray, shape: tuple[int, int]) -> Masks:
    """Return small masks at a field's size, with smooth outlines; a cell may have several nuclei."""
    cell = enlarge(cells, shape)
    pieces = enlarge(equal_regions(nuclei), shape)
    return Masks(nucleus=np.where(pieces > 0, cell, 0), cell=cell)


@dataclass(frozen=True)
class Finisher:
    """Labels a field's maps and writes its masks.

    Attributes:
        label: Makes the masks of (answers, shape).
        out: Folder of masks.
        overlays: Also draw the masks on the field.
        max_pixels: As for reading.
    """

    label: Callable[[Any, tuple[int, int]], Masks]
    out: str
    overlays: bool
    max_pixels: int

    def __call__(self, field: Field, answers: Any) -> int:
        """Return the number of cells.

        Raises:
            InputError: The masks cannot be written.
        """
        masks = self.label(answers, field.shape)
        if self.overlays:
            channels = tuple(c for c in ("red", "green", "blue", "yellow") if c in field.files.paths)
            planes = dict(zip(channels, read_planes(field.files, channels, self.max_pixels), strict=True))
            blank = np.zeros_like(next(iter(planes.values())))
            pixels = np.stack([planes.get(c, blank) for c in ("red", "green", "blue", "yellow")], axis=-1)
            mask_folder.write_overlay(self.out, FieldOfView(field.files.image_id, pixels), masks)
        return mask_folder.write(self.out, field.files.image_id, masks, field.stamp)

"""Fields of view: read the channels of an image, however they lie in files, after a check of their headers.

Pixels keep their depth (8 or 16 bit). The size is read from the header, so that a small file that would decode to a
huge image is refused before it is decoded.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import cv2
import numpy as np

from hpa_tf.classes import CHANNELS, DEFAULT_UM_PER_PX
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.imaging.channel_files import MAX_PIXELS, read_channel_file
from hpa_tf.imaging.field_files import Fault, FieldFiles, expected_names, find_fields
from hpa_tf.imaging.layout import choose_channels, count_channels
from hpa_tf.imaging.ome import UM_PER_PX, checked_scale
from hpa_tf.imaging.stacks import open_stack

__all__ = [
    "DEFAULT_UM_PER_PX",
    "MAX_PIXELS",
    "Fault",
    "FieldFiles",
    "FieldOfView",
    "Planes",
    "channel_counts",
    "check_full_scale",
    "find_fields",
    "read_field",
    "read_planes",
    "to_full_scale",
    "warn_if_blank",
]

_LARGEST_COUNT = 65_535
_SAME_SCALE = 1e-3


@dataclass(frozen=True)
class FieldOfView:
    """One 4-channel picture.

    Attributes:
        image_id: Name without channel and extension.
        pixels: uint8 or uint16 [H, W, 4], counts, channels R, G, B, Y.
        um_per_px: Micrometres per pixel.
        without: Channels that are black because they were left out.
        paths: The files that it was read from; none of them is a mask of it.
    """

    image_id: str
    pixels: np.ndarray
    um_per_px: float = DEFAULT_UM_PER_PX
    without: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()

    @property
    def bits(self) -> int:
        """Bits per channel: 8 or 16."""
        return self.pixels.dtype.itemsize * 8


@dataclass(frozen=True)
class Planes:
    """Some channels of a field of view.

    Attributes:
        by_channel: uint8 or uint16 [H, W] each, of one size and type, counts.
        um_per_px: Micrometres per pixel.
    """

    by_channel: dict[str, np.ndarray]
    um_per_px: float


def read_field(
    field_files: FieldFiles,
    um_per_px: float | None = None,
    max_pixels: int = MAX_PIXELS,
    full_scale: int | None = None,
) -> FieldOfView:
    """Read the four channels of one field of view; arguments and errors as of `read_planes`."""
    planes = read_planes(field_files, CHANNELS, um_per_px, max_pixels, full_scale)
    pixels = cv2.merge([planes.by_channel[channel] for channel in CHANNELS])
    paths = (*field_files.paths.values(), *field_files.stack)
    return FieldOfView(field_files.image_id, pixels, planes.um_per_px, field_files.layout.without, paths)


def read_planes(
    field_files: FieldFiles,
    channels: Sequence[str] = CHANNELS,
    um_per_px: float | None = None,
    max_pixels: int = MAX_PIXELS,
    full_scale: int | None = None,
) -> Planes:
    """Read channels of one field of view: the one function by which every command reads images.

    A blank channel (all pixels equal) is a warning, not an error. Channels that the layout leaves out are black.

    Args:
        field_files: Where the channels are.
        channels: Which are wanted.
        um_per_px: Micrometres per pixel of the image; None = what its files say, or 0.08 where they say nothing.
        max_pixels: Larger images (height x width, px) are refused before they are decoded.
        full_scale: Largest count that 16-bit files can hold, such as 4095 of a 12-bit camera: see `to_full_scale`.

    Raises:
        InputError: A channel is missing, cannot be decoded, is not 8 or 16 bit grey, is too large, holds counts above
            `full_scale`, or the channels differ in size, depth or scale.
    """
    present = [channel for channel in channels if channel in field_files.layout.present]
    read = _read_stack if field_files.stack else _read_files
    found, where, scales = read(field_files, present, max_pixels, um_per_px is None)
    if not found:
        found_out = f"--without {','.join(field_files.layout.without)} and no other channel that is wanted"
        raise InputError(f"image {field_files.image_id}", found_out, "a channel to read", "correct --without")
    first = next(iter(found))
    for channel, plane in found.items():
        if plane.shape != found[first].shape or plane.dtype != found[first].dtype:
            size, expected = (f"{p.shape[1]} x {p.shape[0]} px, {p.dtype}" for p in (plane, found[first]))
            fix = "export the channels alike"
            raise InputError(where[channel], size, f"{expected} as {where[first]}", fix)
        warn_if_blank(plane, channel, where[channel])
        if full_scale is not None:
            found[channel] = to_full_scale(plane, full_scale, where[channel])
    black = np.zeros_like(found[first])
    scale = um_per_px if um_per_px is not None else _scale(scales)
    return Planes({channel: found.get(channel, black) for channel in channels}, scale)


_Found = tuple[dict[str, np.ndarray], dict[str, str], dict[str, tuple[float, float] | None]]
"""Planes and their files by channel; micrometres across and down a pixel by file."""


def _read_files(field_files: FieldFiles, channels: Sequence[str], max_pixels: int, with_scale: bool) -> _Found:
    """Read channels that have a file each."""
    paths = field_files.paths
    missing = [channel for channel in channels if channel not in paths]
    if missing:
        beside = next(iter(paths.values()))
        expected = expected_names(field_files.layout)
        fix = "add or rename it"
        if set(missing) <= {"red", "yellow"}:
            fix += f", or work without it: --without {','.join(missing)}"
        raise InputError(beside, f"no {', '.join(missing)} channel beside it", expected, fix)
    planes, scales, project = {}, {}, field_files.layout.project
    for channel in channels:
        path = paths[channel]
        planes[channel], scales[path] = read_channel_file(path, channel, max_pixels, project, with_scale)
    return planes, {channel: paths[channel] for channel in channels}, scales


def _read_stack(field_files: FieldFiles, channels: Sequence[str], max_pixels: int, with_scale: bool) -> _Found:
    """Read channels that lie in one file, or in the files of an OME-TIFF set."""
    path, layout = field_files.stack[0], field_files.layout
    with open_stack(path, max_pixels) as stack:
        stack.check_planes(layout.project)  # first: channels that were saved as slices are none to choose among
        chosen = choose_channels(stack.names, layout, path, channels)
        planes = stack.read({channel: chosen[channel] for channel in channels}, layout.project)
        return planes, dict.fromkeys(channels, path), {path: stack.scale}


def channel_counts(field_files: FieldFiles, max_pixels: int = MAX_PIXELS) -> dict[str, int]:
    """Return how many channels in an image's files may be each of ours: 0 = none is known, 2 = it is ambiguous.

    Args:
        field_files: Where the channels are.
        max_pixels: As for `read_planes`.

    Raises:
        InputError: The file of all channels cannot be read.
    """
    if not field_files.stack:
        return {channel: int(channel in field_files.paths) for channel in field_files.layout.present}
    with open_stack(field_files.stack[0], max_pixels) as stack:
        return count_channels(stack.names, field_files.layout)


def warn_if_blank(plane: np.ndarray, channel: str, where: str, hint: str = "") -> None:
    """Warn of a channel all of whose pixels are equal.

    Args:
        plane: uint8 or uint16 [H, W], counts.
        channel: Its name.
        where: The file or argument that it comes from.
        hint: What else the warning says.
    """
    if plane.max() == plane.min():
        warnings.warn(f"{where}: the {channel} channel is blank{hint}", HpaWarning, stacklevel=4)


def _scale(scales: Mapping[str, tuple[float, float] | None]) -> float:
    """Return the scale that the files say; 0.08 where none says one."""
    said = {path: checked_scale(scale, path) for path, scale in scales.items()}
    known = {path: um for path, um in said.items() if um is not None}
    if not known:
        return DEFAULT_UM_PER_PX
    first, um_per_px = next(iter(known.items()))
    other = next((path for path, um in known.items() if abs(um / um_per_px - 1) > _SAME_SCALE), None)
    if other is not None:
        found, expected = f"{known[other]:g} micrometres per pixel", f"{um_per_px:g} as {first}"
        raise InputError(other, found, expected, "give --um-per-px, or export the channels alike")
    return um_per_px


def to_full_scale(plane: np.ndarray, full_scale: int, where: str | os.PathLike) -> np.ndarray:
    """Stretch 16-bit counts 0..`full_scale` over 0..65535, to the nearest whole count; 8-bit counts stay as they are.

    Args:
        plane: uint8 or uint16 [H, W], counts.
        full_scale: Largest count that 16-bit files can hold, 1..65535: 4095 of 12 bits, 1023 of 10.
        where: Named in the error.

    Raises:
        InputError: `full_scale` cannot be, or a count is above it.
    """
    check_full_scale(full_scale)
    if plane.dtype != np.uint16 or full_scale == _LARGEST_COUNT:
        return plane
    largest = int(plane.max(initial=0))
    if largest > full_scale:
        fix = "give the largest count that the camera writes, and images of another camera a folder of their own"
        raise InputError(where, f"count {largest} with --full-scale {full_scale}", f"at most {full_scale}", fix)
    counts = np.arange(full_scale + 1, dtype=np.int64)
    return ((counts * _LARGEST_COUNT + full_scale // 2) // full_scale).astype(np.uint16)[plane]


def check_full_scale(full_scale: int) -> None:
    """Refuse a full scale that 16-bit files cannot have.

    Raises:
        InputError: It is not in 1..65535.
    """
    if not 1 <= full_scale <= _LARGEST_COUNT:
        fix = "give the largest count of the camera: 4095 for 12 bits, 16383 for 14"
        raise InputError("--full-scale", str(full_scale), f"1 to {_LARGEST_COUNT}", fix)


def check_um_per_px(um_per_px: float, where: str = "--um-per-px") -> None:
    """Refuse a scale that no microscope has.

    Args:
        um_per_px: Micrometres per pixel.
        where: Option or argument that is named in the error.

    Raises:
        InputError: It is no number from 0.005 to 20.
    """
    least, most = UM_PER_PX
    if not isinstance(um_per_px, Real) or not least <= um_per_px <= most:
        fix = "give micrometres (0.08 for 63 x), not nanometres"
        raise InputError(where, str(um_per_px), f"micrometres per pixel, {least} to {most}", fix)

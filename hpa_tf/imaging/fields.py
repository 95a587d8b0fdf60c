"""Fields of view: find the four channel files of each image, check them before decoding, read them.

Naming: `{image_id}_{red,green,blue,yellow}` with one of `EXTENSIONS`. Pixels keep their depth (8 or 16 bit). The size
is read from the header, so that a small file that would decode to a huge image is refused before it is decoded.
"""

import os
import re
import unicodedata
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from hpa_tf import files
from hpa_tf.classes import CHANNELS, DEFAULT_UM_PER_PX
from hpa_tf.errors import HpaWarning, InputError, printable
from hpa_tf.imaging.channel_files import MAX_PIXELS, read_channel

EXTENSIONS = (".png", ".tif", ".tiff", ".tif.gz", ".tiff.gz", ".jpg", ".jpeg")
"""In lower or upper case; `.ome.tif` is a `.tif`."""

_LARGEST_COUNT = 65_535
_NAME = re.compile(
    rf"(?P<id>.+)_(?P<channel>{'|'.join(CHANNELS)})(?P<extension>\.(?:png|(?:ome\.)?tiff?(?:\.gz)?|jpe?g))", re.I
)
_COMPOSITE = re.compile(rf"(?P<id>.+?)(?:_(?:{'|'.join(CHANNELS)}))+", re.I)
_NUM_SHOWN = 5
_EXPECTED_NAMES = f"files named {{ID}}_{{{','.join(CHANNELS)}}} with one of the extensions {', '.join(EXTENSIONS)}"


@dataclass(frozen=True)
class FieldOfView:
    """One 4-channel picture.

    Attributes:
        image_id: Name without channel and extension.
        pixels: uint8 or uint16 [H, W, 4], counts, channels R, G, B, Y.
        um_per_px: Micrometres per pixel.
    """

    image_id: str
    pixels: np.ndarray
    um_per_px: float = DEFAULT_UM_PER_PX

    @property
    def bits(self) -> int:
        """Bits per channel: 8 or 16."""
        return self.pixels.dtype.itemsize * 8


@dataclass(frozen=True)
class FieldFiles:
    """The files of one field of view, by channel; a channel without a file is missing in `paths`."""

    image_id: str
    paths: Mapping[str, str]


Fault = tuple[str, InputError]
"""An image id and why the image cannot be used."""


def find_fields(folder: str | os.PathLike, faults: list[Fault] | None = None) -> list[FieldFiles]:
    """List the fields of view in a folder (not below it), sorted by image id.

    Hidden files (such as macOS's `._` files) and pictures of several channels beside the channels themselves (such as
    `{ID}_blue_red_green.jpg`) are left alone. Ids are in Unicode's composed form (NFC), whatever the file system made
    of them.

    Args:
        folder: Local or remote.
        faults: Where images that cannot be used are added, if they are not to raise an error.

    Raises:
        InputError: The folder is missing or holds no channel file, an id is unsafe, or a channel has two files.
    """
    found: dict[str, dict[str, str]] = {}
    names = [name for name in files.list_names(folder) if not name.startswith(".")]
    problems: list[Fault] = []
    for match in filter(None, map(_NAME.fullmatch, names)):
        image_id, channel = unicodedata.normalize("NFC", match["id"]), match["channel"].lower()
        path = files.join(folder, match[0])
        try:
            files.check_image_id(image_id, path)
        except InputError as error:
            problems.append((printable(image_id), error))
            continue
        other = found.setdefault(image_id, {}).setdefault(channel, path)
        if other != path:
            what = f"a second file for {channel}, beside {other}"
            problems.append((image_id, InputError(path, what, "one file a channel", "remove one")))
    if problems and faults is None:
        raise problems[0][1]
    if not found and not problems:
        raise _no_image(folder, names)
    bad = {image_id for image_id, _ in problems}
    if faults is not None:
        faults += problems
    kept = sorted(found.keys() - bad - set(filter(partial(_is_composite, found=found), found)))
    return [FieldFiles(image_id, found[image_id]) for image_id in kept]


def _is_composite(image_id: str, found: Mapping[str, Mapping[str, str]]) -> bool:
    """Tell whether `{image_id}_{channel}` are pictures of several channels: of an image that is there by itself."""
    match = _COMPOSITE.fullmatch(image_id)
    return match is not None and match["id"] in found and len(found[image_id]) < len(CHANNELS)


def _no_image(folder: str | os.PathLike, names: list[str]) -> InputError:
    shown = ", ".join(names[:_NUM_SHOWN]) + (", ..." if len(names) > _NUM_SHOWN else "")
    found = f"no image among {len(names)} files ({shown})" if names else "no image, and no other file"
    fix = "check the path, and rename the files: the channel's name stands after the image's, in one folder"
    return InputError(folder, found, _EXPECTED_NAMES, fix)


def read_field(
    field_files: FieldFiles,
    um_per_px: float = DEFAULT_UM_PER_PX,
    max_pixels: int = MAX_PIXELS,
    full_scale: int | None = None,
) -> FieldOfView:
    """Read the four channels of one field of view.

    A blank channel (all pixels equal) is a warning, not an error.

    Args:
        field_files: Where the channels are.
        um_per_px: Micrometres per pixel of the image.
        max_pixels: Larger images (height x width, px) are refused before they are decoded.
        full_scale: Largest count that 16-bit files can hold, such as 4095 of a 12-bit camera: see `to_full_scale`.

    Raises:
        InputError: A channel is missing, cannot be decoded, is not 8 or 16 bit grey, is too large, holds counts above
            `full_scale`, or the channels differ in size or depth.
    """
    paths = field_files.paths
    missing = [channel for channel in CHANNELS if channel not in paths]
    if missing:
        beside = next(iter(paths.values()))
        raise InputError(beside, f"no {', '.join(missing)} channel beside it", _EXPECTED_NAMES, "add or rename it")
    planes = {channel: read_channel(paths[channel], channel, max_pixels) for channel in CHANNELS}
    first = planes[CHANNELS[0]]
    for channel, plane in planes.items():
        if plane.shape != first.shape or plane.dtype != first.dtype:
            found = f"{plane.shape[1]} x {plane.shape[0]} px, {plane.dtype}"
            expected = f"{first.shape[1]} x {first.shape[0]} px, {first.dtype} as {paths[CHANNELS[0]]}"
            raise InputError(paths[channel], found, expected, "export the four channels alike")
        if plane.max() == plane.min():
            warnings.warn(f"{paths[channel]}: the {channel} channel is blank", HpaWarning, stacklevel=2)
        if full_scale is not None:
            planes[channel] = to_full_scale(plane, full_scale, paths[channel])
    return FieldOfView(field_files.image_id, cv2.merge(list(planes.values())), um_per_px)


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

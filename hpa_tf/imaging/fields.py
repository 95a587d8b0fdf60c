"""Fields of view: find the four channel files of each image, check them before decoding, read them.

Naming: `{image_id}_{red,green,blue,yellow}` with one of `EXTENSIONS`. Pixels keep their depth (8 or 16 bit). The size
is read from the header, so that a small file that would decode to a huge image is refused before it is decoded.
"""

import io
import os
import re
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from hpa_tf import files
from hpa_tf.classes import CHANNELS, DEFAULT_UM_PER_PX
from hpa_tf.errors import HpaWarning, InputError

MAX_PIXELS = 100_000_000
"""Largest height x width that is decoded, px: 10,000 x 10,000."""

EXTENSIONS = (".png", ".tif", ".tiff", ".tif.gz", ".tiff.gz", ".jpg", ".jpeg")

_LARGEST_COUNT = 65_535

_NAME = re.compile(rf"(?P<id>.+)_(?P<channel>{'|'.join(CHANNELS)})(?P<extension>\.(?:png|tiff?(?:\.gz)?|jpe?g))", re.I)
_COLOUR = {"red": (0,), "green": (1,), "blue": (2,), "yellow": (0, 1)}
_GREY_MODES = ("L", "I;16", "I;16B", "I;16L")
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


def find_fields(folder: str | os.PathLike) -> list[FieldFiles]:
    """List the fields of view in a folder (not below it), sorted by image id.

    Raises:
        InputError: The folder is missing or holds no channel file, an id is unsafe, or a channel has two files.
    """
    found: dict[str, dict[str, str]] = {}
    for name in files.list_names(folder):
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        image_id = files.check_image_id(match["id"], files.join(folder, name))
        path, channel = files.join(folder, name), match["channel"].lower()
        other = found.setdefault(image_id, {}).setdefault(channel, path)
        if other != path:
            raise InputError(path, f"a second file for {channel}, beside {other}", "one file a channel", "remove one")
    if not found:
        raise InputError(folder, "no image", _EXPECTED_NAMES, "check the path and the names of the files")
    return [FieldFiles(image_id, found[image_id]) for image_id in sorted(found)]


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


def read_channel(path: str, channel: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read one channel as uint8 or uint16 [H, W].

    A JPEG in its channel's pure colour (as the Human Protein Atlas serves them) is read from that colour.

    Raises:
        InputError: The file is missing, too large, damaged, or not an 8 or 16 bit grey image.
    """
    try:
        data = files.read_bytes(path)
    except FileNotFoundError as error:
        raise InputError(path, "no such file", f"the {channel} channel", "restore the file") from error
    if path.lower().endswith(".gz"):
        data = _gunzip(data, path, limit=max_pixels * 2 + (1 << 20))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise _too_large(path, str(error), max_pixels) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise _damaged(path, error) from error
    with image:
        check_size(path, image.size, max_pixels)
        return _decode(image, data, path, channel)


def check_size(path: str | os.PathLike, size: tuple[int, int], max_pixels: int) -> None:
    """Refuse an image by the (width, height) of its header, before it is decoded.

    Raises:
        InputError: It has more than `max_pixels` pixels.
    """
    if size[0] * size[1] > max_pixels:
        raise _too_large(path, f"{size[0]} x {size[1]} px", max_pixels)


def _too_large(path: str | os.PathLike, found: str, max_pixels: int) -> InputError:
    return InputError(path, found, f"at most {max_pixels} px", "cut the image into parts or raise --max-pixels")


def _damaged(path: str | os.PathLike, error: Exception | str) -> InputError:
    return InputError(path, f"a file that cannot be decoded ({error})", "a PNG, TIFF or JPEG image", "copy it again")


def _gunzip(data: bytes, path: str, limit: int) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)
    try:
        unpacked = unpacker.decompress(data, limit)
    except zlib.error as error:
        raise _damaged(path, error) from error
    if unpacker.unconsumed_tail:
        raise InputError(path, f"more than {limit} bytes inside", "one image", "cut the image or raise --max-pixels")
    if not unpacker.eof:
        raise _damaged(path, "the gzip stream ends early")
    return unpacked


def _decode(image: Image.Image, data: bytes, path: str, channel: str) -> np.ndarray:
    if getattr(image, "n_frames", 1) != 1:
        raise InputError(path, f"{image.n_frames} pages", "one grey image a file", "save each channel as its own file")
    is_colour_jpeg = image.format == "JPEG" and image.mode == "RGB"
    if image.mode not in _GREY_MODES and not is_colour_jpeg:
        found = f"a {image.format} of mode {image.mode}"
        raise InputError(path, found, "8 or 16 bit grey", "save the channel as 8 or 16 bit grey PNG or TIFF")
    try:
        if image.format == "PNG":  # half the time of Pillow; damaged data gives None
            plane = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            if plane is None or plane.ndim != 2:
                raise _damaged(path, "damaged or truncated PNG data")
            return plane
        plane = np.asarray(image)
    except (OSError, SyntaxError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise _damaged(path, error) from error
    if is_colour_jpeg:
        return _channel_of_colour(plane, path, channel)
    return plane.astype(np.uint8 if plane.dtype.itemsize == 1 else np.uint16, copy=False)


def _channel_of_colour(pixels: np.ndarray, path: str, channel: str) -> np.ndarray:
    """Return the plane of an RGB JPEG that is black but for its channel's colour (within JPEG's own error)."""
    own = _COLOUR[channel]
    plane = pixels[..., list(own)].max(axis=-1)
    rest = pixels[..., [c for c in range(3) if c not in own]].astype(float)
    unequal = np.abs(pixels[..., 0].astype(float) - pixels[..., 1]) if channel == "yellow" else np.zeros(1)
    allowed = 3 + 0.1 * float(plane.mean())
    if rest.mean() > allowed or unequal.mean() > allowed:
        means = ", ".join(f"{mean:.0f}" for mean in pixels.reshape(-1, 3).mean(axis=0))
        found = f"a colour JPEG with mean R, G, B = {means}"
        raise InputError(path, found, f"grey, or pure {channel}", "save the channel as 8 or 16 bit grey PNG or TIFF")
    return plane

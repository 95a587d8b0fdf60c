"""One channel of a field of view from a PNG, TIFF or JPEG file, checked by its header before it is decoded."""

import gzip
import io
import os
import warnings

import cv2
import numpy as np
import tifffile
from PIL import Image

from hpa_tf import files
from hpa_tf.errors import InputError
from hpa_tf.gzipped import TooLargeError, gunzip
from hpa_tf.imaging import tiff
from hpa_tf.imaging.layout import Project
from hpa_tf.imaging.stack_pixels import decode_page
from hpa_tf.imaging.stacks import COMPRESSIONS, open_stack

MAX_PIXELS = 100_000_000
"""Largest height x width that is decoded, px: 10,000 x 10,000."""

_COLOUR = {"red": (0,), "green": (1,), "blue": (2,), "yellow": (0, 1)}
_GREY_MODES = ("L", "I;16", "I;16B", "I;16L")
_GREY = "8 or 16 bit grey"
_SAVE_AS_GREY = "save the channel as 8 or 16 bit grey PNG or TIFF (of colour in Fiji: Image, Color, Split Channels)"


Scale = tuple[float, float] | None
"""Micrometres across and down a pixel; None = the file does not say."""


def read_channel_file(
    path: str,
    channel: str,
    max_pixels: int = MAX_PIXELS,
    project: Project | None = None,
    with_scale: bool = False,
) -> tuple[np.ndarray, Scale]:
    """Read one channel as uint8 or uint16 [H, W], and the scale that its file says.

    A JPEG in its channel's pure colour (as the Human Protein Atlas serves them) is read from that colour. Rows and
    columns are those of the file, whatever an orientation tag says: masks lie on them. Min-is-white TIFF is inverted.

    Args:
        path: The file, local or remote.
        channel: Its channel, for errors and for colour JPEG.
        max_pixels: Larger images (height x width, px) are refused before they are decoded.
        project: What becomes of several pages: "max", or None = they are refused.
        with_scale: Read the scale; otherwise it is None.

    Raises:
        InputError: The file is missing, cannot be read, is too large, damaged, or not an 8 or 16 bit grey image.
    """
    try:
        data = files.read_bytes(path)
    except FileNotFoundError as error:
        raise InputError(path, "no such file", f"the {channel} channel", "restore the file") from error
    except OSError as error:
        raise unreadable(path, error, f"the {channel} channel") from error
    if not data:
        raise damaged(path, "it is empty")
    if path.lower().endswith(".gz"):
        data = _gunzip(data, path, limit=max_pixels * 2 + (1 << 20))
    try:
        if data[:4] not in tiff.MAGIC:
            return _read_other(data, path, channel, max_pixels), None
        opened = tiff.open_tiff(data, path, several=True)
        if opened.num_pages != 1:
            return _read_pages(data, path, max_pixels, project)
        return _read_tiff(opened, path, max_pixels), tiff.scale_of(data, path) if with_scale else None
    except InputError:
        raise
    except MemoryError as error:
        fix = "lower --max-pixels or cut the image into parts"
        raise InputError(path, "more data than memory", f"at most {max_pixels} px", fix) from error
    except tiff.DAMAGE as error:
        raise damaged(path, error) from error


def read_size(path: str) -> tuple[int, int]:
    """Return the (width, height), px, of one channel's file by its header; nothing is decoded.

    Raises:
        InputError: The file cannot be read, or is no PNG, TIFF or JPEG image.
    """
    try:
        with files.open_file(path) as raw, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            stream = gzip.GzipFile(fileobj=raw) if path.lower().endswith(".gz") else raw
            is_tiff = stream.read(4) in tiff.MAGIC
            stream.seek(0)
            if not is_tiff:
                with Image.open(stream, formats=["PNG", "JPEG"]) as image:
                    return image.size
            with tifffile.TiffFile(stream) as opened:
                page = next(page for page in opened.pages if not page.is_reduced)
                return page.imagewidth, page.imagelength
    except Image.DecompressionBombError as error:
        raise too_large_for_pillow(path, error) from error
    except tiff.DAMAGE as error:
        raise damaged(path, error) from error


def check_size(path: str | os.PathLike, size: tuple[int, int], max_pixels: int) -> None:
    """Refuse an image by the (width, height) of its header, before it is decoded.

    Raises:
        InputError: It has more than `max_pixels` pixels.
    """
    if size[0] * size[1] > max_pixels:
        raise _too_large(path, f"{size[0]} x {size[1]} px", max_pixels)


def unreadable(path: str | os.PathLike, error: OSError, expected: str) -> InputError:
    """Return the error for a file that the system does not let be read."""
    fix = "check who may read it and that its disk is there, or copy the file again"
    return InputError(path, f"a file that cannot be read ({error.strerror or error})", expected, fix)


def damaged(path: str | os.PathLike, error: Exception | str) -> InputError:
    """Return the error for a file whose content is not what its ending says."""
    text = "no format that is read here" if isinstance(error, Image.UnidentifiedImageError) else error
    return InputError(path, f"a file that cannot be decoded ({text})", "a PNG, TIFF or JPEG image", "copy it again")


def _too_large(path: str | os.PathLike, found: str, max_pixels: int) -> InputError:
    return InputError(path, found, f"at most {max_pixels} px", "cut the image into parts or raise --max-pixels")


def too_large_for_pillow(path: str | os.PathLike, error: Exception) -> InputError:
    """Return the error for a picture that Pillow does not open, whatever `max_pixels` is."""
    expected = f"at most {2 * (Image.MAX_IMAGE_PIXELS or 0)} px in a PNG, JPEG or compressed TIFF"
    return InputError(path, str(error), expected, "save it as uncompressed TIFF, or cut the image into parts")


def _gunzip(data: bytes, path: str, limit: int) -> bytes:
    try:
        return gunzip(data, limit)
    except TooLargeError as error:
        raise InputError(path, str(error), "one image", "cut the image or raise --max-pixels") from error
    except ValueError as error:
        raise damaged(path, error) from error


def _read_pages(data: bytes, path: str, max_pixels: int, project: Project | None) -> tuple[np.ndarray, Scale]:
    """Read a file of one channel with several pages: planes in depth or time, or smaller copies."""
    with open_stack(path, max_pixels, data) as stack:
        if len(stack.names) != 1:
            found = f"{len(stack.names)} channels in the file of one"
            fix = "leave {channel} out of --pattern (a file an image), or save each channel as its own file"
            raise InputError(path, found, "one grey image a file", fix)
        return stack.read({"": 0}, project)[""], stack.scale


def _read_tiff(opened: tiff.Tiff, path: str, max_pixels: int) -> np.ndarray:
    page = opened.page
    check_size(path, (page.imagewidth, page.imagelength), max_pixels)
    if page.samplesperpixel != 1 or opened.dtype is None or opened.dtype.kind != "u" or page.bitspersample > 16:
        raise InputError(path, f"a TIFF of {opened.kind}", _GREY, _SAVE_AS_GREY)
    if not opened.is_grey:
        raise InputError(path, f"a TIFF of {opened.kind} that stand for colours", _GREY, _SAVE_AS_GREY)
    if page.compression in tiff.PLAIN and page.bitspersample in (8, 16) and len(page.shape) == 2:
        plane = tiff.decode_plain(opened, path)
    elif 8 < page.bitspersample < 16 and page.compression in COMPRESSIONS:
        with tifffile.TiffFile(io.BytesIO(opened.data)) as packed:
            plane = decode_page(next(one for one in packed.series if not one.keyframe.is_reduced), 0, path)
    else:
        try:
            plane = _read_other(opened.data, path, "", max_pixels)
        except Image.UnidentifiedImageError as error:
            found = f"a TIFF with a compression that is not read here ({getattr(page.compression, 'name', 'unknown')})"
            fix = "save it without compression, or with LZW or deflate"
            raise InputError(path, found, "a compression that is read", fix) from error
    full = (1 << max(page.bitspersample, 8)) - 1  # fewer bits are stretched to 8
    return plane.dtype.type(full) - plane if opened.is_min_white else plane


def _read_other(data: bytes, path: str, channel: str, max_pixels: int) -> np.ndarray:
    """Decode what Pillow knows, after a look at its header."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=["PNG", "TIFF", "JPEG"])
    except Image.DecompressionBombError as error:
        raise too_large_for_pillow(path, error) from error
    with image:
        check_size(path, image.size, max_pixels)
        return _decode(image, data, path, channel)


def _decode(image: Image.Image, data: bytes, path: str, channel: str) -> np.ndarray:
    if getattr(image, "n_frames", 1) != 1:
        raise InputError(path, f"{image.n_frames} pages", "one grey image a file", "save each channel as its own file")
    is_colour_jpeg = image.format == "JPEG" and image.mode == "RGB"
    if image.mode not in _GREY_MODES and not is_colour_jpeg:
        raise InputError(path, f"a {image.format} of mode {image.mode}", _GREY, _SAVE_AS_GREY)
    if image.format == "PNG":  # half the time of Pillow; damaged data gives None
        plane = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if plane is None or plane.ndim != 2:
            raise damaged(path, "damaged or truncated PNG data")
        return plane
    plane = np.asarray(image)
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
        raise InputError(path, found, f"grey, or pure {channel}", _SAVE_AS_GREY)
    return plane

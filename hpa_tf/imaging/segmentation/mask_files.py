"""Label images in files: PNG, TIFF, NPY or NPZ, read as int32 after their header has passed the checks.

Size and type come from the header, so that a small file that would unpack to gigabytes is refused before it does.
Nothing that could run code is loaded: arrays of Python objects (pickles) are refused.
"""

import io
import os
import zipfile
from collections.abc import Callable
from typing import IO

import numpy as np
import tifffile
from PIL.PngImagePlugin import PngImageFile

from hpa_tf import files
from hpa_tf.errors import InputError
from hpa_tf.imaging import tiff
from hpa_tf.imaging.channel_files import MAX_PIXELS, check_size, unreadable
from hpa_tf.imaging.stack_pixels import decode_page
from hpa_tf.imaging.stacks import COMPRESSIONS

EXTENSIONS = (".png", ".tif", ".tiff", ".npy", ".npz")

_EXPECTED = "a label image: one whole number per pixel, 0 = background, each cell its own number"
_SAVE_NUMBERS = "save the numbers themselves, as 16-bit grey PNG or TIFF or an integer NPY or NPZ"
UNPICKLE = "save the masks themselves: cellpose --save_png or --save_tif, or np.save(..., data['masks'])"
"""The way out of Cellpose's `_seg.npy`."""
_LARGEST = np.iinfo(np.int32).max
_DAMAGE = (*tiff.DAMAGE, zipfile.BadZipFile)
_MOST_HEADER = 10_000  # bytes of an NPY header: more than any array of numbers has
_PICKLE = "a pickled Python object, which is not loaded, as in Cellpose's _seg.npy"


def read_mask(path: str | os.PathLike, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read one label image as int32 [H, W], numbers as they are in the file.

    Args:
        path: A file ending in one of `EXTENSIONS`.
        max_pixels: Larger masks (height x width, px) are refused before they are decoded.

    Raises:
        InputError: The file is missing, damaged, too large, or no label image (colour, float, several pages or
            arrays, negative or huge numbers).
    """
    extension = os.path.splitext(str(path))[1].lower()
    readers: dict[str, Callable[[IO[bytes], str, int], np.ndarray]] = {
        ".png": _read_png,
        ".tif": _read_tiff,
        ".tiff": _read_tiff,
        ".npy": _read_npy,
        ".npz": _read_npz,
    }
    if extension not in readers:
        raise InputError(path, f"the ending {extension!r}", f"one of {', '.join(EXTENSIONS)}", "convert the mask")
    try:
        stream = files.open_file(path)
    except FileNotFoundError as error:
        raise InputError(path, "no such file", _EXPECTED, "check the path") from error
    except OSError as error:
        raise unreadable(path, error, _EXPECTED) from error
    try:
        with stream:
            return _as_numbers(readers[extension](stream, str(path), max_pixels), str(path))
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(path, "more data than memory", _EXPECTED, "lower --max-pixels or cut the image") from error
    except _DAMAGE as error:
        raise InputError(path, f"a file that cannot be decoded ({error})", _EXPECTED, "make the mask again") from error


def _read_png(stream: IO[bytes], path: str, max_pixels: int) -> np.ndarray:
    with PngImageFile(io.BytesIO(stream.read())) as image:  # `Image.open` has a limit of its own
        check_size(path, image.size, max_pixels)
        if image.mode not in ("L", "I", "I;16"):
            raise InputError(
                path, f"a PNG of mode {image.mode} (colour, transparency or 1 bit)", _EXPECTED, _SAVE_NUMBERS
            )
        return np.asarray(image)


def _read_tiff(stream: IO[bytes], path: str, max_pixels: int) -> np.ndarray:
    opened = tiff.open_tiff(stream.read(), path)
    _check_array(path, opened.shape, opened.dtype, max_pixels)
    if opened.page.compression in tiff.PLAIN:
        return tiff.decode_plain(opened, path)
    if opened.page.compression not in COMPRESSIONS:
        name = getattr(opened.page.compression, "name", opened.page.compression)
        raise InputError(path, f"the compression {name}", "none, LZW, deflate or Zstandard", "save the mask again")
    with tifffile.TiffFile(io.BytesIO(opened.data)) as whole:
        series = next(one for one in whole.series if not one.keyframe.is_reduced)
        return decode_page(series, 0, path)


def _read_npy(stream: IO[bytes], path: str, max_pixels: int) -> np.ndarray:
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise InputError(path, f"NPY version {version}", "NPY version 1.0 or 2.0 of an integer array", _SAVE_NUMBERS)
    length = stream.read(2 * version[0])
    size = int.from_bytes(length, "little")
    if size > _MOST_HEADER:  # in an archive, few bytes may unpack to all that the header claims to have
        found = f"an array with a header of {size} bytes"
        raise InputError(path, found, f"at most {_MOST_HEADER}", _SAVE_NUMBERS)
    header = io.BytesIO(length + stream.read(size))
    read_header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
    shape, fortran_order, dtype = read_header(header)
    if dtype.hasobject:
        raise InputError(path, _PICKLE, _EXPECTED, UNPICKLE)
    _check_array(path, shape, dtype, max_pixels)
    size = int(np.prod(shape)) * dtype.itemsize
    data = stream.read(size)
    if len(data) != size:
        raise InputError(path, f"{len(data)} of {size} bytes", "a whole array", "make the mask again")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran_order else "C")


def _read_npz(stream: IO[bytes], path: str, max_pixels: int) -> np.ndarray:
    with zipfile.ZipFile(stream) as archive:
        names = archive.namelist()
        if len(names) != 1:
            listed = ", ".join(names[:5]) or "none"
            raise InputError(path, f"{len(names)} arrays ({listed})", "exactly one array", "save one mask a file")
        with archive.open(names[0]) as member:
            return _read_npy(member, path, max_pixels)


def _check_array(path: str, shape: tuple[int, ...], dtype: np.dtype, max_pixels: int) -> None:
    """Refuse what is no label image by the shape and type of its header."""
    if len(shape) != 2 or 0 in shape:
        raise InputError(path, f"an array of shape {shape}", f"{_EXPECTED}, of shape [H, W]", _SAVE_NUMBERS)
    if dtype is None or dtype.kind not in "ui":
        raise InputError(path, f"values of type {dtype}", _EXPECTED, _SAVE_NUMBERS)
    check_size(path, (shape[1], shape[0]), max_pixels)


def _as_numbers(array: np.ndarray, path: str) -> np.ndarray:
    lowest, highest = int(array.min()), int(array.max())
    if lowest < 0 or highest > _LARGEST:
        raise InputError(path, f"the number {lowest if lowest < 0 else highest}", f"0 to {_LARGEST}", _SAVE_NUMBERS)
    return array.astype(np.int32, order="C")  # as OpenCV takes it

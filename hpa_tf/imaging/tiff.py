"""TIFF files of one page, read as they are stored: not rotated by a tag, and never more than their header says.

Decoders differ in what they make of two tags: min-is-white (inverted by some, for some types) and orientation (turned
by some). Here both are taken out of the data before anything is decoded; whoever reads an image inverts it once.
"""

import io
import logging
import math
import struct
import zlib
from dataclasses import dataclass

import numpy as np
import tifffile

from hpa_tf.errors import InputError
from hpa_tf.imaging import ome

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # else its words stand between ours

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFF and BigTIFF, little and big endian."""
DEFLATE = (8, 32946)
PLAIN = (1, *DEFLATE)
"""Compressions that tifffile decodes by itself: none, and both numbers of deflate."""
DAMAGE = (
    *(OSError, ValueError, KeyError, IndexError, EOFError, SyntaxError, TypeError, NotImplementedError, RuntimeError),
    *(AttributeError, OverflowError, ZeroDivisionError, struct.error, zlib.error),
)
"""What decoders raise for damaged files."""

_PHOTOMETRIC, _ORIENTATION = 262, 274
_X_RESOLUTION, _Y_RESOLUTION = 282, 283
_MIN_IS_WHITE, _MIN_IS_BLACK, _TOP_LEFT = 0, 1, 1
_FORMATS = {3: "H", 4: "I"}
"""Formats of a tag's value by its type: SHORT and LONG."""


@dataclass(frozen=True)
class Tiff:
    """One page, not yet decoded.

    Attributes:
        data: The file with its page alone, without smaller copies, marked as min-is-black and top-left: every decoder
            gives the stored numbers.
        page: What tifffile says of it.
        is_min_white: The stored numbers of an image are to be inverted (those of a mask are not).
        num_pages: Pages of the file.
    """

    data: bytes
    page: tifffile.TiffPage
    is_min_white: bool
    num_pages: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W), or more for several samples a pixel."""
        return self.page.shape

    @property
    def dtype(self) -> np.dtype | None:
        """Type of the numbers; None where there is none for them."""
        return self.page.dtype

    @property
    def is_grey(self) -> bool:
        """Whether its numbers are how bright a pixel is: those of a palette are where it rises from dark to bright."""
        if getattr(self.page.photometric, "name", "") == "CFA":
            return False
        palette = self.page.colormap
        return palette is None or bool((np.diff(palette.astype(int).sum(axis=0)) >= 0).all())

    @property
    def kind(self) -> str:
        """What the numbers are, in words."""
        return numbers_in_words(self.page)


def numbers_in_words(page: tifffile.TiffPage) -> str:
    """Say what the numbers of a page are."""
    bits, samples = page.bitspersample, page.samplesperpixel
    if samples > 1:
        return f"{samples} numbers a pixel ({getattr(page.photometric, 'name', 'unknown')})"
    kinds = {"f": "floating point numbers", "i": "signed integers", "c": "complex numbers"}
    return f"{bits}-bit {kinds.get(page.dtype.kind if page.dtype is not None else '', 'integers')}"


def open_tiff(data: bytes, path: str, several: bool = False) -> Tiff:
    """Read the header of a TIFF file.

    Args:
        data: The file.
        path: Its name.
        several: Files of several pages are taken; what is returned then speaks of the first.

    Raises:
        InputError: It has several pages.
        Exception: One of `DAMAGE`: it is no TIFF file.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        pages = [page for page in tiff.pages if not page.is_reduced]  # the others are smaller copies of it
        in_one = (tiff.imagej_metadata or {}).get("images", 1) if tiff.is_imagej else 1  # ImageJ's large stacks
        num_pages = in_one if len(pages) == 1 else len(pages)
        if num_pages != 1 and not several:
            found = f"{num_pages} pages"
            raise InputError(path, found, "one grey page a file", "save each channel or mask as its own file")
        page, order, kind, next_at = pages[0], tiff.byteorder, tiff.tiff, _place_of_next(tiff, pages[0])
    tag = page.tags.get(_PHOTOMETRIC)
    is_min_white = tag is not None and tag.value == _MIN_IS_WHITE
    changed = bytearray(data)
    struct.pack_into(kind.offsetformat, changed, kind.offsetsize, page.offset)  # the header names the first page
    struct.pack_into(kind.offsetformat, changed, next_at, 0)
    for code, value in ((_PHOTOMETRIC, _MIN_IS_BLACK), (_ORIENTATION, _TOP_LEFT)):
        tag = page.tags.get(code)
        if tag is not None and tag.dtype in _FORMATS and (code == _ORIENTATION or is_min_white):
            struct.pack_into(order + _FORMATS[tag.dtype], changed, tag.valueoffset, value)
    return Tiff(bytes(changed), page, is_min_white, num_pages)


def scale_of(data: bytes, path: str) -> tuple[float, float] | None:
    """Return the micrometres across and down a pixel that an OME or ImageJ file says; None where it says nothing.

    Raises:
        InputError: Its metadata cannot be read.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as opened:
        text = opened.pages[0].description
        return ome.read_ome(text, path).scale if ome.is_ome(text) else imagej_scale(opened)


def check_chain(opened: tifffile.TiffFile) -> None:
    """Refuse a file whose last page names a next one: it has lost some.

    Raises:
        ValueError: It has.
    """
    opened.filehandle.seek(_place_of_next(opened, opened.pages[-1]))
    if struct.unpack(opened.tiff.offsetformat, opened.filehandle.read(opened.tiff.offsetsize))[0]:
        raise ValueError("the file ends before its pages do")


def _place_of_next(opened: tifffile.TiffFile, page: tifffile.TiffPage) -> int:
    """Return the place in a file where a page says where the next one is: behind its tags."""
    stream, kind = opened.filehandle, opened.tiff
    stream.seek(page.offset)
    (num_tags,) = struct.unpack(kind.tagnoformat, stream.read(kind.tagnosize))
    return page.offset + kind.tagnosize + num_tags * kind.tagsize


def imagej_scale(opened: tifffile.TiffFile) -> tuple[float, float] | None:
    """Return the micrometres across and down a pixel that an ImageJ file says; None where it says nothing."""
    if not opened.is_imagej:
        return None  # dots per inch of other programs are those of a screen
    unit = ome.UM.get(str((opened.imagej_metadata or {}).get("unit", "")).strip().lower())
    tags = [opened.pages[0].tags.get(code) for code in (_X_RESOLUTION, _Y_RESOLUTION)]
    if unit is None or None in tags:
        return None
    values = [tag.value for tag in tags]
    if not all(isinstance(value, tuple) and len(value) == 2 and all(value) for value in values):
        return None
    return unit * values[0][1] / values[0][0], unit * values[1][1] / values[1][0]


def decode_plain(tiff: Tiff, path: str) -> np.ndarray:
    """Decode a page whose compression is in `PLAIN`, in the machine's byte order.

    Raises:
        InputError: It unpacks to more than the header says.
        Exception: One of `DAMAGE`, also where it unpacks to less.
    """
    with tifffile.TiffFile(io.BytesIO(tiff.data)) as opened:
        page = next(page for page in opened.pages if not page.is_reduced)
        _check_length(tiff.data, page, path)
        array = page.asarray()
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _check_length(data: bytes, page: tifffile.TiffPage, path: str) -> None:
    """Refuse strips and tiles that do not unpack to their share of the page, holding no more than that of each.

    Raises:
        InputError: They unpack to more.
        ValueError: They unpack to less, or end after the file.
    """
    limit = math.prod(page.chunks) * page.dtype.itemsize
    if len(page.dataoffsets) > math.prod(page.chunked):
        found = f"{len(page.dataoffsets)} strips or tiles"
        raise InputError(path, found, f"{math.prod(page.chunked)} as its header says", "save it again")
    total = 0
    for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True):
        if offset + size > len(data):
            raise ValueError("the file ends before its pixels do")
        if page.compression in DEFLATE:
            size = len(zlib.decompressobj().decompress(data[offset : offset + size], limit + 1))
            if size > limit:
                found = f"a strip or tile that unpacks to more than {limit} bytes"
                raise InputError(path, found, f"the {limit} bytes that its header says", "save it again")
        total += size
    if total < math.prod(page.shape) * page.dtype.itemsize:
        raise ValueError(f"{total} bytes of pixels, the header says {math.prod(page.shape) * page.dtype.itemsize}")

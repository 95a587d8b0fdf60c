"""Pictures as bytes, lossless, in formats that say their own shape and that TensorFlow's own ops decode.

    png         sub filter and Intel's ISA-L: the smallest, read at about 100 cells of 512 px a second and core
    png-stored  a PNG whose data is not compressed: about twice the size, read about 5 times as fast
    npy         NumPy's .npy: about twice the size, read at the speed of memory

A PNG is a byte filter, zlib and three chunks. libpng tries five filters a row and zlib takes ten times as long as
ISA-L for these noisy pictures, at nearly the same size (benchmarks/encoding.py), so the filter is fixed here and ISA-L
compresses. Bytes are the same on machines of one processor family; between families they may differ in how they are
compressed, never in what they decode to.
"""

import io
import math
import re
import struct
import zlib
from typing import Literal

import cv2
import numpy as np
from isal import igzip_lib, isal_zlib

from hpa_tf.imaging.channel_files import MAX_PIXELS

Encoding = Literal["png", "png-stored", "npy"]

NPY_MAGIC = b"\x93NUMPY"
NPY_HEADER_SIZE = 128
"""Bytes before the pixels of a .npy file of a picture; NumPy pads its header to a multiple of 64."""
_NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00v\x00\{'descr': '(\|u1|<u2)', 'fortran_order': False, "
    rb"'shape': \((\d{1,9}), (\d{1,9})(, 4)?\), \} *\n"
)
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_NO_FILTER, _SUB, _UP = 0, 1, 2  # the byte itself; minus its left neighbour; minus the one above
_GREY, _RGBA = 0, 6
_LEVEL = 1  # of 0..3: level 0 is as fast and 45 % larger, 2 and 3 are slower and no smaller


def encode_picture(pixels: np.ndarray, encoding: Encoding = "png") -> bytes:
    """Encode uint8 or uint16 pixels [H, W] or [H, W, 4] (channels R, G, B, Y; in PNG they stand as R, G, B, A).

    Masks and region maps shrink to a hundredth and are then read as fast, so "png-stored" leaves only [H, W, 4] as is.

    Raises:
        ValueError: Another shape or type.
    """
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.shape[2:] not in ((), (4,)) or not pixels.size:
        raise ValueError(f"pixels: found {pixels.dtype} {pixels.shape}; expected uint8 or uint16 [H, W] or [H, W, 4]")
    if encoding == "npy":
        return _encode_npy(pixels)
    height, width = pixels.shape[:2]
    depth = pixels.dtype.itemsize
    rows = np.ascontiguousarray(pixels, f">u{depth}").view(np.uint8).reshape(height, -1)
    if pixels.ndim == 3 and encoding == "png-stored":
        data = zlib.compress(np.pad(rows, ((0, 0), (1, 0)), constant_values=_NO_FILTER), 0)
    else:
        data = igzip_lib.compress(_filtered(rows, pixels.ndim == 3, depth), _LEVEL, igzip_lib.COMP_ZLIB)
    colour = _RGBA if pixels.ndim == 3 else _GREY
    header = struct.pack(">IIBBBBB", width, height, 8 * depth, colour, 0, 0, 0)
    return _PNG_MAGIC + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _PNG_END


def _encode_npy(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(pixels, f"<u{pixels.dtype.itemsize}"), version=(1, 0))
    return stream.getvalue()


def _filtered(rows: np.ndarray, is_colour: bool, depth: int) -> np.ndarray:
    """Return the bytes of the rows [H, B] after the filter, with its number before each: uint8 [H, 1 + B]."""
    filtered = np.empty((len(rows), rows.shape[1] + 1), np.uint8)
    if is_colour:
        step = 4 * depth
        filtered[:, 0], filtered[:, 1 : step + 1] = _SUB, rows[:, :step]
        np.subtract(rows[:, step:], rows[:, :-step], out=filtered[:, step + 1 :])
    else:
        filtered[:, 0], filtered[0, 1:] = _UP, rows[0]
        np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    return filtered


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = isal_zlib.crc32(data, zlib.crc32(kind))
    return b"".join([struct.pack(">I", len(data)), kind, data, struct.pack(">I", checksum)])


def decode_picture(data: bytes) -> np.ndarray:
    """Decode what `encode_picture` made, whatever the encoding.

    Raises:
        ValueError: The bytes are no intact picture.
    """
    if data.startswith(NPY_MAGIC):
        height, width, bits, channels = picture_shape(data)
        pixels = np.frombuffer(data, f"<u{bits // 8}", offset=NPY_HEADER_SIZE)
        return pixels.reshape((height, width) if channels == 1 else (height, width, channels))
    height, width, *_ = picture_shape(data)
    if height * width > MAX_PIXELS:
        raise ValueError(f"a picture of {width} x {height} px; at most {MAX_PIXELS} px are decoded")
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("no intact PNG")
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA) if pixels.ndim == 3 else pixels


def picture_shape(data: bytes) -> tuple[int, int, int, int]:
    """Return (height, width, bits, channels) from the header of a picture, without decoding it.

    Raises:
        ValueError: The bytes do not begin as `encode_picture`'s do, or do not end where they should.
    """
    if data.startswith(NPY_MAGIC):
        return _npy_shape(data)
    if data[:16] != _PNG_MAGIC + b"\0\0\0\rIHDR" or data[-12:] != _PNG_END:
        raise ValueError("no whole PNG")
    width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
    if colour not in (_GREY, _RGBA):
        raise ValueError(f"a PNG of colour type {colour}")
    return height, width, bits, 4 if colour == _RGBA else 1


def _npy_shape(data: bytes) -> tuple[int, int, int, int]:
    header = _NPY_HEADER.fullmatch(data[:NPY_HEADER_SIZE])
    if header is None:
        raise ValueError(f"a .npy file of another kind: {data[:NPY_HEADER_SIZE]!r}")
    kind, height, width, four = header.groups()
    shape = int(height), int(width), 8 if kind == b"|u1" else 16, 4 if four else 1
    expected = NPY_HEADER_SIZE + math.prod(shape) // 8
    if len(data) != expected or 0 in shape:
        raise ValueError(f"a .npy file of {len(data)} bytes; expected {expected}")
    return shape

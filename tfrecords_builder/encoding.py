"""Pictures as PNG bytes: lossless, decodable by TensorFlow's own ops, encoded at hundreds of cells a second.

A PNG is a byte filter, zlib and three chunks. libpng tries five filters a row and zlib takes ten times as long as
Intel's ISA-L for these noisy pictures, at nearly the same size (benchmarks/encoding.py), so the filter is fixed here
and ISA-L compresses. Bytes are the same on machines of one processor family; between families they may differ in
how they are compressed, never in what they decode to.
"""

import struct
import zlib

import cv2
import numpy as np
from isal import igzip_lib, isal_zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SUB, _UP = 1, 2  # byte minus its left neighbour; minus the one above
_GREY, _RGBA = 0, 6
_LEVEL = 1  # of 0..3: level 0 is as fast and 45 % larger, 2 and 3 are slower and no smaller


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode uint8 or uint16 pixels [H, W] or [H, W, 4] (channels R, G, B, Y as R, G, B, A).

    Raises:
        ValueError: Another shape or type.
    """
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.shape[2:] not in ((), (4,)) or not pixels.size:
        raise ValueError(f"pixels: found {pixels.dtype} {pixels.shape}; expected uint8 or uint16 [H, W] or [H, W, 4]")
    height, width = pixels.shape[:2]
    depth = pixels.dtype.itemsize
    rows = np.ascontiguousarray(pixels, f">u{depth}").view(np.uint8).reshape(height, -1)
    filtered = np.empty((height, rows.shape[1] + 1), np.uint8)
    if pixels.ndim == 3:
        step = 4 * depth
        filtered[:, 0], filtered[:, 1 : step + 1] = _SUB, rows[:, :step]
        np.subtract(rows[:, step:], rows[:, :-step], out=filtered[:, step + 1 :])
    else:
        filtered[:, 0], filtered[0, 1:] = _UP, rows[0]
        np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    colour = _RGBA if pixels.ndim == 3 else _GREY
    header = struct.pack(">IIBBBBB", width, height, 8 * depth, colour, 0, 0, 0)
    data = igzip_lib.compress(filtered, _LEVEL, igzip_lib.COMP_ZLIB)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = isal_zlib.crc32(data, zlib.crc32(kind))
    return b"".join([struct.pack(">I", len(data)), kind, data, struct.pack(">I", checksum)])


def decode_png(data: bytes) -> np.ndarray:
    """Decode what `encode_png` made.

    Raises:
        ValueError: The bytes are no intact PNG.
    """
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("no intact PNG")
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA) if pixels.ndim == 3 else pixels


def png_shape(data: bytes) -> tuple[int, int, int, int]:
    """Return (height, width, bits, channels) from the header of a PNG, without decoding it.

    Raises:
        ValueError: The bytes do not begin as `encode_png`'s do, or do not end as a PNG does.
    """
    if data[:16] != _SIGNATURE + b"\0\0\0\rIHDR" or data[-12:] != _chunk(b"IEND", b""):
        raise ValueError("no whole PNG")
    width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
    if colour not in (_GREY, _RGBA):
        raise ValueError(f"a PNG of colour type {colour}")
    return height, width, bits, 4 if colour == _RGBA else 1

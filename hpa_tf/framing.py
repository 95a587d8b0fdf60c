"""TFRecord framing without TensorFlow: length, CRC32C of the length, data, CRC32C of the data."""

import os
import struct
from collections.abc import Iterator, Sequence
from typing import IO

import google_crc32c

from hpa_tf.errors import InputError

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_PIECE = 1 << 24
_LONGEST = (1 << 31) - 1  # bytes: protobuf reads no longer message
OVERHEAD = _HEADER.size + _FOOTER.size
"""Bytes of framing around the data of a record."""


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(data: bytes) -> bytes:
    """Return one record with TFRecord framing: length, its CRC32C, the data, its CRC32C."""
    length = struct.pack("<Q", len(data))
    return length + _FOOTER.pack(_masked_crc(length)) + data + _FOOTER.pack(_masked_crc(data))


def read_frames(stream: IO[bytes], path: str) -> Iterator[bytes]:
    """Yield the data of each record of a TFRecord stream, checksums verified.

    Raises:
        InputError: The stream ends inside a record or a checksum is wrong; names the record.
    """
    record = 0
    while header := stream.read(_HEADER.size):
        if len(header) < _HEADER.size:
            raise _bad_record(path, record, "a header cut short")
        length, length_crc = _HEADER.unpack(header)
        if _masked_crc(header[:8]) != length_crc:
            raise _bad_record(path, record, "a wrong checksum of its length")
        if length > _LONGEST:
            raise _bad_record(path, record, f"a length of {length} bytes")
        body = _read(stream, length + _FOOTER.size)
        if len(body) < length + _FOOTER.size:
            raise _bad_record(path, record, f"{len(body)} of {length + _FOOTER.size} bytes")
        data = body[:-4]
        if _masked_crc(data) != _FOOTER.unpack(body[-4:])[0]:
            raise _bad_record(path, record, "a wrong checksum of its data")
        yield data
        record += 1


def _read(stream: IO[bytes], size: int) -> bytes:
    """Read up to `size` bytes, in pieces: a length that a file makes up must not become memory."""
    pieces = []
    while size > 0 and (piece := stream.read(min(size, _PIECE))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def read_chosen_frames(stream: IO[bytes], path: str, ordinals: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """Yield (ordinal, data) of the records with these rising ordinals; the others are skipped without reading them.

    Raises:
        InputError: See `read_frames`.
    """
    record = 0
    for ordinal in ordinals:
        while record < ordinal:
            header = stream.read(_HEADER.size)
            if len(header) < _HEADER.size:
                raise _bad_record(path, record, "the end of the file")
            length, length_crc = _HEADER.unpack(header)
            if _masked_crc(header[:8]) != length_crc or length > _LONGEST:
                raise _bad_record(path, record, f"a damaged length ({length} bytes)")
            stream.seek(length + _FOOTER.size, os.SEEK_CUR)
            record += 1
        data = next(read_frames(stream, path), None)
        if data is None:
            raise _bad_record(path, ordinal, "the end of the file")
        yield ordinal, data
        record += 1


def _bad_record(path: str, record: int, found: str) -> InputError:
    return InputError(f"{path}, record {record}", found, "an intact TFRecord", "python -m tfrecords_builder repair")

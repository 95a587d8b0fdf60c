"""TFRecord framing without TensorFlow: length, CRC32C of the length, data, CRC32C of the data."""

import io
import os
import shlex
import struct
from collections.abc import Iterator, Sequence
from typing import IO

import google_crc32c

from hpa_tf import files
from hpa_tf.errors import InputError

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_PIECE = 1 << 24
_LONGEST = (1 << 31) - 1  # bytes: protobuf reads no longer message
OVERHEAD = _HEADER.size + _FOOTER.size
"""Bytes of framing around the data of a record."""
REMOTE_BUFFER = 1 << 20
"""Bytes asked of an object store at once: a record in one request. Local files are read to the byte."""


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
        length = _length(header, path, record)
        body = _read(stream, length + _FOOTER.size)
        if len(body) < length + _FOOTER.size:
            raise _bad_record(path, record, f"{len(body)} of {length + _FOOTER.size} bytes")
        data = body[:-4]
        if _masked_crc(data) != _FOOTER.unpack(body[-4:])[0]:
            raise _bad_record(path, record, "a wrong checksum of its data")
        yield data
        record += 1


def _length(header: bytes, path: str, record: int) -> int:
    """Return the bytes of data that a header announces, its checksum verified."""
    length, length_crc = _HEADER.unpack(header)
    if _masked_crc(header[:8]) != length_crc:
        raise _bad_record(path, record, "a wrong checksum of its length")
    if length > _LONGEST:
        raise _bad_record(path, record, f"a length of {length} bytes")
    return length


def read_frame_at(path: str, offset: int) -> bytes | None:
    """Return the data of the record that begins at byte `offset`, checksums verified; None where the file ends there.

    An object store is asked for it once, or twice where it is longer than `REMOTE_BUFFER`.

    Raises:
        InputError: See `read_frames`.
    """
    if not files.is_remote(path):
        with files.open_file(path) as stream:
            stream.seek(offset)
            return next(read_frames(stream, path), None)
    data = files.read_range(path, offset, offset + REMOTE_BUFFER)
    if len(data) == REMOTE_BUFFER:
        size = _length(data[: _HEADER.size], path, 0) + OVERHEAD
        if size > REMOTE_BUFFER:
            data += files.read_range(path, offset + REMOTE_BUFFER, offset + size)
    return next(read_frames(io.BytesIO(data), path), None)


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
    fix = f"python -m tfrecords_builder repair {shlex.quote(os.path.dirname(path))}"
    return InputError(f"{path}, record {record}", found, "an intact TFRecord", fix)

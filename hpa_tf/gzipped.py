"""Gzip data, unpacked whole, all members of it, and never to more than a limit."""

import zlib


class TooLargeError(ValueError):
    """Data unpacks to more than is wanted."""


def gunzip(data: bytes, limit: int) -> bytes:
    """Unpack all members of gzip data, holding at most about `limit` bytes.

    Raises:
        TooLargeError: It unpacks to more than `limit` bytes.
        ValueError: It is damaged or cut short.
    """
    unpacked = bytearray()
    while data.strip(b"\0"):  # some tools pad with zeros
        unpacker = zlib.decompressobj(wbits=31)
        try:
            unpacked += unpacker.decompress(data, limit - len(unpacked) + 1)
        except zlib.error as error:
            raise ValueError(str(error)) from error
        if len(unpacked) > limit:
            raise TooLargeError(f"more than {limit} bytes inside")
        if not unpacker.eof:
            raise ValueError("the gzip stream ends early")
        data = unpacker.unused_data
    return bytes(unpacked)

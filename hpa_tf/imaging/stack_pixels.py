"""Pixels of the pages of a TIFF file, decoded only after a look at how much they unpack to."""

import math
from typing import Any

import numpy as np
import tifffile

from hpa_tf.errors import InputError


def decode_page(series: tifffile.TiffPageSeries, number: int, path: str) -> np.ndarray:
    """Decode one page of a series.

    Args:
        series: tifffile's.
        number: Of the page, from 0.
        path: The file, for errors.

    Returns:
        uint8 or uint16 [H, W], or [S, H, W] of several samples a pixel, in the machine's byte order, 0 = black.

    Raises:
        InputError: The page is missing, or unpacks to more than its header says.
        Exception: One of `tiff.DAMAGE`, also where it unpacks to less.
    """
    frame = series.keyframe
    if series.dataoffset is not None:
        size = math.prod(frame.shape) * series.dtype.itemsize
        pixels = _read_contiguous(series, series.dataoffset + number * size, frame.shape)
    else:
        page = series.pages[number] if number < len(series.pages) else None
        if page is None:
            fix = "copy it again with all files of its set, or save it again as OME-TIFF"
            raise InputError(path, f"no plane {number + 1}, though its header names it", "all planes", fix)
        _check_lengths(page, frame, path)
        pixels = page.asarray()
    axes = [axis for axis, size in zip(frame.axes, frame.shape, strict=True) if size != 1 or axis in "YX"]
    pixels = pixels.reshape([frame.shape[frame.axes.index(axis)] for axis in axes])
    return _as_stored(np.moveaxis(pixels, 2, 0) if axes[2:] == ["S"] else pixels, frame)


def decode_all(series: tifffile.TiffPageSeries, path: str) -> np.ndarray:
    """Decode all pages of a series to an array of its shape; errors as of `decode_page`."""
    frame = series.keyframe
    if series.dataoffset is not None:
        return _as_stored(_read_contiguous(series, series.dataoffset, series.shape), frame)
    for page in series.pages:
        if page is None:
            raise ValueError("a page is missing")
        _check_lengths(page, frame, path)
    return _as_stored(series.asarray(), frame)


def _as_stored(pixels: np.ndarray, frame: tifffile.TiffPage) -> np.ndarray:
    """Return counts in the machine's byte order, 0 = black."""
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    is_min_white = getattr(frame.photometric, "name", "") == "MINISWHITE"
    return pixels.dtype.type((1 << frame.bitspersample) - 1) - pixels if is_min_white else pixels


def _read_contiguous(series: tifffile.TiffPageSeries, offset: int, shape: tuple[int, ...]) -> np.ndarray:
    stream, order = series.keyframe.parent.filehandle, series.keyframe.parent.byteorder
    size = math.prod(shape) * series.dtype.itemsize
    if offset + size > stream.size:
        raise ValueError("the file ends before its pixels do")
    stream.seek(offset)
    return np.frombuffer(stream.read(size), series.dtype.newbyteorder(order)).reshape(shape)


def _check_lengths(page: Any, frame: tifffile.TiffPage, path: str) -> None:
    """Refuse strips and tiles that do not unpack to their share of the page, holding no more than that of each.

    Raises:
        InputError: They unpack to more.
        ValueError: They unpack to less (they would become zeros), or end after the file.
    """
    limit = math.prod(frame.chunks) * frame.dtype.itemsize
    stream = page.parent.filehandle
    if stream.closed:  # another file of a set
        stream.open()
    if len(page.dataoffsets) > math.prod(frame.chunked):
        raise InputError(path, f"{len(page.dataoffsets)} strips or tiles", f"{math.prod(frame.chunked)}", "save again")
    unpack = None if frame.compression == 1 else tifffile.TIFF.DECOMPRESSORS[frame.compression]
    total = 0
    for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True):
        if offset + size > stream.size:
            raise ValueError("the file ends before its pixels do")
        if unpack is not None:
            stream.seek(offset)
            data = stream.read(size)
            try:
                size = len(unpack(data, out=limit + 1))
            except Exception as error:  # each codec has errors of its own
                raise ValueError(f"a strip or tile that does not unpack to {limit} bytes: {error}") from error
            if size > limit:
                found = f"a strip or tile that unpacks to more than {limit} bytes"
                raise InputError(path, found, f"the {limit} bytes that its header says", "save it again")
        total += size
    if total * 8 < math.prod(frame.shape) * frame.bitspersample:
        raise ValueError(f"{total} bytes of pixels for {' x '.join(map(str, frame.shape))}")

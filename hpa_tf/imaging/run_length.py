"""Run-length encoded masks in the COCO format: exact, small, and safe to read from a stranger's file.

A mask is read column by column; `counts` holds the lengths of the runs (background first), each as a difference to
the run two before it, in a text of 6 bits a character. pycocotools computes areas and overlaps on such masks without
decoding them; its reader trusts the text, so text from outside goes through `check_counts` first.
"""

import os
from collections.abc import Sequence
from typing import TypedDict

import cv2
import numpy as np
import pandas as pd
from pycocotools import mask as coco

from hpa_tf.errors import InputError

MOST_PIXELS = 1 << 30
"""Of an image, height x width: its masks are run lengths, so more may be read than of pixels that are decoded."""

_MAX_CHARACTERS_PER_RUN = 7  # 5 bits each: 35 bits, more than any image needs


class Rle(TypedDict):
    """One mask.

    Attributes:
        size: [H, W], px.
        counts: The compressed run lengths.
    """

    size: list[int]
    counts: bytes


def encode(mask: np.ndarray) -> Rle:
    """Encode a mask, bool [H, W]."""
    return coco.encode(np.asfortranarray(mask, np.uint8))


def empty(height: int, width: int) -> Rle:
    """Return a mask of background only."""
    return from_lengths([height * width], height, width)


def from_lengths(lengths: Sequence[int], height: int, width: int) -> Rle:
    """Return a mask from the lengths of its runs, background first; together height * width px."""
    return coco.frPyObjects({"size": [height, width], "counts": list(lengths)}, height, width)


def encode_cells(mask: np.ndarray) -> dict[int, Rle]:
    """Encode every cell of a label image in one pass over its pixels.

    Args:
        mask: Integer [H, W]; 0 is background, numbers may have gaps.

    Returns:
        The mask of each cell, ordered by cell number.
    """
    height, width = mask.shape
    pixels = cv2.transpose(mask.astype(np.int32, copy=False)).ravel()  # three times as fast as NumPy's copy
    starts = np.concatenate([[0], np.flatnonzero(pixels[1:] != pixels[:-1]) + 1])[: pixels.size]
    stops = np.concatenate([starts[1:], [pixels.size]])[: len(starts)]
    numbers = pixels[starts]
    runs = np.flatnonzero(numbers)
    runs = runs[np.argsort(numbers[runs], kind="stable")]
    cells, first = np.unique(numbers[runs], return_index=True)
    return {
        int(cell): _from_runs(starts[own], stops[own], height, width)
        for cell, own in zip(cells, np.split(runs, first)[1:], strict=True)
    }


def _from_runs(starts: np.ndarray, stops: np.ndarray, height: int, width: int) -> Rle:
    lengths = np.diff(np.stack([starts, stops], axis=1).ravel(), prepend=0)  # gap, run, gap, run, ...
    if stops[-1] < height * width:
        lengths = np.append(lengths, height * width - stops[-1])
    return from_lengths(lengths.tolist(), height, width)


def decode(rle: Rle) -> np.ndarray:
    """Decode a mask to bool [H, W].

    Raises:
        InputError: See `check_counts`.
    """
    height, width = rle["size"]
    lengths = check_counts(rle["counts"], height, width, "mask")
    pixels = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    pixels = np.concatenate([pixels, np.zeros(height * width - pixels.size, bool)])
    return pixels.reshape((height, width), order="F")


def areas(rles: list[Rle]) -> np.ndarray:
    """Return the areas of N masks, int64 [N], px."""
    return np.array(coco.area(rles), np.int64) if rles else np.zeros(0, np.int64)


def masks_of(mask: np.ndarray, rows: pd.DataFrame, table: str | os.PathLike, path: str) -> list[Rle]:
    """Return the masks of an image's cells, in the order of their rows, from its label image.

    Args:
        mask: Integer [H, W]; 0 is background, numbers may have gaps.
        rows: Its rows of a cell table; where that has the columns `cell_area`, top, left, bottom, right, px, the masks
            must have these areas and boxes.
        table: Where the rows are from, for errors.
        path: Where the label image is from, for errors.

    Raises:
        InputError: A cell is missing or has another area or box: the table was made with other masks.
    """
    cells, numbers = encode_cells(mask) if len(rows) else {}, rows["cell"].astype(int).tolist()
    fix = f"give the masks that {table} was made with"
    if missing := [number for number in numbers if number not in cells]:
        raise InputError(path, f"no cells {missing[:10]}", f"the cells of {table}", fix)
    own = [cells[number] for number in numbers]
    boxes = np.reshape([box(one) for one in own], (-1, 4)).T
    for name, found in (("cell_area", areas(own)), *zip(("top", "left", "bottom", "right"), boxes, strict=True)):
        expected = rows[name].to_numpy(float) if name in rows else np.full(len(own), np.nan)
        for row in np.flatnonzero((found != expected) & ~np.isnan(expected))[:1]:
            what = f"{'' if name == 'cell_area' else f'{name} at '}{found[row]} px of cell {numbers[row]}"
            raise InputError(path, what, f"its {expected[row]:g} px in {table}", fix)
    return own


def box(rle: Rle) -> tuple[int, int, int, int]:
    """Return the tight (top, left, bottom, right) of a mask, px, half-open; (0, 0, 0, 0) for an empty mask."""
    left, top, width, height = (int(value) for value in coco.toBbox(rle))
    return top, left, top + height, left + width


def check_counts(counts: bytes, height: int, width: int, where: str | os.PathLike) -> np.ndarray:
    """Return the run lengths, int64 [R], of a mask that fits an image of height x width px.

    Runs may end before the image does: the rest is background (pycocotools' decoder leaves it uninitialised).

    Args:
        counts: Compressed run lengths, from a file.
        height: px.
        width: px.
        where: File and row, for the error.

    Raises:
        InputError: The text is no run-length encoding, or its runs leave the image.
    """
    fix = "encode the mask as COCO run lengths of the image's own size"
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    expected = f"run lengths of a {width} x {height} px mask"
    if not codes.size or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise InputError(where, f"{counts[:20]!r}", expected, fix)
    last = np.flatnonzero((codes & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    if (last - first).max() >= _MAX_CHARACTERS_PER_RUN:
        raise InputError(where, "a run of more than 35 bits", expected, fix)
    place = np.arange(codes.size) - np.repeat(first, last - first + 1)
    lengths = np.add.reduceat((codes & 31) << (5 * place), first)
    lengths -= np.where(codes[last] & 16, np.int64(32) << (5 * (last - first)), 0)  # two's complement
    lengths[1::2] = np.cumsum(lengths[1::2])
    lengths[2::2] = np.cumsum(lengths[2::2])
    if lengths.min() < 0 or lengths.sum() > height * width:
        raise InputError(where, f"run lengths {lengths.min()} to {lengths.max()}, sum {lengths.sum()}", expected, fix)
    return lengths

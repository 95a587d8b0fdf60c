"""Is a mask a label image? A mask of one number for all cells, or without background, gives wrong cells silently."""

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.imaging.cells import find_boxes

_SHARE = 0.1
"""A piece of this share of the largest one's area is a part of its own. No number of 335 real masks is in pieces."""
_GAP = 3
"""Widest line that cuts a cell without parting it, px: drawn outlines, watershed lines."""
_THIN = 0.35
"""Most that an outline fills of its box. The median of the cells of each of 335 real masks is above."""
_SPAN = 1.5
"""A box that stray pieces make this many times as long is worth a warning."""


@dataclass(frozen=True)
class Pieces:
    """A number that is in several places of a mask.

    Attributes:
        number: The number.
        count: Its pieces (8-connected).
        large: Pieces with at least a tenth of the largest one's area, itself included.
        are_apart: The second piece has a tenth of the largest one's area, and lies further away than a drawn line.
        widens_box: The other pieces make its box much longer than that of the largest.
    """

    number: int
    count: int
    large: int
    are_apart: bool
    widens_box: bool


def find_pieces(mask: np.ndarray) -> list[Pieces]:
    """Return the numbers of a mask, integer [H, W], that are in several pieces."""
    found = []
    for number, box in find_boxes(mask):
        inside = (mask[box] == number).view(np.uint8)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=8, ltype=cv2.CV_32S)
        if count > 2:
            found.append(_describe(number, labels, stats[1:]))
    return found


def _describe(number: int, labels: np.ndarray, stats: np.ndarray) -> Pieces:
    areas = stats[:, cv2.CC_STAT_AREA]
    order = np.argsort(-areas, kind="stable")
    first, second = order[:2]
    large = int((areas >= _SHARE * areas[first]).sum())
    are_apart = False
    if large > 1:
        distance = cv2.distanceTransform((labels != first + 1).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        are_apart = bool(distance[labels == second + 1].min() > _GAP + 1)
    sides = stats[first, [cv2.CC_STAT_HEIGHT, cv2.CC_STAT_WIDTH]]
    return Pieces(number, len(areas), large, are_apart, bool((np.array(labels.shape) > _SPAN * sides).any()))


def check_cells(mask: np.ndarray, where: str | os.PathLike) -> None:
    """Refuse a cell mask that is no label image; warn where it looks odd.

    Args:
        mask: Integer [H, W]; 0 is background.
        where: File of the mask.

    Raises:
        InputError: Most neighbouring pixels differ, as in a picture, or a number is in several large pieces that lie
            apart, as in a mask of 0 and 1 or 0 and 255.
    """
    _check_no_picture(mask, where, "cell")  # first: the pieces of tens of thousands of grey values take an hour
    several = find_pieces(mask)
    for pieces in several:
        if pieces.are_apart or pieces.large > 2:
            raise _not_labelled(where, pieces, "cell")
    if (holes := _holes(mask)) > 1:
        found = f"one number, {mask.max()}, around {holes} places of 0"
        fix = "0 is the background here, and the cells need numbers of their own: invert the mask and label its pieces"
        raise InputError(where, found, "a label image: a number of its own for each cell, 0 = background", fix)
    for text in _odd(mask):
        warnings.warn(f"{where}: {text}", HpaWarning, stacklevel=2)
    if odd := [pieces for pieces in several if pieces.large > 1 or pieces.widens_box]:
        text = (
            f"{where}: {len(odd)} cells are in several pieces, first number {odd[0].number} ({odd[0].count} pieces): "
            "their boxes span all of them; give each its own number, or remove specks"
        )
        warnings.warn(text, HpaWarning, stacklevel=2)


def _check_no_picture(mask: np.ndarray, where: str | os.PathLike, kind: str) -> None:
    """Refuse a mask where most neighbouring pixels have different numbers."""
    left, right = mask[:, :-1], mask[:, 1:]
    both = (left > 0) & (right > 0)
    if 2 * np.count_nonzero(both & (left == right)) < np.count_nonzero(both):
        found, expected = "numbers that change from pixel to pixel, as in a picture", "a label image, 0 = background"
        fix = f"give the mask; beside pictures in one folder, by its name: --{kind}-pattern"
        raise InputError(where, found, expected, fix)


def _odd(mask: np.ndarray) -> Iterator[str]:
    """Say what else looks as if a mask was no label image of whole cells."""
    if mask.size and mask.min() > 0:
        yield "no background: all pixels belong to a cell, and 0 means background; is it another number here?"
    boxes = list(find_boxes(mask))
    outlines = sum(_is_outline(mask[box] == number) for number, box in boxes) if len(boxes) > 1 else 0
    if 2 * outlines > len(boxes):
        yield f"{outlines} of {len(boxes)} cells are thin rings; are they outlines? Give each cell all of its pixels"
    if len(boxes) == 2 and (within := [number for number, _ in boxes if _is_within_another(mask, number)]):
        yield f"the cell {within[0]} lies within the only other one; is it the nucleus? Nuclei have a mask of their own"


def _is_outline(inside: np.ndarray) -> bool:
    """Tell whether a cell, bool [h, w] in its box, fills little of it and encloses more than it fills."""
    area = np.count_nonzero(inside)
    if area >= _THIN * inside.size:
        return False
    filled = np.pad(inside.view(np.uint8), 1)
    cv2.floodFill(filled, None, (0, 0), 1)  # all that is outside of it
    return np.count_nonzero(filled == 0) > area


def _is_within_another(mask: np.ndarray, number: int) -> bool:
    """Tell whether all pixels around a number belong to one other cell."""
    inside = (mask == number).view(np.uint8)
    around = np.unique(mask[(cv2.dilate(inside, np.ones((3, 3), np.uint8)) > inside)])
    return len(around) == 1 and around[0] > 0


def _holes(mask: np.ndarray) -> int:
    """Count the places of 0 that the only number of a mask encloses, where it touches the frame on all sides: cells.

    A tenth of the largest place's area is the least that counts, as for pieces.
    """
    number = mask.max(initial=0)
    sides = (mask[:1], mask[-1:], mask[:, :1], mask[:, -1:])
    if not number or not all((side == number).any() for side in sides) or ((mask != 0) & (mask != number)).any():
        return 0
    count, labels, stats, _ = cv2.connectedComponentsWithStats((mask == 0).view(np.uint8), connectivity=4)
    at_frame = np.unique(np.concatenate([np.ravel(side) for side in (labels[[0, -1]], labels[:, [0, -1]])]))
    areas = np.delete(stats[:, cv2.CC_STAT_AREA], np.union1d(at_frame, [0]))
    return int((areas >= _SHARE * areas.max(initial=1)).sum()) if count > 1 else 0


def check_nuclei(mask: np.ndarray, cell_mask: np.ndarray, where: str | os.PathLike) -> None:
    """Refuse a picture, or a mask whose numbers stand for the nuclei of several cells each; warn if it looks swapped.

    A cell may have several nuclei.

    Args:
        mask: Integer [H, W].
        cell_mask: Integer [H, W] of the same field.
        where: File of the nucleus mask.

    Raises:
        InputError: Most neighbouring pixels differ, or it has at most half as many numbers as there are cells with a
            nucleus, one of them in several large pieces.
    """
    _check_no_picture(mask, where, "nucleus")
    inside = (mask > 0) & (cell_mask > 0)
    if 2 * inside.sum() < (mask > 0).sum():
        text = f"{where}: most of the nuclei lie outside the cells; are the masks of nuclei and cells swapped?"
        warnings.warn(text, HpaWarning, stacklevel=2)
    if 2 * len(np.unique(mask[inside])) > len(np.unique(cell_mask[inside])):
        return
    for pieces in find_pieces(mask):
        if pieces.large > 1:
            raise _not_labelled(where, pieces, "nucleus")


def _not_labelled(where: str | os.PathLike, pieces: Pieces, kind: str) -> InputError:
    found = f"one number, {pieces.number}, in {pieces.count} pieces that lie apart"
    fix = (
        f"label the pieces, so that each {kind} has its own number (scipy.ndimage.label; ImageJ: Analyze Particles, "
        "Count Masks), and save that"
    )
    return InputError(where, found, f"a label image: a number of its own for each {kind}, 0 = background", fix)

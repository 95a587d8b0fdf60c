"""Touching nuclei told apart: a clump is cut wherever it may be, and what is one nucleus is joined again.

Six things speak against two neighbouring parts being one nucleus: a neck between them, a dark seam, unlike brightness,
a notched outline, a size beyond that of the field's other nuclei, and, where something tells it, that two cells meet
there. None of them is sure (nuclei overlap, and lobed ones have necks and notches), so they are added up.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from skimage.feature import peak_local_max
from skimage.morphology import remove_small_holes
from skimage.segmentation import watershed

from hpa_tf.imaging.segmentation.resolution import Box, regions, smooth

Pair = tuple[int, int]

HOLE_UM2 = 15.0
"""Larger dark places inside bright ones are gaps between nuclei, not nucleoli."""

_NUCLEOLUS_UM2 = 40.0  # of parts of usual size; in large ones such a place may be a gap
_NEAR_UM = 3.0
_SEAM_BRIGHTNESS = (0.5, 0.65)  # of the nuclear light within 3 um: of all parts; of large ones
_LARGE = 2.0  # times the usual nucleus
_SEED_DISTANCE_UM = 2.5
_LEAST_RADIUS_UM = 1.2
_ROUNDING_UM = 0.7
_FRAGMENT_UM2 = 25.0
_FOR_FRAGMENTS = 100.0  # they are joined to the neighbour that they fit best
_WHOLE_UM2 = 40.0
_CONVEX = 0.93  # area / area of the convex hull: of lone nuclei without lobes
_BESIDE_UM = (1.0, 4.0)
_TWO = 2.6
"""Sum of the evidence from which on two parts are two nuclei; its units are below."""
_NECK, _SEAM, _STEP, _NOTCH = 0.4, 0.5, 0.5, 0.1
_USUAL_SIZE, _MOST_BY_SIZE = 1.5, 0.5
_USUAL_BORDER, _BORDER_FOLD = 0.08, 1.2
_BY_BORDER = (-1.0, 1.5)


@dataclass(frozen=True)
class Clump:
    """What is known of a clump of touching nuclei.

    Attributes:
        light: float32 [h, w], log of the smoothed blue channel.
        depth: float32 [h, w], distance to the outline, px.
        typical_px: Area of the field's usual nucleus, px.
        um_per_px: Micrometres per pixel.
        border: float32 [h, w], probability that two cells meet there, or None.
    """

    light: np.ndarray
    depth: np.ndarray
    typical_px: float
    um_per_px: float
    border: np.ndarray | None

    def within(self, box: Box) -> "Clump":
        """Return a part of it."""
        border = None if self.border is None else self.border[box]
        return Clump(self.light[box], self.depth[box], self.typical_px, self.um_per_px, border)


def split_touching(
    pixels: np.ndarray, smoothed: np.ndarray, um_per_px: float, border: np.ndarray | None = None
) -> np.ndarray:
    """Split touching nuclei.

    Args:
        pixels: bool [h, w], nuclear or not.
        smoothed: float32 [h, w], the blue channel, smoothed.
        um_per_px: Micrometres per pixel.
        border: float32 [h, w], probability that two cells meet there, where something tells it.

    Returns:
        int32 [h, w], one number a nucleus; pieces of `pixels` narrower than 2.4 um are left out.
    """
    if not pixels.any() or pixels.all():
        return np.zeros(pixels.shape, np.int32)
    around = _mean_within(pixels, smoothed, _NEAR_UM / um_per_px)
    parts, depth = _cut(pixels, smoothed > _SEAM_BRIGHTNESS[0] * around, _NUCLEOLUS_UM2, smoothed, um_per_px)
    if not parts.any():
        return parts
    typical = _typical_area(parts, um_per_px)
    large = (np.bincount(parts.ravel()) > _LARGE * typical)[parts] & (parts > 0)
    finer, finer_depth = _cut(large, smoothed > _SEAM_BRIGHTNESS[1] * around, HOLE_UM2, smoothed, um_per_px)
    parts[finer > 0], depth[finer > 0] = finer[finer > 0] + parts.max(), finer_depth[finer > 0]
    floor = 0.01 * float(smoothed.max())
    clump = Clump(np.log(smoothed + floor), depth, typical, um_per_px, border)
    _, clumps = cv2.connectedComponents((parts > 0).astype(np.uint8), connectivity=4)
    for number, box in regions(clumps):
        inside = clumps[box] == number
        parts[box][inside] = _joined(np.where(inside, parts[box], 0), clump.within(box))[inside]
    return parts


def _cut(pixels, bright, hole_um2: float, smoothed, um_per_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Cut bool `pixels` at all necks of their bright places: parts, int32 [h, w], and the depth of those places, px."""
    bright = remove_small_holes(pixels & bright, max_size=hole_um2 / um_per_px**2) & pixels
    depth = smooth(cv2.distanceTransform(bright.astype(np.uint8), cv2.DIST_L2, 5), _ROUNDING_UM / um_per_px)
    parts = watershed(-depth, _peaks(depth, um_per_px), mask=bright)
    return watershed(-smoothed, parts, mask=pixels).astype(np.int32), depth


def _mean_within(pixels: np.ndarray, light: np.ndarray, sigma: float) -> np.ndarray:
    """Return the mean light of the pixels around each pixel."""
    weight = pixels.astype(np.float32)
    return smooth(light * weight, sigma) / np.maximum(smooth(weight, sigma), 1e-3)


def _peaks(depth: np.ndarray, um_per_px: float) -> np.ndarray:
    peaks = peak_local_max(
        depth,
        min_distance=max(1, round(_SEED_DISTANCE_UM / um_per_px)),
        threshold_abs=_LEAST_RADIUS_UM / um_per_px,
        exclude_border=False,
    )
    seeds = np.zeros(depth.shape, np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return seeds


def _typical_area(parts: np.ndarray, um_per_px: float) -> float:
    """Return the median area of the parts that are whole and without notch, px; of all parts if there are none."""
    areas, plain = [], []
    for number, box in regions(parts):
        part = parts[box] == number
        areas.append(int(part.sum()))
        if areas[-1] * um_per_px**2 > _WHOLE_UM2 and solidity(part) > _CONVEX:
            plain.append(areas[-1])
    return float(np.median(plain or areas))


def solidity(part: np.ndarray) -> float:
    """Return the area of bool [h, w] / the area of its convex hull."""
    rows = np.flatnonzero(part.any(axis=1))
    left, right = part[rows].argmax(axis=1), part.shape[1] - 1 - part[rows, ::-1].argmax(axis=1)
    ends = np.stack([np.concatenate([left, right]), np.concatenate([rows, rows])], axis=1)
    hull = cv2.convexHull(ends.astype(np.int32))
    filled = np.zeros(part.shape, np.uint8)
    cv2.fillConvexPoly(filled, hull, 1)
    return float(part.sum() / filled.sum())


def _joined(parts: np.ndarray, clump: Clump) -> np.ndarray:
    """Join neighbouring parts of one clump, surest first, until what is left are nuclei."""
    boxes, beside = dict(regions(parts)), defaultdict(set)
    for one, other in neighbours(parts):
        beside[one].add(other)
        beside[other].add(one)
    evidence: dict[Pair, float] = {}
    waiting: list[tuple[float, Pair]] = []

    def weigh(one: int, others: set[int]) -> None:
        for other in others:
            pair, box = (min(one, other), max(one, other)), enclosing(boxes[one], boxes[other])
            evidence[pair] = _evidence(parts[box], *pair, clump.within(box))
            heapq.heappush(waiting, (evidence[pair], pair))

    for one, others in sorted(beside.items()):
        weigh(one, {other for other in others if other > one})
    while waiting:
        least, (one, other) = heapq.heappop(waiting)
        if evidence.get((one, other)) != least:
            continue  # one of them has grown since, or is no more
        if least >= _TWO:
            break
        parts[boxes[other]][parts[boxes[other]] == other] = one
        boxes[one] = enclosing(boxes[one], boxes.pop(other))
        for gone in [pair for number in (one, other) for pair in _pairs(number, beside[number])]:
            evidence.pop(gone, None)
        beside[one] = (beside[one] | beside.pop(other)) - {one, other}
        for third in beside[one]:
            beside[third] = (beside[third] - {other}) | {one}
        weigh(one, beside[one])
    return parts


def _pairs(one: int, others: set[int]) -> list[Pair]:
    return [(min(one, other), max(one, other)) for other in others]


def enclosing(one: Box, other: Box) -> Box:
    """Return the smallest box that holds two."""
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True))


def neighbours(parts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield the pairs of numbers of an int32 mask [h, w] that touch, each once, by rising numbers."""
    pairs = [np.zeros((0, 2), np.int32)]
    for here, there in ((parts[:, :-1], parts[:, 1:]), (parts[:-1], parts[1:])):
        touching = (here != there) & (here > 0) & (there > 0)
        pairs.append(np.stack([here[touching], there[touching]], axis=1))
    yield from map(tuple, np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0).tolist())


def _evidence(parts: np.ndarray, one: int, other: int, clump: Clump) -> float:
    """Return how much speaks for two neighbouring parts being two nuclei; far below 0 where one is a fragment."""
    sides = [parts == one, parts == other]
    areas = [int(side.sum()) for side in sides]
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
    near = [cv2.dilate(side.astype(np.uint8), cross) > 0 for side in sides]
    line = (sides[0] & near[1]) | (sides[1] & near[0])
    both = sides[0] | sides[1]
    notch = sum(a * solidity(side) for a, side in zip(areas, sides, strict=True)) / sum(areas) - solidity(both)
    neck, width = (min(float(clump.depth[side & where].max()) for side in sides) for where in (line, both))
    size = np.clip(sum(areas) / clump.typical_px - _USUAL_SIZE, -_MOST_BY_SIZE, _MOST_BY_SIZE)
    seam, step = _contrast(sides, line, clump)
    value = max(0, 1 - neck / max(width, 1e-3)) / _NECK + max(0, seam) / _SEAM + step / _STEP + notch / _NOTCH + size
    if clump.border is not None:
        border = max(float(clump.border[line].mean()), 1e-4)
        value += np.clip(np.log(border / _USUAL_BORDER) / _BORDER_FOLD, *_BY_BORDER)
    return float(value) - _FOR_FRAGMENTS * (min(areas) * clump.um_per_px**2 < _FRAGMENT_UM2)


def _contrast(sides: list[np.ndarray], line: np.ndarray, clump: Clump) -> tuple[float, float]:
    """Return how much darker the line is than the dimmer side next to it, and how unlike the sides are; logs."""
    away = clump.um_per_px * cv2.distanceTransform((~line).astype(np.uint8), cv2.DIST_L2, 5)
    ring = (away > _BESIDE_UM[0]) & (away < _BESIDE_UM[1])
    beside = [clump.light[ring & side if (ring & side).any() else side] for side in sides]
    seam = min(float(np.median(light)) for light in beside) - float(clump.light[line].mean())
    step = abs(float(np.median(clump.light[sides[0]]) - np.median(clump.light[sides[1]])))
    return seam, step

"""Segmentation without learned weights: nuclei from blue, cells from red, yellow and some green by seeded watershed.

Works on a grid of about 0.32 um/px and in micrometres, so that a field gives the same cells at 0.08 and 0.32 um/px,
in 8 and 16 bit. Every cell is one piece with at least one nucleus; cells out of which no nucleus is seen are not found.
Touching cells part along the dim seam between them, or along the step where one is brighter, else half way. Nuclei that
touch are told apart (`touching`); lobes and fragments of one, without a seam or a step between, are one cell's.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage
from skimage.morphology import remove_small_holes
from skimage.segmentation import expand_labels, watershed

from hpa_tf.classes import BLUE, GREEN, RED, YELLOW
from hpa_tf.imaging.fields import FieldOfView
from hpa_tf.imaging.segmentation import Masks
from hpa_tf.imaging.segmentation.no_cells import warn_of_no_cells
from hpa_tf.imaging.segmentation.nuclei import find_nuclei
from hpa_tf.imaging.segmentation.resolution import enlarge, keep_largest_pieces, reduce, regions, smooth
from hpa_tf.imaging.segmentation.touching import enclosing, neighbours

MIN_CELL_UM2 = 60.0
"""Smallest cell, um2: of 960 hand-corrected cells one in a hundred is below 100 um2."""

_SMOOTHING_UM = 0.5
_GREEN = 0.25  # the protein of interest may lie anywhere: enough to fill a cell that is dark in red and yellow
_AROUND_UM = 30.0  # from a nucleus; where channels are measured
_NOISE_SMOOTHING_UM = 3.0
_MIN_KEPT_CONTRAST = 0.3
"""Share of its contrast that a channel must keep when blurred by 3 um; pure noise keeps 0.17, the poorest channel of
76 real fields 0.43 (ours: measured)."""
_REACH_UM = 60.0  # farthest that a cell extends from its nucleus
_RIM_UM = 2.0
_RING_UM = 6.0  # around the nucleus; where a cell's own brightness is measured
_SEAM_UM = 12.0
_SEAM_SMOOTHING_UM = 0.7
_STEP_UM2 = 40.0  # per um of slope of the log of the light: on generated fields all from 40 to 120 is alike
_DARK = 0.02
BORDER_UM = 50.0
"""What a certain border costs, um of way; from 20 to 100 nearly all is alike."""
_NEAR_UM = 1.0  # two nuclei of one cell, or two lobes of one nucleus, lie closer than this
_OWN_SEAM = -0.3  # log of the light on the line between them / beside it: a membrane is darker
_OWN_STEP = 0.5  # the same between the two sides of that line
_OWN_BORDER = 0.15  # mean probability on that line
_MOST_OF_MEDIAN = 1.3  # their area together / the median nucleus: two whole nuclei are two cells
_FLOOR = 0.03  # of the bright pixels of the field
_EDGE_BRIGHTNESS = 0.1  # of the cell's own ring
_HOLE_UM2 = 50.0


@dataclass(frozen=True)
class ClassicalSegmenter:
    """Segment fields of view with thresholds and watersheds."""

    @property
    def name(self) -> str:
        """Name and version of the method; any change of its results changes it."""
        return "classical-4"

    def __call__(self, field: FieldOfView) -> Masks:
        """Segment one field of view; without nuclei the masks are empty; a warning if it looks otherwise."""
        reduced, um_per_px = reduce(field.pixels, field.um_per_px)
        nuclei = find_nuclei(reduced[..., BLUE], um_per_px)
        cells = grow_cells(cell_signal(reduced, nuclei, um_per_px), nuclei, um_per_px)
        if not cells.any():
            warn_of_no_cells(field, reduced, um_per_px)
        return full_size(nuclei, cells, field.pixels.shape[:2])


def full_size(nuclei: np.ndarray, cells: np.ndarray, shape: tuple[int, int]) -> Masks:
    """Enlarge nuclei and the cells grown from them, int32 [h, w], to a field's shape (H, W), px."""
    cell = enlarge(cells, shape)
    pieces = enlarge(np.where(cells > 0, nuclei, 0), shape)  # a cell may have several nuclei
    pieces[(cell == 0) | (cell != _owner_of_piece(nuclei, cells)[pieces])] = 0
    nucleus = np.where(keep_largest_pieces(pieces) > 0, cell, 0)
    cell[~np.isin(cell, np.unique(nucleus), kind="table")] = 0
    return Masks(nucleus=nucleus, cell=cell)


def _owner_of_piece(nuclei: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Return the number of each nucleus's cell, int32 [N + 1]; 0 = it has none."""
    owner = np.zeros(int(nuclei.max(initial=0)) + 1, np.int32)
    inside = (nuclei > 0) & (cells > 0)
    owner[nuclei[inside]] = cells[inside]
    return owner


def cell_signal(reduced: np.ndarray, nuclei: np.ndarray, um_per_px: float) -> np.ndarray:
    """Mix the channels that fill a cell: red + yellow + a quarter of green, each in units of its own bright pixels.

    Args:
        reduced: float32 [h, w, 4], channels R, G, B, Y.
        nuclei: int32 [h, w]; brightness is measured around them, so that a lone cell in a wide field counts.
        um_per_px: Micrometres per pixel.

    Returns:
        float32 [h, w], 0 = background, about 1 = bright; a channel that is blank or mere noise adds nothing.
    """
    mixed = np.zeros(nuclei.shape, np.float32)
    if not nuclei.any():
        return mixed
    around = _distance_um(nuclei, um_per_px) < _AROUND_UM
    total = 0.0
    for channel, weight in ((RED, 1.0), (YELLOW, 1.0), (GREEN, _GREEN)):
        smoothed = smooth(reduced[..., channel], _SMOOTHING_UM / um_per_px)
        blurred = smooth(reduced[..., channel], _NOISE_SMOOTHING_UM / um_per_px)
        dark, bright = np.percentile(smoothed[around], (1, 99))
        if bright > dark and np.ptp(np.percentile(blurred[around], (1, 99))) > _MIN_KEPT_CONTRAST * (bright - dark):
            mixed += weight * np.clip((smoothed - dark) / (bright - dark), 0, None)
            total += weight
    return mixed / total if total else mixed


def _distance_um(nuclei: np.ndarray, um_per_px: float) -> np.ndarray:
    """Return the distance to the nearest nucleus, um, float32 [h, w]."""
    return um_per_px * cv2.distanceTransform((nuclei == 0).astype(np.uint8), cv2.DIST_L2, 5)


def grow_cells(
    signal: np.ndarray, nuclei: np.ndarray, um_per_px: float, border: np.ndarray | None = None
) -> np.ndarray:
    """Grow each nucleus to its cell.

    Args:
        signal: float32 [h, w] of `cell_signal`.
        nuclei: int32 [h, w], 0 = background.
        um_per_px: Micrometres per pixel.
        border: float32 [h, w], probability that two cells meet there, where something tells it.

    Returns:
        int32 [h, w] with the numbers of the nuclei, of several that of one; cells below `MIN_CELL_UM2` are left out.
    """
    if not nuclei.any():
        return np.zeros_like(nuclei)
    distance = _distance_um(nuclei, um_per_px)
    reachable = remove_small_holes(signal > _FLOOR, max_size=_HOLE_UM2 / um_per_px**2) & (distance < _REACH_UM)
    # the dim rim of a nucleus is no seam: without a head start across it a brighter neighbour takes the cell
    seeds = expand_labels(nuclei, _RIM_UM / um_per_px)
    # a seam half as bright as its surroundings costs as much as 8 um of way
    brightness = np.log(smooth(signal, _SEAM_SMOOTHING_UM / um_per_px) + _DARK)
    sobel = {"ksize": 1, "scale": 0.5 / um_per_px, "borderType": cv2.BORDER_REPLICATE}
    slope = cv2.magnitude(*(cv2.Sobel(brightness, cv2.CV_32F, *axis, **sobel) for axis in ((1, 0), (0, 1))))
    cost = distance - _SEAM_UM * brightness + _STEP_UM2 * slope
    if border is not None:
        cost += BORDER_UM * border
    grown = watershed(cost, seeds, mask=reachable | (seeds > 0)).astype(np.int32)
    owner = owners(grown, nuclei, brightness, um_per_px, border)
    grown, nuclei = owner[grown], owner[nuclei]
    cells = np.zeros_like(grown)
    for number, box in regions(grown):
        part, nucleus = grown[box] == number, nuclei[box] == number
        cell = _trim(part, nucleus, signal[box], distance[box], um_per_px) & (part | (grown[box] == 0))
        if cell.sum() * um_per_px**2 >= MIN_CELL_UM2:
            cells[box][cell] = number
    return cells


def owners(
    grown: np.ndarray, nuclei: np.ndarray, brightness: np.ndarray, um_per_px: float, border: np.ndarray | None = None
) -> np.ndarray:
    """Tell which nuclei are parts of one cell: small ones side by side with neither a dark line nor a step between.

    Args:
        grown: int32 [h, w], each nucleus with its surroundings.
        nuclei: int32 [h, w].
        brightness: float32 [h, w], log of the light that fills cells.
        um_per_px: Micrometres per pixel.
        border: float32 [h, w], probability that two cells meet there, where something tells it.

    Returns:
        int32 [N + 1]: the number of the cell by the number of its nucleus.
    """
    owner = np.arange(int(grown.max()) + 1, dtype=np.int32)
    areas = np.bincount(nuclei.ravel(), minlength=len(owner)).astype(float)
    most = _MOST_OF_MEDIAN * np.median(areas[1:][areas[1:] > 0])
    boxes = dict(regions(grown))
    for one, other in neighbours(grown):
        if areas[owner == owner[one]].sum() + areas[owner == owner[other]].sum() > most or owner[one] == owner[other]:
            continue
        box = enclosing(boxes[one], boxes[other])
        near = None if border is None else border[box]
        if _is_one(*(image[box] for image in (grown, nuclei, brightness)), one, other, um_per_px, near):
            owner[owner == owner[other]] = owner[one]
    return owner


def _is_one(grown, nuclei, brightness, one: int, other: int, um_per_px: float, border=None) -> bool:
    """Tell whether two neighbouring nuclei with their surroundings, [h, w], are one cell."""
    gap = cv2.distanceTransform((nuclei != one).astype(np.uint8), cv2.DIST_L2, 5)[nuclei == other].min(initial=np.inf)
    if gap * um_per_px > _NEAR_UM:
        return False
    sides = grown == one, grown == other
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
    beside = [cv2.dilate(side.astype(np.uint8), cross).astype(bool) for side in sides]
    line = (sides[0] & beside[1]) | (sides[1] & beside[0])
    if border is not None and border[line].mean() > _OWN_BORDER:
        return False
    away = um_per_px * cv2.distanceTransform((~line).astype(np.uint8), cv2.DIST_L2, 5)
    ring = (away > 1.5) & (away < 5) & (nuclei == 0)
    if not all((ring & side).any() for side in sides):
        return False
    left, right = (np.median(brightness[ring & side]) for side in sides)
    return brightness[line].mean() - min(left, right) > _OWN_SEAM and abs(left - right) < _OWN_STEP


def _trim(part, nucleus, signal, distance, um_per_px) -> np.ndarray:
    """Cut a grown cell where it is far dimmer than the ring around its nucleus; bool [h, w] in and out."""
    ring = part & ~nucleus & (distance < _RING_UM)
    edge = _EDGE_BRIGHTNESS * np.median(signal[ring]) if ring.any() else 0.0
    bright = (part & (signal > edge)) | nucleus
    radius = max(1, round(1.0 / um_per_px))
    opened = ndimage.binary_opening(np.pad(bright, radius, mode="edge"), iterations=radius)
    kept = opened[radius:-radius, radius:-radius] | nucleus
    pieces, _ = ndimage.label(kept)
    return ndimage.binary_fill_holes(pieces == pieces[nucleus][0])

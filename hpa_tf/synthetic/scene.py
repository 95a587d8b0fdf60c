"""The scene: bodies turned into masks and distance maps on a canvas that is a little larger than the frame.

Cells that meet share the space between them (each pixel belongs to the body whose outline it is deepest in), so they
touch and never overlap.
"""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from skimage.measure import label

from hpa_tf.synthetic.bodies import Body, Outline
from hpa_tf.synthetic.texture import smooth_noise

MARGIN_UM = 4.0
"""Width of the border that is drawn around the frame and cut off, um (blur and filaments cross the edge)."""
_COARSE_UM = 0.32
_LEAST_RIM_UM = 0.5
"""Cytoplasm between nucleus and membrane is at least this wide, um."""


@dataclass(frozen=True)
class Scene:
    """What all stains are drawn from.

    Attributes:
        bodies: Body i has the number i + 1 in the masks.
        um_per_px: Micrometres per pixel.
        cell: int32 [H, W].
        nucleus: int32 [H, W]; a nucleus lies inside its cell.
        seed: Seed of what several stains share (the nucleoli), whichever of them is drawn first.
    """

    bodies: list[Body]
    um_per_px: float
    cell: np.ndarray
    nucleus: np.ndarray
    seed: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the canvas, px."""
        return self.cell.shape

    def px(self, length_um: float | np.ndarray) -> float | np.ndarray:
        """Convert a length from um to px."""
        return length_um / self.um_per_px

    def canvas_px(self, points_um: np.ndarray) -> np.ndarray:
        """Convert points [.., 2] from um in the frame to (row, column) px on the canvas."""
        return (np.asarray(points_um, np.float64) + MARGIN_UM) / self.um_per_px - 0.5

    def grain(self, rng: np.random.Generator, grain_um: float) -> np.ndarray:
        """Return float32 [H, W] noise of deviation 1 with grains of `grain_um`."""
        return smooth_noise(rng, self.shape, self.px(grain_um))

    @cached_property
    def edge(self) -> np.ndarray:
        """Distance to the cell's own membrane, um, float32 [H, W]; 0 outside cells."""
        inside = (self.cell > 0).astype(np.uint8)
        for axis in (0, 1):
            ahead = np.swapaxes(self.cell, 0, axis)
            differs = ahead[1:] != ahead[:-1]
            view = np.swapaxes(inside, 0, axis)
            view[1:][differs] = 0
            view[:-1][differs] = 0
        return cv2.distanceTransform(inside, cv2.DIST_L2, 5) * np.float32(self.um_per_px)

    @cached_property
    def rim(self) -> np.ndarray:
        """Distance to the nearest nuclear envelope, um, float32 [H, W]; negative inside a nucleus."""
        inside = (self.nucleus > 0).astype(np.uint8)
        outer = cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
        inner = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
        return (outer - inner) * np.float32(self.um_per_px)

    @cached_property
    def thickness(self) -> np.ndarray:
        """Height of the cell, relative, float32 [H, W]: 0 at the membrane, about 1 beside the nucleus."""
        height = 1 - np.exp(-self.edge / 3.5)
        return height * (0.45 + 0.55 * np.exp(-np.maximum(self.rim, 0) / 7.0))

    @cached_property
    def nucleoli(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Centres [M, 2] px and radii [M] px of the nucleoli of each body; dividing cells and artefacts have none."""
        rng = np.random.default_rng([*self.seed, 1])
        found = []
        for body in self.bodies:
            count = 0 if body.phase or body.artefact else 1 + rng.binomial(4, 0.45)
            centres = inside_nucleus(rng, body.nucleus, count, 0.68)
            size = np.sqrt(np.prod(body.nucleus.axes)) * rng.uniform(0.14, 0.27, count) / max(count, 1) ** 0.2
            found.append((self.canvas_px(centres), self.px(size)))
        return found

    @cached_property
    def nucleolus_map(self) -> np.ndarray:
        """How much of a pixel is nucleolus, 0..1, float32 [H, W]: uneven blobs, a few to a nucleus."""
        rng = np.random.default_rng([*self.seed, 2])
        field = np.full(self.shape, 9.0, np.float32)
        for centres, radii in self.nucleoli:
            for (row, column), radius in zip(centres, radii, strict=True):
                reach = int(2 * radius) + 2
                top, left = max(0, int(row) - reach), max(0, int(column) - reach)
                rows, columns = np.ogrid[
                    top : min(self.shape[0], int(row) + reach), left : min(self.shape[1], int(column) + reach)
                ]
                if rows.size and columns.size:
                    turn, stretch = rng.uniform(0, np.pi), rng.uniform(1.0, 1.5)
                    y, x = rows - row, columns - column
                    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
                    distance = np.hypot(u / stretch, v * stretch) / radius
                    patch = field[top : top + rows.size, left : left + columns.size]
                    np.minimum(patch, distance, out=patch)
        field += 0.10 * self.grain(rng, 1.2)
        inside = np.clip((1.0 - field) / 0.25 + 0.5, 0, 1)
        return inside * (self.rim < -0.4)

    def per_body(self, values: np.ndarray) -> np.ndarray:
        """Spread one value a body [N] over its pixels, float32 [H, W]; 0 outside."""
        table = np.concatenate([[0.0], values]).astype(np.float32)
        return table[self.cell]


def inside_nucleus(rng: np.random.Generator, nucleus: Outline, count: int, share: float) -> np.ndarray:
    """Draw `count` points [count, 2] um, evenly in the ellipse of `share` times the nucleus's axes."""
    distance, turn = np.sqrt(rng.random(count)) * share, rng.uniform(0, 2 * np.pi, count)
    x, y = distance * np.cos(turn) * nucleus.axes[0], distance * np.sin(turn) * nucleus.axes[1]
    cosine, sine = np.cos(nucleus.angle), np.sin(nucleus.angle)
    return np.stack([nucleus.centre[0] + x * sine + y * cosine, nucleus.centre[1] + x * cosine - y * sine], axis=1)


def build(
    rng: np.random.Generator,
    bodies: list[Body],
    field_um: float,
    um_per_px: float,
    roughness: tuple[float, float] = (0.022, 0.025),
) -> Scene:
    """Draw the masks of all bodies.

    Args:
        rng: Random numbers.
        bodies: What is drawn; the number of a body is its place in the list, from 1.
        field_um: Edge of the frame, um.
        um_per_px: Micrometres per pixel.
        roughness: Height of the waves of 1.6 and 5 um on the outlines, shares of the radius.
    """
    margin = round(MARGIN_UM / um_per_px)
    edge = round(field_um / um_per_px) + 2 * margin
    cell = np.zeros((edge, edge), np.int32)
    nearest = np.ones((edge, edge), np.float32)
    nucleus = np.zeros((edge, edge), np.int32)
    for number, body in enumerate(bodies, start=1):
        window = _window(body.outline, um_per_px, edge)
        if window is None:
            continue
        distance = _upsampled(body.outline, window, um_per_px, rng, roughness)
        best, owner = nearest[window], cell[window]
        wins = distance < best
        best[wins], owner[wins] = distance[wins], number
    for number, body in enumerate(bodies, start=1):
        for outline in (body.nucleus, *body.more_nuclei):
            window = _window(outline, um_per_px, edge)
            if window is None:
                continue
            inside = _upsampled(outline, window, um_per_px) < 1
            if body.phase == "anaphase":
                inside &= _away_from_middle(outline, window, um_per_px)
            nucleus[window][inside & (cell[window] == number)] = number
    scene = Scene(bodies, um_per_px, _largest_pieces(cell), nucleus, tuple(rng.integers(2**31, size=2).tolist()))
    nucleus[scene.edge < _LEAST_RIM_UM] = 0
    nucleus[scene.cell != nucleus] = 0
    return scene


def _window(outline: Outline, um_per_px: float, edge: int) -> tuple[slice, slice] | None:
    """Return the part of the canvas that an outline can reach, or None; whole coarse pixels."""
    step = _step(um_per_px)
    slices = []
    for middle in outline.centre:
        start = int(np.floor((middle + MARGIN_UM - 1.1 * outline.reach) / um_per_px)) // step * step
        stop = int(np.ceil((middle + MARGIN_UM + 1.1 * outline.reach) / um_per_px))
        start, stop = max(0, start), min(edge, stop)
        if start >= stop:
            return None
        slices.append(slice(start, stop))
    return tuple(slices)


def _step(um_per_px: float) -> int:
    return max(1, round(_COARSE_UM / um_per_px))


def _positions(window: tuple[slice, slice], um_per_px: float, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows [H, 1] and columns [1, W], um, of the middles of coarse pixels that cover the window."""
    rows, columns = (((np.arange(part.start, part.stop, step) + step / 2) * um_per_px - MARGIN_UM) for part in window)
    return rows[:, None], columns[None, :]


def _upsampled(
    outline: Outline,
    window: tuple[slice, slice],
    um_per_px: float,
    rng: np.random.Generator | None = None,
    roughness: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """Return the relative distance in the window: smooth, so it is computed coarsely and interpolated (10x faster)."""
    step = _step(um_per_px)
    distance = outline.relative_distance(*_positions(window, um_per_px, step))
    if rng is not None:
        distance = distance + roughness[0] * smooth_noise(rng, distance.shape, 1.6 / (um_per_px * step))
        distance += roughness[1] * smooth_noise(rng, distance.shape, 5.0 / (um_per_px * step))
    if step > 1:
        shape = (distance.shape[1] * step, distance.shape[0] * step)
        distance = cv2.resize(distance, shape, interpolation=cv2.INTER_CUBIC)
    return distance[: window[0].stop - window[0].start, : window[1].stop - window[1].start]


def _away_from_middle(outline: Outline, window, um_per_px: float) -> np.ndarray:
    """Tell which pixels lie in the two outer parts of the long axis: the separated chromatin of anaphase."""
    rows, columns = _positions(window, um_per_px, 1)
    along = (columns - outline.centre[1]) * np.cos(outline.angle) + (rows - outline.centre[0]) * np.sin(outline.angle)
    return np.abs(along) > 0.55 * outline.axes[0]


def _largest_pieces(cell: np.ndarray) -> np.ndarray:
    """Keep the largest connected piece of each body; return the mask."""
    pieces, count = label(cell, connectivity=1, return_num=True)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    owners = np.zeros(count + 1, np.int64)
    owners[pieces.ravel()] = cell.ravel()
    keep = np.zeros(count + 1, bool)
    for number in np.unique(owners[owners > 0]):
        mine = np.flatnonzero(owners == number)
        keep[mine[np.argmax(sizes[mine])]] = True
    cell[~keep[pieces]] = 0
    return cell

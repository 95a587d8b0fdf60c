"""Filaments: curves that grow inside cells as persistent random walks, and how they are drawn.

All filaments of an image grow at once (one array operation a step), and are drawn by OpenCV in one call a layer:
that is what makes thousands of them affordable.
"""

import cv2
import numpy as np

from hpa_tf.synthetic.scene import Scene

_SHIFT = 4
"""Fractional bits of the coordinates that OpenCV draws with: 1/16 px."""


def grow(
    scene: Scene,
    rng: np.random.Generator,
    starts: np.ndarray,
    headings: np.ndarray,
    lengths: np.ndarray,
    *,
    step_um: float = 0.8,
    wander: float = 0.12,
    crossing: float = 0.0,
    keep_off_edge_um: float = 0.5,
    stop_at_edge: float = 0.0,
) -> list[np.ndarray]:
    """Grow filaments; each stays in the cell it starts in and turns along membrane and nucleus.

    Args:
        starts: [F, 2] px on the canvas; filaments that start outside a cell are dropped.
        headings: [F] radians (0 = along columns).
        lengths: [F] um.
        step_um: Length of a segment, um.
        wander: Standard deviation of the turn at each step, radians.
        crossing: Share of filaments that pass over the nucleus instead of turning away from it.
        keep_off_edge_um: Distance from the membrane at which they turn, um.
        stop_at_edge: Probability, at each step that near to the membrane, of ending there.

    Returns:
        For each filament of two points or more its points [P, 2] px.
    """
    num_steps = max(1, int(np.ceil(lengths.max(initial=0) / step_um)))
    position, heading = np.array(starts, np.float64), np.array(headings, np.float64)
    home = _lookup(scene.cell, position, 0)
    avoids = 0.6 * (rng.random(len(position)) >= crossing)
    trail = np.full((num_steps + 1, len(position), 2), np.nan)
    trail[0] = position
    growing = np.flatnonzero(home > 0)
    for step in range(num_steps):
        growing = growing[lengths[growing] > step * step_um]
        if not len(growing):
            break
        turned = heading[growing] + rng.normal(0, wander, len(growing))
        turned, edge = _steer(scene, position[growing], turned, scene.px(step_um), avoids[growing], keep_off_edge_um)
        ahead = position[growing] + scene.px(step_um) * _unit(turned)
        stays = _lookup(scene.cell, ahead, 0) == home[growing]
        if stop_at_edge:
            stays &= (edge > keep_off_edge_um) | (rng.random(len(growing)) >= stop_at_edge)
        growing = growing[stays]
        position[growing], heading[growing] = ahead[stays], turned[stays]
        trail[step + 1, growing] = ahead[stays]
    ends = np.isfinite(trail[:, :, 0]).sum(0)
    return [trail[:end, f] for f, end in enumerate(ends) if end >= 2]


def _steer(
    scene: Scene, position: np.ndarray, heading: np.ndarray, stride: float, avoids: np.ndarray, keep_off_edge_um: float
) -> tuple[np.ndarray, np.ndarray]:
    """Turn headings [F] away from a membrane or nucleus ahead; return them and the distance from the membrane, um."""
    probe = max(1.0, scene.px(0.6))
    direction = _unit(heading)
    edge = _lookup(scene.edge, position + direction * stride, 0.0)
    rim = _lookup(scene.rim, position + direction * stride, 9.0)
    for field, strength in (
        (scene.edge, 0.8 * np.clip(1.5 - edge / keep_off_edge_um, 0, 1)),
        (scene.rim, avoids * np.clip(1.2 - rim, 0, 1)),
    ):
        pushed = np.flatnonzero(strength)
        direction[pushed] += strength[pushed, None] * _slope(field, position[pushed], probe)
    return np.arctan2(direction[:, 0], direction[:, 1]), edge


def _unit(heading: np.ndarray) -> np.ndarray:
    return np.stack([np.sin(heading), np.cos(heading)], axis=1)


def _lookup(image: np.ndarray, points: np.ndarray, outside: float) -> np.ndarray:
    """Return the nearest pixel of each point [F, 2]; `outside` beyond the canvas."""
    rows, columns = np.rint(points).astype(np.intp).T
    inside = (rows >= 0) & (columns >= 0) & (rows < image.shape[0]) & (columns < image.shape[1])
    return np.where(inside, image.ravel().take(rows * image.shape[1] + columns, mode="clip"), outside)


def _slope(image: np.ndarray, points: np.ndarray, probe: float) -> np.ndarray:
    """Return the unit vector [F, 2] along which `image` rises."""
    down = _lookup(image, points + (probe, 0), 0) - _lookup(image, points - (probe, 0), 0)
    right = _lookup(image, points + (0, probe), 0) - _lookup(image, points - (0, probe), 0)
    slope = np.stack([down, right], axis=1)
    return slope / np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-6)


def draw(
    scene: Scene, rng: np.random.Generator, paths: list[np.ndarray], width_um: float, num_layers: int = 3
) -> np.ndarray:
    """Draw curves of about `width_um`; where they cross the light adds up.

    Returns:
        float32 [H, W]; 1 = the middle of a single filament that is at least a pixel wide.
    """
    width_px = scene.px(width_um)
    thickness = max(1, round(width_px))
    total = np.zeros(scene.shape, np.float32)
    layers = rng.integers(num_layers, size=len(paths))
    ends = np.cumsum([len(path) for path in paths])[:-1]
    points = np.concatenate([*paths, np.empty((0, 2))])[:, ::-1] * (1 << _SHIFT)
    pieces = np.split(np.rint(points).astype(np.int32), ends) if paths else []
    for layer, brightness in enumerate(np.linspace(1.0, 0.5, num_layers)):
        chosen = [piece for piece, mine in zip(pieces, layers, strict=True) if mine == layer]
        canvas = np.zeros(scene.shape, np.uint8)
        cv2.polylines(canvas, chosen, False, 255 * brightness, thickness, cv2.LINE_AA, _SHIFT)
        total += canvas
    return total * np.float32(min(1.0, width_px) / 255)

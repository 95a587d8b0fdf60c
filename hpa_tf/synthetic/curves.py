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
    avoid_nucleus: float = 0.6,
    keep_off_edge_um: float = 0.5,
) -> list[np.ndarray]:
    """Grow filaments; each stays in the cell it starts in and turns along membrane and nucleus.

    Args:
        starts: [F, 2] px on the canvas; filaments that start outside a cell are dropped.
        headings: [F] radians (0 = along columns).
        lengths: [F] um.
        step_um: Length of a segment, um.
        wander: Standard deviation of the turn at each step, radians.
        avoid_nucleus: How strongly filaments turn away from the nucleus.
        keep_off_edge_um: Distance from the membrane at which they turn, um.

    Returns:
        For each filament of two points or more its points [P, 2] px.
    """
    num_steps = max(1, int(np.ceil(lengths.max(initial=0) / step_um)))
    height, width = scene.shape
    position = np.asarray(starts, np.float64).copy()
    heading = np.asarray(headings, np.float64).copy()
    home = _lookup(scene.cell, position, 0)
    alive = home > 0
    trail = np.full((num_steps + 1, len(position), 2), np.nan)
    trail[0] = position
    stride, probe = scene.px(step_um), max(1.0, scene.px(0.6))
    for step in range(num_steps):
        alive &= step * step_um < lengths
        if not alive.any():
            break
        heading += rng.normal(0, wander, len(heading))
        direction = np.stack([np.sin(heading), np.cos(heading)], axis=1)
        edge = _lookup(scene.edge, position + direction * stride, 0.0)
        near_edge = np.clip(1.5 - edge / keep_off_edge_um, 0, 1)
        push = near_edge[:, None] * _slope(scene.edge, position, probe) * 0.8
        if avoid_nucleus:
            near_nucleus = np.clip(1.2 - _lookup(scene.rim, position + direction * stride, 9.0), 0, 1)
            push += avoid_nucleus * near_nucleus[:, None] * _slope(scene.rim, position, probe)
        direction += push
        heading = np.arctan2(direction[:, 0], direction[:, 1])
        position = position + stride * np.stack([np.sin(heading), np.cos(heading)], axis=1)
        inside = (position >= 0).all(1) & (position[:, 0] < height - 0.5) & (position[:, 1] < width - 0.5)
        alive &= inside & (_lookup(scene.cell, position, 0) == home)
        trail[step + 1][alive] = position[alive]
    ends = np.isfinite(trail[:, :, 0]).sum(0)
    return [trail[:end, f] for f, end in enumerate(ends) if end >= 2 and home[f] > 0]


def _lookup(image: np.ndarray, points: np.ndarray, outside: float) -> np.ndarray:
    rows, columns = np.rint(points[:, 0]).astype(int), np.rint(points[:, 1]).astype(int)
    inside = (rows >= 0) & (columns >= 0) & (rows < image.shape[0]) & (columns < image.shape[1])
    found = np.full(len(points), outside, image.dtype)
    found[inside] = image[rows[inside], columns[inside]]
    return found


def _slope(image: np.ndarray, points: np.ndarray, probe: float) -> np.ndarray:
    """Return the unit vector [F, 2] along which `image` rises."""
    slope = np.stack(
        [
            _lookup(image, points + (probe, 0), 0) - _lookup(image, points - (probe, 0), 0),
            _lookup(image, points + (0, probe), 0) - _lookup(image, points - (0, probe), 0),
        ],
        axis=1,
    )
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
    for layer in range(num_layers):
        chosen = [
            np.rint(path[:, ::-1] * (1 << _SHIFT)).astype(np.int32)
            for path, mine in zip(paths, layers, strict=True)
            if mine == layer
        ]
        canvas = np.zeros(scene.shape, np.uint8)
        cv2.polylines(canvas, chosen, False, 255, thickness, cv2.LINE_AA, _SHIFT)
        total += canvas
    return total * np.float32(min(1.0, width_px) / 255)

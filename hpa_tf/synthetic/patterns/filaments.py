"""Classes 8, 9, 10, 11 and 14: structures that are curves."""

import cv2
import numpy as np

from hpa_tf.synthetic import curves, stains
from hpa_tf.synthetic.patterns.brush import Brush

_KEEP_OFF_MEMBRANE_UM = 1.5
"""Mitochondria turn away, or end, this near to the membrane, um."""


def intermediate_filaments(brush: Brush) -> np.ndarray:
    """Weave wavy filaments into a basket around the nucleus, thinning out towards the membrane."""
    scene, rng = brush.scene, brush.rng

    def start(number, body):
        count = int(np.clip(0.2 * np.pi * np.prod(body.outline.axes), 50, 350))
        points = stains.random_points(scene, rng, number, 3 * count)
        away = points - scene.canvas_px(body.nucleus.centre)
        distance = np.linalg.norm(away, axis=1) * scene.um_per_px / body.outline.axes[1]
        near = rng.random(len(points)) < np.exp(-1.6 * distance)
        points, away = points[near][:count], away[near][:count]
        around = np.arctan2(away[:, 0], away[:, 1]) + rng.choice([-1, 1], len(away)) * np.pi / 2
        return points, around + rng.normal(0, 0.8, len(points)), rng.gamma(3.0, 3.5, len(points))

    net = curves.draw(scene, rng, _grow(brush, start, step_um=0.6, wander=0.2, stop_at_edge=0.3), 0.2)
    return 0.4 * net + 0.35 * cv2.GaussianBlur(net, (0, 0), max(0.6, scene.px(0.8)))


def actin_filaments(brush: Brush) -> np.ndarray:
    """Stretch straight parallel bundles through the cell, most of them near the edge, and line the membrane."""
    scene, rng = brush.scene, brush.rng

    def start(number, body):
        count = rng.integers(25, 70)
        points = stains.random_points(scene, rng, number, 8 * count)
        rows, columns = np.rint(points).astype(int).T
        near_edge = rng.random(len(points)) < np.exp(-scene.edge[rows, columns] / 3.5) + 0.06
        points = points[near_edge][:count]
        direction = body.outline.angle + rng.normal(0, 0.12, len(points))
        second = rng.random(len(points)) < 0.1  # a second family of bundles crosses the first
        direction = direction + second * rng.normal(0, 0.9) + rng.choice([0, np.pi], len(points))
        return points, direction, rng.gamma(4.0, 0.14 * body.outline.axes[0], len(points))

    fibres = _grow(brush, start, step_um=1.0, wander=0.012, crossing=1.0, keep_off_edge_um=0.2, stop_at_edge=1.0)
    bundles = curves.draw(scene, rng, fibres, 0.22)
    cortex = np.exp(-((scene.edge / 0.45) ** 2)) * (scene.edge > 0)
    uneven = np.clip(0.6 + 0.5 * scene.grain(rng, 2.5), 0.05, None)
    return 0.6 * bundles + rng.uniform(0.3, 0.8) * cortex * uneven + rng.uniform(0.02, 0.1) * scene.thickness


def microtubules(brush: Brush) -> np.ndarray:
    """Draw the filaments that the red channel shows, with haze of their own; spindles where cells divide."""
    scene, rng = brush.scene, brush.rng
    filaments = curves.draw(scene, rng, brush.microtubules, 0.22)
    dividing = np.array([number for number, body in brush.bodies() if body.phase], int)
    fibres = curves.draw(scene, rng, stains.spindle_paths(scene, rng, dividing), 0.25)
    haze = cv2.GaussianBlur(filaments, (0, 0), max(0.6, scene.px(0.9)))
    return 0.5 * filaments * (0.5 + 0.5 * scene.thickness) + 0.25 * haze + 0.3 * fibres


def mitotic_spindle(brush: Brush) -> np.ndarray:
    """Draw the spindle: fibres from two bright poles to the chromatin, nothing in resting cells."""
    scene, rng = brush.scene, brush.rng
    fibres = curves.draw(scene, rng, stains.spindle_paths(scene, rng, brush.numbers), 0.3)
    return 0.32 * fibres + 0.25 * cv2.GaussianBlur(fibres, (0, 0), max(0.6, scene.px(0.5)))


def mitochondria(brush: Brush) -> np.ndarray:
    """Scatter worm-like threads over the cytoplasm, denser near the nucleus."""
    scene, rng = brush.scene, brush.rng
    length, width = rng.uniform(1.2, 4.5), rng.uniform(0.26, 0.42)

    def start(number, body):
        count = int(np.clip(0.16 * np.pi * np.prod(body.outline.axes), 30, 280))
        points = stains.random_points(scene, rng, number, 2 * count)
        rows, columns = np.rint(points).astype(int).T
        near = rng.random(len(points)) < 0.15 + np.exp(-scene.rim[rows, columns] / (0.45 * body.outline.axes[1]))
        inner = scene.edge[rows, columns] >= _KEEP_OFF_MEMBRANE_UM
        if 2 * inner.sum() < len(inner):
            inner[:] = True  # a cell too small to keep off its membrane
        points = points[near & inner][:count]
        away = points - scene.canvas_px(body.nucleus.centre)
        turn = np.arctan2(away[:, 0], away[:, 1]) + rng.normal(0, 1.0, len(points))
        return points, turn, rng.gamma(3.0, length / 3, len(points)) + 0.6

    paths = _grow(brush, start, step_um=0.4, wander=0.4, keep_off_edge_um=_KEEP_OFF_MEMBRANE_UM, stop_at_edge=0.7)
    worms = curves.draw(scene, rng, paths, width)
    bright = np.clip(0.8 + 0.25 * scene.grain(rng, 2.0), 0.2, None)
    return np.minimum(worms, 1.7) * bright * 0.7 + rng.uniform(0.02, 0.1) * scene.thickness


def _grow(brush: Brush, start, **options) -> list[np.ndarray]:
    """Grow filaments in all cells at once; `start` (number, body) -> points [F, 2], headings [F], lengths [F] um."""
    grown = [start(number, body) for number, body in brush.bodies()]
    if not grown:
        return []
    points, headings, lengths = (np.concatenate(part) for part in zip(*grown, strict=True))
    return curves.grow(brush.scene, brush.rng, points, headings, lengths, **options)

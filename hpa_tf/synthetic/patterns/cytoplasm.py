"""Classes 6, 7, 12, 13, 15, 16 and 17: sheets, outlines, dots and lumps of the cytoplasm."""

import cv2
import numpy as np

from hpa_tf.synthetic import curves, stains
from hpa_tf.synthetic.patterns.brush import Brush
from hpa_tf.synthetic.texture import soft_step


def endoplasmic_reticulum(brush: Brush) -> np.ndarray:
    """Draw a reticulum like the yellow channel's."""
    return 1.3 * stains.reticulum(brush.scene, brush.rng)


def golgi(brush: Brush) -> np.ndarray:
    """Draw a ribbon of short thick bends beside the nucleus, around the organising centre."""
    scene, rng = brush.scene, brush.rng
    starts, headings, lengths = [], [], []
    for _, body in brush.bodies():
        middle = np.asarray(body.centrosome)
        away = middle - np.asarray(body.nucleus.centre)
        away = away / max(np.linalg.norm(away), 1e-6)
        along = away[::-1] * (1, -1)
        size = np.clip(0.35 * np.sqrt(np.prod(body.nucleus.axes)), 1.2, 3.2) * (0.5 if body.phase else 1)
        count = rng.integers(7, 16)
        offsets = rng.normal(0, size, (count, 1)) * along + rng.normal(0.3, 0.35 * size, (count, 1)) * away
        starts.append(scene.canvas_px(middle + offsets))
        headings.append(np.arctan2(along[0], along[1]) + rng.choice([0, np.pi], count) + rng.normal(0, 0.6, count))
        lengths.append(rng.uniform(1.0, 4.0, count))
    if not starts:
        return np.zeros(scene.shape, np.float32)
    paths = curves.grow(
        scene, rng, np.concatenate(starts), np.concatenate(headings), np.concatenate(lengths), step_um=0.4, wander=0.4
    )
    ribbon = curves.draw(scene, rng, paths, 0.55)
    lumps = np.clip(0.75 + 0.4 * scene.grain(rng, 0.7), 0.1, None)
    haze = cv2.GaussianBlur(ribbon, (0, 0), max(0.6, scene.px(1.0)))
    return np.minimum(ribbon, 1.6) * lumps * 0.75 + 0.25 * haze


def centrosome(brush: Brush) -> np.ndarray:
    """Put one or two dots at the organising centre; a dividing cell has one at each pole."""
    rng, scene = brush.rng, brush.scene

    def place(number, body):
        if body.phase:
            along = np.array([np.sin(body.outline.angle), np.cos(body.outline.angle)])
            pole = stains.spindle_half_length(body) * along
            points = np.asarray(body.outline.centre) + np.stack([-pole, pole])
        else:
            points = np.asarray(body.centrosome) + np.zeros((1, 2))
            if rng.random() < 0.55:
                turn, gap = rng.uniform(0, 2 * np.pi), rng.uniform(0.7, 1.6)
                points = np.concatenate([points, points + gap * np.array([[np.sin(turn), np.cos(turn)]])])
        return scene.canvas_px(points), rng.uniform(0.3, 0.55, len(points)), rng.uniform(0.8, 1.2, len(points))

    faint = rng.uniform(0.0, 0.1) * scene.thickness
    return brush.dots(place) + faint


def plasma_membrane(brush: Brush) -> np.ndarray:
    """Trace the outline, brighter where cells meet, with ruffles at free edges and a faint inside."""
    scene, rng = brush.scene, brush.rng
    uneven = np.clip(0.75 + 0.35 * scene.grain(rng, 1.5) + 0.2 * scene.grain(rng, 0.5), 0.1, None)
    outline = np.exp(-((scene.edge / rng.uniform(0.3, 0.55)) ** 2)) * (scene.edge > 0)
    reach = int(np.ceil(scene.px(0.8))) | 1
    free = cv2.dilate((scene.cell == 0).astype(np.uint8), np.ones((reach, reach), np.uint8))
    junction = 1 + rng.uniform(0.2, 0.9) * (1 - free)
    ruffles = np.exp(-scene.edge / 2.5) * soft_step(scene.grain(rng, 2.5), 0.9, 0.6) * np.abs(scene.grain(rng, 0.6))
    return outline * uneven * junction + 0.5 * ruffles * (scene.edge > 0) + rng.uniform(0.03, 0.2) * scene.thickness


def aggresome(brush: Brush) -> np.ndarray:
    """Put one big uneven lump beside the nucleus, on a faint cytosol."""
    scene, rng = brush.scene, brush.rng

    def place(number, body):
        away = np.asarray(body.centrosome) - np.asarray(body.nucleus.centre)
        away = away / max(np.linalg.norm(away), 1e-6)
        size = rng.uniform(1.2, 2.6)
        middle = np.asarray(body.centrosome) + away * rng.uniform(0.2, 0.8) * size
        count = rng.integers(3, 8)
        points = middle + rng.normal(0, 0.35 * size, (count, 2))
        return scene.canvas_px(points), size * rng.uniform(0.4, 0.75, count), rng.uniform(0.7, 1.1, count)

    lumps = np.clip(0.9 + 0.2 * scene.grain(rng, 0.8), 0.2, None)
    return brush.dots(place) * lumps + rng.uniform(0.02, 0.18) * scene.thickness


def cytosol(brush: Brush) -> np.ndarray:
    """Fill the cell but the nucleus, thick in the middle and thin at the edge, finely mottled."""
    scene, rng = brush.scene, brush.rng
    mottle = 0.8 + 0.12 * scene.grain(rng, 0.5) + 0.12 * scene.grain(rng, 3.0)
    holes = 1 - 0.6 * soft_step(scene.grain(rng, rng.uniform(1.0, 1.8)), 1.3, 0.5)
    body = scene.thickness * np.clip(mottle, 0.1, None) * holes
    outside = np.clip(scene.rim / 0.4 + 0.5, 0, 1)
    return body * outside + rng.uniform(0.03, 0.22) * (1 - outside) * (scene.nucleus > 0)


def vesicles(brush: Brush) -> np.ndarray:
    """Scatter 30-250 dots of uneven brightness over the cytoplasm, denser around the organising centre."""
    scene, rng = brush.scene, brush.rng
    density, size, crowd = rng.uniform(0.05, 0.3), rng.uniform(0.15, 0.35), rng.uniform(0.2, 0.7)

    def place(number, body):
        count = int(np.clip(density * np.pi * np.prod(body.outline.axes), 25, 350))
        spread = stains.random_points(scene, rng, number, count)
        home = scene.canvas_px(body.centrosome) + rng.normal(0, scene.px(4.5), (int(crowd * count), 2))
        rows, columns = np.clip(np.rint(home).astype(int), 0, np.array(scene.shape) - 1).T
        home = home[(scene.cell[rows, columns] == number) & (scene.nucleus[rows, columns] == 0)]
        points = np.concatenate([spread[: count - len(home)], home])
        return points, size * rng.lognormal(0, 0.3, len(points)), rng.lognormal(-0.5, 0.45, len(points))

    return np.minimum(brush.dots(place), 1.8) + rng.uniform(0.0, 0.12) * scene.thickness

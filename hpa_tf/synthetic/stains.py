"""The three reference stains: microtubules (red), nucleus (blue), endoplasmic reticulum (yellow).

Each returns float32 [H, W], about 1 where the stain is bright, before optics and exposure.
"""

import cv2
import numpy as np

from hpa_tf.synthetic import curves
from hpa_tf.synthetic.bodies import Body
from hpa_tf.synthetic.scene import Scene


def microtubule_paths(scene: Scene, rng: np.random.Generator, density: float) -> list[np.ndarray]:
    """Grow the microtubules of all resting cells: half of them from the organising centre, half from anywhere.

    Args:
        density: Filaments per um2 of cell.
    """
    starts, headings, lengths = [], [], []
    for number, body in enumerate(scene.bodies, start=1):
        if body.phase or body.artefact:
            continue
        area = np.pi * np.prod(body.outline.axes)
        count = int(np.clip(density * area, 100, 700))
        radial = count // 4
        origin = scene.canvas_px(body.centrosome)
        starts.append(origin + rng.normal(0, scene.px(1.2), (radial, 2)))
        headings.append(rng.uniform(0, 2 * np.pi, radial))
        lengths.append(rng.gamma(3.0, 0.35 * body.outline.axes[0], radial))
        anywhere = random_points(scene, rng, number, count - radial)
        away = anywhere - scene.canvas_px(body.nucleus.centre)
        starts.append(anywhere)
        headings.append(np.arctan2(away[:, 0], away[:, 1]) + rng.normal(0, 0.9, len(anywhere)))
        lengths.append(rng.gamma(3.0, 0.25 * body.outline.axes[0], len(anywhere)))
    if not starts:
        return []
    return curves.grow(
        scene,
        rng,
        np.concatenate(starts),
        np.concatenate(headings),
        np.concatenate(lengths),
        wander=0.13,
        crossing=0.3,
        stop_at_edge=0.3,
    )


def spindle_paths(scene: Scene, rng: np.random.Generator, numbers: np.ndarray) -> list[np.ndarray]:
    """Return the fibres of the spindles of dividing cells: bows from two poles to the chromatin, and short asters."""
    paths = []
    for number in numbers:
        body = scene.bodies[number - 1]
        along = np.array([np.sin(body.outline.angle), np.cos(body.outline.angle)])
        across = along[::-1] * (1, -1)
        half = spindle_half_length(body)
        for side in (-1, 1):
            pole = np.asarray(body.outline.centre) + side * half * along
            for width in rng.uniform(-1, 1, 18):
                t = np.linspace(0, 1, 9)[:, None]
                bow = np.sin(t * np.pi / 2) * width * 0.52 * half * across
                paths.append(scene.canvas_px(pole + rng.normal(0, 0.25, 2) - side * t * (half * 0.98) * along + bow))
            for turn in rng.uniform(0, 2 * np.pi, 12):
                ray = np.array([np.sin(turn), np.cos(turn)]) * rng.uniform(1.0, 2.5)
                paths.append(scene.canvas_px(np.stack([pole, pole + ray])))
    return paths


def spindle_half_length(body: Body) -> float:
    """Distance from the middle of a dividing cell to a spindle pole, um."""
    share = {"prometaphase": 0.45, "metaphase": 0.58, "anaphase": 0.68}[body.phase]
    return share * body.outline.axes[0]


def random_points(scene: Scene, rng: np.random.Generator, number: int, count: int) -> np.ndarray:
    """Draw up to `count` points [M, 2] px, even over the visible cytoplasm of a body."""
    body = scene.bodies[number - 1]
    reach = body.outline.reach
    points = scene.canvas_px(np.asarray(body.outline.centre) + rng.uniform(-reach, reach, (4 * count + 20, 2)))
    rows, columns = np.rint(points).astype(int).T
    inside = (rows >= 0) & (columns >= 0) & (rows < scene.shape[0]) & (columns < scene.shape[1])
    points, rows, columns = points[inside], rows[inside], columns[inside]
    kept = (scene.cell[rows, columns] == number) & (scene.nucleus[rows, columns] == 0)
    return points[kept][:count]


def red(scene: Scene, rng: np.random.Generator, paths: list[np.ndarray]) -> np.ndarray:
    """Draw the microtubule stain: filaments on a faint haze, spindles in dividing cells."""
    dividing = np.array([i + 1 for i, body in enumerate(scene.bodies) if body.phase], int)
    filaments = curves.draw(scene, rng, paths, 0.2)
    over_nucleus = 0.45 + 0.55 * np.clip(scene.rim / 0.8 + 0.5, 0, 1)
    image = 0.42 * filaments * (0.55 + 0.45 * scene.thickness)
    image += 0.08 * scene.thickness
    image *= over_nucleus
    haze = cv2.GaussianBlur(filaments, (0, 0), max(0.6, scene.px(0.9)))
    image += 0.13 * haze * over_nucleus
    if len(dividing):
        image += 0.55 * curves.draw(scene, rng, spindle_paths(scene, rng, dividing), 0.25)
        image += 0.15 * scene.per_body(np.array([bool(body.phase) for body in scene.bodies], float))
    image += artefact_glow(scene, rng, 0.7)
    return image * scene.per_body(np.array([body.brightness[0] for body in scene.bodies]))


def blue(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Draw the nuclear stain: grainy chromatin, dark nucleoli, bright condensed chromosomes."""
    inside = scene.nucleus > 0
    chromatin = 0.62 + 0.11 * scene.grain(rng, 0.7) + 0.08 * scene.grain(rng, 2.2)
    chromatin *= 1 - 0.55 * scene.nucleolus_map
    chromatin += 0.12 * np.exp(-((scene.rim / 0.5) ** 2))
    spots = np.clip(scene.grain(rng, 1.1) - 1.7, 0, 1) * 0.35
    image = np.where(inside, np.clip(chromatin + spots, 0.05, None), 0) * np.clip(-scene.rim / 0.35, 0, 1)
    pieces = np.array([body.artefact == "dead" for body in scene.bodies], float)
    if pieces.any():
        lumps = np.clip(0.9 + 0.9 * scene.grain(rng, 1.8), 0.1, 2.2)
        image = np.where(scene.per_body(pieces) > 0, lumps * inside, image)
    return (image * scene.per_body(np.array([body.brightness[1] for body in scene.bodies]))).astype(np.float32)


def reticulum(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Draw an endoplasmic reticulum: a net of tubules, a dense sheet around the nucleus, a bright envelope."""
    sheet = np.exp(-np.maximum(scene.rim, 0) / 5.0)
    coarse = np.abs(scene.grain(rng, 1.0) + 0.5 * scene.grain(rng, 0.6))
    net = np.clip(1.0 - coarse, 0, 1) ** 1.5  # ridges where the noise crosses zero: a net of thin lines
    clouds = 1 + 0.25 * scene.grain(rng, 4.0)
    image = scene.thickness * clouds * (0.25 + 0.55 * sheet) * (0.35 + 1.1 * net)
    image += 0.25 * np.exp(-(((scene.rim - 0.2) / 0.4) ** 2)) * (scene.edge > 0)
    over_nucleus = 0.3 + 0.7 * np.clip(scene.rim / 0.5 + 0.5, 0, 1)  # out of focus, above and below
    return np.clip(image, 0, None) * over_nucleus


def yellow(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Draw the reticulum stain of all bodies; a dividing cell has it around the spindle."""
    image = reticulum(scene, rng).astype(np.float32)
    image += artefact_glow(scene, rng, 0.6)
    return image * scene.per_body(np.array([body.brightness[2] for body in scene.bodies]))


def artefact_glow(scene: Scene, rng: np.random.Generator, strength: float) -> np.ndarray | float:
    """Return the blotchy stain of dead cells and debris."""
    artefact = np.array([bool(body.artefact) for body in scene.bodies], float)
    if not artefact.any():
        return 0.0
    return strength * scene.per_body(artefact) * np.clip(0.6 + 0.5 * scene.grain(rng, 1.0), 0, 2)

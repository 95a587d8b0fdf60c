"""The three reference stains of real fields; each returns float32 [H, W] as those of `synthetic.stains` do."""

import cv2
import numpy as np

from hpa_tf.synthetic import curves
from hpa_tf.synthetic import stains as easy
from hpa_tf.synthetic.real.scene import RealScene


def microtubule_paths(scene: RealScene, rng: np.random.Generator) -> list[np.ndarray]:
    """Grow a dense net: some filaments from the organising centre, some along the cell, the rest from anywhere."""
    density, wander = rng.uniform(0.2, 0.6), rng.uniform(0.06, 0.2)
    from_centre = rng.uniform(0.05, 0.35)
    starts, headings, lengths = [], [], []
    for number, body in enumerate(scene.bodies, start=1):
        if body.phase or body.artefact:
            continue
        count = int(np.clip(density * np.pi * np.prod(body.outline.axes), 120, 1200))
        radial = int(from_centre * count)
        starts.append(scene.canvas_px(body.centrosome) + rng.normal(0, scene.px(1.5), (radial, 2)))
        headings.append(rng.uniform(0, 2 * np.pi, radial))
        anywhere = easy.random_points(scene, rng, number, count - radial)
        away = anywhere - scene.canvas_px(body.nucleus.centre)
        outward = np.arctan2(away[:, 0], away[:, 1]) + rng.normal(0, 0.9, len(anywhere))
        along = body.outline.angle + rng.choice([0, np.pi], len(anywhere)) + rng.normal(0, 0.25, len(anywhere))
        starts.append(anywhere)
        headings.append(np.where(rng.random(len(anywhere)) < scene.line.aligned, along, outward))
        lengths.append(rng.gamma(3.0, 0.27 * body.outline.axes[0], radial + len(anywhere)))
    if not starts:
        return []
    return curves.grow(
        scene,
        rng,
        *(np.concatenate(part) for part in (starts, headings, lengths)),
        step_um=1.0,
        wander=wander,
        crossing=rng.uniform(0.05, 0.4),
        keep_off_edge_um=0.2,
        stop_at_edge=0.25,
    )


def red(scene: RealScene, rng: np.random.Generator, paths: list[np.ndarray]) -> np.ndarray:
    """Draw microtubules: a net of uneven brightness, bundles at some edges, a haze, spindles in dividing cells."""
    filaments = curves.draw(scene, rng, paths, 0.2, num_layers=4)
    contrast = rng.uniform(1.0, 1.7)  # above 1: bundles stand out
    net = filaments**contrast / (1 + filaments / 5) * clouds(scene, rng, 0.1, 0.45)
    bundles = 1 + rng.uniform(0, 1.2) * np.exp(-scene.edge / np.float32(rng.uniform(0.8, 2.0)))
    image = 0.45 * net * bundles * (0.4 + 0.6 * scene.thickness)
    image += rng.uniform(0.01, 0.08) * scene.thickness
    image += rng.uniform(0.02, 0.12) * cv2.GaussianBlur(filaments, (0, 0), max(0.6, scene.px(1.0)))
    image *= over_nucleus(scene, rng.uniform(0.15, 0.6), 0.6)
    dividing = np.array([i + 1 for i, body in enumerate(scene.bodies) if body.phase], int)
    if len(dividing):
        image += 0.55 * curves.draw(scene, rng, easy.spindle_paths(scene, rng, dividing), 0.25)
        image += 0.15 * scene.per_body(np.array([bool(body.phase) for body in scene.bodies], float))
    return _finished(image, scene, rng, 0, 0.7)


def blue(scene: RealScene, rng: np.random.Generator) -> np.ndarray:
    """Draw nuclei: chromatin of a texture that differs between images, nucleoli and further holes, soft edges."""
    inside = scene.nucleus > 0
    fine, coarse = rng.uniform(0.05, 0.16), rng.uniform(0.08, 0.28)
    chromatin = 0.6 + fine * scene.grain(rng, rng.uniform(0.35, 0.8)) + coarse * scene.grain(rng, rng.uniform(1.2, 2.6))
    holes = np.clip((scene.grain(rng, rng.uniform(1.0, 2.2)) - rng.uniform(1.2, 2.2)) / 0.4, 0, 1)
    chromatin *= 1 - rng.uniform(0.3, 0.8) * np.maximum(scene.nucleolus_map, rng.uniform(0.2, 1.0) * holes)
    chromatin += rng.uniform(0.0, 0.2) * np.exp(-((scene.rim / np.float32(0.5)) ** 2))
    if rng.random() < scene.line.chromocentres:
        spots = np.clip(scene.grain(rng, 1.4) - 1.5, 0, 1) * rng.uniform(0.5, 1.2)
        chromatin = 0.6 * chromatin + spots
    image = np.where(inside, np.clip(chromatin, 0.05, None), 0) * np.clip(-scene.rim / rng.uniform(0.2, 0.7), 0, 1)
    broken = np.array([body.artefact == "dead" for body in scene.bodies], float)
    if broken.any():
        lumps = np.clip(0.9 + 0.9 * scene.grain(rng, 1.8), 0.1, 2.2)
        image = np.where(scene.per_body(broken) > 0, lumps * inside, image)
    dna = rng.choice([1.0, 1.35], len(scene.bodies), p=(0.7, 0.3)) * rng.lognormal(0, 0.12, len(scene.bodies))
    return (image * scene.per_body(dna * [body.brightness[1] for body in scene.bodies])).astype(np.float32)


def yellow(scene: RealScene, rng: np.random.Generator) -> np.ndarray:
    """Draw the reticulum: grainy, with holes, more or less gathered at the nucleus, its envelope bright or not."""
    image = reticulum(scene, rng)
    return _finished(image, scene, rng, 2, 0.6)


def reticulum(scene: RealScene, rng: np.random.Generator) -> np.ndarray:
    """Draw an endoplasmic reticulum; from a net of tubules to an even, grainy sheet."""
    gathered, net_share = rng.uniform(0.3, 0.9), rng.uniform(0.0, 0.8)
    sheet = 1 - gathered + gathered * np.exp(-np.maximum(scene.rim, 0) / np.float32(rng.uniform(3.0, 8.0)))
    ridges = np.abs(scene.grain(rng, rng.uniform(0.8, 1.5)) + 0.5 * scene.grain(rng, 0.5))
    net = np.clip(1.0 - ridges, 0, 1) ** 1.5
    holes = np.clip((scene.grain(rng, rng.uniform(0.9, 2.2)) - rng.uniform(1.0, 2.4)) / 0.5, 0, 1)
    grainy = np.exp(rng.uniform(0.15, 0.5) * scene.grain(rng, rng.uniform(0.35, 0.8))) * clouds(scene, rng, 0.1, 0.4)
    image = 0.75 * scene.thickness * sheet * grainy * (1 - 0.8 * holes)
    image *= 1 - net_share + net_share * (0.3 + 1.4 * net)
    envelope = rng.uniform(0.0, 0.25) * np.exp(-(((scene.rim - 0.2) / 0.4) ** 2)) * (scene.edge > 0)
    return ((image + envelope) * over_nucleus(scene, rng.uniform(0.08, 0.5), 0.5)).astype(np.float32)


def clouds(scene: RealScene, rng: np.random.Generator, least: float, most: float) -> np.ndarray:
    """Return an uneven factor around 1, of grains of 1.2 to 3 um and of 5 um, float32 [H, W]."""
    fine, coarse = rng.uniform(least, most, 2)
    factor = 1 + fine * scene.grain(rng, rng.uniform(1.2, 3.0)) + 0.7 * coarse * scene.grain(rng, 5.0)
    return np.clip(factor, 0.1, None)


def over_nucleus(scene: RealScene, remaining: float, width_um: float) -> np.ndarray:
    """Return the share of a cytoplasmic stain that is left above and below the nucleus, float32 [H, W]."""
    return remaining + (1 - remaining) * np.clip(scene.rim / np.float32(width_um) + 0.5, 0, 1)


def _finished(image: np.ndarray, scene: RealScene, rng: np.random.Generator, channel: int, glow: float) -> np.ndarray:
    """Add the blotchy stain of artefacts, and give each body its brightness."""
    image = image + easy.artefact_glow(scene, rng, glow)
    return (image * scene.per_body(np.array([body.brightness[channel] for body in scene.bodies]))).astype(np.float32)

"""Classes as real images show them: the same places as the easy patterns, and more of what blurs their borders.

Look-alikes: vesicles, Golgi and mitochondria that are fragmented and far from the nucleus; nuclear bodies, speckles and
fibrillar centres of the same size and number; filaments with haze; an even reticulum and a grainy cytosol.
"""

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from hpa_tf.synthetic import stains as easy_stains
from hpa_tf.synthetic.patterns import cytoplasm, filaments
from hpa_tf.synthetic.patterns.brush import Brush
from hpa_tf.synthetic.real import stains
from hpa_tf.synthetic.real.scene import RealScene
from hpa_tf.synthetic.scene import inside_nucleus
from hpa_tf.synthetic.texture import soft_step


def nucleoplasm(brush: Brush) -> np.ndarray:
    """Fill the nucleus, smooth or, in some images, nearly speckled; the nucleoli are left out more or less."""
    scene, rng = brush.scene, brush.rng
    coarse = rng.uniform(0.15, 0.35) if rng.random() < 0.25 else rng.uniform(0.02, 0.12)
    grain = 0.7 + coarse * scene.grain(rng, rng.uniform(0.4, 1.0)) + 0.06 * scene.grain(rng, 2.0)
    return np.clip(grain, 0.1, None) * _depth(brush) * (1 - rng.uniform(0.1, 0.95) * scene.nucleolus_map)


def nuclear_membrane(brush: Brush) -> np.ndarray:
    """Trace the envelope: sharp and uneven, or wide and hardly brighter than the inside."""
    scene, rng = brush.scene, brush.rng
    uneven = np.clip(0.9 + 0.3 * scene.grain(rng, 1.2), 0.2, None)
    ring = np.exp(-(((scene.rim + 0.15) / np.float32(rng.uniform(0.25, 0.6))) ** 2)) * uneven
    return ring + _depth(brush) * rng.uniform(0.05, 0.5) + rng.uniform(0.0, 0.15) * whole_cell(brush.scene)


def nucleoli(brush: Brush) -> np.ndarray:
    """Fill the nucleoli, or their rims alone; the rest of the nucleus may be stained as well."""
    scene, rng = brush.scene, brush.rng
    filled = scene.nucleolus_map
    if rng.random() < 0.15:
        filled = np.clip(filled - 0.9 * cv2.erode(filled, np.ones((3, 3))), 0, 1)
    grain = np.clip(0.85 + 0.2 * scene.grain(rng, 0.6), 0.3, None)
    return grain * filled + rng.uniform(0.0, 0.35) * _depth(brush) * (1 - filled)


def fibrillar_centers(brush: Brush) -> np.ndarray:
    """Put a few dots into each nucleolus, sometimes one alone, sometimes so near that they merge."""
    scene, rng = brush.scene, brush.rng
    most, spread = rng.integers(2, 7), rng.uniform(0.3, 0.7)

    def place(number, body):
        centres, radii = scene.nucleoli[number - 1]
        counts = rng.integers(1, most, len(radii))
        offsets = np.repeat(radii, counts)[:, None] * rng.uniform(-spread, spread, (counts.sum(), 2))
        points = np.repeat(centres, counts, axis=0) + offsets
        return points, rng.uniform(0.35, 0.7, len(points)), rng.uniform(0.6, 1.4, len(points))

    return brush.dots(place) + rng.uniform(0.0, 0.15) * _depth(brush)


def speckles(brush: Brush) -> np.ndarray:
    """Scatter uneven patches over the nucleus: few and small, or so many that they run together."""
    scene, rng = brush.scene, brush.rng
    field = scene.grain(rng, rng.uniform(0.6, 1.5)) + 0.25 * scene.grain(rng, 0.5)
    patches = soft_step(field, rng.uniform(0.7, 1.7), rng.uniform(0.4, 0.9))
    outside_nucleoli = 1 - scene.nucleolus_map
    return (patches * (scene.rim < -0.4) + rng.uniform(0.05, 0.45) * _depth(brush)) * outside_nucleoli


def nuclear_bodies(brush: Brush) -> np.ndarray:
    """Put one to a dozen round bodies of one size anywhere in the nucleus."""
    scene, rng = brush.scene, brush.rng
    mean, size = rng.uniform(1.0, 8.0), rng.uniform(0.3, 0.75)

    def place(number, body):
        count = 1 + min(rng.poisson(mean), 12)
        centres = scene.canvas_px(inside_nucleus(rng, body.nucleus, count, 0.85))
        return centres, size * rng.lognormal(0, 0.2, count), rng.uniform(0.5, 1.2, count)

    return brush.dots(place) * (scene.nucleus > 0) + rng.uniform(0.0, 0.25) * _depth(brush)


def endoplasmic_reticulum(brush: Brush) -> np.ndarray:
    """Draw a reticulum of its own, as the yellow channel's may look in another image; in most it passes for cytosol."""
    reticulum = 1.3 * stains.reticulum(brush.scene, brush.rng)
    if brush.rng.random() < 0.3:
        return reticulum
    share = brush.rng.uniform(0.4, 0.9)
    return (1 - share) * reticulum + share * cytosol(brush)


def golgi(brush: Brush) -> np.ndarray:
    """Draw the ribbon at the organising centre; in some images it is in pieces that lie around the nucleus."""
    rng = brush.rng
    broken = rng.random() < 0.35
    ribbon = cytoplasm.golgi(_scattered(brush, rng.uniform(1.0, 4.0))) if broken else cytoplasm.golgi(brush)
    pieces = rng.uniform(0.2, 0.7) * cytoplasm.golgi(_scattered(brush, 5.0)) if rng.random() < 0.3 else 0.0
    return ribbon + pieces + rng.uniform(0.0, 0.2) * whole_cell(brush.scene)


def _scattered(brush: Brush, deviation_um: float) -> Brush:
    """Return a brush whose cells have their organising centre moved at random."""
    bodies = [
        replace(body, centrosome=tuple(np.asarray(body.centrosome) + brush.rng.normal(0, deviation_um, 2)))
        for body in brush.scene.bodies
    ]
    return replace(brush, scene=replace(brush.scene, bodies=bodies))


def intermediate_filaments(brush: Brush) -> np.ndarray:
    """Weave the basket, dense at the nucleus; in some images it reaches out along the microtubules."""
    scene, rng = brush.scene, brush.rng
    basket = 1.4 * filaments.intermediate_filaments(brush)
    basket *= 0.6 + 1.2 * np.exp(-np.maximum(scene.rim, 0) / np.float32(rng.uniform(1.5, 4.0)))
    if rng.random() < 0.2:
        basket = 0.7 * basket + rng.uniform(0.1, 0.3) * filaments.microtubules(brush)
    return basket + rng.uniform(0.0, 0.08) * whole_cell(brush.scene)


def actin_filaments(brush: Brush) -> np.ndarray:
    """Stretch bundles and line the membrane; in some images they are hardly brighter than the cell."""
    rng = brush.rng
    return rng.uniform(0.4, 1.0) * filaments.actin_filaments(brush) + rng.uniform(0.1, 0.6) * whole_cell(brush.scene)


def microtubules(brush: Brush) -> np.ndarray:
    """Draw the filaments of the red channel with haze of their own."""
    return filaments.microtubules(brush) + brush.rng.uniform(0.0, 0.25) * whole_cell(brush.scene)


def mitotic_spindle(brush: Brush) -> np.ndarray:
    """Draw the spindle in a cytosol that is stained as well."""
    return filaments.mitotic_spindle(brush) + brush.rng.uniform(0.0, 0.25) * whole_cell(brush.scene)


def centrosome(brush: Brush) -> np.ndarray:
    """Put one or two dots at the organising centre, in a stained cell, with a few other dots around."""
    rng, scene = brush.rng, brush.scene
    stray = rng.uniform(0.0, 1.0)

    def place(number, body):
        points = easy_stains.random_points(scene, rng, number, int(rng.poisson(stray)))
        return points, rng.uniform(0.2, 0.4, len(points)), rng.uniform(0.2, 0.8, len(points))

    return 2.5 * cytoplasm.centrosome(brush) + brush.dots(place) + rng.uniform(0.0, 0.15) * whole_cell(brush.scene)


def plasma_membrane(brush: Brush) -> np.ndarray:
    """Trace the outline, thin or wide, on an inside that may be nearly as bright."""
    scene, rng = brush.scene, brush.rng
    wide = rng.uniform(0.2, 0.8) * np.exp(-scene.edge / np.float32(rng.uniform(0.6, 2.0))) * (scene.edge > 0)
    return 0.55 * cytoplasm.plasma_membrane(brush) + 0.4 * wide + rng.uniform(0.2, 0.9) * whole_cell(brush.scene)


def mitochondria(brush: Brush) -> np.ndarray:
    """Scatter threads, or short pieces that pass for vesicles."""
    scene, rng = brush.scene, brush.rng
    threads = filaments.mitochondria(brush)
    if rng.random() < 0.2:
        threads = threads * soft_step(scene.grain(rng, 1.0), rng.uniform(-0.6, 0.4), 0.5)
    return 1.4 * threads + rng.uniform(0.0, 0.12) * whole_cell(brush.scene)


def aggresome(brush: Brush) -> np.ndarray:
    """Put the lump beside the nucleus, in a cytosol that is stained as well."""
    return 1.8 * cytoplasm.aggresome(brush) + brush.rng.uniform(0.0, 0.1) * whole_cell(brush.scene)


def cytosol(brush: Brush) -> np.ndarray:
    """Fill the cell but the nucleus; grainy or nearly netted, and the nucleus may be stained nearly as much."""
    scene, rng = brush.scene, brush.rng
    mottle = 0.8 + rng.uniform(0.03, 0.15) * scene.grain(rng, rng.uniform(0.4, 1.0)) + 0.08 * scene.grain(rng, 3.0)
    holes = 1 - rng.uniform(0.0, 0.6) * soft_step(scene.grain(rng, rng.uniform(1.0, 1.8)), rng.uniform(1.0, 2.0), 0.5)
    net = 1.0
    if rng.random() < 0.3:
        net = 0.6 + 0.6 * np.clip(1 - np.abs(scene.grain(rng, 1.0)), 0, 1)
    body = scene.thickness * np.clip(mottle, 0.1, None) * holes * net
    return 0.8 * body * stains.over_nucleus(scene, rng.uniform(0.1, 0.9), 0.5)


def vesicles(brush: Brush) -> np.ndarray:
    """Scatter dots: a handful or hundreds, even or gathered at the organising centre, in a stained cell."""
    scene, rng = brush.scene, brush.rng
    density, size = np.exp(rng.uniform(np.log(0.012), np.log(0.3))), rng.uniform(0.14, 0.42)
    crowd, gathered = rng.uniform(0.0, 0.8), rng.uniform(2.5, 7.0)

    def place(number, body):
        count = int(np.clip(density * np.pi * np.prod(body.outline.axes), 6, 350))
        home = scene.canvas_px(body.centrosome) + rng.normal(0, scene.px(gathered), (int(crowd * count), 2))
        rows, columns = np.clip(np.rint(home).astype(int), 0, np.array(scene.shape) - 1).T
        home = home[(scene.cell[rows, columns] == number) & (scene.nucleus[rows, columns] == 0)]
        points = np.concatenate([easy_stains.random_points(scene, rng, number, count - len(home)), home])
        return points, size * rng.lognormal(0, 0.3, len(points)), rng.lognormal(-0.5, 0.5, len(points))

    return np.minimum(brush.dots(place), 1.8) + rng.uniform(0.0, 0.3) * whole_cell(brush.scene)


def _depth(brush: Brush) -> np.ndarray:
    """Return the nucleus, 1 inside and soft at its edge, float32 [H, W]."""
    return np.clip(-brush.scene.rim / np.float32(0.5), 0, 1)


def whole_cell(scene: RealScene) -> np.ndarray:
    """Return an even stain of the whole cell, its nucleus half as bright, float32 [H, W]."""
    return scene.thickness * stains.over_nucleus(scene, 0.5, 0.6)


PATTERNS: tuple[Callable[[Brush], np.ndarray], ...] = (
    nucleoplasm,
    nuclear_membrane,
    nucleoli,
    fibrillar_centers,
    speckles,
    nuclear_bodies,
    endoplasmic_reticulum,
    golgi,
    intermediate_filaments,
    actin_filaments,
    microtubules,
    mitotic_spindle,
    centrosome,
    plasma_membrane,
    mitochondria,
    aggresome,
    cytosol,
    vesicles,
)
"""In the order of the classes, as `synthetic.patterns.PATTERNS`."""

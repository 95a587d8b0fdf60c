"""Classes 0-5, inside the nucleus."""

import numpy as np

from hpa_tf.synthetic.patterns.brush import Brush
from hpa_tf.synthetic.scene import inside_nucleus
from hpa_tf.synthetic.texture import soft_step


def nucleoplasm(brush: Brush) -> np.ndarray:
    """Fill the nucleus, fine-grained, and leave the nucleoli out."""
    scene = brush.scene
    grain = 0.7 + 0.13 * scene.grain(brush.rng, 0.5) + 0.09 * scene.grain(brush.rng, 1.4)
    depth = np.clip(-scene.rim / 0.5, 0, 1)
    return np.clip(grain, 0.1, None) * depth * (1 - brush.rng.uniform(0.6, 0.95) * scene.nucleolus_map)


def nuclear_membrane(brush: Brush) -> np.ndarray:
    """Trace the envelope, a little uneven, with a faint inside and now and then a fold."""
    scene = brush.scene
    uneven = np.clip(0.9 + 0.25 * scene.grain(brush.rng, 1.2), 0.2, None)
    ring = np.exp(-(((scene.rim + 0.15) / 0.3) ** 2)) * uneven
    fold = np.exp(-((scene.grain(brush.rng, 7.0) / 0.035) ** 2)) * soft_step(scene.grain(brush.rng, 5.0), 1.3, 0.5)
    inside = np.clip(-scene.rim / 0.5, 0, 1)
    return ring + inside * (brush.rng.uniform(0.05, 0.22) + 0.5 * fold)


def nucleoli(brush: Brush) -> np.ndarray:
    """Fill the nucleoli; the rest of the nucleus is faint."""
    scene = brush.scene
    grain = np.clip(0.85 + 0.16 * scene.grain(brush.rng, 0.6), 0.3, None)
    return grain * scene.nucleolus_map + brush.rng.uniform(0.0, 0.12) * np.clip(-scene.rim / 0.5, 0, 1)


def fibrillar_centers(brush: Brush) -> np.ndarray:
    """Put a few small bright dots into the middle of each nucleolus."""
    scene, rng = brush.scene, brush.rng

    def place(number, body):
        centres, radii = scene.nucleoli[number - 1]
        counts = rng.integers(1, 6, len(radii))
        spread = np.repeat(radii, counts)[:, None] * rng.uniform(-0.55, 0.55, (counts.sum(), 2))
        return (
            np.repeat(centres, counts, axis=0) + spread,
            rng.uniform(0.22, 0.5, counts.sum()),
            rng.uniform(0.6, 1.2, counts.sum()),
        )

    return brush.dots(place) + rng.uniform(0.0, 0.08) * np.clip(-scene.rim / 0.5, 0, 1)


def speckles(brush: Brush) -> np.ndarray:
    """Scatter 15-40 uneven patches over the nucleus, none in the nucleoli, on a faint nucleoplasm."""
    scene, rng = brush.scene, brush.rng
    field = scene.grain(rng, rng.uniform(0.8, 1.4)) + 0.25 * scene.grain(rng, 0.5)
    patches = soft_step(field, rng.uniform(0.85, 1.25), 0.6) * np.clip(0.9 + 0.2 * scene.grain(rng, 2.0), 0.3, None)
    outside_nucleoli = 1 - scene.nucleolus_map
    return (patches * (scene.rim < -0.5) + rng.uniform(0.05, 0.2) * np.clip(-scene.rim / 0.5, 0, 1)) * outside_nucleoli


def nuclear_bodies(brush: Brush) -> np.ndarray:
    """Put two to eight round bodies anywhere in the nucleus."""
    rng, scene = brush.rng, brush.scene
    mean = rng.uniform(1.0, 5.0)

    def place(number, body):
        count = 2 + min(rng.poisson(mean), 8)
        centres = scene.canvas_px(inside_nucleus(rng, body.nucleus, count, 0.82))
        return centres, rng.uniform(0.3, 0.65, count), rng.uniform(0.6, 1.1, count)

    return brush.dots(place) * (scene.nucleus > 0) + rng.uniform(0.0, 0.15) * np.clip(-scene.rim / 0.5, 0, 1)

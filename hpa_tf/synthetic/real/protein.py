"""The protein of interest in a real field: patterns that are faint in some cells, haze, specks and cross-talk."""

from collections.abc import Sequence

import cv2
import numpy as np

from hpa_tf.classes import NEGATIVE
from hpa_tf.synthetic.config import AS_DRAWN
from hpa_tf.synthetic.patterns.brush import Brush
from hpa_tf.synthetic.real import stains
from hpa_tf.synthetic.real.patterns import PATTERNS, whole_cell
from hpa_tf.synthetic.real.scene import RealScene
from hpa_tf.synthetic.real.settings import REALITY


def green(
    scene: RealScene,
    rng: np.random.Generator,
    microtubules: list[np.ndarray],
    references: tuple[np.ndarray, ...],
    visibility: Sequence[float] = AS_DRAWN,
) -> np.ndarray:
    """Draw the protein: float32 [H, W].

    Args:
        scene: The scene.
        rng: Random numbers.
        microtubules: The paths that the red channel shows.
        references: Red, blue and yellow stain, float32 [H, W] each, which leak into green.
        visibility: Of each class, 0..17: `SyntheticConfig.visibility`.
    """
    labels = np.stack([body.labels for body in scene.bodies])
    expression = rng.lognormal(0, REALITY.cell_spread, len(labels))
    total = np.zeros(scene.shape, np.float32)
    for class_id in np.flatnonzero(labels[:, :NEGATIVE].any(0)):
        numbers = 1 + np.flatnonzero(labels[:, class_id])
        seen = visibility[class_id]
        pattern = PATTERNS[class_id](Brush(scene, rng, numbers, microtubules, dot_scale=max(1.0, seen) ** 0.5))
        pattern = np.clip(pattern, 0, 2.5).astype(np.float32)
        if seen < 1:
            pattern = seen * pattern + (1 - seen) * REALITY.even_stain * whole_cell(scene)
        share = labels[:, class_id] * expression * rng.lognormal(0, REALITY.class_spread) * _faintness(rng, len(labels))
        total += pattern * scene.per_body(max(1.0, seen) * share)
    total += _haze(scene, rng)
    uneven = rng.uniform(*REALITY.clumps)
    total *= stains.clouds(scene, rng, *REALITY.clouds)
    total *= np.exp(np.float32(uneven) * scene.grain(rng, 0.3) - np.float32(uneven**2 / 2))
    total += _specks(scene, rng)
    for most, reference in zip(REALITY.cross_talk, references, strict=True):
        total += np.float32(most * rng.beta(1, 4)) * reference
    return total


def staining_strength(rng: np.random.Generator) -> float:
    """Draw how strongly an image is stained; some are hardly above the background."""
    median, spread = REALITY.strength
    strength = median * rng.lognormal(0, spread)
    return strength * rng.uniform(*REALITY.failed_strength) if rng.random() < REALITY.failed else strength


def _faintness(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw a factor for each cell, [count]: a share that differs between images is faint."""
    faint = rng.random(count) < rng.uniform(0, 2 * REALITY.faint)
    return np.where(faint, rng.uniform(*REALITY.faint_strength, count), 1.0)


def _haze(scene: RealScene, rng: np.random.Generator) -> np.ndarray:
    """Draw the stain of whole cells that an antibody leaves off its target, in Negative cells too."""
    median, spread = REALITY.haze
    level = median * rng.lognormal(0, spread)
    cells = rng.lognormal(0, 0.3, len(scene.bodies))
    cytoplasm = scene.thickness * stains.over_nucleus(scene, 0.2, 0.6)
    nucleus = rng.uniform(*REALITY.haze_nuclear) * np.clip(-scene.rim / np.float32(0.5), 0, 1)
    artefact = np.array([bool(body.artefact) for body in scene.bodies])
    glow = scene.per_body(artefact * rng.uniform(0.0, 1.0, len(artefact))) * np.clip(
        0.6 + 0.4 * scene.grain(rng, 1.0), 0, 2
    )
    return np.float32(level) * (cytoplasm + nucleus) * scene.per_body(cells) + glow


def _specks(scene: RealScene, rng: np.random.Generator) -> np.ndarray:
    """Scatter clumps of antibody: over cells, and a few beside them."""
    height, width = scene.shape
    area = height * width * scene.um_per_px**2
    count = rng.poisson(rng.uniform(*REALITY.speck) * area / 100)
    rows, columns = rng.integers(0, height, count), rng.integers(0, width, count)
    value = rng.lognormal(-0.7, 0.7, count) * np.where(scene.cell[rows, columns] > 0, 1.0, rng.random(count) < 0.15)
    image = np.zeros(scene.shape, np.float32)
    np.maximum.at(image, (rows, columns), value.astype(np.float32))
    sigma = max(0.35, scene.px(0.15))
    return cv2.GaussianBlur(image, (0, 0), sigma) * np.float32(max(1.0, 4 * sigma**2))

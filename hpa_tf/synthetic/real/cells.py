"""Bodies of real fields: outlines pulled out, nuclei lobed, doubled or fragmented, cells dim or out of focus."""

from dataclasses import replace

import numpy as np

from hpa_tf.synthetic import bodies
from hpa_tf.synthetic.bodies import Body, Outline
from hpa_tf.synthetic.config import SyntheticConfig
from hpa_tf.synthetic.real.settings import REALITY, RealLine

_MOST_NUCLEI = 5


def place(rng: np.random.Generator, config: SyntheticConfig, line: RealLine) -> tuple[np.ndarray, np.ndarray]:
    """Draw where cells sit, as dense as the line grows; as `bodies.place`."""
    spread = config.coverage[1]
    return bodies.place(rng, replace(config, coverage=(line.coverage, spread)), line)


def make_cells(
    rng: np.random.Generator,
    config: SyntheticConfig,
    line: RealLine,
    centres: np.ndarray,
    radii: np.ndarray,
    labels: np.ndarray,
) -> list[Body]:
    """Give each place a shape; arguments as in `bodies.make_cells`."""
    blurred = rng.random() < REALITY.defocused_images
    image_defocus = rng.uniform(*REALITY.image_defocus) if blurred else 0.0
    cells = bodies.make_cells(rng, config, line, centres, radii, labels)
    return [_vary(rng, line, body, image_defocus) for body in cells]


def _vary(rng: np.random.Generator, line: RealLine, body: Body, image_defocus: float) -> Body:
    defocus = image_defocus
    if rng.random() < REALITY.defocused_cells:
        defocus += rng.uniform(*REALITY.cell_defocus)
    brightness = body.brightness.copy()
    if rng.random() < REALITY.dim_cells:
        brightness *= rng.uniform(*REALITY.dim_strength, 3) if rng.random() < 0.5 else rng.uniform(0.2, 0.6)
    varied = replace(body, brightness=brightness, defocus=defocus)
    return varied if body.phase else _reshape(rng, line, varied)


def _reshape(rng: np.random.Generator, line: RealLine, body: Body) -> Body:
    """Pull the outline out, fold the nucleus, and add nuclei."""
    count = rng.poisson(line.arms)
    along = rng.random(count) < 0.6
    direction = np.where(
        along, rng.choice([0, np.pi], count) + rng.normal(0, 0.35, count), rng.uniform(0, 2 * np.pi, count)
    )
    arms = np.stack([direction, rng.uniform(0.1, 0.6, count), rng.uniform(2.0, 14.0, count)], axis=1)
    outline = replace(body.outline, spikes=np.concatenate([body.outline.spikes, arms]))
    nucleus = _folded(rng, body.nucleus) if rng.random() < line.lobed else body.nucleus
    more: list[Outline] = []
    while len(more) < _MOST_NUCLEI - 1 and rng.random() < line.multinucleate:
        nucleus, beside = _pair(rng, nucleus, body.outline)
        more.append(beside)
    if rng.random() < REALITY.micronuclei:
        more.append(_micronucleus(rng, nucleus))
    return replace(body, outline=outline, nucleus=nucleus, more_nuclei=tuple(more))


def _folded(rng: np.random.Generator, nucleus: Outline) -> Outline:
    """Return a nucleus with two to four lobes: kidneys, peanuts, clover leaves."""
    waves = nucleus.waves.copy()
    for order in rng.choice([2, 3, 4], rng.integers(1, 3), replace=False):
        waves[order - 1, 1] += rng.choice([-1, 1]) * rng.uniform(0.10, 0.28) / np.sqrt(order - 1)
    return replace(nucleus, waves=waves)


def _pair(rng: np.random.Generator, nucleus: Outline, outline: Outline) -> tuple[Outline, Outline]:
    """Return a nucleus, moved aside and smaller, and another beside it; they may touch."""
    turn = nucleus.angle + rng.normal(0, 0.6)
    away = np.array([np.sin(turn), np.cos(turn)])
    axes = np.asarray(nucleus.axes) * rng.uniform(0.70, 0.9)
    apart = axes.mean() * rng.uniform(0.85, 1.25)
    middle = np.asarray(nucleus.centre)
    first = replace(nucleus, centre=tuple(middle - 0.5 * apart * away), axes=tuple(axes))
    second = replace(
        nucleus,
        centre=tuple(middle + 1.2 * apart * away),
        axes=tuple(axes * rng.uniform(0.75, 1.1)),
        angle=rng.uniform(0, np.pi),
    )
    return first, second


def _micronucleus(rng: np.random.Generator, nucleus: Outline) -> Outline:
    turn = rng.uniform(0, 2 * np.pi)
    reach = max(nucleus.axes) * rng.uniform(1.0, 1.35)
    centre = (nucleus.centre[0] + reach * np.sin(turn), nucleus.centre[1] + reach * np.cos(turn))
    radius = rng.uniform(0.7, 1.7)
    return Outline(centre, (radius * rng.uniform(1, 1.4), radius), turn)

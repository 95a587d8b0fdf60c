"""Bodies: the cells, dead cells and debris of a field, described by numbers (um); nothing is drawn here.

Positions lie in the frame and in a border around it, so that the frame cuts cells as often as a camera does.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np

from hpa_tf.classes import MITOTIC_SPINDLE
from hpa_tf.synthetic.config import CELL_LINES, CellLine, SyntheticConfig
from hpa_tf.synthetic.weak_labels import NUCLEAR

PHASES = ("prometaphase", "metaphase", "anaphase")
_DIRECTIONS = 4096
_PACKING = 1.15
"""Disks that are placed for each that fits: neighbours take space from each other (measured on the masks)."""
_BORDER_UM = 30.0
"""Cells whose centre lies up to this far outside the frame may reach into it, um."""


@dataclass(frozen=True)
class Outline:
    """A closed curve around `centre`: an ellipse, made uneven by waves and by protrusions.

    Attributes:
        centre: (row, column), um from the frame's top left corner.
        axes: Half axes (long, short), um.
        angle: Direction of the long axis, radians from the column axis.
        waves: [M, 3] order, amplitude (share of the radius), phase.
        spikes: [S, 3] direction, length (share of the radius), sharpness.
    """

    centre: tuple[float, float]
    axes: tuple[float, float]
    angle: float
    waves: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    spikes: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))

    @property
    def reach(self) -> float:
        """Largest distance of the curve from the centre, um."""
        longest = 1.0 + np.abs(self.waves[:, 1]).sum() + self.spikes[:, 1].sum()
        return max(self.axes) * longest

    def relative_distance(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the distance from the centre in units of the curve's own distance there (< 1: inside).

        Args:
            rows: [H, 1] um.
            columns: [1, W] um.
        """
        down, right = rows - self.centre[0], columns - self.centre[1]
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        x = ((right * cosine + down * sine) / self.axes[0]).astype(np.float32)
        y = ((down * cosine - right * sine) / self.axes[1]).astype(np.float32)
        distance, theta = cv2.cartToPolar(x, y)
        table = self._inverse_radius()
        theta *= _DIRECTIONS / (2 * np.pi)
        return distance * table[theta.astype(np.int32)]

    def _inverse_radius(self) -> np.ndarray:
        """Return 1 / radius of the curve for each of `_DIRECTIONS` directions (a table: 5 times faster)."""
        theta = np.float32(2 * np.pi / _DIRECTIONS) * (np.arange(_DIRECTIONS + 1, dtype=np.float32) + np.float32(0.5))
        radius = np.ones_like(theta)
        for order, amplitude, phase in self.waves.astype(np.float32):
            radius += amplitude * np.cos(order * theta + phase)
        for direction, length, sharpness in self.spikes.astype(np.float32):
            radius += length * np.exp(sharpness * (np.cos(theta - direction) - 1))
        return 1 / np.maximum(radius, np.float32(0.3))


@dataclass(frozen=True)
class Body:
    """One object of a field.

    Attributes:
        outline: Cell membrane, or edge of the particle.
        nucleus: Outline of the nucleus (of the chromatin in a dividing cell).
        artefact: "" for a cell, "dead" or "debris".
        phase: "" or the phase of mitosis.
        labels: bool [K], what the cell shows; all False for an artefact.
        brightness: [3] red, blue, yellow stain, relative.
        centrosome: (row, column), um; organising centre of the microtubules.
        more_nuclei: Further nuclei, and small ones beside them.
        defocus: Standard deviation of the blur of a cell that is out of focus, um.
    """

    outline: Outline
    nucleus: Outline
    artefact: str
    phase: str
    labels: np.ndarray
    brightness: np.ndarray
    centrosome: tuple[float, float]
    more_nuclei: tuple[Outline, ...] = ()
    defocus: float = 0.0


def draw_cell_line(rng: np.random.Generator, lines: tuple[CellLine, ...] = CELL_LINES) -> CellLine:
    """Draw the cell line of a field; all cells of an image belong to one."""
    shares = np.array([line.share for line in lines])
    return lines[rng.choice(len(lines), p=shares / shares.sum())]


def place(rng: np.random.Generator, config: SyntheticConfig, line: CellLine) -> tuple[np.ndarray, np.ndarray]:
    """Draw where cells sit: centres [N, 2] um and radii [N] um, some of them outside the frame."""
    field_um = config.field_um
    scale = (field_um / 163.84) ** 2
    coverage = np.clip(rng.normal(*config.coverage), 0.08, 0.95)
    typical = line.radius * rng.lognormal(0, 0.12)
    wanted = _PACKING * coverage * field_um**2 / (np.pi * typical**2)
    wanted = np.clip(wanted, config.cells[0] * min(scale, 1) + 1, 0.85 * config.cells[1] * max(scale, 1))
    extent = field_um + 2 * _BORDER_UM
    total = max(1, rng.poisson(wanted * (extent / field_um) ** 2))
    radii = typical * rng.lognormal(0, 0.18, total)
    centres = np.zeros((total, 2))
    placed = 0
    for radius in radii:
        for attempt in range(40):
            if placed and rng.random() < line.clustering:
                neighbour = rng.integers(placed)
                away = rng.uniform(0, 2 * np.pi)
                distance = (radius + radii[neighbour]) * rng.uniform(0.72, 1.0)
                centre = centres[neighbour] + distance * np.array([np.sin(away), np.cos(away)])
            else:
                centre = rng.uniform(-_BORDER_UM, field_um + _BORDER_UM, 2)
            inside = (centre > -_BORDER_UM).all() and (centre < field_um + _BORDER_UM).all()
            gaps = np.hypot(*(centres[:placed] - centre).T) / (radii[:placed] + radius)
            if inside and (gaps > (0.7 if attempt < 30 else 0.6)).all():
                centres[placed], radii[placed] = centre, radius
                placed += 1
                break
    return centres[:placed], radii[:placed]


def make_cells(
    rng: np.random.Generator,
    config: SyntheticConfig,
    line: CellLine,
    centres: np.ndarray,
    radii: np.ndarray,
    labels: np.ndarray,
) -> list[Body]:
    """Give each place a shape; `labels` [N, K] decide which cells divide."""
    direction = rng.uniform(0, np.pi)
    bodies = []
    for centre, radius, shown in zip(centres, radii, labels, strict=True):
        mitotic = shown[MITOTIC_SPINDLE] or (not shown[list(NUCLEAR)].any() and rng.random() < config.mitotic)
        angle = direction + rng.normal(0, 0.9)
        brightness = np.asarray(line.brightness) * rng.lognormal(0, 0.22, 3) * rng.lognormal(0, 0.2)
        if rng.random() < config.dark:
            brightness[[0, 2]] *= rng.uniform(0.1, 0.4)
        make = _dividing if mitotic else _resting
        bodies.append(make(rng, line, tuple(centre), radius, angle, shown, brightness))
    return bodies


def _resting(rng, line: CellLine, centre, radius, angle, labels, brightness) -> Body:
    elongation = max(1.0, line.elongation * rng.lognormal(0, 0.18))
    axes = (radius * np.sqrt(elongation), radius / np.sqrt(elongation))
    orders = np.arange(2, 8)
    waves = np.stack(
        [orders, rng.normal(0, line.ruffles, 6) / np.sqrt(orders - 1), rng.uniform(0, 2 * np.pi, 6)], axis=1
    )
    count = rng.poisson(line.spikes)
    spikes = np.stack(
        [
            rng.choice([0, np.pi], count) + rng.normal(0, 0.7, count),
            rng.uniform(0.2, 0.9, count),
            rng.uniform(8, 60, count),
        ],
        axis=1,
    )
    size = np.clip(radius * line.nucleus * rng.lognormal(0, 0.08), 3.8, 11.5)
    stretch = np.clip(elongation ** rng.uniform(0.3, 0.8), 1.05, 2.2)
    half = np.array([size * np.sqrt(stretch), size / np.sqrt(stretch)])
    half = np.minimum(half, 0.82 * np.asarray(axes))
    shift = rng.normal(0, 0.12, 2) * (np.asarray(axes) - half)
    cosine, sine = np.cos(angle), np.sin(angle)
    middle = (centre[0] + shift[0] * sine + shift[1] * cosine, centre[1] + shift[0] * cosine - shift[1] * sine)
    orders = np.arange(1, 6)
    wobble = rng.normal(0, 0.05, 5) / np.sqrt(orders)
    if rng.random() < 0.1:
        wobble[1] += rng.choice([-1, 1]) * 0.12  # a kidney or a peanut
    nucleus_waves = np.stack([orders, wobble, rng.uniform(0, 2 * np.pi, 5)], axis=1)
    nucleus = Outline(middle, tuple(half), angle + rng.normal(0, 0.15), nucleus_waves)
    beside = rng.uniform(0, 2 * np.pi)
    reach = half.mean() + rng.uniform(0.8, 2.0)
    centrosome = (middle[0] + reach * np.sin(beside), middle[1] + reach * np.cos(beside))
    return Body(Outline(centre, axes, angle, waves, spikes), nucleus, "", "", labels, brightness, centrosome)


def _dividing(rng, line: CellLine, centre, radius, angle, labels, brightness) -> Body:
    """A dividing cell is round; its chromatin is a plate across the spindle, which lies along `angle`."""
    round_radius = np.clip(0.62 * radius, 7.0, 11.0)
    phase = PHASES[rng.choice(3, p=(0.25, 0.5, 0.25))]
    stretch = 1.25 if phase == "anaphase" else rng.uniform(1.0, 1.1)
    axes = (round_radius * np.sqrt(stretch), round_radius / np.sqrt(stretch))
    waves = np.stack([np.arange(2, 5), rng.normal(0, 0.02, 3), rng.uniform(0, 2 * np.pi, 3)], axis=1)
    plate = {
        "prometaphase": (0.36, 0.42),
        "metaphase": (0.17, 0.55),
        "anaphase": (0.45, 0.42),
    }[phase]
    chromatin = Outline(centre, (plate[0] * round_radius, plate[1] * round_radius), angle, waves * [1, 4, 1])
    return Body(
        Outline(centre, axes, angle, waves),
        chromatin,
        "",
        phase,
        labels,
        brightness * [0.9, 1.7, 0.9],
        tuple(centre),
    )


def make_artefacts(rng: np.random.Generator, config: SyntheticConfig) -> list[Body]:
    """Draw dead cells (shrunken, bright, nucleus in pieces) and debris (bright specks that pass for a nucleus)."""
    scale = (config.field_um / 163.84) ** 2
    bodies = []
    for kind, mean in (("dead", config.dead), ("debris", config.debris)):
        for _ in range(rng.poisson(mean * scale)):
            centre = tuple(rng.uniform(-5, config.field_um + 5, 2))
            radius = rng.uniform(5, 8) if kind == "dead" else rng.uniform(2.0, 4.0)
            orders = np.arange(2, 6)
            waves = np.stack([orders, rng.normal(0, 0.09, 4), rng.uniform(0, 2 * np.pi, 4)], axis=1)
            stretch = rng.uniform(1, 1.6)
            outline = Outline(centre, (radius * stretch, radius), rng.uniform(0, np.pi), waves)
            share = rng.uniform(0.5, 0.7) if kind == "dead" else 0.85
            inner = Outline(centre, (share * radius * stretch, share * radius), outline.angle, waves)
            brightness = rng.lognormal(0.5, 0.4, 3) * (1, 1.3, 1)
            bodies.append(Body(outline, inner, kind, "", np.zeros(19, bool), brightness, centre))
    return bodies

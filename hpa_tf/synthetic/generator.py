"""One synthetic field of view: a function of the configuration and an index."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.ndimage import find_objects

from hpa_tf import cell_table
from hpa_tf.classes import NEGATIVE
from hpa_tf.errors import InputError
from hpa_tf.imaging.fields import FieldOfView
from hpa_tf.imaging.segmentation import Masks
from hpa_tf.synthetic import bodies as bodies_
from hpa_tf.synthetic import camera, stains, weak_labels
from hpa_tf.synthetic.config import CELL_LINES, FIELD_UM, CellLine, SyntheticConfig
from hpa_tf.synthetic.patterns import PATTERNS
from hpa_tf.synthetic.patterns.brush import Brush
from hpa_tf.synthetic.real import cells as real_cells
from hpa_tf.synthetic.real import picture
from hpa_tf.synthetic.real import scene as real_scene
from hpa_tf.synthetic.real.settings import REAL_LINES
from hpa_tf.synthetic.scene import MARGIN_UM, Scene, build

_ATTEMPTS = 30


class Style(NamedTuple):
    """What differs between the difficulties.

    Attributes:
        lines: Cell lines to draw from.
        place: (rng, config, line) -> centres and radii of the cells.
        make_cells: (rng, config, line, centres, radii, labels) -> bodies.
        build: (rng, line, bodies, field_um, um_per_px) -> scene.
        render: (scene, rng, config) -> counts [size, size, 4].
    """

    lines: tuple[CellLine, ...]
    place: Callable[..., tuple[np.ndarray, np.ndarray]]
    make_cells: Callable[..., list[bodies_.Body]]
    build: Callable[..., Scene]
    render: Callable[..., np.ndarray]


@dataclass(frozen=True)
class SyntheticField:
    """A field of view and everything that is true about it.

    Attributes:
        field: The picture.
        masks: Exact masks; artefacts are in them, as they are in those of an automatic segmenter.
        truth: Cell table, one row a mask number: classes (0 or 1), box, cut, artefact, mitotic, cell_line, area.
        image_labels: bool [K], the weak label.
    """

    field: FieldOfView
    masks: Masks
    truth: pd.DataFrame
    image_labels: np.ndarray


def image_id(config: SyntheticConfig, index: int) -> str:
    """Return the id of an image."""
    return f"synthetic-{config.seed}-{index:06d}"


def _rng_of(config: SyntheticConfig, index: int) -> np.random.Generator:
    """Return what an image is drawn by, its weak label first."""
    return np.random.default_rng([config.seed, index])


def image_labels_of(config: SyntheticConfig, index: int) -> np.ndarray:
    """Return the weak label of an image, bool [K], without making it."""
    return weak_labels.draw_image_labels(_rng_of(config, index), config)


def make(config: SyntheticConfig, index: int, image_labels: np.ndarray | None = None) -> SyntheticField:
    """Make image `index`.

    Args:
        config: What is drawn.
        index: Number of the image, from 0.
        image_labels: bool [K], to choose the weak label instead of drawing it.
    """
    rng = _rng_of(config, index)
    drawn = weak_labels.draw_image_labels(rng, config)
    image_labels = drawn if image_labels is None else np.asarray(image_labels, bool)
    style = STYLES[config.difficulty]
    line = bodies_.draw_cell_line(rng, style.lines)
    scene = _draw_scene(rng, config, style, line, image_labels)
    pixels = style.render(scene, rng, config)
    name = image_id(config, index)
    masks, kept = _masks_in_frame(scene, config)
    truth = _truth(name, masks, [scene.bodies[number - 1] for number in kept], line.name)
    return SyntheticField(FieldOfView(name, pixels, config.pixel_um), masks, truth, image_labels)


def _draw_scene(
    rng: np.random.Generator, config: SyntheticConfig, style: Style, line: CellLine, image_labels: np.ndarray
) -> Scene:
    """Place bodies until the frame shows as many cells as the configuration allows.

    Raises:
        InputError: Such a field was not found.
    """
    scale = (config.field_um / FIELD_UM[512]) ** 2
    least, most = max(1, int(config.cells[0] * min(scale, 1))), config.cells[1] * max(scale, 1)
    for _ in range(_ATTEMPTS):
        centres, radii = style.place(rng, config, line)
        labels = weak_labels.draw_cell_labels(rng, config, image_labels, len(centres))
        cells = style.make_cells(rng, config, line, centres, radii, labels)
        scene = style.build(rng, line, cells + bodies_.make_artefacts(rng, config), config.field_um, config.pixel_um)
        _, kept = _masks_in_frame(scene, config)
        if least <= sum(not scene.bodies[number - 1].artefact for number in kept) <= most:
            return scene
    raise InputError(
        "--cells",
        f"no field of {config.field_um:g} um with {least} to {most:g} {line.name} cells in {_ATTEMPTS} attempts",
        "a range that fits the size of field and cells",
        "widen --cells, or show a larger field with --um-per-px",
    )


def render(scene: Scene, rng: np.random.Generator, config: SyntheticConfig) -> np.ndarray:
    """Draw the four channels: uint8 or uint16 [size, size, 4]."""
    margin = round(MARGIN_UM / config.pixel_um)
    paths = stains.microtubule_paths(scene, rng, density=rng.uniform(0.15, 0.4))
    pictures = []
    for channel in ("red", "green", "blue", "yellow"):
        if channel == "red":
            stain = stains.red(scene, rng, paths)
        elif channel == "green":
            stain = green(scene, rng, paths)
        else:
            stain = stains.blue(scene, rng) if channel == "blue" else stains.yellow(scene, rng)
        exposure = camera.draw_exposure(rng, channel)
        pictures.append(camera.take_picture(stain, exposure, rng, config, margin))
    return np.stack(pictures, axis=-1)


def green(scene: Scene, rng: np.random.Generator, microtubules: list[np.ndarray]) -> np.ndarray:
    """Draw the protein of interest: float32 [H, W], exactly 0 in Negative cells."""
    labels = np.stack([body.labels for body in scene.bodies])
    expression = rng.lognormal(0, 0.25, len(labels))
    total = np.zeros(scene.shape, np.float32)
    for class_id in np.flatnonzero(labels[:, :NEGATIVE].any(0)):
        numbers = 1 + np.flatnonzero(labels[:, class_id])
        pattern = PATTERNS[class_id](Brush(scene, rng, numbers, microtubules))
        share = labels[:, class_id] * expression * rng.lognormal(0, 0.3) * rng.lognormal(0, 0.12, len(labels))
        total += np.clip(pattern, 0, 2.5) * scene.per_body(share)
    shown = labels[:, :NEGATIVE].any(1) * expression
    total += rng.uniform(0, 0.08) * np.abs(scene.grain(rng, 0.4)) * scene.per_body(shown)  # unspecific staining
    total *= np.clip(1 + rng.uniform(0.1, 0.4) * scene.grain(rng, 0.25), 0, None)  # antibodies come in grains
    artefact = np.array([bool(body.artefact) for body in scene.bodies])
    if artefact.any():
        glow = artefact * rng.uniform(0.0, 1.0, len(artefact))
        total += scene.per_body(glow) * np.clip(0.6 + 0.4 * scene.grain(rng, 1.0), 0, 2)
    return total


def _build_easy(rng, line: CellLine, bodies: list[bodies_.Body], field_um: float, um_per_px: float) -> Scene:
    return build(rng, bodies, field_um, um_per_px)


STYLES = {
    "easy": Style(CELL_LINES, bodies_.place, bodies_.make_cells, _build_easy, render),
    "real": Style(REAL_LINES, real_cells.place, real_cells.make_cells, real_scene.build, picture.render),
}


def _masks_in_frame(scene: Scene, config: SyntheticConfig) -> tuple[Masks, np.ndarray]:
    """Cut the frame out and renumber from 1; return the masks and, for each number, the body's number.

    A cell that reaches into the frame without enough of its nucleus (`SyntheticConfig.nucleus_in_frame`) has no mask:
    so it is in hand-corrected real masks.
    """
    margin = round(MARGIN_UM / config.pixel_um)
    frame = (slice(margin, margin + config.size),) * 2
    cell, nucleus = scene.cell[frame], scene.nucleus[frame]
    areas = np.bincount(cell.ravel(), minlength=len(scene.bodies) + 1) * config.pixel_um**2
    middles = np.array([body.nucleus.centre for body in scene.bodies])
    radii = np.sqrt([np.prod(body.nucleus.axes) for body in scene.bodies])
    inset = np.minimum(middles, config.field_um - middles).min(1)
    in_frame = (inset > 0) & (inset >= config.nucleus_in_frame * radii)
    kept = np.flatnonzero(in_frame & (areas[1:] >= config.least_area_um2)) + 1
    renumbered = np.zeros(len(scene.bodies) + 1, np.int32)
    renumbered[kept] = np.arange(1, len(kept) + 1)
    return Masks(nucleus=renumbered[nucleus], cell=renumbered[cell]), kept


def _truth(name: str, masks: Masks, bodies: list, line_name: str) -> pd.DataFrame:
    """Build the truth table of one image, a row a mask number."""
    count = len(bodies)
    boxes = np.array(
        [[rows.start, columns.start, rows.stop, columns.stop] for rows, columns in find_objects(masks.cell)]
    )
    border = np.concatenate([masks.cell[0], masks.cell[-1], masks.cell[:, 0], masks.cell[:, -1]])
    columns = {
        **dict(zip(("top", "left", "bottom", "right"), boxes.astype(np.int32).T, strict=True)),
        "area": np.bincount(masks.cell.ravel(), minlength=count + 1)[1:],
        "cut": np.isin(np.arange(1, count + 1), border),
        "artefact": [body.artefact for body in bodies],
        "mitotic": [bool(body.phase) for body in bodies],
        "cell_line": [line_name] * count,
    }
    labels = np.stack([body.labels for body in bodies]).astype(np.float32)
    return cell_table.from_values([name] * count, np.arange(1, count + 1), labels, columns)

"""What a synthetic data set holds, beside the same numbers of real images."""

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from hpa_tf import cell_table, files
from hpa_tf.classes import CHANNELS, CLASSES, NEGATIVE, NUM_CLASSES
from hpa_tf.errors import InputError, counted
from hpa_tf.synthetic import dataset
from hpa_tf.synthetic.config import (
    PENETRANCE,
    REAL_EXTRA_LABEL_CELLS,
    REAL_LABELS_PER_CELL,
    REAL_LABELS_PER_IMAGE,
    REAL_NEGATIVE_CELLS,
    TRAIN_IMAGES,
)

_REAL_CELLS_PER_IMAGE, _REAL_CUT, _REAL_COVERAGE = 15.4, 0.350, 0.519
"""Means over the hand-corrected masks of 164 real images (measured)."""
_QUANTILES = (0.5, 0.75, 0.9, 0.99, 0.999)
_PICTURE_PX = 512
"""Pictures are compared at this size, px: the light of a pixel depends on how much of the field it shows."""


def label_statistics(truth: np.ndarray, image_labels: np.ndarray) -> dict[str, float | np.ndarray]:
    """Compare what cells show with what their image says.

    Args:
        truth: bool [N, K], artefacts left out.
        image_labels: bool [N, K], the label of each cell's image.

    Returns:
        `labels_per_cell` (Negative counts as one), `negative` and `extra` shares of cells, `penetrance` [18]
        (NaN for a class in no image).
    """
    positive, weak = truth[:, :NEGATIVE], image_labels[:, :NEGATIVE]
    shown = (positive & weak).sum(0)
    return {
        "labels_per_cell": float(truth.sum(1).mean()),
        "negative": float(truth[:, NEGATIVE].mean()),
        "extra": float((positive & ~weak).any(1).mean()),
        "penetrance": np.where(weak.any(0), shown / np.maximum(weak.sum(0), 1), np.nan),
    }


def picture_statistics(find: Callable[[str], list[str]]) -> pd.DataFrame:
    """Measure the grey levels of pictures at 512 px.

    Args:
        find: Channel name -> files.

    Returns:
        One row a channel: mean, share of black pixels, quantiles (all as 0..255), share of saturated pixels.

    Raises:
        InputError: None of a channel's files is a grey picture.
    """
    rows = {}
    for channel in CHANNELS:
        paths = find(channel)
        measured = [values for values in map(_measure, paths) if values is not None]
        if not measured:
            found = f"{counted(len(paths), 'file')} of channel {channel}, of which none is a grey picture"
            fix = "save each channel as a grey picture of its own"
            raise InputError(paths[0] if paths else "--real", found, "at least one", fix)
        rows[channel] = np.mean(measured, axis=0)
    names = ["mean", "black", *(f"q{100 * q:g}" for q in _QUANTILES), "saturated"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=names)


def report(folder: str, real: str | None = None) -> str:
    """Return the tables that the command prints.

    Raises:
        InputError: `folder` is no finished synthetic data set, or `real` no folder with grey pictures.
    """
    made = dataset.read(folder)
    cells = made.truth[made.truth["artefact"] == ""]
    position = {name: row for row, name in enumerate(made.image_ids)}
    weak = made.image_labels[cells["image_id"].map(position)]
    numbers = label_statistics(cell_table.values(cells).astype(bool), weak)
    sections = [
        _summary(made, cells, numbers),
        _classes(made, numbers["penetrance"]),
        "Grey levels at 512 px (0..255), mean over images\n"
        + _pictures("synthetic", picture_statistics(lambda channel: _synthetic_pictures(folder, made, channel))),
    ]
    if real is not None:
        sections.append(_pictures("real", picture_statistics(lambda channel: _real_pictures(real, channel))))
    return "\n\n".join(sections)


def _summary(made: dataset.Dataset, cells: pd.DataFrame, numbers: dict) -> str:
    size, um = made.config["config"]["size"], made.config["um_per_px"]
    per_image = cells.groupby("image_id").size().reindex(made.image_ids, fill_value=0)
    coverage = made.truth.groupby("image_id")["area"].sum() / size**2
    artefacts = int((made.truth["artefact"] != "").sum())
    rows = [
        ("labels per image", made.image_labels.sum(1).mean(), REAL_LABELS_PER_IMAGE),
        ("labels per cell", numbers["labels_per_cell"], REAL_LABELS_PER_CELL),
        ("Negative cells", numbers["negative"], REAL_NEGATIVE_CELLS),
        ("cells with a label that the image lacks", numbers["extra"], REAL_EXTRA_LABEL_CELLS),
        ("cells per image", per_image.mean(), _REAL_CELLS_PER_IMAGE),
        ("cells cut by the frame", cells["cut"].groupby(cells["image_id"]).mean().mean(), _REAL_CUT),
        ("share of the field in masks", coverage.mean(), _REAL_COVERAGE),
    ]
    lines = [
        f"{len(made.image_ids)} images of {size} px at {um:g} um/px, {len(cells)} cells ({per_image.min()} to "
        f"{per_image.max()} an image), {artefacts} artefacts, {int(cells['mitotic'].sum())} dividing cells",
        f"{'':40}{'synthetic':>10}{'real':>8}",
    ]
    return "\n".join(lines + [f"{name:40}{value:10.3f}{reference:8.3f}" for name, value, reference in rows])


def _classes(made: dataset.Dataset, penetrance: np.ndarray) -> str:
    images = made.image_labels.sum(0)
    expected = np.asarray(TRAIN_IMAGES) / sum(TRAIN_IMAGES)
    lines = [f"{'class':44}{'images':>7}{'share':>7}{'real':>7}{'penetrance':>12}{'real':>6}"]
    for class_id in range(NUM_CLASSES):
        share = images[class_id] / max(images.sum(), 1)
        line = f"{class_id:2} {CLASSES[class_id]:41}{images[class_id]:7}{share:7.3f}{expected[class_id]:7.3f}"
        if class_id != NEGATIVE:
            line += f"{penetrance[class_id]:12.2f}{PENETRANCE[class_id]:6.2f}"
        lines.append(line)
    return "\n".join(lines)


def _pictures(name: str, table: pd.DataFrame) -> str:
    header = f"{name:10}" + "".join(f"{column:>10}" for column in table.columns)
    rows = [
        f"{channel:10}"
        + "".join(
            f"{value:10.3f}" if column in ("black", "saturated") else f"{value:10.1f}" for column, value in row.items()
        )
        for channel, row in table.iterrows()
    ]
    return "\n".join([header, *rows])


def _measure(path: str) -> np.ndarray | None:
    try:
        data = np.frombuffer(files.read_bytes(path), np.uint8)
    except OSError as error:
        found = f"a file that cannot be read ({error.strerror or error})"
        raise InputError(path, found, "a picture", "make the data set whole, or give another folder") from error
    pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if pixels is None or pixels.ndim != 2:
        return None
    if pixels.shape != (_PICTURE_PX, _PICTURE_PX):
        pixels = cv2.resize(pixels, (_PICTURE_PX, _PICTURE_PX), interpolation=cv2.INTER_AREA)
    grey = pixels.astype(np.float32) / (257 if pixels.dtype == np.uint16 else 1)
    ends = [(grey < 0.5).mean(), (grey >= 254.5).mean()]
    return np.array([grey.mean(), ends[0], *np.quantile(grey, _QUANTILES), ends[1]])


def _synthetic_pictures(folder: str, made: dataset.Dataset, channel: str) -> list[str]:
    return [files.join(folder, dataset.IMAGES, f"{name}_{channel}.png") for name in made.image_ids[:200]]


def _real_pictures(folder: str | os.PathLike, channel: str) -> list[str]:
    found = sorted(str(path) for path in Path(folder).rglob(f"[!.]*_{channel}.png"))
    if not found:
        raise InputError(folder, f"no *_{channel}.png", "a folder of real images", "give another --real")
    return found

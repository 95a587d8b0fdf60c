"""The contact sheet: what each class looks like, to be compared by eye with real images."""

import io
import os
from collections.abc import Iterator

import cv2
import numpy as np
from PIL import Image, ImageDraw

from hpa_tf import files
from hpa_tf.classes import BLUE, CLASSES, GREEN, NUM_CLASSES, RED
from hpa_tf.errors import InputError
from hpa_tf.progress import progress
from hpa_tf.synthetic.config import SyntheticConfig
from hpa_tf.synthetic.generator import SyntheticField, make

_TILE = 96
"""Edge of a picture on the sheet, px."""
_CAPTION = 14
_GAP = 2
_COLUMNS = 2
"""Classes beside each other."""


def write(out: str | os.PathLike, seed: int = 0, num_cells: int = 6) -> None:
    """Draw `num_cells` cells of each class that show nothing else, and write the sheet as PNG.

    Args:
        out: File to write.
        seed: Seed of the images.
        num_cells: Cells of each class; each from an image of its own.

    Raises:
        InputError: `num_cells` is below 1, or the file cannot be written.
    """
    if num_cells < 1:
        raise InputError("--num-cells", str(num_cells), "1 or more", "change the option")
    files.check_can_be_written("--out", out)
    blocks = [
        _block(name, [crop for _, crop in zip(range(num_cells), cells(class_id, seed), strict=False)])
        for class_id, name in enumerate(progress(CLASSES, desc="classes", unit="block"))
    ]
    blocks += [np.zeros_like(blocks[0])] * (-len(blocks) % _COLUMNS)
    rows = len(blocks) // _COLUMNS
    page = np.hstack([np.vstack(blocks[column * rows : (column + 1) * rows]) for column in range(_COLUMNS)])
    stream = io.BytesIO()
    Image.fromarray(page).quantize(160, dither=Image.Dither.NONE).save(stream, format="PNG", optimize=True)
    files.write_bytes(out, stream.getvalue())


def cells(class_id: int, seed: int) -> Iterator[np.ndarray]:
    """Yield crops uint8 [tile, tile, 4] of whole cells that show `class_id` alone, each from another image."""
    config = SyntheticConfig(size=1024, seed=seed, penetrance=(0.9,) * 18, extra_label=0.0, debris=0, dead=0)
    labels = np.arange(NUM_CLASSES) == class_id
    index = 0
    while True:
        made = make(config, 1000 * class_id + index, labels)
        index += 1
        table = made.truth
        wanted = table[(table[CLASSES[class_id]] == 1) & ~table["cut"]]
        if len(wanted):
            row = wanted.iloc[len(wanted) // 2]
            yield _crop(made, row)


def _crop(made: SyntheticField, row) -> np.ndarray:
    """Cut a square around a cell, scaled to a tile; dark channels are stretched, green at most sixfold."""
    size = max(row.bottom - row.top, row.right - row.left) + 16
    middle = ((row.top + row.bottom) // 2, (row.left + row.right) // 2)
    padded = np.pad(made.field.pixels, ((size, size), (size, size), (0, 0)))
    top, left = middle[0] + size - size // 2, middle[1] + size - size // 2
    crop = padded[top : top + size, left : left + size].astype(np.float32)
    for channel in (RED, GREEN, BLUE):
        bright = np.percentile(crop[..., channel], 99.8)
        crop[..., channel] *= np.clip(230 / max(bright, 1), 0.5, 6 if channel == GREEN else 3)
    return cv2.resize(np.clip(crop, 0, 255).astype(np.uint8), (_TILE, _TILE), interpolation=cv2.INTER_AREA)


def _block(name: str, crops: list[np.ndarray]) -> np.ndarray:
    """Lay the crops of one class out: a caption, a row of composites, a row of green alone."""
    width = len(crops) * (_TILE + _GAP) + 4
    block = np.zeros((_CAPTION + 2 * (_TILE + _GAP), width, 3), np.uint8)
    caption = Image.fromarray(block)
    ImageDraw.Draw(caption).text((2, 1), name, fill=(255, 255, 255))
    block = np.array(caption)
    for position, crop in enumerate(crops):
        left = position * (_TILE + _GAP)
        for line, picture in enumerate((crop[..., [RED, GREEN, BLUE]], np.repeat(crop[..., [GREEN]], 3, axis=2))):
            top = _CAPTION + line * (_TILE + _GAP)
            block[top : top + _TILE, left : left + _TILE] = picture
    return block

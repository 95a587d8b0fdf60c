"""What the report shows of one image: its overlay, and a strip of small pictures for each cell.

Kept in `OUT/parts/{ID}.cards.npz` until the report is written; pictures only, as JPEG bytes.
"""

import io
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from hpa_tf import files
from hpa_tf.classes import GREEN
from hpa_tf.errors import InputError
from hpa_tf.imaging import pictures
from hpa_tf.imaging.cells import THIS_CELL, THIS_NUCLEUS
from hpa_tf.prediction.result_files import part_path
from hpa_tf.prediction_folder import PARTS

TILE_SIZE = 112
"""Side of a cell's picture in the report, px."""

_QUALITY = 82
_CHANNEL_TINTS = np.array([(1, 0.25, 0.2), (0.25, 1, 0.25), (0.35, 0.5, 1), (1, 0.9, 0.2)], np.float32)


@dataclass(frozen=True)
class Cards:
    """What the first network saw of an image's N cells; None where there are no cells.

    Attributes:
        thumbnails: uint8 [N, T, T, 4], the prepared crops.
        heat: float32 [N, h, w] in 0..1 where its most probable class comes from; None for a network without maps.
        heat_class: int32 [N] that class.
    """

    thumbnails: np.ndarray | None = None
    heat: np.ndarray | None = None
    heat_class: np.ndarray | None = None


@dataclass(frozen=True)
class Pictures:
    """An image's pictures as JPEG bytes: the overlay, a strip a cell; and the class of each heat map, -1 = none."""

    overlay: bytes
    strips: tuple[bytes, ...]
    heat_class: np.ndarray


def thumbnail(crop: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Return a cell alone in the middle of a square, uint8 [T, T, 4].

    Args:
        crop: uint8 or uint16 [H, W, 4], counts.
        region: uint8 [H, W], its region map.
    """
    inside = (region == THIS_CELL) | (region == THIS_NUCLEUS)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    pixels = crop[box] * inside[box][..., None]
    side = max(pixels.shape[:2])
    above, before = (side - pixels.shape[0]) // 2, (side - pixels.shape[1]) // 2
    square = np.zeros((side, side, 4), np.float32)
    square[above : above + pixels.shape[0], before : before + pixels.shape[1]] = pixels
    small = cv2.resize(square, (TILE_SIZE,) * 2, interpolation=cv2.INTER_AREA)
    return np.rint(small * (255 / np.iinfo(crop.dtype).max)).astype(np.uint8)


def cards_path(out: str, image_id: str) -> str:
    """Return the path of an image's pictures for the report."""
    return files.join(out, PARTS, f"{image_id}.cards.npz")


def write_cards(out: str, image_id: str, overlay: np.ndarray, table: pd.DataFrame, cards: Cards) -> None:
    """Draw and write an image's pictures for the report.

    Args:
        out: Folder of the results.
        image_id: The image.
        overlay: uint8 [h, w, 3].
        table: Its cells.
        cards: What the network saw of them.
    """
    strips = [strip(cards, cell) for cell in range(len(table))]
    heat_class = np.full(len(table), -1, np.int32) if cards.heat_class is None else cards.heat_class
    encoded = [np.frombuffer(_jpeg(picture), np.uint8) for picture in [overlay, *strips]]
    stream = io.BytesIO()
    ends = np.cumsum([len(data) for data in encoded])
    np.savez(stream, data=np.concatenate(encoded), ends=ends, heat_class=heat_class)
    files.write_bytes(cards_path(out, image_id), stream.getvalue())


def read_cards(out: str, image_id: str) -> Pictures:
    """Read an image's pictures for the report.

    Raises:
        InputError: They are missing or damaged.
    """
    path = cards_path(out, image_id)
    try:
        with np.load(io.BytesIO(files.read_bytes(path)), allow_pickle=False) as stored:
            pieces = np.split(stored["data"], stored["ends"][:-1])
            overlay, *strips = (piece.tobytes() for piece in pieces)
            return Pictures(overlay, tuple(strips), stored["heat_class"])
    except files.DAMAGED_NPZ as error:
        fix = f"remove it and {part_path(out, image_id)}, and run the same prediction again"
        raise InputError(path, f"pictures that cannot be read ({error})", "the image's pictures", fix) from error


def strip(cards: Cards, cell: int) -> np.ndarray:
    """Return a cell's four channels and its heat map side by side: uint8 [T, 5 T, 3] (4 T without heat map)."""
    pixels = cards.thumbnails[cell]
    tiles = [
        (pictures.stretch(pixels[..., channel], 0, 99.8)[..., None] * tint).astype(np.uint8)
        for channel, tint in enumerate(_CHANNEL_TINTS)
    ]
    if cards.heat is not None:
        heat = cv2.resize(cards.heat[cell], pixels.shape[:2], interpolation=cv2.INTER_LINEAR)
        tiles.append(pictures.heat_map(pixels[..., GREEN], heat * pixels.any(axis=-1)))  # not where all is black
    return np.concatenate(tiles, axis=1)


def _jpeg(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="JPEG", quality=_QUALITY)
    return stream.getvalue()

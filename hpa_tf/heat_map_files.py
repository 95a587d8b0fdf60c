"""heat_maps/{ID}.npz: where in each cell of an image the network saw the cell's most probable class.

cell      int32 [N]         number of the cell in its mask
class_id  int32 [N]         the class that the map is of
heat      uint8 [N, h, w]   the map, 0..255, over a square around the cell: the one that the network saw or, of a
                            network that sees whole fields, the cell's tight box padded to a square
square    int32 [N, 4]      that square in the image: top, left, bottom, right, px, half-open; may reach out of it
"""

import io
import os
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd

from hpa_tf import files
from hpa_tf.errors import InputError

FOLDER = "heat_maps"
CUT = 32
"""Places a side of a map that is cut out of that of a field: more than its places of stride 8 over most cells."""
_NAMES = ("cell", "class_id", "heat", "square")


@dataclass(frozen=True)
class HeatMaps:
    """The maps of an image's N cells; see the module."""

    cell: np.ndarray
    class_id: np.ndarray
    heat: np.ndarray
    square: np.ndarray

    def in_box(self, index: int, box: tuple[int, int, int, int]) -> np.ndarray:
        """Return a cell's map over a box of the image, float32 [bottom - top, right - left] in 0..1, bilinear.

        Args:
            index: Of the cell here.
            box: top, left, bottom, right, px; outside the square the map is 0.
        """
        top, left, bottom, right = (int(side) for side in self.square[index])
        side = max(bottom - top, right - left)
        full = cv2.resize(self.heat[index].astype(np.float32) / 255, (side, side), interpolation=cv2.INTER_LINEAR)
        found = np.zeros((box[2] - box[0], box[3] - box[1]), np.float32)
        rows = max(box[0], top), min(box[2], top + side)
        columns = max(box[1], left), min(box[3], left + side)
        if rows[0] < rows[1] and columns[0] < columns[1]:
            part = full[rows[0] - top : rows[1] - top, columns[0] - left : columns[1] - left]
            found[rows[0] - box[0] : rows[1] - box[0], columns[0] - box[1] : columns[1] - box[1]] = part
        return found


@dataclass(frozen=True)
class SeenSquare:
    """How a network's view of a single cell makes a square of its tight box: see `hpa_tf.views.crop`.

    Attributes:
        grows: The box grows to a square of the image's own pixels; else it is padded.
        margin: Pixels of the image kept on each side.
        stored: Pixels around the tight box that the crop has at all.
    """

    grows: bool
    margin: int
    stored: int

    def of(self, table: pd.DataFrame) -> np.ndarray:
        """Return the squares of cells, int32 [N, 4].

        Args:
            table: top, left, bottom, right of each cell's tight box, height and width of the image, px.
        """
        box = table[["top", "left", "bottom", "right"]].to_numpy(np.int64)
        size = table[["height", "width"]].to_numpy(np.int64)
        low, high = box[:, :2], box[:, 2:]
        least, most = np.maximum(low - self.stored, 0), np.minimum(high + self.stored, size)
        if self.grows:
            side = (high - low).max(axis=1, initial=0, keepdims=True)
            low = low - (side - (high - low)) // 2
            high = low + side
        if self.grows or self.margin:
            low, high = np.maximum(low - self.margin, least), np.minimum(high + self.margin, most)
        side = (high - low).max(axis=1, initial=0, keepdims=True)
        start = low - (side - (high - low)) // 2
        return np.concatenate([start, start + side], axis=1).astype(np.int32)


TIGHT = SeenSquare(grows=False, margin=0, stored=0)
"""The tight box, padded to a square."""


def cut_from_fields(heat: np.ndarray, table: pd.DataFrame) -> np.ndarray:
    """Cut each cell's square out of its map of the whole field, bilinear; each is scaled to a maximum of 1.

    Args:
        heat: float32 [N, h, h], over the square that the image's longer side fills (`hpa_tf.imaging.squares`).
        table: As of `SeenSquare.of`.

    Returns:
        float32 [N, CUT, CUT] over the squares of `TIGHT`; 0 where it was nowhere positive.
    """
    places, squares = heat.shape[1], TIGHT.of(table)
    scale = places / table[["height", "width"]].to_numpy().max(axis=1, initial=1)
    step = (np.arange(CUT) + 0.5) / CUT
    rows, columns = (
        _bilinear((start[:, None] + step * (end - start)[:, None]) * scale[:, None] - 0.5, places)
        for start, end in ((squares[:, 0], squares[:, 2]), (squares[:, 1], squares[:, 3]))
    )
    found = rows @ heat @ columns.transpose(0, 2, 1)
    most = found.max(axis=(1, 2), keepdims=True, initial=0)
    return np.divide(found, most, out=np.zeros_like(found), where=most > 0)


def _bilinear(at: np.ndarray, places: int) -> np.ndarray:
    """Return the weights float32 [N, T, places] of a map's places at points [N, T], in places; beyond the edge it."""
    at = np.clip(at, 0, places - 1)
    return np.maximum(0, 1 - np.abs(at[..., None] - np.arange(places))).astype(np.float32)


def path_of(folder: str | os.PathLike, image_id: str) -> str:
    """Return the path of an image's maps below a folder of predictions."""
    return files.join(folder, FOLDER, f"{image_id}.npz")


def write(folder: str | os.PathLike, image_id: str, maps: HeatMaps) -> None:
    """Write the maps of an image; the file appears whole."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **{name: getattr(maps, name) for name in _NAMES})
    files.write_bytes(path_of(folder, image_id), stream.getvalue())


def read(folder: str | os.PathLike, image_id: str) -> HeatMaps:
    """Read the maps of an image.

    Raises:
        InputError: They are missing or damaged.
    """
    path = path_of(folder, image_id)
    fix = "python predict.py --heat-maps into a new --out writes them"
    try:
        with np.load(io.BytesIO(files.read_bytes(path)), allow_pickle=False) as stored:
            maps = HeatMaps(*(stored[name] for name in _NAMES))
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "the heat maps of an image", fix) from error
    except files.DAMAGED_NPZ as error:
        raise InputError(path, f"heat maps that cannot be read ({error})", "the heat maps of an image", fix) from error
    count = len(maps.cell)
    shapes = maps.class_id.shape == (count,) and maps.square.shape == (count, 4) and maps.heat.ndim == 3
    if not shapes or len(maps.heat) != count or maps.heat.dtype != np.uint8:
        raise InputError(path, "arrays of other shapes", "the heat maps of an image", fix)
    return maps

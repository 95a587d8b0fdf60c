"""A cell in its field of view, with its outline: from the field's record, or pasted from the crops of its cells."""

import threading
from collections import OrderedDict
from dataclasses import dataclass

import cv2
import numpy as np

from hpa_tf import files, framing, records
from hpa_tf.data_folder import repair_of
from hpa_tf.encoding import decode_picture, picture_shape
from hpa_tf.errors import InputError
from hpa_tf.grading.cells import MAX_PIXELS, Cells
from hpa_tf.imaging.cells import is_cell
from hpa_tf.imaging.pictures import composite, draw_outlines, shrink, shrink_mask

_KEPT_IMAGES = 24


@dataclass(frozen=True)
class _Picture:
    """A field of view for the eye: RGB uint8 [h, w, 3], and the scale from its original pixels."""

    rgb: np.ndarray
    scale: float


class ContextPictures:
    """Draws fields of view; the last few stay in memory, since cells of one image may come close to each other."""

    def __init__(self, cells: Cells, max_size: int = 640):
        """Args: cells: The cells. max_size: Longest side of a picture, px."""
        self._cells, self._max_size = cells, max_size
        self._kept: OrderedDict[int, _Picture] = OrderedDict()
        self._offsets: dict[str, dict[str, int]] = {}
        self._lock = threading.Lock()
        order = np.argsort(cells.image, kind="stable")
        ends = np.searchsorted(cells.image[order], np.arange(len(cells.image_ids) + 1))
        self._rows_of = lambda image: order[ends[image] : ends[image + 1]].tolist()

    def jpeg(self, row: int) -> bytes:
        """Return the field of view of a row's cell with the cell's outline.

        Raises:
            InputError: A record is damaged.
        """
        try:
            return self._drawn(row)
        except InputError:
            raise
        except (OSError, ValueError) as error:
            image_id, cell = self._cells.key(row)
            where = f"{self._cells.folder}, image {image_id!r} cell {cell}"
            what, fix = "its cells and its field of view", repair_of(self._cells.folder)
            raise InputError(where, f"no intact records ({error})", what, fix) from error

    def _drawn(self, row: int) -> bytes:
        image = int(self._cells.image[row])
        with self._lock:
            picture = self._kept.get(image)
            if picture is None:
                picture = self._from_field(image) or self._from_crops(image)
                self._kept[image] = picture
                if len(self._kept) > _KEPT_IMAGES:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(image)
        record = self._cells.record(row)
        region = decode_picture(record["region"])
        mask = np.zeros(picture.rgb.shape[:2], np.uint8)
        _paste(mask, shrink_mask(is_cell(region), _side(region, picture.scale)),
               record["crop_box"], picture.scale)  # fmt: skip
        drawn = draw_outlines(picture.rgb, mask, thickness=2)
        return cv2.imencode(".jpg", drawn[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()

    def _from_field(self, image: int) -> _Picture | None:
        cells = self._cells
        shard = cells.field_shards.get(cells.shards[cells.shard[self._rows_of(image)[0]]])
        if shard is None:
            return None
        if shard not in self._offsets:
            self._offsets[shard] = self._index(shard)
        offset = self._offsets[shard].get(cells.image_ids[image])
        if offset is None:
            return None
        data = framing.read_frame_at(files.join(cells.folder, shard), offset) or b""
        record = records.decode(data, records.IMAGE_FIELDS)
        height, width, _, channels = picture_shape(record["image"])
        if height * width > MAX_PIXELS or channels != 4:
            raise InputError(shard, f"a field of {height} x {width} px", f"at most {MAX_PIXELS} px", "build again")
        original_height, original_width = record["image_size"]
        stored = height / max(original_height, original_width)  # the longer side fills the square, the rest is zero
        pixels = decode_picture(record["image"])
        pixels = pixels[: max(1, round(original_height * stored)), : max(1, round(original_width * stored))]
        small = shrink(pixels, self._max_size)
        return _Picture(composite(small), small.shape[0] / original_height)

    def _index(self, shard: str) -> dict[str, int]:
        """Return the offset of each image's record; reads the shard once."""
        offsets, offset = {}, 0
        with files.open_file(files.join(self._cells.folder, shard)) as stream:
            for data in framing.read_frames(stream, shard):
                offsets[records.decode(data, records.IMAGE_FIELDS)["image_id"].decode()] = offset
                offset += len(data) + framing.OVERHEAD
        return offsets

    def _from_crops(self, image: int) -> _Picture:
        found = [self._cells.record(row) for row in self._rows_of(image)]
        height, width = (int(side) for side in found[0]["image_size"])
        scale = min(1.0, self._max_size / max(height, width))
        canvas = None
        for record in found:
            crop, region = decode_picture(record["crop"]), decode_picture(record["region"])
            side = _side(region, scale)
            crop, inside = shrink(crop, side), shrink_mask(is_cell(region), side) > 0
            if canvas is None:
                canvas = np.zeros((max(1, round(height * scale)), max(1, round(width * scale)), 4), crop.dtype)
            _paste(canvas, crop, record["crop_box"], scale, inside)
        return _Picture(composite(canvas), scale)


def _side(region: np.ndarray, scale: float) -> int:
    return max(1, round(max(region.shape) * scale))


def _paste(
    canvas: np.ndarray, tile: np.ndarray, box: np.ndarray, scale: float, inside: np.ndarray | None = None
) -> None:
    """Write a tile into a canvas where its crop lies, cut at the frame; only the pixels `inside`."""
    top, left = (max(0, round(int(side) * scale)) for side in box[:2])
    window = canvas[top : top + tile.shape[0], left : left + tile.shape[1]]
    tile = tile[: window.shape[0], : window.shape[1]]
    if inside is None:
        inside = tile > 0
    chosen = inside[: window.shape[0], : window.shape[1]]
    window[chosen] = tile[chosen]

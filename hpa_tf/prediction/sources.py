"""Where cells come from: fields of view with a segmenter, or shards. Runs in worker processes, without TensorFlow."""

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import cv2
import numpy as np
import pandas as pd

from hpa_tf import cell_table, files, framing, records, submission
from hpa_tf.encoding import decode_picture
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.imaging import pictures, run_length
from hpa_tf.imaging.brightness import brightness
from hpa_tf.imaging.cells import THIS_CELL, THIS_NUCLEUS, Measurements, cut_cells
from hpa_tf.imaging.fields import DEFAULT_UM_PER_PX, MAX_PIXELS, FieldFiles, FieldOfView, find_fields, read_field
from hpa_tf.imaging.segmentation import Masks, Segmenter

BOX = ("top", "left", "bottom", "right")
MEASURED = (*BOX, "height", "width", "um_per_px", "bits", *Measurements.__dataclass_fields__)
"""Columns of a field's table beside image_id and cell."""


@dataclass(frozen=True)
class FieldCells:
    """The cells of one field of view.

    Attributes:
        image_id: Its name.
        height: px.
        width: px.
        table: One row a cell: image_id, cell and the columns `MEASURED`.
        crops: uint8 or uint16 [H, W, 4] of each cell, counts.
        regions: uint8 [H, W] region map of each cell.
        mask_texts: Each cell's mask as the submission writes it.
        picture: uint8 [h, w, 3], small, for the overlay; None if none is wanted.
        outline_mask: int32 [h, w] cell mask of the picture's size; None without picture.
        seconds: Time that each stage took, s.
        warnings: What is unusual about the field.
        brightness: 99.9th percentile of each channel as a share of full scale, NaN = blank; None where not measured.
    """

    image_id: str
    height: int
    width: int
    table: pd.DataFrame
    crops: tuple[np.ndarray, ...]
    regions: tuple[np.ndarray, ...]
    mask_texts: tuple[str, ...]
    picture: np.ndarray | None
    outline_mask: np.ndarray | None
    seconds: dict[str, float]
    warnings: tuple[str, ...] = ()
    brightness: tuple[float, ...] | None = None


def is_in_part(image_id: str, index: int, count: int) -> bool:
    """Tell whether an image belongs to part `index` of `count`: a hash of its id, equal on every machine."""
    return int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8]) % count == index


@dataclass(frozen=True)
class Source:
    """Images to predict, in order; `load(task(i))` gives the cells of image i.

    Attributes:
        image_ids: Sorted.
        task: What a worker needs to know about image i; called in the main process.
        load: Reads the cells; picklable, called in workers.
        stamps: Digest, by image, of the state of the files that it is read from: another state, another digest.
    """

    image_ids: tuple[str, ...]
    task: Callable[[int], Any]
    load: Callable[[Any], FieldCells]
    stamps: Mapping[str, str] = field(default_factory=dict)


def image_source(
    folder: str,
    part: tuple[int, int],
    reader: "ImageReader",
    masks: str | None = None,
    patterns: Sequence[str | None] = (),
) -> Source:
    """List the fields of view of one part of a folder.

    Args:
        folder: Images.
        part: (i, n): part i of n.
        reader: Reads, segments and cuts one of them.
        masks: Folder of the masks that the reader's segmenter reads, if it reads any.
        patterns: Their names.

    Raises:
        InputError: See `find_fields`.
    """
    fields = tuple(field for field in find_fields(folder) if is_in_part(field.image_id, *part))
    ids = tuple(field.image_id for field in fields)
    images, of_masks = files.list_stamps(folder), files.stamps_by_id(masks, ids, patterns) if masks else {}
    stamps = {}
    for one in fields:
        names = sorted(path.replace("\\", "/").rsplit("/", 1)[-1] for path in one.paths.values())
        own = [(name, *images.get(name, (0, "gone"))) for name in names]
        stamps[one.image_id] = _digest([own, of_masks.get(one.image_id, [])])
    return Source(ids, fields.__getitem__, reader, stamps)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]


def shard_source(folder: str, fold: int | None, part: tuple[int, int], picture_size: int) -> Source:
    """List the images in the shards of a data folder, of all folds or of one; those without cells do not occur.

    Raises:
        InputError: The folder is no finished data folder, or has no such fold.
    """
    manifest = records.read_manifest(folder)
    table = cell_table.read(files.join(folder, records.CELL_TABLE_NAME))
    if fold is not None:
        if not 0 <= fold < manifest.num_folds:
            raise InputError("--fold", str(fold), f"0 to {manifest.num_folds - 1}", "choose one of the data's folds")
        table = table[table["fold"] == fold]
    _check_sizes(folder, manifest.shards_of("cells", None if fold is None else [fold]))
    columns = ["image_id", "cell", *MEASURED, "shard", "offset"]
    if missing := set(columns) - set(table.columns):
        where = files.join(folder, records.CELL_TABLE_NAME)
        raise InputError(where, f"no columns {sorted(missing)}", "the builder's columns", "build the data again")
    images = {image_id: rows.index for image_id, rows in table[columns].groupby("image_id", sort=True)}
    ids = tuple(image_id for image_id in images if is_in_part(image_id, *part))
    shards = {shard.name: shard.sha256 for shard in manifest.shards}
    names = table.groupby("image_id")["shard"].unique()
    stamps = {image_id: _digest([shards.get(name) for name in names[image_id]]) for image_id in ids}
    reader = ShardReader(str(folder), picture_size)
    return Source(ids, lambda i: table.loc[images[ids[i]], columns], reader, stamps)


def _check_sizes(folder: str, shards: Sequence[records.Shard]) -> None:
    """Refuse shards whose size is not the manifest's, before hours of prediction; one listing.

    Raises:
        InputError: Names the first.
    """
    found = files.list_stamps(folder)
    for shard in shards:
        size = found[shard.name][0] if shard.name in found else None
        if size != shard.num_bytes:
            fix = f"python -m tfrecords_builder verify {folder}, then repair"
            what = "no such file" if size is None else f"{size} bytes"
            raise InputError(files.join(folder, shard.name), what, f"a shard of {shard.num_bytes} bytes", fix)


@dataclass(frozen=True)
class ImageReader:
    """Reads, segments and cuts one field of view.

    Attributes:
        segmenter: Finds the cells.
        um_per_px: Micrometres per pixel.
        max_pixels: Larger images are refused.
        margin: Pixels kept around each cell's tight box.
        picture_size: Larger side of the picture, px; 0 = no picture.
        full_scale: Largest count of the camera; None = that of the files.
    """

    segmenter: Segmenter
    um_per_px: float = DEFAULT_UM_PER_PX
    max_pixels: int = MAX_PIXELS
    margin: int = 0
    picture_size: int = 0
    full_scale: int | None = None

    def __call__(self, field_files: FieldFiles) -> FieldCells:
        """Return the cells of one field of view.

        Raises:
            InputError: The field or its masks cannot be used.
        """
        times = [time.perf_counter()]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", HpaWarning)
            field = read_field(field_files, self.um_per_px, self.max_pixels, self.full_scale)
            times.append(time.perf_counter())
            masks = self.segmenter(field)
            times.append(time.perf_counter())
        cells = field_cells(field, masks, self.margin, self.picture_size)
        times.append(time.perf_counter())
        seconds = dict(zip(("read", "segment", "cut"), np.diff(times).tolist(), strict=True))
        texts, light = tuple(str(warning.message) for warning in caught), tuple(brightness(field.pixels).tolist())
        return replace(cells, seconds=seconds, warnings=texts, brightness=light)


def field_cells(field: FieldOfView, masks: Masks, margin: int = 0, picture_size: int = 0) -> FieldCells:
    """Cut and measure the cells of a field of view in memory.

    Args:
        field: Pixels [H, W, 4].
        masks: int32 [H, W] each.
        margin: Pixels kept around each cell's tight box.
        picture_size: Larger side of the picture, px; 0 = no picture.
    """
    cells = list(cut_cells(field, masks, margin))
    texts = _mask_texts(masks.cell)
    picture, outline_mask = _picture(field.pixels, masks.cell, picture_size)
    height, width = masks.cell.shape
    image = {"height": height, "width": width, "um_per_px": field.um_per_px, "bits": field.bits}
    rows = [{**dict(zip(BOX, cell.box, strict=True)), **image, **asdict(cell.measurements)} for cell in cells]
    return FieldCells(
        field.image_id,
        height,
        width,
        _table(field.image_id, [cell.number for cell in cells], rows),
        tuple(cell.crop for cell in cells),
        tuple(cell.region for cell in cells),
        tuple(texts[cell.number] for cell in cells),
        picture,
        outline_mask,
        {},
    )


@dataclass(frozen=True)
class ShardReader:
    """Reads the cells of one image from TFRecord shards.

    Attributes:
        folder: Data folder.
        picture_size: Larger side of the picture, px; 0 = no picture. Pixels beside the stored crops are black.
    """

    folder: str
    picture_size: int = 0

    def __call__(self, rows: pd.DataFrame) -> FieldCells:
        """Return the cells of one image.

        Args:
            rows: Its rows of the data folder's cell table.

        Raises:
            InputError: A shard is missing or damaged.
        """
        start = time.perf_counter()
        rows = rows.sort_values("cell")
        image_id, height, width = rows["image_id"].iloc[0], int(rows["height"].iloc[0]), int(rows["width"].iloc[0])
        found = [
            _read_record(files.join(self.folder, shard), offset)
            for shard, offset in zip(rows["shard"], rows["offset"].tolist(), strict=True)
        ]
        numbers = rows["cell"].tolist()
        if [(record["image_id"].decode(), record["cell"]) for record in found] != [(image_id, n) for n in numbers]:
            expected = "the records that cells.parquet names"
            raise InputError(self.folder, f"other cells of image {image_id}", expected, "build the data again")
        decoded = [_decode_pictures(record, image_id) for record in found]
        pixels, mask = _paste(found, decoded, height, width, with_pixels=self.picture_size > 0)
        texts = _mask_texts(mask)
        picture, outline_mask = _picture(pixels, mask, self.picture_size)
        return FieldCells(
            image_id,
            height,
            width,
            _table(image_id, numbers, rows[list(MEASURED)].to_dict("records")),
            tuple(crop for crop, _ in decoded),
            tuple(region for _, region in decoded),
            tuple(texts[number] for number in numbers),
            picture,
            outline_mask,
            {"read": time.perf_counter() - start},
        )


def _mask_texts(mask: np.ndarray) -> dict[int, str]:
    return {number: submission.encode_text(rle) for number, rle in run_length.encode_cells(mask).items()}


def _table(image_id: str, numbers: Sequence[int], rows: list[dict]) -> pd.DataFrame:
    """Return one row a cell with fixed column types, so that images without cells give the same schema."""
    floats = {"um_per_px", "border_ud", "border_lr"}
    columns = {
        name: np.array([row[name] for row in rows], np.float64 if name in floats else np.int64) for name in MEASURED
    }
    keys = {"image_id": pd.Series([image_id] * len(rows), dtype="str"), "cell": np.array(numbers, np.int32)}
    return pd.DataFrame({**keys, **columns})


def _picture(pixels: np.ndarray, mask: np.ndarray, size: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    if size == 0:
        return None, None
    picture, outline_mask = pictures.composite(pictures.shrink(pixels, size)), pictures.shrink_mask(mask, size)
    factor = size // max(mask.shape)
    if factor > 1:  # captions need room
        wide = (mask.shape[1] * factor, mask.shape[0] * factor)
        picture = cv2.resize(picture, wide, interpolation=cv2.INTER_LINEAR)
        outline_mask = np.repeat(np.repeat(outline_mask, factor, axis=0), factor, axis=1)
    return picture, outline_mask


# -- records ----------------------------------------------------------------------------------------------------------


def _read_record(path: str, offset: int) -> dict:
    """Read the record that begins at byte `offset`, its checksums verified."""
    try:
        with files.open_file(path) as stream:
            stream.seek(offset)
            return records.decode(next(framing.read_frames(stream, path)))
    except (FileNotFoundError, StopIteration, ValueError) as error:
        if isinstance(error, InputError):
            raise
        found = f"no cell record at byte {offset} ({error or 'end of file'})"
        raise InputError(path, found, "the record that cells.parquet names", "build the data again") from error


def _decode_pictures(record: dict, image_id: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (crop [H, W, 4], region [H, W]) of a record."""
    try:
        crop, region = (decode_picture(record[name]) for name in ("crop", "region"))
        if crop.ndim != 3 or region.shape != crop.shape[:2]:
            raise ValueError(f"a crop of {crop.shape} and a region map of {region.shape}")
        return crop, region
    except ValueError as error:
        where = f"image {image_id}, cell {record['cell']}"
        found = f"damaged pictures in its record ({error})"
        raise InputError(where, found, "two pictures", "python -m tfrecords_builder verify") from error


def _paste(
    found: list[dict], decoded: list[tuple[np.ndarray, np.ndarray]], height: int, width: int, with_pixels: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Put an image together again from its cells: pixels (black where no crop reaches) and cell mask."""
    mask = np.zeros((height, width), np.int32)
    pixels = np.zeros((height, width, 4) if with_pixels else (0, 0, 4), decoded[0][0].dtype)
    for record, (crop, region) in zip(found, decoded, strict=True):
        top, left, bottom, right = (int(side) for side in record["crop_box"])
        mask[top:bottom, left:right][(region == THIS_CELL) | (region == THIS_NUCLEUS)] = record["cell"]
        if with_pixels:
            pixels[top:bottom, left:right] = crop
    return pixels, mask

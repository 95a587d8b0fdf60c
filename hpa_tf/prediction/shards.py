"""Cells of images that are in TFRecord shards. Runs in worker processes, without TensorFlow."""

import time
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hpa_tf import files, framing, records
from hpa_tf.data_folder import check_shards, index_of, read_cells, read_images, repair_of
from hpa_tf.encoding import decode_picture
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.image_table import ADD_FIELDS
from hpa_tf.imaging.cells import BOX, MEASURED, is_cell
from hpa_tf.imaging.squares import Shrunk, Square, squares_of
from hpa_tf.parts import is_in_part
from hpa_tf.prediction.aside import NO_PICTURES, Pictures
from hpa_tf.prediction.needs import TIGHT_CROPS, Needs
from hpa_tf.prediction.sources import (
    FieldCells,
    Source,
    digest,
    mask_texts,
    measured_cells,
    thumbnails,
)

_FIELD = {"shard": "field_shard", "offset": "field_offset"}


def shard_source(
    folder: str,
    fold: int | None,
    part: tuple[int, int],
    pictures: Pictures = NO_PICTURES,
    needs: Needs = TIGHT_CROPS,
) -> Source:
    """List the images in the shards of a data folder, of all folds or of one; of those without cells it warns.

    Args:
        folder: Data folder.
        fold: Only this one; None = all.
        part: (i, n): part i of n.
        pictures: Draws the images' pictures.
        needs: What the networks need of an image.

    Raises:
        InputError: The folder is no finished data folder, or has no such fold.
    """
    manifest = records.read_manifest(folder)
    table = read_cells(folder, manifest)
    if fold is not None:
        if not 0 <= fold < manifest.num_folds:
            raise InputError("--fold", str(fold), f"0 to {manifest.num_folds - 1}", "choose one of the data's folds")
        table = table[table["fold"] == fold]
    folds = None if fold is None else [fold]
    check_shards(folder, [shard for kind in _kinds(needs) for shard in manifest.shards_of(kind, folds)])
    columns = ["image_id", "cell", *MEASURED, "shard", "offset"]
    if missing := set(columns) - set(table.columns):
        where = files.join(folder, records.CELL_TABLE_NAME)
        raise InputError(where, f"no columns {sorted(missing)}", "the builder's columns", "build the data again")
    if needs.squares:
        table = _with_fields(table, folder, manifest)
        columns += _FIELD.values()
    _tell_lost(folder, manifest, table if fold is None else None, needs)
    rows_of = table.groupby("image_id").indices
    ids = tuple(image_id for image_id in sorted(rows_of) if is_in_part(image_id, *part))
    shards = {shard.name: shard.sha256 for shard in manifest.shards}
    names = table.groupby("image_id")["shard"].unique()
    stamps = {image_id: digest([shards.get(name) for name in names[image_id]]) for image_id in ids}
    if needs.squares:
        of_fields = table.groupby("image_id")[_FIELD["shard"]].first().map(shards)
        stamps = {image_id: digest([stamp, of_fields[image_id]]) for image_id, stamp in stamps.items()}
    reader, placed = ShardReader(str(folder), pictures, needs), table[columns]
    return Source(ids, lambda i: placed.iloc[rows_of[ids[i]]], reader, stamps, manifest=manifest)


def _tell_lost(folder: str, manifest: records.Manifest, table: pd.DataFrame | None, needs: Needs) -> None:
    """Warn of what shards lack beside the images they were built from.

    Args:
        folder: Data folder.
        manifest: Of it.
        table: Its cells; None where only some are wanted.
        needs: What the networks need of an image.
    """
    without = 0 if table is None else manifest.num_images - table["image_id"].nunique()
    if without:
        found = f"{folder}: {without} of {manifest.num_images} images have no cells, and no row in what is written"
        warnings.warn(f"{found}; predict from --images for a submission that names them", HpaWarning, stacklevel=3)
    stored = int(manifest.options.get("fields") or 0)
    seen = max((square.seen for square in needs.squares), default=0)
    if 0 < stored < seen:
        found = f"{folder}: fields of view stored with {stored} px are enlarged for a network that sees {seen} px"
        fix = f"predict from --images, or build the data with --fields {seen}"
        warnings.warn(f"{found}; {fix}", HpaWarning, stacklevel=3)


def _kinds(needs: Needs) -> list[str]:
    """Return the kinds of record that are read: the masks of a submission are always those of the cells' records."""
    return ["cells", *(["fields"] if needs.squares else [])]


def _with_fields(table: pd.DataFrame, folder: str, manifest: records.Manifest) -> pd.DataFrame:
    """Return the table of cells with the place of the record of each one's field of view.

    Raises:
        InputError: The folder has no such records.
    """
    if not manifest.shards_of("fields"):
        found, expected = "no whole fields of view, which a network sees", "a folder with fields of view"
        raise InputError(folder, found, expected, ADD_FIELDS)
    places = read_images(folder, manifest)[["image_id", *_FIELD]].rename(columns=_FIELD)
    joined = table.merge(places, on="image_id", how="left", validate="many_to_one")
    if (lost := joined[_FIELD["shard"]].isna()).any():
        found = f"no field of view of image {joined['image_id'][lost].iloc[0]}"
        raise InputError(folder, found, "one for each image with cells", index_of(folder))
    return joined


@dataclass(frozen=True)
class ShardReader:
    """Reads the cells of one image from TFRecord shards.

    Attributes:
        folder: Data folder.
        pictures: Draws the images' pictures; pixels beside the stored crops are black.
        needs: What the networks need of an image.
    """

    folder: str
    pictures: Pictures = NO_PICTURES
    needs: Needs = TIGHT_CROPS

    def __call__(self, rows: pd.DataFrame) -> FieldCells:
        """Return the cells of one image.

        Args:
            rows: Its rows of the data folder's cell table.

        Raises:
            InputError: A shard is missing or damaged.
        """
        start = time.perf_counter()
        rows = rows.assign(number=np.arange(1, len(rows) + 1)).sort_values("cell")
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
        pixels, mask = _paste(found, decoded, height, width, with_pixels=self.pictures.size > 0)
        texts = mask_texts(mask)
        kept = decoded if self.needs.crops else []
        return FieldCells(
            image_id,
            height,
            width,
            measured_cells(image_id, rows),
            tuple(crop for crop, _ in kept),
            tuple(region for _, region in kept),
            tuple(texts[number] for number in numbers),
            self.pictures.leave(pixels, mask),
            {"read": time.perf_counter() - start},
            squares=self._squares(rows) if self.needs.squares else {},
            thumbnails=thumbnails(decoded) if self.needs.thumbnails else None,
        )

    def _squares(self, rows: pd.DataFrame) -> dict[Square, Shrunk]:
        """Return the whole field of view as the networks see it, from its own record.

        Args:
            rows: Its cells in the order of their numbers, with `number`, that of each in the masks of the record.

        Raises:
            InputError: The record is missing, damaged, or of another image.
        """
        first = rows.iloc[0]
        path = files.join(self.folder, first[_FIELD["shard"]])
        record = _read_record(path, int(first[_FIELD["offset"]]), records.IMAGE_FIELDS)
        if record["image_id"].decode() != first["image_id"]:
            found = f"another field of view than {first['image_id']}"
            raise InputError(path, found, "what images.parquet names", index_of(self.folder))
        try:
            pixels, stored = decode_picture(record["image"]), decode_picture(record["masks"])
            order = np.zeros(len(rows) + 1, np.uint16)
            order[rows["number"]] = np.arange(1, len(rows) + 1)
            masks = order[stored]
        except (ValueError, IndexError, KeyError) as error:
            found = f"damaged pictures in its record ({error})"
            what = "a field of view and its masks"
            raise InputError(f"image {first['image_id']}", found, what, repair_of(self.folder)) from error
        scale = len(pixels) / max(int(first["height"]), int(first["width"]))
        boxes = rows[list(BOX)].to_numpy() * scale
        return squares_of(pixels, masks, range(1, len(rows) + 1), boxes, self.needs.squares)


def _read_record(path: str, offset: int, fields: tuple[records.RecordField, ...] = records.CELL_FIELDS) -> dict:
    """Read the record of these fields that begins at byte `offset`, its checksums verified."""
    try:
        data = framing.read_frame_at(path, offset)
        if data is None:
            raise ValueError("end of file")
        return records.decode(data, fields)
    except (FileNotFoundError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        found = f"no record at byte {offset} ({error})"
        raise InputError(path, found, "the record that the folder's table names", "build the data again") from error


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
        mask[top:bottom, left:right][is_cell(region)] = record["cell"]
        if with_pixels:
            pixels[top:bottom, left:right] = crop
    return pixels, mask

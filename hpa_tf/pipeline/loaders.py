"""From the place of a record to what a view sees of it: read by its byte offset, parse, prepare, augment."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from hpa_tf import files, framing
from hpa_tf.classes import CHANNELS
from hpa_tf.pipeline.augmentation import Augmentation, augment_record, random_square
from hpa_tf.pipeline.cutting import CutCells, cut_region, draw_line
from hpa_tf.pipeline.examples import Examples
from hpa_tf.pipeline.parsing import (
    box_in_crop,
    decode_picture,
    parse_cell,
    prepare_cell,
    prepare_field,
    prepare_region,
)
from hpa_tf.pipeline.pasting import Pasted, paste_cell
from hpa_tf.records import IMAGE_FIELDS
from hpa_tf.views import View

_REMOTE_BUFFER = 1 << 20
"""Bytes asked of an object store at once: a record in one request. Local files are read to the byte."""

Element = dict[str, tf.Tensor]
"""What names a record, and what of it is wanted: index (-1 = padding), seed [2], for a field also numbers [K]."""
Loader = Callable[[Element], dict[str, tf.Tensor]]
"""A graph function from an element to the prepared and augmented record."""


def make_loader(
    examples: Examples, view: View, augmentation: Augmentation, rows: np.ndarray, pasted: Pasted | None
) -> tuple[Loader, dict[str, np.ndarray]]:
    """Return the loader of a view's records, and the elements of the examples with these rows [E, K].

    An element of a field into which a cell may be pasted also names the cell's image, its number and its place.
    """
    if view.reads == "cells":
        return _cell_loader(examples, view, augmentation), {"index": rows.reshape(-1)}
    fields = examples.fields  # says so where the folder has none
    there = np.maximum(rows, 0)
    numbers = np.where(rows >= 0, examples.field_numbers[there], -1)
    index = np.where(rows[:, 0] >= 0, examples.image_of[there[:, 0]], -1)
    elements = {"index": index, "numbers": numbers}
    if pasted:
        own = (pasted.rows >= 0)[:, None] & (np.arange(rows.shape[1]) == pasted.places[:, None])
        elements["numbers"] = np.where(own, -1, numbers)  # a pasted cell is not in the masks of this field
        elements["donor"] = np.where(pasted.rows >= 0, examples.image_of[np.maximum(pasted.rows, 0)], -1)
        elements["donor_number"] = examples.field_numbers[np.maximum(pasted.rows, 0)]
        elements["place"] = pasted.places
    return _field_loader(fields, view, augmentation), elements


def _cell_loader(examples: Examples, view: View, augmentation: Augmentation) -> Loader:
    read = record_reader(examples)

    def load(element: Element) -> dict[str, tf.Tensor]:
        record = parse_cell(read(tf.maximum(element["index"], 0)), ["crop", "region", "box", "crop_box"])
        if augmentation.cut is None:
            prepared = prepare_cell(view, record["crop"], record["region"], box_in_crop(record))
        else:
            prepared = perhaps_cut(record, element["seed"], augmentation.cut)
        return augment_record(prepared, element["seed"], augmentation, stains_of(view))

    def perhaps_cut(record: dict[str, tf.Tensor], seed: tf.Tensor, cut: CutCells) -> dict[str, tf.Tensor]:
        line = draw_line(tf.random.fold_in(seed, 1_000), cut)
        region = cut_region(decode_picture(record["region"], 1, tf.uint8)[..., 0], line)
        prepared = prepare_region(view, record["crop"], region)  # the box is that of what is left
        return {**prepared, "is_whole": 1 - tf.cast(line.happens, tf.float32)}

    return load


def _field_loader(fields: Examples, view: View, augmentation: Augmentation) -> Loader:
    read = record_reader(fields)

    def load(element: Element) -> dict[str, tf.Tensor]:
        record = parse_cell(read(tf.maximum(element["index"], 0)), ["image", "masks"], IMAGE_FIELDS)
        prepared = prepare_field(view, record["image"], record["masks"], element["numbers"])
        if "donor" in element:
            prepared = tf.cond(
                element["donor"] >= 0,
                lambda: with_donor(prepared, record["masks"], element),
                lambda: {**prepared, "is_pasted": 0.0},
            )
        augmented = augment_record(prepared, element["seed"], augmentation)
        return random_square(augmented, element["seed"], view.size)

    def with_donor(prepared: dict[str, tf.Tensor], masks: tf.Tensor, element: Element) -> dict[str, tf.Tensor]:
        record = parse_cell(read(element["donor"]), ["image", "masks"], IMAGE_FIELDS)
        only = tf.concat([element["donor_number"][None], tf.fill([view.num_cells - 1], tf.constant(-1, tf.int64))], 0)
        donor = prepare_field(view, record["image"], record["masks"], only)
        taken = tf.cast(decode_picture(masks, 1, tf.uint16)[..., 0] > 0, tf.uint16)
        taken = view.prepare_masks(taken, tf.concat([[1], tf.fill([view.num_cells - 1], -1)], 0)) == 1
        place, seed = tf.cast(element["place"], tf.int32), tf.random.fold_in(element["seed"], 1_000)
        found = paste_cell({**prepared, "taken": taken}, donor, place, seed)
        return {**found, "is_pasted": tf.cast(tf.reduce_any(found["masks"] == place + 1), tf.float32)}

    return load


def stains_of(view: View) -> list[bool]:
    """Return which channels of a view's image are stains: noise and tone leave masks alone."""
    return [name in CHANNELS for name in view.channels]


def record_reader(examples: Examples) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a graph function: row of the examples, int64 scalar -> the serialized record, checksums verified."""
    names, places = np.unique(examples.table["shard"].to_numpy(str), return_inverse=True)
    paths = tf.constant([files.join(examples.folder, name) for name in names])
    places, offsets = tf.constant(places, tf.int32), tf.constant(examples.table["offset"], tf.int64)
    scheme = examples.folder.partition("://")[0] if files.is_remote(examples.folder) else ""
    read_at = _read_with_tensorflow if scheme in tf.io.gfile.get_registered_schemes() else _read_with_fsspec
    return lambda row: read_at(tf.gather(paths, places[row]), offsets[row], remote=bool(scheme))


def _read_with_tensorflow(path: tf.Tensor, offset: tf.Tensor, remote: bool) -> tf.Tensor:
    variant = tf.raw_ops.TFRecordDatasetV2(
        filenames=path[None],
        compression_type="",
        buffer_size=tf.constant(_REMOTE_BUFFER if remote else 0, tf.int64),
        byte_offsets=offset[None],
    )
    return tf.data.experimental.from_variant(variant, tf.TensorSpec((), tf.string)).take(1).get_single_element()


def _read_with_fsspec(path: tf.Tensor, offset: tf.Tensor, remote: bool) -> tf.Tensor:
    """Read where TensorFlow itself cannot (s3://, memory://, ...)."""

    def read(path: bytes, offset: int) -> bytes:
        with files.open_file(path.decode()) as stream:
            stream.seek(offset)
            return next(framing.read_frames(stream, path.decode()))

    return tf.ensure_shape(tf.numpy_function(read, [path, offset], tf.string), ())

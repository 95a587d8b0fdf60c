"""From the place of a record to what a view sees of it: read by its byte offset, parse, prepare, augment."""

import functools
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from hpa_tf import files, framing
from hpa_tf.classes import CHANNELS
from hpa_tf.data_folder import repair_of
from hpa_tf.errors import InputError
from hpa_tf.models.network import Spec
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
from hpa_tf.pipeline.vanished import check_room, keep_every_cell
from hpa_tf.records import IMAGE_FIELDS
from hpa_tf.views import View
from hpa_tf.views.asking import masks_side

Element = dict[str, tf.Tensor]
"""What names a record, and what of it is wanted: shard (-1 = padding) and offset, seed [2], for a field numbers [K]."""
Loader = Callable[[Element], dict[str, tf.Tensor]]
"""A graph function from an element to the prepared and augmented record."""
Reader = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""A graph function: path, string scalar, and offset, int64 scalar, of a record -> its bytes, checksums verified."""


def make_loader(
    examples: Examples, view: View, augmentation: Augmentation, rows: np.ndarray, pasted: Pasted | None
) -> tuple[Loader, dict[str, np.ndarray]]:
    """Return the loader of a view's records, and the elements of the examples with these rows [E, K].

    An element of a field into which a cell may be pasted also names the cell's record, its number and its place. Tables
    are looked up here, so that no graph holds one, and a graph is traced once in a process.
    """
    there = np.maximum(rows, 0)
    if view.reads == "cells":
        source, elements = examples, _places(examples, rows.ravel())
    else:
        source = examples.fields  # says so where the folder has none
        images = np.where(rows[:, 0] >= 0, examples.image_of[there[:, 0]], -1)
        elements = _places(source, images)
        check_room(examples.folder, np.diff(examples.centres[1]), masks_side(view))
        elements["centres"] = np.stack([examples.centres[1][images], examples.centres[1][images + 1]], axis=1)
        elements["numbers"] = np.where(rows >= 0, examples.field_numbers[there], -1)
    if pasted:
        own = (pasted.rows >= 0)[:, None] & (np.arange(rows.shape[1]) == pasted.places[:, None])
        elements["numbers"] = np.where(own, -1, elements["numbers"])  # a pasted cell is not in this field's masks
        donors = np.where(pasted.rows >= 0, examples.image_of[np.maximum(pasted.rows, 0)], -1)
        elements |= {f"donor_{name}": place for name, place in _places(source, donors).items()}
        elements["donor_number"] = examples.field_numbers[np.maximum(pasted.rows, 0)]
        elements["place"] = pasted.places
    paths = tf.constant([files.join(examples.folder, name) for name in source.shards[0]])
    centres = tf.constant(examples.centres[0] if view.reads == "fields" else np.zeros((0, 2)))
    load = _loader(view, augmentation, _reader(examples.folder))
    return lambda element: load(paths, centres, element), elements


def _places(examples: Examples, index: np.ndarray) -> dict[str, np.ndarray]:
    """Return where the records of some rows are, -1 = padding: number of the shard, and offset in it."""
    there = np.maximum(index, 0)
    return {"shard": np.where(index >= 0, examples.shards[1][there], -1), "offset": examples.offsets[there]}


@functools.cache
def _loader(view: View, augmentation: Augmentation, read: Reader) -> Callable[[tf.Tensor, tf.Tensor, Element], Element]:
    """Return a graph function to the prepared and augmented record.

    From: paths of the shards; the centres of all cells, of which an element of a field names those of its image by
    `centres` [2], first and last + 1; and the element.
    """
    load = _cell_loader(view, augmentation) if view.reads == "cells" else _field_loader(view, augmentation)

    @tf.function(autograph=False, reduce_retracing=True)
    def load_element(paths: tf.Tensor, centres: tf.Tensor, element: Element) -> dict[str, tf.Tensor]:
        if "centres" in element:
            element = {**element, "centres": centres[element["centres"][0] : element["centres"][1]]}

        def read_at(prefix: str) -> tf.Tensor:
            return read(tf.gather(paths, element[f"{prefix}shard"]), element[f"{prefix}offset"])

        marks = {"is_pasted": "place" in element, "is_whole": augmentation.cut is not None}
        specs = {**view.record_specs(), **{name: Spec(()) for name, is_made in marks.items() if is_made}}
        zeros = {name: tf.zeros(spec.shape, spec.dtype) for name, spec in specs.items()}
        found = tf.cond(element["shard"] >= 0, lambda: load(read_at, element), lambda: zeros)
        return {name: tf.ensure_shape(found[name], spec.shape) for name, spec in specs.items()}

    return load_element


def _cell_loader(view: View, augmentation: Augmentation) -> Callable[[Callable, Element], dict[str, tf.Tensor]]:
    def load(read: Callable[[str], tf.Tensor], element: Element) -> dict[str, tf.Tensor]:
        record = parse_cell(read(""), ["crop", "region", "box", "crop_box"])
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


def _field_loader(view: View, augmentation: Augmentation) -> Callable[[Callable, Element], dict[str, tf.Tensor]]:
    def load(read: Callable[[str], tf.Tensor], element: Element) -> dict[str, tf.Tensor]:
        record = parse_cell(read(""), ["image", "masks"], IMAGE_FIELDS)
        masks = keep_every_cell(_decoded(record), element["centres"], masks_side(view))
        prepared = prepare_field(view, record["image"], masks, element["numbers"])
        if "place" in element:
            prepared = tf.cond(
                element["donor_shard"] >= 0,
                lambda: with_donor(prepared, masks, parse_cell(read("donor_"), *of_donor), element),
                lambda: {**prepared, "is_pasted": 0.0},
            )
        augmented = augment_record(prepared, element["seed"], augmentation)
        return random_square(augmented, element["seed"], view.size)

    of_donor = (["image", "masks"], IMAGE_FIELDS)

    def with_donor(prepared: dict[str, tf.Tensor], masks: tf.Tensor, record: Element, element: Element) -> Element:
        only = tf.concat([element["donor_number"][None], tf.fill([view.num_cells - 1], tf.constant(-1, tf.int64))], 0)
        donor = prepare_field(view, record["image"], _decoded(record), only)
        taken = tf.cast(masks > 0, tf.uint16)
        taken = view.prepare_masks(taken, tf.concat([[1], tf.fill([view.num_cells - 1], -1)], 0)) == 1
        place, seed = tf.cast(element["place"], tf.int32), tf.random.fold_in(element["seed"], 1_000)
        found = paste_cell({**prepared, "taken": taken}, donor, place, seed)
        return {**found, "is_pasted": tf.cast(tf.reduce_any(found["masks"] == place + 1), tf.float32)}

    return load


def _decoded(record: Element) -> tf.Tensor:
    """Return the masks of a parsed record of a field, uint16 [S, S]."""
    return decode_picture(record["masks"], 1, tf.uint16)[..., 0]


def stains_of(view: View) -> list[bool]:
    """Return which channels of a view's image are stains: noise and tone leave masks alone."""
    return [name in CHANNELS for name in view.channels]


def record_reader(examples: Examples) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a graph function: row of the examples, int64 scalar -> the serialized record, checksums verified."""
    names, shard_of = examples.shards
    paths, read = tf.constant([files.join(examples.folder, name) for name in names]), _reader(examples.folder)
    shard_of, offsets = tf.constant(shard_of), tf.constant(examples.offsets)
    return lambda row: read(tf.gather(paths, shard_of[row]), offsets[row])


def _reader(folder: str) -> Reader:
    """Return what reads a record of a folder."""
    if not files.is_remote(folder):
        return _read_local
    is_known = folder.partition("://")[0] in tf.io.gfile.get_registered_schemes()
    return _read_remote if is_known else _read_with_fsspec


def _read_local(path: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    return _read_with_tensorflow(path, offset, 0)


def _read_remote(path: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    return _read_with_tensorflow(path, offset, framing.REMOTE_BUFFER)


def _read_with_tensorflow(path: tf.Tensor, offset: tf.Tensor, buffer_size: int) -> tf.Tensor:
    variant = tf.raw_ops.TFRecordDatasetV2(
        filenames=path[None],
        compression_type="",
        buffer_size=tf.constant(buffer_size, tf.int64),
        byte_offsets=offset[None],
    )
    return tf.data.experimental.from_variant(variant, tf.TensorSpec((), tf.string)).take(1).get_single_element()


def _read_with_fsspec(path: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """Read where TensorFlow itself cannot (s3://, memory://, ...)."""

    def read(path: bytes, offset: int) -> bytes:
        data = framing.read_frame_at(path.decode(), int(offset))
        if data is None:
            fix = repair_of(os.path.dirname(path.decode()))
            raise InputError(path.decode(), f"its end at byte {offset}", "a record", fix)
        return data

    return tf.ensure_shape(tf.numpy_function(read, [path, offset], tf.string), ())

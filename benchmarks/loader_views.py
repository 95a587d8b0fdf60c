"""Whole fields a second and core beside decoding alone, and cells a second of bags beside crops; part of `loader.py`.

    python benchmarks/loader.py --only-views

Fields are drawn: 512 px, 16 cells each, noise as strong as real images', 8 and 16 bit, as PNG. Nothing is augmented,
but for what needs records: a pasted cell, a random square, a cell that is cut, each always, beside none of them.
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import tensorflow as tf

from hpa_tf import cell_table, framing, image_table, records
from hpa_tf.classes import CHANNELS, CLASSES, MITOTIC_SPINDLE, NUM_CLASSES
from hpa_tf.encoding import encode_picture
from hpa_tf.pipeline import (
    NO_AUGMENTATION,
    Augmentation,
    CutCells,
    EveryCell,
    Examples,
    PasteCells,
    parse_cell,
    read_examples,
    training_batches,
)
from hpa_tf.pipeline.loaders import record_reader
from hpa_tf.pipeline.parsing import decode_picture
from hpa_tf.views import Bag, Crop, Field, View

SIZE, GRID, FIELDS, BATCH = 512, 4, 32, 4
ROUNDS = 8
_ROOM = Field(SIZE, num_cells=GRID * GRID // 2 + 1)
"""Of a field whose lower half has no cells: one more fits."""
FIELD_CHANGES = {
    "nothing": (_ROOM, NO_AUGMENTATION),
    "a cell pasted": (_ROOM, dataclasses.replace(NO_AUGMENTATION, paste=PasteCells(1.0))),
    "a square of 384 px": (dataclasses.replace(_ROOM, size=384, whole=SIZE), NO_AUGMENTATION),
}
CELL_CHANGES = {
    "nothing": (Crop(128), NO_AUGMENTATION),
    "cut by a line": (Crop(128), dataclasses.replace(NO_AUGMENTATION, cut=CutCells(1.0))),
}


def draw_field(rng: np.random.Generator, bits: int, num_cells: int = GRID * GRID) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels [S, S, 4] of smooth structure with photon noise, and a mask of round cells on a grid, uint16."""
    planes = [cv2.GaussianBlur(rng.random((SIZE, SIZE), np.float32), (0, 0), sigma) for sigma in (2, 3, 5, 2)]
    planes = [(plane - plane.min()) / (plane.max() - plane.min()) for plane in planes]
    counts = rng.poisson(np.stack(planes, axis=-1) ** 2 * 60) * (4 if bits == 8 else 4 * 257)
    pitch = SIZE // GRID
    rows, columns = np.mgrid[:SIZE, :SIZE]
    inside = np.hypot(rows % pitch - pitch / 2, columns % pitch - pitch / 2) < pitch * 0.45
    mask = (1 + rows // pitch * GRID + columns // pitch) * inside
    mask[mask > num_cells] = 0
    return np.clip(counts, 0, 2**bits - 1).astype(f"uint{bits}"), mask.astype(np.uint16)


def write_fields(folder: Path, bits: int, num_cells: int = GRID * GRID) -> Examples:
    """Write a folder of drawn fields, every fourth of mitotic cells, without records of cells, and read it."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    shard, data, offsets = records.shard_name("fields", 0, 0, 1), bytearray(), []
    labels = (rng.random((FIELDS, NUM_CLASSES)) < 0.1).astype(np.float32)
    labels[::4, MITOTIC_SPINDLE] = 1
    for i in range(FIELDS):
        pixels, mask = draw_field(rng, bits, num_cells)
        pictures = {"image": encode_picture(pixels), "masks": encode_picture(mask)}
        numbers = {"fold": 0, "image_size": (SIZE, SIZE), "um_per_px": 0.08, "bits": bits, "labels": labels[i]}
        record = {"image_id": f"image{i}".encode(), **pictures, **numbers}
        offsets.append(len(data))
        data += framing.frame(records.encode(record, records.IMAGE_FIELDS))
    (folder / shard).write_bytes(data)
    ids, count = [f"image{i}" for i in range(FIELDS)], num_cells
    table = image_table.make(ids, [0] * FIELDS, [shard] * FIELDS, offsets, labels, [count] * FIELDS)
    image_table.write(table, folder)
    columns = {"fold": 0, "shard": shard, "record": 0, "offset": 0, "cleaning_value": 1.0}
    columns |= {"height": SIZE, "width": SIZE}
    columns = {name: np.broadcast_to(value, FIELDS * count) for name, value in columns.items()}
    numbers = np.tile(np.arange(1, count + 1), FIELDS)
    top, left = (place * (SIZE // GRID) for place in divmod(numbers - 1, GRID))
    columns |= {"top": top, "left": left, "bottom": top + SIZE // GRID, "right": left + SIZE // GRID}
    cells = cell_table.from_values(np.repeat(ids, count), numbers, labels.repeat(count, axis=0), columns)
    cell_table.write(cells, folder / records.CELL_TABLE_NAME, "labels")
    shards = (records.Shard(shard, "fields", 0, FIELDS, len(data), ""),)
    rest = ("png", (0.08,), (bits,), 0, "drawn", 1, FIELDS, len(cells), shards, {}, "")
    records.write_manifest(folder, records.Manifest(records.SCHEMA_VERSION, CLASSES, CHANNELS, *rest))
    return read_examples(folder)


def rate(dataset: tf.data.Dataset, num_items: int) -> float:
    """Return items a second of processor time, of the best of three passes after one that warms up."""
    found = []
    for _ in range(4):
        batches = iter(dataset)
        next(batches)
        start = time.process_time()
        count = sum(num_items for _ in batches)
        found.append(count / (time.process_time() - start))
    return max(found[1:])


def view_rate(
    examples: Examples,
    view: View,
    batch_size: int,
    num_items: int,
    count: int,
    augmentation: Augmentation = NO_AUGMENTATION,
) -> float:
    """Return items a second of processor time of `training_batches`, each batch of `num_items`."""
    options = {"sampling": EveryCell(num_cells=count), "batch_size": batch_size, "seed": 0, "epoch": 0}
    return rate(training_batches(examples, view, augmentation, **options), num_items)


def costs_of_changes(
    examples: Examples, changes: dict[str, tuple[View, Augmentation]], batch_size: int, count: int
) -> dict[str, float]:
    """Return processor seconds an example by the name of what is done to it, with reading and decoding."""
    return {
        name: 1 / view_rate(examples, view, batch_size, batch_size, count, augmentation)
        for name, (view, augmentation) in changes.items()
    }


def decode_rate(examples: Examples, bits: int) -> float:
    """Return fields a second of processor time whose two pictures are decoded and nothing else."""
    read = record_reader(examples.fields)
    serialized = [read(tf.constant(row, tf.int64)).numpy() for row in range(FIELDS)]
    dtype = tf.uint8 if bits == 8 else tf.uint16

    def decode(one: tf.Tensor) -> tf.Tensor:
        record = parse_cell(one, ["image", "masks"], records.IMAGE_FIELDS)
        image, masks = decode_picture(record["image"], 4, dtype), decode_picture(record["masks"], 1, tf.uint16)
        return tf.cast(image[0, 0, 0], tf.int32) + tf.cast(masks[0, 0, 0], tf.int32)

    dataset = tf.data.Dataset.from_tensor_slices(serialized).repeat(ROUNDS).map(decode, tf.data.AUTOTUNE)
    return rate(dataset.batch(BATCH), BATCH)


def main(folder: Path, cells: Callable[[int], Examples]) -> None:
    """Measure and print.

    Args:
        folder: Where fields may be written.
        cells: Returns examples of cells of one image with these bits, stored as PNG.
    """
    print("whole fields, 512 px: fields a second and core")
    for bits in (8, 16):
        examples = write_fields(folder / f"fields{bits}", bits)
        alone = decode_rate(examples, bits)
        for name, view in (
            ("masks of 16 cells", Field(SIZE, num_cells=16)),
            ("384 px, 3 cells", Field(384, num_cells=3)),
        ):
            found = view_rate(examples, view, BATCH, BATCH, FIELDS * ROUNDS)
            print(f"{bits:>2} bit, {name:<18} {found:6.1f}   decoding alone {alone:6.1f}")
    print("bags of 16 cells beside crops, 128 px input: cells a second and core")
    of_cells = {bits: cells(bits) for bits in (8, 16)}
    for bits, examples in of_cells.items():
        crop = Crop(128)
        pairs = []
        for _ in range(3):  # in turn, so that a slow minute of the machine hits both
            pairs.append((view_rate(examples, crop, 16, 16, 640), view_rate(examples, Bag(16, crop), 1, 16, 40)))
        single, bag = (max(values) for values in zip(*pairs, strict=True))
        print(f"{bits:>2} bit: bags {bag:7.1f}   crops {single:7.1f}   {bag / single:.0%}")
    print("what is pasted, cut out or cut: processor ms an example with reading it, 8 bit")
    fields = write_fields(folder / "room", 8, GRID * GRID // 2)
    found = {
        f"field of 512 px, {k}": v for k, v in costs_of_changes(fields, FIELD_CHANGES, BATCH, FIELDS * ROUNDS).items()
    }
    found |= {f"crop of 128 px, {k}": v for k, v in costs_of_changes(of_cells[8], CELL_CHANGES, 16, 640).items()}
    for name, seconds in found.items():
        print(f"{name:<36}{seconds * 1e3:9.2f}")

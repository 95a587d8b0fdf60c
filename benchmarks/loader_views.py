"""Whole fields a second and core beside decoding alone, and cells a second of bags beside crops; part of `loader.py`.

    python benchmarks/loader.py --only-views

Nothing is augmented. Fields are drawn: 512 px, 16 cells each, noise as strong as real images', 8 and 16 bit, as PNG.
"""

import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import tensorflow as tf

from hpa_tf import cell_table, framing, image_table, records
from hpa_tf.classes import CHANNELS, CLASSES, NUM_CLASSES
from hpa_tf.encoding import encode_picture
from hpa_tf.pipeline import EveryCell, Examples, parse_cell, read_examples, training_batches
from hpa_tf.pipeline.loaders import record_reader
from hpa_tf.pipeline.parsing import decode_picture
from hpa_tf.views import Bag, Crop, Field, View

SIZE, GRID, FIELDS, BATCH = 512, 4, 32, 4
ROUNDS = 8


def draw_field(rng: np.random.Generator, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels [S, S, 4] of smooth structure with photon noise, and a mask of round cells on a grid, uint16."""
    planes = [cv2.GaussianBlur(rng.random((SIZE, SIZE), np.float32), (0, 0), sigma) for sigma in (2, 3, 5, 2)]
    planes = [(plane - plane.min()) / (plane.max() - plane.min()) for plane in planes]
    counts = rng.poisson(np.stack(planes, axis=-1) ** 2 * 60) * (4 if bits == 8 else 4 * 257)
    pitch = SIZE // GRID
    rows, columns = np.mgrid[:SIZE, :SIZE]
    inside = np.hypot(rows % pitch - pitch / 2, columns % pitch - pitch / 2) < pitch * 0.45
    mask = (1 + rows // pitch * GRID + columns // pitch) * inside
    return np.clip(counts, 0, 2**bits - 1).astype(f"uint{bits}"), mask.astype(np.uint16)


def write_fields(folder: Path, bits: int) -> Examples:
    """Write a folder of drawn fields, without records of cells, and read it."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    shard, data, offsets = records.shard_name("fields", 0, 0, 1), bytearray(), []
    labels = (rng.random((FIELDS, NUM_CLASSES)) < 0.1).astype(np.float32)
    for i in range(FIELDS):
        pixels, mask = draw_field(rng, bits)
        pictures = {"image": encode_picture(pixels), "masks": encode_picture(mask)}
        numbers = {"fold": 0, "image_size": (SIZE, SIZE), "um_per_px": 0.08, "bits": bits, "labels": labels[i]}
        record = {"image_id": f"image{i}".encode(), **pictures, **numbers}
        offsets.append(len(data))
        data += framing.frame(records.encode(record, records.IMAGE_FIELDS))
    (folder / shard).write_bytes(data)
    ids, count = [f"image{i}" for i in range(FIELDS)], GRID * GRID
    table = image_table.make(ids, [0] * FIELDS, [shard] * FIELDS, offsets, labels, [count] * FIELDS)
    image_table.write(table, folder)
    columns = {"fold": 0, "shard": shard, "record": 0, "offset": 0, "cleaning_value": 1.0}
    columns = {name: np.broadcast_to(value, FIELDS * count) for name, value in columns.items()}
    numbers = np.tile(np.arange(1, count + 1), FIELDS)
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


def view_rate(examples: Examples, view: View, batch_size: int, num_items: int, count: int) -> float:
    """Return items a second of processor time of `training_batches`, each batch of `num_items`."""
    options = {"sampling": EveryCell(num_cells=count), "batch_size": batch_size, "seed": 0, "epoch": 0}
    return rate(training_batches(examples, view, **options), num_items)


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
    for bits in (8, 16):
        examples, crop = cells(bits), Crop(128)
        pairs = []
        for _ in range(3):  # in turn, so that a slow minute of the machine hits both
            pairs.append((view_rate(examples, crop, 16, 16, 640), view_rate(examples, Bag(16, crop), 1, 16, 40)))
        single, bag = (max(values) for values in zip(*pairs, strict=True))
        print(f"{bits:>2} bit: bags {bag:7.1f}   crops {single:7.1f}   {bag / single:.0%}")

"""Cells a second of every stage of the input pipeline, of the loader alone, and how long training waits for it.

    python benchmarks/loader.py [--data DIR] [--sizes 128 512] [--steps 30] [--only-views] [--only-steps [--names ...]]

Without --data the crops are drawn: 512 px, 8 and 16 bit, with the size on disk of real cells (about 400 kB a cell, 8
bit). Times are processor time, so that other work on the machine counts less; each stage runs alone on what the one
before has left in memory. Cores needed for a GPU = its cells/s divided by those of the loader alone, which is all
stages together. Beside it stands the same work written with OpenCV and NumPy, as a PyTorch Dataset would do it. The
last line trains EfficientNetB0 on this machine and says which share of it is waiting.
"""

import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

import cv2
import keras
import loader_steps
import loader_views
import numpy as np
import tensorflow as tf
import tyro

from hpa_tf import cell_table, framing, records
from hpa_tf.classes import CHANNELS, CLASSES, NUM_CLASSES
from hpa_tf.encoding import Encoding, encode_picture, picture_shape
from hpa_tf.encoding import decode_picture as decode_picture_here
from hpa_tf.memory import keep_freed_memory
from hpa_tf.models.classifier import Classifier
from hpa_tf.models.efficientnet import EfficientNet
from hpa_tf.models.noise import example_seeds
from hpa_tf.pipeline import (
    Augmentation,
    EveryCell,
    Examples,
    augment,
    augment_batch,
    parse_cell,
    read_examples,
    training_batches,
)
from hpa_tf.pipeline.loaders import record_reader
from hpa_tf.pipeline.parsing import box_in_crop, decode_picture
from hpa_tf.views import Crop
from hpa_tf.views.crop import prepare

BATCH, ROUNDS = 16, 10
FULL = Augmentation(flip=0.5, rotation=90, resizer=0.4, pad=0.3)


@dataclass(frozen=True)
class Options:
    """What to measure."""

    data: str | None = None
    """Data folder of the builder; default: drawn crops."""
    sizes: tuple[int, ...] = (128, 512)
    """Sides of the network's input, px."""
    cells: int = 64
    """Cells to measure with."""
    crop_size: int = 512
    """Side of the drawn crops, px."""
    steps: int = 30
    """Steps of training to measure the wait for data with; 0 = none."""
    only_views: bool = False
    """Only whole fields and bags."""
    only_steps: bool = False
    """Only the augmentations of the teams' recipes, each by itself."""
    names: tuple[str, ...] = ()
    """Of these only what is called so or begins so; default: all."""


# -- drawn data -------------------------------------------------------------------------------------------------------


def draw_cell(rng: np.random.Generator, size: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a crop [S, S, 4] of smooth structure with photon noise, and the region map of a round cell in it."""
    structure = [cv2.GaussianBlur(rng.random((size, size), np.float32), (0, 0), sigma) for sigma in (2, 3, 5, 2)]
    planes = [(plane - plane.min()) / (plane.max() - plane.min()) for plane in structure]
    counts = rng.poisson(np.stack(planes, axis=-1) ** 2 * 60) * (4 if bits == 8 else 4 * 257)
    crop = np.clip(counts, 0, 2**bits - 1).astype(f"uint{bits}")
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    distance = np.hypot(rows, columns) / (size / 2)
    region = np.select([distance < 0.4, distance < 1], [2, 1], 3).astype(np.uint8)
    return crop, region


def write_data(folder: Path, options: Options, bits: int, encoding: Encoding) -> str:
    """Write a data folder of drawn cells; the cell tables' other columns are those that the pipeline needs."""
    rng = np.random.default_rng(0)
    labels = (rng.random((options.cells, NUM_CLASSES)) < 0.1).astype(np.float32)
    shard, data, offsets = records.shard_name("cells", 0, 0, 1), bytearray(), []
    numbers = {field.name: np.zeros(field.size) for field in records.CELL_FIELDS if field.type == "float"}
    counts = {field.name: np.zeros(field.size, int) for field in records.CELL_FIELDS if field.type == "int64"}
    counts["box"] = counts["crop_box"] = np.array([0, 0, options.crop_size, options.crop_size])  # the cell touches all
    for cell in range(options.cells):
        crop, region = draw_cell(rng, options.crop_size, bits)
        pictures = {"image_id": b"drawn", "crop": encode_picture(crop, encoding)}
        pictures |= {"region": encode_picture(region, encoding)}
        record = {**numbers, **counts, **pictures, "cell": cell + 1, "labels": labels[cell], "bits": bits}
        offsets.append(len(data))
        data += framing.frame(records.encode({**record, "schema_version": records.SCHEMA_VERSION}))
    folder.mkdir()
    (folder / shard).write_bytes(data)
    columns = {"fold": 0, "shard": shard, "record": np.arange(options.cells), "offset": offsets, "cleaning_value": 1.0}
    columns = {name: np.broadcast_to(value, options.cells) for name, value in columns.items()}
    table = cell_table.from_values(["drawn"] * options.cells, np.arange(options.cells) + 1, labels, columns)
    cell_table.write(table, folder / records.CELL_TABLE_NAME, "labels")
    shards = (records.Shard(shard, "cells", 0, options.cells, len(data), ""),)
    counts = (1, 1, options.cells)
    rest = (encoding, (0.08,), (bits,), 0, "drawn", *counts, shards, {}, "")
    records.write_manifest(folder, records.Manifest(records.SCHEMA_VERSION, CLASSES, CHANNELS, *rest))
    return str(folder)


# -- stages -----------------------------------------------------------------------------------------------------------


def cost(dataset: tf.data.Dataset) -> float:
    """Return processor seconds a cell of the best of three passes over batches of `BATCH` cells."""
    times = []
    for _ in range(4):  # the first pass traces and warms up
        batches = iter(dataset)
        next(batches)  # fills the pipeline
        start = time.process_time()
        cells = sum(BATCH for _ in batches)
        times.append((time.process_time() - start) / cells)
    return min(times[1:])


def touch(value: tf.Tensor) -> tf.Tensor:
    """Return one byte of a value, so that no stage pays for handing a picture on."""
    return tf.reshape(value, [-1])[0]


def stage_costs(examples: Examples, size: int) -> dict[str, float]:
    """Return processor seconds a cell of each stage alone, on what the one before made of the same cells."""
    view, read = Crop(size=size), record_reader(examples)
    count = len(examples)
    seeds = tf.random.stateless_uniform([count, 2], (0, 1), minval=None, maxval=None, dtype=tf.int32)
    dtype = _depth(parse_cell(read(tf.constant(0)), ["crop"])["crop"])

    def parse(row: tf.Tensor, serialized: tf.Tensor) -> tuple[tf.Tensor, ...]:
        record = parse_cell(serialized, ["crop", "region", "box", "crop_box"])
        return row, record["crop"], record["region"], box_in_crop(record)

    def decode(row: tf.Tensor, crop: tf.Tensor, region: tf.Tensor, box: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return row, decode_picture(crop, 4, dtype), decode_picture(region, 1, tf.uint8)[..., 0], box

    stages = {
        "read": lambda row: (row, read(row)),
        "parse": parse,
        "decode crop and region": decode,
        "prepare": lambda row, crop, region, box: (row, prepare(crop, region, view, box)),
        "augment": lambda row, image: (row, augment(image, seeds[row], FULL)),
    }
    costs, made = {}, tf.data.Dataset.range(count)
    for name, stage in stages.items():
        given, made = made, made.map(stage).cache()
        costs[name] = cost(given.repeat(ROUNDS).map(lambda *x, f=stage: touched(f(*x)), tf.data.AUTOTUNE).batch(BATCH))
    batches = given.repeat(ROUNDS).batch(BATCH)
    costs["augment, as one batch"] = cost(
        batches.map(lambda row, x: touch(augment_batch(x, tf.gather(seeds, row), FULL)))
    )
    return costs


def touched(values: Iterable[tf.Tensor]) -> tuple[tf.Tensor, ...]:
    """Return one byte of each value, or the length of a text, so that no stage pays for handing pictures on."""
    return tuple(tf.strings.length(value) if value.dtype == tf.string else touch(value) for value in values)


def _depth(picture: tf.Tensor) -> tf.DType:
    return tf.uint16 if picture_shape(picture.numpy())[2] == 16 else tf.uint8


def opencv_cost(examples: Examples, size: int) -> float:
    """Return processor seconds a cell of reading, decoding, preparing and rotating with OpenCV and NumPy."""
    cv2.setNumThreads(1)
    places = examples.table[["shard", "offset"]].itertuples(index=False)
    places = [(f"{examples.folder}/{shard}", offset) for shard, offset in places]
    times = []
    for _ in range(3):
        start = time.process_time()
        for path, offset in places:
            with open(path, "rb") as stream:
                stream.seek(offset)
                record = records.decode(next(framing.read_frames(stream, path)))
            pixels, region = (decode_picture_here(record[name]) for name in ("crop", "region"))
            inside = (region == 1) | (region == 2)
            top, left, bottom, right = record["box"] - np.tile(record["crop_box"][:2], 2)
            pixels = pixels[top:bottom, left:right] * inside[top:bottom, left:right, None]
            up, left = (max(pixels.shape[:2]) - side for side in pixels.shape[:2])
            pixels = cv2.copyMakeBorder(pixels, up // 2, up - up // 2, left // 2, left - left // 2, cv2.BORDER_CONSTANT)
            image = cv2.resize(pixels, (size, size)).astype(np.float32) / np.iinfo(pixels.dtype).max
            turn = cv2.getRotationMatrix2D(((size - 1) / 2, (size - 1) / 2), 33, 1)
            cv2.warpAffine(image[::-1], turn, (size, size), flags=cv2.INTER_NEAREST)
        times.append((time.process_time() - start) / len(places))
    return min(times)


# -- whole loader -----------------------------------------------------------------------------------------------------


def loader_rate(examples: Examples, size: int) -> tuple[float, float]:
    """Return (cells a second of wall time on all cores, cells a second of processor time) of `training_batches`.

    The best of three passes after one that traces and warms up, as for the stages.
    """
    plan = EveryCell(num_cells=BATCH * 40)
    dataset = training_batches(examples, Crop(size), FULL, plan, batch_size=BATCH, seed=0, epoch=0)
    passes = []
    for _ in range(4):
        batches = iter(dataset)
        next(batches)
        wall, processor = time.perf_counter(), time.process_time()
        cells = sum(BATCH for _ in batches)
        passes.append((cells / (time.perf_counter() - wall), cells / (time.process_time() - processor)))
    return max(passes[1:], key=lambda rates: rates[1])


def waiting_share(examples: Examples, steps: int, size: int = 128, batch_size: int = 16) -> tuple[float, float]:
    """Train EfficientNetB0 and return (share of the time spent waiting for data, cells a second)."""
    network = Classifier(EfficientNet("B0")).build(Crop(size).specs())
    optimizer = keras.optimizers.Adam(3e-4)
    optimizer.build(network.trainable_variables)

    @tf.function
    def step(images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor) -> None:
        with tf.GradientTape() as tape, example_seeds(seeds):
            losses = tf.nn.sigmoid_cross_entropy_with_logits(
                labels[:, :18], network({"image": images}, training=True)["logits"]
            )
            loss = tf.reduce_mean(losses)
        variables = network.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)

    plan = EveryCell(num_cells=batch_size * (steps + 2))
    dataset = training_batches(examples, Crop(size), FULL, plan, batch_size=batch_size, seed=0, epoch=0)
    batches, waited = iter(dataset), 0.0
    for number in range(steps + 2):
        if number == 2:  # the first steps trace
            start, waited = time.perf_counter(), 0.0
        before = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - before
        step(batch.inputs["image"], batch.cell_labels[:, 0], batch.seed)
    total = time.perf_counter() - start
    return waited / total, steps * batch_size / total


def print_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print columns of text, the first to the left, the others to the right."""
    rows = [list(header), *map(list, rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print(row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)))
    print()


def main(options: Options) -> None:
    """Measure and print."""
    keep_freed_memory()  # as train.py does
    if options.only_steps:
        loader_steps.main(options.cells, options.names)
        return
    with tempfile.TemporaryDirectory() as temporary:
        drawn = {bits: Path(temporary) / f"cells{bits}" for bits in (8, 16)}
        loader_views.main(
            Path(temporary), lambda bits: read_examples(write_data(drawn[bits], options, bits, "png"), clean=False)
        )
        if options.only_views:
            return
        if options.data:
            folders = {options.data: options.data}
        else:
            kinds = {f"{bits} bit, {encoding}": (bits, encoding) for bits in (8, 16) for encoding in get_args(Encoding)}
            folders = {
                name: write_data(Path(temporary) / str(i), options, *kind)
                for i, (name, kind) in enumerate(kinds.items())
            }
        found = {}
        for name, folder in folders.items():
            examples = read_examples(folder, clean=False)
            found[name] = examples.select(np.arange(min(options.cells, len(examples))))
        for size in options.sizes:
            columns = [stage_costs(examples, size) for examples in found.values()]
            other = [opencv_cost(examples, size) for examples in found.values()]
            print(f"{size} px input; processor ms a cell (cells/s and core)")
            rows = [[stage, *(text(column[stage]) for column in columns)] for stage in columns[0]]
            rows.append(["OpenCV + NumPy, flip and rotation only", *map(text, other)])
            print_table(["stage", *found], rows)
        rates = [(size, name, *loader_rate(ex, size)) for size in options.sizes for name, ex in found.items()]
        print("The loader alone (training_batches, batch 16, full augmentation), all cores")
        rows = [(f"{size} px, {name}", f"{wall:.0f}", f"{per_core:.0f}") for size, name, wall, per_core in rates]
        print_table(["input", "cells/s", "cells/s per core"], rows)
        if options.steps:
            share, rate = waiting_share(next(iter(found.values())), options.steps)
            print(f"EfficientNetB0, 128 px, batch 16, float32: {rate:.1f} cells/s, {share:.2%} of the time waiting")


def text(seconds: float) -> str:
    """Return a time a cell and its rate."""
    return f"{seconds * 1e3:.2f}" + (f" ({1 / seconds:.0f})" if seconds > 0 else "")


if __name__ == "__main__":
    main(tyro.cli(Options))

"""Time and memory of everything that is planned before a picture is read: from 20,000 cells to two million.

    python benchmarks/scale.py [--cells 20000 200000 2000000] [--scratch DIR]

Data folders without pixels are drawn: 20 cells an image, 16 images a shard, the tables as the builder writes them;
each shard holds one tiny record, and every row of the tables points to it. Each size is measured in processes of its
own; memory is the peak above an empty process with the same imports, time is wall (processor) seconds. The last column
says how much more the largest size takes than the smallest, beside how many times larger it is.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

import numpy as np
import pandas as pd
import tyro

from hpa_tf import cell_table, files, framing, image_table, records
from hpa_tf.classes import CHANNELS, CLASSES, NUM_CLASSES
from hpa_tf.encoding import encode_picture

CELLS_AN_IMAGE, IMAGES_A_SHARD, FOLDS, SIZE, BATCH = 20, 16, 5, 8, 64
PARTS = ("train", "verify", "predict")
GOALS = {"read": "4 s, 1.2 GB", "draw an epoch": "1.5 s", "next epoch: to its first batch": "1 s"}


@dataclass(frozen=True)
class Options:
    """What to measure."""

    cells: tuple[int, ...] = (20_000, 200_000, 2_000_000)
    """Sizes of the tables, smallest first."""
    scratch: str | None = None
    """Where the folders are written (about 1 GB); default: a temporary folder."""
    parts: tuple[str, ...] = PARTS
    """What to measure: train, verify, predict."""
    only: str | None = None
    """Used by the program itself: measure one part in this process and print it as JSON."""


# -- folders without pixels -------------------------------------------------------------------------------------------


def image_ids(count: int) -> list[str]:
    """Return ids like those of the Human Protein Atlas, 36 characters each, in the order of a hash."""
    numbers = np.random.default_rng(0).integers(0, 1 << 62, count).tolist()
    return [f"{number:016x}-bbba-11e8-b2ba-{i:012x}" for i, number in enumerate(numbers)]


def records_of_shards() -> tuple[bytes, bytes]:
    """Return the one record of a shard of cells, and that of a shard of fields of view, framed."""
    pixels, small = np.full((SIZE, SIZE, 4), 7, np.uint8), np.ones((SIZE, SIZE), np.uint8)
    shared = {"fold": 0, "image_size": (SIZE, SIZE), "um_per_px": 0.08, "bits": 8, "labels": np.zeros(NUM_CLASSES)}
    box = {"box": (0, 0, SIZE, SIZE), "crop_box": (0, 0, SIZE, SIZE)}
    measured = {"cell_area": 64, "nucleus_area": 1, "nucleus_blue": 7, "border_ratios": (0, 0), "channel_sums": [1] * 4}
    pictures = {"crop": encode_picture(pixels), "region": encode_picture(small)}
    cell = {"image_id": b"drawn", "cell": 1, **shared, **box, **measured, **pictures}
    field = {"image_id": b"drawn", **shared, "image": encode_picture(pixels)}
    field["masks"] = encode_picture(small.astype(np.uint16))
    return framing.frame(records.encode(cell)), framing.frame(records.encode(field, records.IMAGE_FIELDS))


def write_folder(folder: Path, num_cells: int) -> None:
    """Write a data folder of so many cells."""
    folder.mkdir(parents=True)
    ids, rng = image_ids(num_cells // CELLS_AN_IMAGE), np.random.default_rng(1)
    labels = (rng.random((len(ids), NUM_CLASSES)) < rng.random(NUM_CLASSES) * 0.2).astype(np.float32)
    of_cells, of_fields = records_of_shards()
    shards, rows = {"cells": [], "fields": []}, []
    per_fold = -(-len(ids) // (FOLDS * IMAGES_A_SHARD))
    with cell_table.parts_writer(folder / records.CELL_TABLE_NAME, "labels") as write_part:
        for number, start in enumerate(range(0, len(ids), IMAGES_A_SHARD)):
            fold, index = divmod(number, per_fold)
            own = slice(start, min(start + IMAGES_A_SHARD, len(ids)))
            names = {kind: records.shard_name(kind, fold, index, per_fold) for kind in shards}
            for kind, data in (("cells", of_cells), ("fields", of_fields)):
                (folder / names[kind]).write_bytes(data)
                sha256 = files.sha256(folder / names[kind])
                shards[kind].append(records.Shard(names[kind], kind, fold, 1, len(data), sha256))
            rows.append(cells_of(ids[own], labels[own], fold, names["cells"], rng))
            if sum(map(len, rows)) >= 20_000 or own.stop == len(ids):
                write_part(pd.concat(rows, ignore_index=True))
                rows = []
    folds = (np.arange(len(ids)) // IMAGES_A_SHARD // per_fold).tolist()
    of_image = [shards["fields"][i // IMAGES_A_SHARD].name for i in range(len(ids))]
    counts = [CELLS_AN_IMAGE] * len(ids)
    image_table.write(image_table.make(ids, folds, of_image, [0] * len(ids), labels, counts), folder)
    checksums = {name: files.sha256(folder / name) for name in (records.CELL_TABLE_NAME, image_table.NAME)}
    made = (*shards["cells"], *shards["fields"])
    numbers = (FOLDS, len(ids), len(ids) * CELLS_AN_IMAGE)
    rest = ("png", (0.08,), (8,), 0, "drawn", *numbers, made, {}, "", None, checksums)
    records.write_manifest(folder, records.Manifest(records.SCHEMA_VERSION, CLASSES, CHANNELS, *rest))


def cells_of(ids: list[str], labels: np.ndarray, fold: int, shard: str, rng: np.random.Generator) -> pd.DataFrame:
    """Return the rows of the cells of some images, with the columns and types of the builder's."""
    count = len(ids) * CELLS_AN_IMAGE
    columns: dict[str, Any] = {"fold": np.full(count, fold, np.int32)}
    columns |= {name: rng.integers(0, 2048, count).astype(np.int32) for name in ("top", "left", "bottom", "right")}
    columns |= {"height": np.full(count, 2048, np.int32), "width": np.full(count, 2048, np.int32)}
    columns |= {"um_per_px": np.full(count, 0.08), "bits": np.full(count, 8, np.int32)}
    areas = ("cell_area", "nucleus_area", "nucleus_blue", "sum_red", "sum_green", "sum_blue", "sum_yellow")
    columns |= {name: rng.integers(1, 1 << 22, count) for name in areas}
    columns |= {name: rng.random(count) for name in ("border_ud", "border_lr")}
    columns["cleaning_value"] = np.where(rng.random(count) < 0.1, 0.5, 1.0)
    columns |= {"shard": pd.Series([shard] * count, dtype="str"), "record": np.arange(count, dtype=np.int64)}
    columns["offset"] = np.zeros(count, np.int64)
    numbers, values = np.tile(np.arange(1, CELLS_AN_IMAGE + 1), len(ids)), labels.repeat(CELLS_AN_IMAGE, axis=0)
    return cell_table.from_values(np.repeat(ids, CELLS_AN_IMAGE), numbers, values, columns)


# -- measured, each in a process of its own ---------------------------------------------------------------------------

Row = tuple[str, float, float, float]
"""What was measured, wall seconds, processor seconds, peak memory above the imports in GB."""


class Measured:
    """Runs calls and keeps how long each took, and the peak memory of the process so far."""

    def __init__(self):
        self.rows: list[Row] = []
        self._base = _resident()

    def __call__(self, name: str, function: Callable, *arguments: Any, **options: Any) -> Any:
        """Call a function, keep its figures, return what it returned."""
        wall, processor = time.perf_counter(), time.process_time()
        result = function(*arguments, **options)
        figures = (time.perf_counter() - wall, time.process_time() - processor)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20 - self._base
        self.rows.append((name, *figures, peak))
        return result


def _resident() -> float:
    """Return the memory that this process holds, GB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) / 2**20


def measure_train(folder: Path) -> list[Row]:
    """Read the tables, draw epochs, and wait for the first batch of epochs of each kind of view."""
    from hpa_tf.memory import keep_freed_memory
    from hpa_tf.pipeline import SemiBalanced, draw_epoch, evaluation_batches, read_examples, training_batches
    from hpa_tf.views import Bag, Crop, Field

    keep_freed_memory()  # as train.py does
    measured, sampling = Measured(), SemiBalanced()
    examples = measured("read", read_examples, folder)
    measured("draw an epoch", draw_epoch, examples, sampling, 0, 0)
    measured("draw the next", draw_epoch, examples, sampling, 0, 1)
    views = {"": Crop(SIZE), " (bags)": Bag(4, Crop(SIZE)), " (fields)": Field(SIZE, num_cells=3)}
    for name, view in views.items():

        def first_batch(epoch: int, first_step: int = 0, view=view) -> Iterator:
            options = {"batch_size": BATCH, "seed": 0, "epoch": epoch, "first_step": first_step}
            batches = iter(training_batches(examples, view, sampling=sampling, **options))
            next(batches)
            return batches

        measured(f"first epoch: to its first batch{name}", first_batch, 0)
        measured(f"next epoch: to its first batch{name}", first_batch, 1)
        measured(f"the epoch after{name}", first_batch, 2)
        measured(f"resume mid-epoch{name}", first_batch, 3, 50)
    evaluation = evaluation_batches(examples, Crop(SIZE), batch_size=BATCH)
    measured("every cell once: to the first batch", lambda: next(iter(evaluation)))
    return measured.rows


def measure_verify(folder: Path) -> list[Row]:
    """Verify the tables and the shards, which hold one record each."""
    from tfrecords_builder.verify import verify

    measured = Measured()
    measured("verify", verify, folder)
    return measured.rows


def measure_predict(folder: Path) -> list[Row]:
    """Plan a prediction, of shards and of image files; then plan it again, with all images done."""
    from hpa_tf.imaging.image_cells import Reading
    from hpa_tf.imaging.segmentation.classical import ClassicalSegmenter
    from hpa_tf.prediction import results
    from hpa_tf.prediction.result_files import done_images
    from hpa_tf.prediction.shards import shard_source
    from hpa_tf.prediction.sources import ImageReader, image_source
    from hpa_tf.prediction.stages import groups_to_do

    measured = Measured()
    source = measured("plan a prediction from shards", shard_source, str(folder), None, (0, 1))
    measured("its tasks", lambda: [source.task(i) for i in range(min(1000, len(source.image_ids)))])
    images, out = folder.parent / f"{folder.name}_images", folder.parent / f"{folder.name}_out"
    for one in (images, out, out / "parts"):
        one.mkdir(exist_ok=True)
    for image_id in source.image_ids:
        for channel in CHANNELS:
            (images / f"{image_id}_{channel}.png").touch()
    reader = ImageReader(Reading(ClassicalSegmenter()))
    source = measured("plan a prediction from images", image_source, str(images), (0, 1), reader)
    measured("write its state down", results.drop_changed, str(out), source.stamps)
    for image_id in source.image_ids:
        (out / "parts" / f"{image_id}.parquet").touch()

    def go_on() -> None:
        results.drop_changed(str(out), source.stamps)
        list(groups_to_do(source.image_ids, done_images(str(out))))

    measured("go on with it, all done", go_on)
    return measured.rows


# -- the table --------------------------------------------------------------------------------------------------------


def run(part: str, folder: Path) -> list[Row]:
    """Measure one part in a process of its own."""
    command = [sys.executable, __file__, "--only", f"{part}:{folder}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def show(sizes: list[int], found: dict[str, dict[int, Row]]) -> None:
    """Print a row for each measurement, a column for each size."""
    factor = sizes[-1] / sizes[0]
    header = [f"{size:,} cells" for size in sizes]
    title = "wall s (processor s), peak GB above the imports".ljust(46)
    print(title, *(text.rjust(22) for text in header), f" of {factor:.0f}x")
    for name, rows in found.items():
        cells = [f"{wall:.2f} ({processor:.2f}) {peak:.2f}" for _, wall, processor, peak in rows.values()]
        grown = rows[sizes[-1]][2] / max(rows[sizes[0]][2], 1e-3)
        goal = f"  goal {GOALS[name]}" if name in GOALS else ""
        print(name.ljust(46), *(text.rjust(22) for text in cells), f"{grown:7.1f}x{goal}")


def main(options: Options) -> None:
    """Measure and print."""
    if options.only:
        part, _, folder = options.only.partition(":")
        measure = {"train": measure_train, "verify": measure_verify, "predict": measure_predict}[part]
        print(json.dumps(measure(Path(folder))))
        return
    with tempfile.TemporaryDirectory(dir=options.scratch) as temporary:
        found: dict[str, dict[int, Row]] = {}
        for size in options.cells:
            folder = Path(temporary) / str(size)
            write_folder(folder, size)
            for part in options.parts:
                for row in run(part, folder):
                    found.setdefault(row[0], {})[size] = row
    show(list(options.cells), found)


if __name__ == "__main__":
    main(tyro.cli(Options))

"""How long the grading page takes from a key press to the next cell painted, in a real browser, on 100,000 cells.

    python benchmarks/grading.py [--cells 100000] [--size 64] [--presses 300]

Draws a data folder (kept in --folder, or in a temporary one), puts the shards out of the system's memory, starts the
page as a user does and presses real keys in a headless Chromium (Debian's package `chromium`): as fast as the page lets
one, then three times a second. Measured by the browser: from the key's time stamp to the frame after the next cell was
drawn; the grade is on the disk by then. Then the same with 10,000 decisions in the journal. Also: seconds from start to
address, and the server's memory.
"""

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tyro
from playwright.sync_api import Page, sync_playwright

from hpa_tf import cell_table, framing, records
from hpa_tf.classes import CHANNELS, CLASSES, NUM_CLASSES
from hpa_tf.encoding import encode_picture
from hpa_tf.grade_decisions import Decision, GradedData
from hpa_tf.grade_journal import Writer
from hpa_tf.imaging.cells import BOX

CLASS, CELLS_PER_IMAGE, DISTINCT = 11, 20, 500
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]


@dataclass(frozen=True)
class Options:
    """What to measure."""

    cells: int = 100_000
    """Cells of the table."""
    size: int = 64
    """Side of the drawn crops, px."""
    presses: int = 300
    """Keys to press in each part."""
    decisions: int = 10_000
    """Decisions in the journal of the last part."""
    folder: str | None = None
    """Where the drawn data folder is kept; default: a temporary one."""


def write_data(folder: Path, options: Options) -> None:
    """Write a data folder of drawn cells: smooth structure with photon noise, 500 different ones."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    pictures = [draw(rng, options.size) for _ in range(DISTINCT)]
    rows, shards = [], []
    per_shard = 5_000
    count = -(-options.cells // per_shard)
    for index in range(count):
        name, parts, size = records.shard_name("cells", 0, index, count), [], 0
        for i in range(index * per_shard, min((index + 1) * per_shard, options.cells)):
            data = framing.frame(records.encode(record(i, *pictures[i % DISTINCT], options.size)))
            rows.append((f"image-{i // CELLS_PER_IMAGE:06d}", i % CELLS_PER_IMAGE + 1, name, i % per_shard, size))
            parts.append(data)
            size += len(data)
        whole = b"".join(parts)
        (folder / name).write_bytes(whole)
        shards.append(records.Shard(name, "cells", 0, len(parts), size, hashlib.sha256(whole).hexdigest()))
    ids, cells, names, ordinals, offsets = zip(*rows, strict=True)
    columns = {"shard": names, "record": np.int32(ordinals), "offset": np.int64(offsets), "fold": np.int32(0)}
    columns |= {"cleaning_value": 1.0, "cell_area": options.size**2 // 2, **dict.fromkeys(BOX, 0)}
    columns |= {f"sum_{channel}": rng.integers(10**5, 10**6, len(rows)) for channel in CHANNELS}
    filled = {name: np.broadcast_to(value, len(rows)) for name, value in columns.items()}
    table = cell_table.from_values(ids, cells, np.tile(label(), (len(rows), 1)), filled)
    cell_table.write(table, folder / records.CELL_TABLE_NAME, "labels")
    known = {"schema_version": records.SCHEMA_VERSION, "classes": CLASSES, "channels": CHANNELS, "encoding": "png"}
    known |= {"um_per_px": (0.32,), "bits": (8,), "margin": 0, "segmenter": "drawn", "num_folds": 1, "options": {}}
    known |= {"num_images": len(set(ids)), "num_cells": len(rows), "shards": tuple(shards), "fingerprint": "d" * 64}
    records.write_manifest(folder, records.Manifest(**known))


def draw(rng: np.random.Generator, size: int) -> tuple[bytes, bytes]:
    """Return (crop, region) of one cell as encoded pictures."""
    planes = [cv2.GaussianBlur(rng.random((size, size), np.float32), (0, 0), size / 20) for _ in range(4)]
    planes = [(plane - plane.min()) / (plane.max() - plane.min()) for plane in planes]
    crop = np.clip(rng.poisson(np.stack(planes, axis=-1) ** 2 * 60) * 4, 0, 255).astype(np.uint8)
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    distance = np.hypot(rows, columns) / (size / 2)
    region = (distance < 0.95).astype(np.uint8) + (distance < 0.4)
    return encode_picture(crop), encode_picture(region.astype(np.uint8))


def label() -> np.ndarray:
    """Return labels [19] with the class that is graded."""
    return (np.arange(NUM_CLASSES) == CLASS).astype(np.float32)


def record(i: int, crop: bytes, region: bytes, size: int) -> dict:
    """Return the record of a drawn cell: 20 of them in a row fill an image."""
    top, left = divmod(i % CELLS_PER_IMAGE, 5)
    box = (top * size, left * size, (top + 1) * size, (left + 1) * size)
    return {
        "image_id": f"image-{i // CELLS_PER_IMAGE:06d}".encode(), "cell": i % CELLS_PER_IMAGE + 1, "fold": 0,
        "image_size": (5 * size, 5 * size), "um_per_px": 0.32, "bits": 8, "box": box, "crop_box": box, "crop": crop,
        "region": region, "labels": label(), "cell_area": size * size // 2, "nucleus_area": size, "nucleus_blue": size,
        "border_ratios": (1.0, 1.0), "channel_sums": (1, 1, 1, 1),
    }  # fmt: skip


@contextlib.contextmanager
def served(data: Path, out: Path) -> Iterator[tuple[str, float, int]]:
    """Start the page; yield (address, seconds until it was printed, process id)."""
    command = [sys.executable, "-m", "hpa_tf.grading", "--data", str(data), "--class", str(CLASS), "--out", str(out)]
    start = time.monotonic()
    process = subprocess.Popen([*command, "--port", "0", "--grader", "bench"], stdout=subprocess.PIPE, text=True)
    try:
        address = next(found[0] for line in process.stdout if (found := re.search(r"http://127\S+/#\S+", line)))
        yield address, time.monotonic() - start, process.pid
    finally:
        process.kill()
        process.wait()


def forget(folder: Path) -> None:
    """Put the folder's files out of the system's memory, so that every cell is read from the disk."""
    for path in folder.iterdir():
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def press(page: Page, count: int, pause: float) -> list[float]:
    """Press keys; return the milliseconds from each to the next cell painted."""
    entries = "performance.getEntriesByName('key to paint').map(entry => entry.duration)"
    page.evaluate("performance.clearMeasures()")
    for number in range(count):
        began = time.monotonic()
        page.keyboard.press(str(1 + number % 5))
        while len(page.evaluate(entries)) <= number:
            time.sleep(0.008)  # asking costs the browser time too
        time.sleep(max(0.0, pause - (time.monotonic() - began)))
    return page.evaluate(entries)


def show(name: str, times: list[float]) -> None:
    """Print one row of the table."""
    low, high = np.percentile(times, [50, 95])
    rate = 60_000 / np.mean(times)
    print(f"{name:<44} {len(times):>5} {low:>8.1f} {high:>8.1f} {max(times):>8.1f} {rate:>10.0f}", flush=True)


def measure(data: Path, out: Path, options: Options, parts: dict[str, float], note: str) -> None:
    """Open the page in a browser and press the keys of each part (name -> seconds between keys, at least)."""
    forget(data)
    with served(data, out) as (address, seconds, pid), sync_playwright() as engine:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = engine.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1600, "height": 900})
        page.goto(address)
        page.wait_for_selector("#stage canvas")
        for name, pause in parts.items():
            show(f"{name}{note}", press(page, options.presses, pause))
        memory = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
        megabytes = int(memory[1]) / 1024 if memory else float("nan")
        print(f"{'':<44} started in {seconds:.1f} s, at most {megabytes:.0f} MB{note}", flush=True)
        browser.close()


def fill_journal(out: Path, count: int) -> None:
    """Write a journal with many decisions."""
    writer = Writer(out, CLASS, "bench", GradedData("d" * 64, "d" * 64))
    keys = ((f"image-{i // CELLS_PER_IMAGE:06d}", i % CELLS_PER_IMAGE + 1) for i in range(count))
    writer.append([Decision(i + 1, "grade", *key, 1 + i % 5, seconds=1.0) for i, key in enumerate(keys)])
    writer.close()


def main(options: Options) -> None:
    """Measure and print the table."""
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(options.folder or temporary) / f"cells-{options.cells}-{options.size}"
        if not (data / records.MANIFEST_NAME).exists():
            write_data(data, options)
        load = os.getloadavg()[0] / (os.cpu_count() or 1)
        print(f"{options.cells} cells of {options.size} px; milliseconds from key press to the next cell painted")
        print(f"(load of the machine by other work at the start: {load:.1f} of its cores)")
        print(f"{'':<44} {'keys':>5} {'median':>8} {'p95':>8} {'most':>8} {'a minute':>10}")
        parts = {"as fast as the page lets one": 0.0, "three keys a second": 1 / 3}
        measure(data, Path(temporary) / "new", options, parts, "")
        fill_journal(Path(temporary) / "old", options.decisions)
        measure(data, Path(temporary) / "old", options, {"as fast as the page lets one": 0.0},
                f", {options.decisions} decisions")  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

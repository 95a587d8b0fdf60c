"""The builder against the sum of its parts, one worker against two, resuming, verifying, memory; in one run.

    python benchmarks/builder.py --images DIR --scratch DIR

Images without a mask are left out; each image is used several times under other names. A further field of view of
3072 px, 16 bit, 100 cells is drawn for the memory of a worker. Builds of 512 px images under many names show that
memory does not grow with their number. Needs psutil (the extra [test]).
"""

import contextlib
import hashlib
import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import google_crc32c
import numpy as np
import tyro

from hpa_tf.classes import CHANNELS
from hpa_tf.encoding import encode_picture
from hpa_tf.imaging.cells import cut_cells
from hpa_tf.imaging.fields import find_fields, read_field
from hpa_tf.imaging.segmentation.masks_on_disk import MasksOnDisk
from tfrecords_builder.image import Settings
from tfrecords_builder.options import BuildOptions
from tfrecords_builder.plan import make_plan
from tfrecords_builder.unit import STATE_FOLDER, build_unit
from tfrecords_builder.verify import verify


@dataclass(frozen=True)
class Options:
    """What to measure on."""

    images: str
    """Folder of fields of view with {ID}_cellmask.png."""
    scratch: str
    """Folder for copies and shards; removed afterwards."""
    copies: int = 6
    """How often each image is used."""
    resume_images: int = 500
    """Images of 20 small cells each for the resume of a finished build."""
    scale_images: tuple[int, ...] = (500, 2000)
    """Numbers of 512 px images with 16 cells for the growth of time and memory."""


def make_inputs(options: Options) -> tuple[Path, Path, int]:
    """Link the images under several names; return their folder, table and number."""
    folder = Path(options.scratch) / "inputs"
    folder.mkdir(parents=True)
    ids = []
    for field in find_fields(options.images):
        mask = Path(options.images) / f"{field.image_id}_cellmask.png"
        for copy in range(options.copies if mask.exists() else 0):
            ids.append(f"{field.image_id}-{copy}")
            for channel in CHANNELS:
                os.symlink(os.path.abspath(field.paths[channel]), folder / f"{ids[-1]}_{channel}.png")
            os.symlink(mask.resolve(), folder / f"{ids[-1]}_cellmask.png")
    return folder, write_table(folder, ids), len(ids)


def write_table(folder: Path, ids: list[str]) -> Path:
    """Write a label table of made-up labels."""
    table = folder / "train.csv"
    table.write_text("ID,Label\n" + "".join(f"{image_id},{k % 18}\n" for k, image_id in enumerate(ids)))
    return table


@dataclass(frozen=True)
class Took:
    """Seconds on the clock, and of processor time of this process (not of the workers of a build)."""

    wall: float
    cpu: float


def timed(call: Callable[[], object]) -> tuple[Took, object]:
    """Return how long a call takes, and its result."""
    wall, cpu = time.perf_counter(), _cpu()
    result = call()
    return Took(time.perf_counter() - wall, _cpu() - cpu), result


def _cpu() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def parts(folder: Path) -> dict[str, Took]:
    """Time decoding, segmenting, cutting and encoding of all images alone, in this process."""
    cv2.setNumThreads(1)
    segmenter, spent = MasksOnDisk(str(folder)), {}

    def add(name: str, call: Callable[[], object]) -> object:
        took, result = timed(call)
        before = spent.get(name, Took(0, 0))
        spent[name] = Took(before.wall + took.wall, before.cpu + took.cpu)
        return result

    for files in find_fields(folder):
        field = add("decode", partial(read_field, files))
        masks = add("masks and nuclei", partial(segmenter, field))
        cells = add("cut and measure", lambda field=field, masks=masks: list(cut_cells(field, masks)))
        add("encode", lambda cells=cells: [(encode_picture(cell.crop), encode_picture(cell.region)) for cell in cells])
    return spent


def units_here(folder: Path, table: Path, out: Path) -> None:
    """Do all that a worker does, in this process."""
    named = {"images": (str(folder),), "labels": (str(table),), "masks": (str(folder),), "out": str(out)}
    options = BuildOptions(**named)
    (out / STATE_FOLDER).mkdir(parents=True)
    for unit in make_plan(options).units:
        build_unit(unit, Settings.of(options), lambda *_: None)


def build_command(folder: Path, table: Path, out: Path, workers: int) -> list[str]:
    """Return the command line of a build."""
    command = [sys.executable, "-m", "tfrecords_builder", "build", "--images", str(folder), "--labels", str(table)]
    return [*command, "--masks", str(folder), "--out", str(out), "--workers", str(workers)]


def build(folder: Path, table: Path, out: Path, workers: int) -> Took:
    """Build in a process of its own."""
    command = build_command(folder, table, out, workers)
    return timed(lambda: subprocess.run(command, check=True, capture_output=True))[0]


def draw_small_cells(folder: Path, num_images: int) -> Path:
    """Write fields of view of 20 small cells each."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    mask = np.zeros((80, 100), np.uint16)
    for number in range(20):
        top, left = 20 * (number // 5) + 2, 20 * (number % 5) + 2
        mask[top : top + 16, left : left + 16] = number + 1
    ids = [f"small{number}" for number in range(num_images)]
    for image_id in ids:
        for channel in CHANNELS:
            cv2.imwrite(str(folder / f"{image_id}_{channel}.png"), rng.integers(0, 256, mask.shape, np.uint8))
        cv2.imwrite(str(folder / f"{image_id}_cellmask.png"), mask)
        cv2.imwrite(str(folder / f"{image_id}_nucleusmask.png"), mask)
    return write_table(folder, ids)


def draw_scale_inputs(folder: Path, num_images: int) -> Path:
    """Write one field of view of 512 px and 16 cells, and link it under many names."""
    (folder / "one").mkdir(parents=True)
    rng, (rows, columns) = np.random.default_rng(0), np.mgrid[:512, :512]
    mask = (rows // 128 * 4 + columns // 128 + 1).astype(np.uint16)
    mask[(rows % 128 < 4) | (columns % 128 < 4)] = 0
    nucleus = np.where((rows % 128 - 66) ** 2 + (columns % 128 - 66) ** 2 < 30**2, mask, 0).astype(np.uint16)
    names = [*CHANNELS, "cellmask", "nucleusmask"]
    for name, pixels in zip(names, [*rng.integers(1, 60, (4, 512, 512), np.uint8), mask, nucleus], strict=True):
        cv2.imwrite(str(folder / "one" / f"{name}.png"), pixels)
    ids = [f"scale{number}" for number in range(num_images)]
    for image_id in ids:
        for name in names:
            os.symlink(f"one/{name}.png", folder / f"{image_id}_{name}.png")
    return write_table(folder, ids)


def peak_memory(process: subprocess.Popen) -> tuple[float, float]:
    """Wait for a build; return the most memory, MB, of its main process and of any other of its processes."""
    import psutil

    main = worker = 0.0
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            build_process = psutil.Process(process.pid)
            main = max(main, build_process.memory_info().rss / 1e6)
            for child in build_process.children(recursive=True):
                worker = max(worker, child.memory_info().rss / 1e6)
        time.sleep(0.1)
    return main, worker


_MEMORY = """
import resource, sys
from tfrecords_builder.image import Settings
from tfrecords_builder.options import BuildOptions
from tfrecords_builder.plan import make_plan
from hpa_tf.worker_processes import use_one_thread
from tfrecords_builder.unit import build_unit
import os
use_one_thread()
folder, table, out = sys.argv[1:]
options = BuildOptions(images=(folder,), labels=(table,), masks=(folder,), out=out, num_folds=1)
os.makedirs(os.path.join(out, ".build"))
for unit in make_plan(options).units:
    build_unit(unit, Settings.of(options), lambda *_: None)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def worker_memory(folder: Path, out: Path) -> float:
    """Return the most memory, MB, of a process that does a worker's work on 3072 px, 16 bit, 100 cells, no nuclei."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:3072, :3072]
    mask = (rows // 308 * 10 + columns // 308 + 1).astype(np.uint16)
    mask[(rows % 308 < 4) | (columns % 308 < 4)] = 0
    for channel in CHANNELS:
        pixels = rng.integers(0, 20_000, mask.shape, np.uint16)
        if channel == "blue":
            pixels[(rows % 308 - 154) ** 2 + (columns % 308 - 154) ** 2 < 70**2] += 40_000
        cv2.imwrite(str(folder / f"large_{channel}.png"), pixels)
    cv2.imwrite(str(folder / "large_cellmask.png"), mask)
    table = write_table(folder, ["large"])
    command = [sys.executable, "-c", _MEMORY, str(folder), str(table), str(out)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def checksums(folder: Path) -> None:
    """Compute what `verify` must at least: the checksums of all bytes."""
    for path in folder.glob("*.tfrecord*"):
        data = path.read_bytes()
        hashlib.sha256(data).digest()
        google_crc32c.value(data)


def line(name: str, took: Took, note: str = "") -> None:
    """Print one row."""
    print(f"{name:34}{took.wall:8.2f} s{took.cpu:8.2f} s of processor here  {note}", flush=True)


def measure_builds(options: Options, scratch: Path) -> None:
    """Print the parts, builds with one and two workers, and verifying."""
    folder, table, num_images = make_inputs(options)
    spent = parts(folder)
    for name, took in spent.items():
        line(name, took)
    total = Took(sum(took.wall for took in spent.values()), sum(took.cpu for took in spent.values()))
    line("sum of the parts", total, f"{num_images} images")
    start = build(scratch / "few", draw_small_cells(scratch / "few", 5), scratch / "few_out", 1)
    line("a build of 5 tiny images", start, "start-up: imports, plan, end")
    one, two = (build(folder, table, scratch / f"out{workers}", workers) for workers in (1, 2))
    here = timed(lambda: units_here(folder, table, scratch / "here"))[0]
    line("a worker's work", here, f"{here.cpu / total.cpu - 1:+.1%} of processor over the parts")
    line("build, 1 worker", one, f"without start-up {(one.wall - start.wall) / total.wall - 1:+.1%} over the parts")
    speedup = (one.wall - start.wall) / (two.wall - start.wall)
    line("build, 2 workers", two, f"{one.wall / two.wall:.2f} times as fast; without start-up {speedup:.2f}")
    size = sum(path.stat().st_size for path in (scratch / "out1").glob("*.tfrecord*")) / 1e6
    line("SHA-256 and CRC32C alone", timed(lambda: checksums(scratch / "out1"))[0], f"{size:.0f} MB")
    for deep in (False, True):
        with contextlib.redirect_stderr(io.StringIO()):
            took, faults = timed(lambda deep=deep: verify(scratch / "out1", deep=deep))
        rate = size / max(took.cpu, 1e-9)
        line("verify --deep" if deep else "verify", took, f"{rate:.0f} MB a processor second, {len(faults)} faults")


def measure_resume(options: Options, scratch: Path) -> None:
    """Print how long a finished build takes to say so."""
    table = draw_small_cells(scratch / "small", options.resume_images)
    first = build(scratch / "small", table, scratch / "small_out", 2)
    again = build(scratch / "small", table, scratch / "small_out", 2)
    line("build of many tiny images", first, f"{20 * options.resume_images} cells")
    line("the same again", again, "nothing left to do")


def measure_scale(options: Options, scratch: Path) -> None:
    """Print time and memory of builds of different size, of resuming and of verifying them."""
    for num_images in options.scale_images:
        folder, out = scratch / f"scale{num_images}", scratch / f"scale{num_images}_out"
        table = draw_scale_inputs(folder, num_images)
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(build_command(folder, table, out, 2), **silent)
        took, (main, worker) = timed(lambda process=process: peak_memory(process))
        note = f"{num_images / took.wall:.0f} images/s; most memory: main {main:.0f} MB, worker {worker:.0f} MB"
        line(f"build of {num_images} images of 512 px", took, note)
        line("the same again", build(folder, table, out, 2))
        with contextlib.redirect_stderr(io.StringIO()):
            took, faults = timed(lambda out=out: verify(out))
        size = sum(path.stat().st_size for path in out.glob("*.tfrecord*")) / 1e6
        line("verify", took, f"{size / took.wall:.0f} MB/s, {len(faults)} faults")
        shutil.rmtree(out)


def main(options: Options) -> None:
    """Print the table."""
    scratch = Path(options.scratch)
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        measure_builds(options, scratch)
        measure_resume(options, scratch)
        measure_scale(options, scratch)
        memory = worker_memory(scratch / "large", scratch / "large_out")
        print(f"most memory of a worker: {memory:.0f} MB; 3072 px, 16 bit, 100 cells")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main(tyro.cli(Options))

"""Time and memory of each way to segment: HPACellSegmentator's networks and labelling, the small and the classical one.

    python benchmarks/segmentation_speed.py [--maps DIR] [--sizes 2048 3072] [--batch-sizes 1 4] [--no-networks]

The large networks have random weights: their time does not depend on them. Each size and batch has a process of its
own, which builds both networks as `hpa_tf.segmenting` does and runs one of them; its time counts twice. Maps to label
are drawn, or with --maps real ones ({ID}_nuclei_net_output.tif, {ID}_cell_net_output.tif: 3 pages, 0..1), repeated to
the size asked for as the networks' answers are; beside our labelling stands a direct transcription of the original's.
The small and the classical segmenter see a generated field. Times are those of the processor, so what else the machine
does changes them little; labelling and these two run on one core.
"""

import multiprocessing
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tifffile
import tyro
from label_cell_transcription import label_cell as transcription

from hpa_tf.imaging.segmentation import components, flooding
from hpa_tf.imaging.segmentation.choosing import make_segmenter
from hpa_tf.imaging.segmentation.label_cell import label_cell
from hpa_tf.segmenting.fields import enlarged
from hpa_tf.synthetic.config import SyntheticConfig
from hpa_tf.synthetic.generator import make

Maps = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Options:
    """What to time."""

    maps: str | None = None
    """Folder of real maps."""
    sizes: tuple[int, ...] = (2048, 3072)
    """Height and width of the fields, px at 0.08 um/px."""
    batch_sizes: tuple[int, ...] = (1, 4)
    """Fields that the networks see at once."""
    networks: bool = True
    """Also time the large networks."""
    labelling: bool = True
    """Also time the transcription, and labelling without Numba and at the networks' size."""
    repeats: int = 3
    """Timed runs; the fastest counts."""


def drawn_maps(size: int) -> Maps:
    """Draw round cells of 20 um on a crooked grid, as the networks answer: uint8 [size, size, 3] at 0.32 um/px."""
    rng = np.random.default_rng(0)
    y, x = np.indices((size, size)).astype(np.float32)
    nuclei, cells = (np.zeros((size, size, 3), np.float32) for _ in range(2))
    for row in np.arange(30, size, 62):
        for column in np.arange(30, size, 62):
            centre = (row, column) + rng.normal(0, 6, 2)
            for maps, radius in ((nuclei, rng.uniform(13, 20)), (cells, rng.uniform(32, 42))):
                distance = np.hypot(y - centre[0], x - centre[1]) / radius
                maps[..., 2] = np.maximum(maps[..., 2], 1 / (1 + np.exp(14 * (distance - 1))))
                maps[..., 1] = np.maximum(maps[..., 1], np.exp(-(((distance - 1) * 9) ** 2)))
    for maps in (nuclei, cells):
        maps[..., 2] *= 1 - 0.8 * maps[..., 1]
    return tuple(np.rint(maps * 255).astype(np.uint8) for maps in (nuclei, cells))


def small_maps(options: Options, size: int) -> Maps:
    """Return maps of the networks' size for a field of `size` px."""
    if options.maps is None:
        return drawn_maps(size // 4)
    first = sorted(Path(options.maps).glob("*_nuclei_net_output.tif"))[0]
    paths = (first, first.with_name(first.name.replace("nuclei", "cell")))
    read = [np.moveaxis(tifffile.imread(path) * 255, 0, -1).astype(np.uint8) for path in paths]
    side = -(-size // 4 // read[0].shape[0])
    return tuple(np.tile(maps, (side, side, 1))[: size // 4, : size // 4] for maps in read)


def fastest(function: Callable, arguments: tuple, repeats: int) -> tuple[object, float]:
    """Return what a function returns, and its shortest processor time, s."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        result = function(*arguments)
        seconds.append(time.process_time() - start)
    return result, min(seconds)


def time_labelling(options: Options, size: int) -> None:
    """Print the time of each way to label, and what labelling at the networks' size loses."""
    small = small_maps(options, size)
    full = tuple(maps.repeat(4, 0).repeat(4, 1) for maps in small)
    (_, cells), reference = fastest(transcription, full, 1)
    print(f"\nlabelling, {size} px, {cells.max()} cells\n{'direct transcription':32} {reference:6.2f} s")
    label_cell(*full)  # compiles
    (_, found), seconds = fastest(label_cell, full, options.repeats)
    equal = "equal" if np.array_equal(found, cells) else "NOT EQUAL"
    print(f"{'label_cell':32} {seconds:6.2f} s  {reference / seconds:4.1f} x  {equal}")
    if flooding.has_numba():
        flooding.has_numba, components.has_numba, kept = (lambda: False), (lambda: False), flooding.has_numba
        (_, found), seconds = fastest(label_cell, full, 1)
        flooding.has_numba = components.has_numba = kept
        equal = "equal" if np.array_equal(found, cells) else "NOT EQUAL"
        print(f"{'label_cell without Numba':32} {seconds:6.2f} s  {reference / seconds:4.1f} x  {equal}")
    at_network_size = lambda *maps: enlarged(*label_cell(*maps, 0.32), (size, size))  # noqa: E731
    masks, seconds = fastest(at_network_size, small, options.repeats)
    ious = best_ious(cells, masks.cell)
    lost = f"IoU with full size: mean {ious.mean():.3f}, above 0.9 {np.mean(ious > 0.9):.0%}, least {ious.min():.2f}"
    print(f"{'at the network size':32} {seconds:6.2f} s  {reference / seconds:4.1f} x  {lost}", flush=True)


def best_ious(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return the best IoU of each region of `truth` with any region of `found`."""
    num_found = int(found.max()) + 1
    pair = truth.astype(np.int64) * num_found + found
    shared = np.bincount(pair.ravel(), minlength=(int(truth.max()) + 1) * num_found).reshape(-1, num_found)
    union = shared.sum(axis=1, keepdims=True) + shared.sum(axis=0) - shared
    return (shared / np.maximum(union, 1))[1:, 1:].max(axis=1, initial=0)


def time_segmenters(options: Options, size: int) -> None:
    """Print the time of the segmenters without large networks, s a field."""
    made = make(SyntheticConfig(size=size, difficulty="real", seed=83), 0)
    print(f"\na generated field of {size} px, {made.masks.cell.max()} cells")
    for name in ("classical", "small"):
        segmenter = make_segmenter(name)
        segmenter(made.field)  # loads the network
        _, seconds = fastest(segmenter, (made.field,), options.repeats)
        print(f"{name:32} {seconds:6.2f} s", flush=True)


def run_network(size: int, batch_size: int) -> tuple[float, float, float]:
    """Return wall and processor time of a batch of one network, s, and the memory at its highest, GiB."""
    from hpa_tf.models.dpn_unet import DpnUnet
    from hpa_tf.segmenting.networks import Devices

    devices = Devices("one", "auto")
    networks = [DpnUnet().build(devices.policy) for _ in range(2)]  # both are in memory
    run = devices.runner(networks[0])
    side = size // 4 + 64 - size // 4 % 32
    batch = np.random.default_rng(0).normal(size=(batch_size, side, side, 3)).astype(np.float32)
    run(batch)
    wall, cpu = time.perf_counter(), time.process_time()
    run(batch)
    times = time.perf_counter() - wall, time.process_time() - cpu
    status = Path("/proc/self/status").read_text()  # what getrusage says begins at the parent's size
    return *times, int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**20


def time_networks(options: Options) -> None:
    """Print network, labelling and total time, s a field, and memory, by size and batch."""
    titles = ("px", "batch", "networks", "labelling", "total", "(networks, wall)", "GiB")
    print("\nHPACellSegmentator's networks, processor s a field\n" + " ".join(f"{title:>9}" for title in titles))
    for size in options.sizes:
        maps = tuple(one.repeat(4, 0).repeat(4, 1) for one in small_maps(options, size))
        label_cell(*maps)  # compiles
        _, labelling = fastest(label_cell, maps, options.repeats)
        for batch_size in options.batch_sizes:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                wall, cpu, memory = pool.apply(run_network, (size, batch_size))
            wall, cpu = (2 * seconds / batch_size for seconds in (wall, cpu))
            row = f"{size:9} {batch_size:9} {cpu:9.2f} {labelling:9.2f} {cpu + labelling:9.2f}"
            print(f"{row} {wall:16.3f} {memory:9.1f}", flush=True)


def main(options: Options) -> None:
    """Print all tables."""
    cv2.setNumThreads(1)
    for size in options.sizes:
        time_segmenters(options, size)
        if options.labelling:
            time_labelling(options, size)
    if options.networks:
        time_networks(options)


if __name__ == "__main__":
    main(tyro.cli(Options))

"""Time and memory of the networks and of the labelling, beside a direct transcription of the original labelling.

    python benchmarks/segmentation_speed.py [--maps DIR] [--sizes 2048 3072] [--batch-sizes 1 4] [--no-networks]

Networks have random weights: their time does not depend on them. Maps to label are drawn, or with --maps real ones
({ID}_nuclei_net_output.tif, {ID}_cell_net_output.tif: 3 pages, 0..1), repeated to the size asked for as the networks'
answers are. Labelling runs on one core; its time is that of the processor.
"""

import resource
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
from hpa_tf.imaging.segmentation.label_cell import label_cell
from hpa_tf.segmenting.fields import enlarged

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
    """Also time the networks."""
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
    print(f"{'at the network size':32} {seconds:6.2f} s  {reference / seconds:4.1f} x  {lost}")


def best_ious(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return the best IoU of each region of `truth` with any region of `found`."""
    num_found = int(found.max()) + 1
    pair = truth.astype(np.int64) * num_found + found
    shared = np.bincount(pair.ravel(), minlength=(int(truth.max()) + 1) * num_found).reshape(-1, num_found)
    union = shared.sum(axis=1, keepdims=True) + shared.sum(axis=0) - shared
    return (shared / np.maximum(union, 1))[1:, 1:].max(axis=1, initial=0)


def time_networks(options: Options) -> None:
    """Print the time of both networks, s a field, and the memory at its highest."""
    from hpa_tf.models.dpn_unet import DpnUnet
    from hpa_tf.segmenting.networks import Devices

    devices = Devices("one", "auto")
    network = DpnUnet().build(devices.policy)
    run = devices.runner(network)
    print(f"\nnetworks, {devices.policy}: s a field for both (one is run, and counted twice)")
    for size in options.sizes:
        for batch_size in options.batch_sizes:
            side = size // 4 + 64 - size // 4 % 32
            batch = np.zeros((batch_size, side, side, 3), np.float32)
            run(batch)
            start, cpu = time.perf_counter(), time.process_time()
            run(batch)
            wall, cpu = time.perf_counter() - start, time.process_time() - cpu
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            each = f"{2 * wall / batch_size:6.2f} s (processor {2 * cpu / batch_size:6.2f} s)"
            print(f"{size} px, batch {batch_size}: {each}, memory so far {memory:.1f} GiB", flush=True)


def main(options: Options) -> None:
    """Print all tables."""
    cv2.setNumThreads(1)
    for size in options.sizes:
        time_labelling(options, size)
    if options.networks:
        time_networks(options)


if __name__ == "__main__":
    main(tyro.cli(Options))

"""Synthetic fields of view: seconds per image on one core beside the floor, and how well they can be segmented.

    python benchmarks/synthetic.py [--images 3] [--sizes 512 2048] [--segment 40] [--real ../shared/data/hpa/fov_full]

Speed: one process, OpenCV on one thread, files written. The floor is what any generator of such files pays: Gaussian
random numbers, one blur and the PNG encoding of the same four pictures. Segmentation: the share of true cells that a
mask of the classical segmenter meets with IoU > 0.6, on synthetic images and on real ones with reference masks.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from hpa_tf.classes import CHANNELS
from hpa_tf.imaging.fields import FieldOfView
from hpa_tf.imaging.segmentation.classical import ClassicalSegmenter
from hpa_tf.memory import keep_freed_memory
from hpa_tf.synthetic import dataset
from hpa_tf.synthetic.config import SyntheticConfig
from hpa_tf.synthetic.generator import SyntheticField, make

GOALS = {(512, 8): 0.5, (2048, 8): 6.0, (2048, 16): 8.0}
"""Seconds per image and core that the project promises, writing included."""


def seconds(action: Callable, *arguments) -> tuple[float, object]:
    """Return CPU seconds (one thread) and the result."""
    started = time.process_time()
    result = action(*arguments)
    return time.process_time() - started, result


def floor(made: SyntheticField) -> None:
    """Draw noise for the four pictures of a field, blur them once, encode them."""
    rng = np.random.default_rng(0)
    for channel in range(len(CHANNELS)):
        picture = np.ascontiguousarray(made.field.pixels[..., channel])
        blurred = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 0.13 / made.field.um_per_px)
        blurred += rng.standard_normal(picture.shape, dtype=np.float32)
        dataset.encode_png(picture)


def measure_speed(sizes: list[int], num_images: int) -> None:
    """Print the table of speeds."""
    names = ("draw s", "write s", "sum s", "images/s", "floor s", "goal s", "MB")
    print(f"{'px':>5}{'bit':>5}" + "".join(f"{name:>9}" for name in names))
    for size in sizes:
        for bits in (8, 16):
            config = SyntheticConfig(size=size, bits=bits)
            rows = []
            with tempfile.TemporaryDirectory() as folder:
                for name in (dataset.IMAGES, dataset.MASKS):
                    (Path(folder) / name).mkdir()
                for index in range(num_images * (4 if size == 512 else 1)):
                    drawing, made = seconds(make, config, index)
                    writing, _ = seconds(dataset.write_field, made, folder)
                    rows.append((drawing, writing, seconds(floor, made)[0]))
                written = sum(path.stat().st_size for path in Path(folder).rglob("*.png")) / len(rows) / 1e6
            drawing, writing, least = np.mean(rows, axis=0)
            total, goal = drawing + writing, GOALS.get((size, bits))
            print(
                f"{size:5}{bits:5}{drawing:9.2f}{writing:9.2f}{total:9.2f}{1 / total:9.2f}{least:9.2f}"
                f"{goal if goal else '':>9}{written:9.1f}"
            )


def best_overlaps(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return for each true mask its largest IoU with a found one."""
    pairs = np.zeros((truth.max() + 1, found.max() + 1), np.int64)
    np.add.at(pairs, (truth.ravel(), found.ravel()), 1)
    union = pairs.sum(1)[:, None] + pairs.sum(0)[None, :] - pairs
    overlap = (pairs / np.maximum(union, 1))[1:, 1:]
    present = pairs.sum(1)[1:] > 0
    return overlap[present].max(1) if overlap.shape[1] else np.zeros(present.sum())


def synthetic_fields(num_images: int):
    """Yield fields and true masks, artefacts left out."""
    for index in range(num_images):
        made = make(SyntheticConfig(seed=2), index)
        artefacts = made.truth.loc[made.truth["artefact"] != "", "cell"]
        yield made.field, np.where(np.isin(made.masks.cell, artefacts), 0, made.masks.cell)


def real_fields(folder: str):
    """Yield fields and reference masks of `{ID}_{channel}.png` and `{ID}_cellmask.png`."""
    for path in sorted(Path(folder).glob("*_cellmask.png")):
        base = str(path).removesuffix("_cellmask.png")
        planes = [cv2.imread(f"{base}_{channel}.png", cv2.IMREAD_UNCHANGED) for channel in CHANNELS]
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.int32)
        yield FieldOfView(Path(base).name, np.stack(planes, axis=-1)), mask


def measure_segmentation(name: str, fields) -> None:
    """Print the share of cells that the classical segmenter meets."""
    segment = ClassicalSegmenter()
    best = np.concatenate([best_overlaps(mask, segment(field).cell) for field, mask in fields])
    print(
        f"{name:10}{len(best):6} cells, IoU > 0.6: {100 * (best > 0.6).mean():5.1f} %, median IoU {np.median(best):.2f}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3, help="images of each size (512 px: four times as many)")
    parser.add_argument("--sizes", type=int, nargs="*", default=[512, 1024, 2048, 3072])
    parser.add_argument("--segment", type=int, default=40, help="synthetic images to segment; 0: none")
    parser.add_argument("--real", help="folder of real images with {ID}_cellmask.png")
    options = parser.parse_args()
    keep_freed_memory()  # as the generator's workers do
    cv2.setNumThreads(1)
    if options.sizes:
        measure_speed(options.sizes, options.images)
    if options.segment:
        measure_segmentation("synthetic", synthetic_fields(options.segment))
    if options.real:
        measure_segmentation("real", real_fields(options.real))


if __name__ == "__main__":
    main()

"""Share of given cell masks that each way of segmenting finds, and its time.

    python benchmarks/segmentation.py --images DIR [--masks DIR] [--others DIR ...] [--small FILE ...] [--pictures DIR]

DIR holds fields of view ({ID}_red.png, ...) and cell masks ({ID}_cellmask.png, ...) to compare with. Beside the
classical segmenter stand what one would write in a few lines of scikit-image, both on the same reduced field of
0.32 um/px, and, to tell what the cell step adds to the nuclei, the simple cell step on our own nuclei.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import tyro
from PIL import Image
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from hpa_tf.classes import BLUE, DEFAULT_UM_PER_PX, RED, YELLOW
from hpa_tf.errors import InputError
from hpa_tf.imaging import pictures
from hpa_tf.imaging.fields import FieldOfView, find_fields, read_field
from hpa_tf.imaging.segmentation.classical import ClassicalSegmenter, cell_signal
from hpa_tf.imaging.segmentation.masks_on_disk import MasksOnDisk
from hpa_tf.imaging.segmentation.nuclei import find_nuclei
from hpa_tf.imaging.segmentation.resolution import reduce, smooth
from hpa_tf.imaging.segmentation.small import SmallSegmenter


@dataclass(frozen=True)
class Options:
    """What to compare on."""

    images: str
    """Folder of fields of view."""
    masks: str | None = None
    """Folder of the cell masks to find; the images' folder if not given."""
    others: tuple[str, ...] = ()
    """Folders of masks that other segmenters made, such as `python -m hpa_tf.segmenting`'s, to compare as well."""
    small: tuple[str, ...] = ()
    """Files of `hpa-tf make-small-segmenter` to compare as well."""
    um_per_px: float = DEFAULT_UM_PER_PX
    """Micrometres per pixel of the images."""
    pictures: str | None = None
    """Folder for a picture of each field by the classical segmenter and each small one: given outlines white, or yellow
    where those found, magenta, overlap them by an IoU of at most 0.6."""
    repeats: int = 3
    """Timed runs of each segmenter on each field; the fastest counts."""


def otsu_nuclei(reduced: np.ndarray, um_per_px: float) -> np.ndarray:
    """Label the connected pixels above Otsu's threshold of smoothed blue, at least 20 um2: int32 [h, w]."""
    blue = smooth(reduced[..., BLUE], 0.5 / um_per_px)
    nuclei, _ = ndimage.label(blue > threshold_otsu(blue))
    small = np.bincount(nuclei.ravel()) * um_per_px**2 < 20
    return np.where(small[nuclei], 0, nuclei).astype(np.int32)


def voronoi_in_otsu(field: FieldOfView, find: Callable[[np.ndarray, float], np.ndarray]) -> np.ndarray:
    """Share the pixels above Otsu's threshold of red + yellow among the nearest nuclei: int32 [H, W]."""
    reduced, um_per_px = reduce(field.pixels, field.um_per_px)
    nuclei = find(reduced, um_per_px)
    body = smooth(reduced[..., RED] + reduced[..., YELLOW], 0.5 / um_per_px)
    distance = ndimage.distance_transform_edt(nuclei == 0)
    cells = watershed(distance, nuclei, mask=(body > threshold_otsu(body)) | (nuclei > 0))
    return full_size(cells, field)


def voronoi_in_low_threshold(field: FieldOfView) -> np.ndarray:
    """Share the pixels above the classical segmenter's own low threshold among its nearest nuclei: int32 [H, W]."""
    reduced, um_per_px = reduce(field.pixels, field.um_per_px)
    nuclei = find_nuclei(reduced[..., BLUE], um_per_px)
    body = cell_signal(reduced, nuclei, um_per_px) > 0.05
    distance = ndimage.distance_transform_edt(nuclei == 0)
    return full_size(watershed(distance, nuclei, mask=body | (nuclei > 0)), field)


def watershed_of_light(field: FieldOfView) -> np.ndarray:
    """Flood red + yellow downhill from Otsu's nuclei, within Otsu's threshold: int32 [H, W]."""
    reduced, um_per_px = reduce(field.pixels, field.um_per_px)
    nuclei = otsu_nuclei(reduced, um_per_px)
    body = smooth(reduced[..., RED] + reduced[..., YELLOW], 0.5 / um_per_px)
    return full_size(watershed(-body, nuclei, mask=(body > threshold_otsu(body)) | (nuclei > 0)), field)


def full_size(cells: np.ndarray, field: FieldOfView) -> np.ndarray:
    """Enlarge by repeating pixels."""
    size = field.pixels.shape[1::-1]
    return cv2.resize(cells.astype(np.float32), size, interpolation=cv2.INTER_NEAREST).astype(np.int32)


def cells_on_disk(masks: MasksOnDisk, field: FieldOfView) -> np.ndarray:
    """Read the cells that another segmenter found: int32 [H, W]."""
    return masks(field).cell


def small_cells(segmenter: SmallSegmenter, field: FieldOfView) -> np.ndarray:
    """Find cells with the small network: int32 [H, W]."""
    return segmenter(field).cell


CLASSICAL = ClassicalSegmenter()
PICTURE_SIZE = 1024
METHODS: dict[str, Callable[[FieldOfView], np.ndarray]] = {
    "Otsu nuclei, Voronoi in Otsu red+yellow": lambda field: voronoi_in_otsu(field, otsu_nuclei),
    "Otsu nuclei, watershed of red+yellow": watershed_of_light,
    "our nuclei, Voronoi in Otsu red+yellow": lambda field: voronoi_in_otsu(
        field, lambda reduced, um_per_px: find_nuclei(reduced[..., BLUE], um_per_px)
    ),
    "our nuclei, Voronoi in our low threshold": voronoi_in_low_threshold,
    "classical segmenter": lambda field: CLASSICAL(field).cell,
}


def best_ious(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return the best IoU of each region of `truth` with any region of `found`, float64 [N]."""
    num_found = int(found.max()) + 1
    pair = truth.astype(np.int64) * num_found + found
    shared = np.bincount(pair.ravel(), minlength=(int(truth.max()) + 1) * num_found).reshape(-1, num_found)
    union = shared.sum(axis=1, keepdims=True) + shared.sum(axis=0) - shared
    ious = (shared / np.maximum(union, 1))[1:, 1:]
    return ious.max(axis=1, initial=0)[shared.sum(axis=1)[1:] > 0]


def fastest(method: Callable[[FieldOfView], np.ndarray], field: FieldOfView, repeats: int) -> tuple[np.ndarray, float]:
    """Run `method` and return its cells and its shortest processor time, s."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        cells = method(field)
        seconds.append(time.process_time() - start)
    return cells, min(seconds)


def main(options: Options) -> None:
    """Print a table of each field and a total for each method."""
    cv2.setNumThreads(1)
    read_masks = MasksOnDisk(options.masks or options.images)
    fields = []
    for files in find_fields(options.images):
        field = read_field(files, options.um_per_px)
        try:
            fields.append((field, read_masks(field).cell))
        except InputError as error:
            print(f"left out: {error.found}")
    others = {folder: partial(cells_on_disk, MasksOnDisk(folder)) for folder in options.others}
    small = {file: partial(small_cells, SmallSegmenter(file)) for file in options.small}
    for name, method in (METHODS | small | others).items():
        print(f"\n{name}")
        print(
            "image".ljust(38),
            *(title.rjust(6) for title in ("px", "masks", "found", "> .5", "> .6", "> .75", "IoU", "CPU s")),
        )
        every, num_found = [], 0
        for field, truth in fields:
            cells, seconds = fastest(method, field, options.repeats)
            ious, count = best_ious(truth, cells), len(np.unique(cells[cells > 0]))
            every, num_found = [*every, *ious], num_found + count
            row(field.image_id, truth.shape[0], ious, count, seconds)
        row("all", "", np.array(every), num_found, float("nan"))
    drawn = {"classical": METHODS["classical segmenter"]} | {Path(file).stem: method for file, method in small.items()}
    for name, method in drawn.items() if options.pictures else ():
        for field, truth in fields:
            draw(field, truth, method(field), Path(options.pictures) / name)


def draw(field: FieldOfView, truth: np.ndarray, found: np.ndarray, folder: Path) -> None:
    """Write a field in 60 colours, with given and found outlines in three more."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = np.unique(truth[truth > 0])
    missed = numbers[best_ious(truth, found) <= 0.6]
    picture = Image.fromarray(pictures.composite(pictures.shrink(field.pixels, PICTURE_SIZE)))
    picture = np.array(picture.quantize(60).convert("RGB"))  # first: white and yellow would become one
    given, others = pictures.shrink_mask(truth, PICTURE_SIZE), pictures.shrink_mask(found, PICTURE_SIZE)
    colours = {number: (255, 255, 0) if number in missed else (255, 255, 255) for number in numbers.tolist()}
    picture = pictures.draw_outlines(pictures.draw_outlines(picture, given, colours, 2), others, (255, 0, 255), 1)
    Image.fromarray(picture).quantize(64).save(folder / f"{field.image_id}.png", optimize=True)


def row(name: str, size: int | str, ious: np.ndarray, count: int, seconds: float) -> None:
    """Print one line of the table."""
    hits = " ".join(f"{int((ious > least).sum()):6}" for least in (0.5, 0.6, 0.75))
    print(f"{name:38} {size:>6} {len(ious):6} {count:6} {hits} {ious.mean():6.3f} {seconds:6.2f}")


if __name__ == "__main__":
    main(tyro.cli(Options))

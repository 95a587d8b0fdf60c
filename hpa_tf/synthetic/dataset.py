"""Write a synthetic data set: pictures and masks by a pool of processes, tables at the end.

    images/{ID}_{red,green,blue,yellow}.png   the pictures
    masks/{ID}_{cellmask,nucleusmask}.png     uint16, the same number = the same cell; artefacts included
    train.csv                                 ID,Label: weak image labels
    truth.parquet                             cell table of kind "truth"
    synthetic.json                            configuration, number of images, version of format and drawing
    unfinished/{ID}.parquet                   truth of the images so far, gone when the tables are written

An artefact (debris, a dead cell) has a mask, as it has in a real automatic mask, and a row in the truth that is
flagged and shows no class, not even Negative: whatever is predicted for it counts as wrong, and no training label
comes from it.
"""

import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd

from hpa_tf import cell_table, files, folder_lock, interrupts
from hpa_tf.classes import CHANNELS, NUM_CLASSES
from hpa_tf.errors import InputError
from hpa_tf.identity import check_same
from hpa_tf.image_labels import read_image_labels
from hpa_tf.progress import progress
from hpa_tf.synthetic.config import SyntheticConfig
from hpa_tf.synthetic.generator import SyntheticField, image_id, image_labels_of, make
from hpa_tf.worker_processes import Pool

VERSION = 2
"""Of the format, and of what is drawn: raised with every change after which the same seed gives another image."""
IMAGES, MASKS = "images", "masks"
TRAIN_CSV, TRUTH, CONFIG = "train.csv", "truth.parquet", "synthetic.json"
UNFINISHED = "unfinished"
_FACTS = ("artefact", "area", "cut", "mitotic")
"""Columns of the truth that are read back."""


@dataclass(frozen=True)
class Dataset:
    """A synthetic data set as read back from its folder.

    Attributes:
        config: What synthetic.json says.
        truth: Cell table.
        image_ids: N ids, in order.
        image_labels: bool [N, K].
    """

    config: dict
    truth: pd.DataFrame
    image_ids: list[str]
    image_labels: np.ndarray


def write(config: SyntheticConfig, out: str, num_images: int, workers: int = 1) -> None:
    """Write `num_images` images and their tables; a run that was stopped goes on where it was.

    Raises:
        InputError: `out` holds another data set, or files of others that this one would write over or lie among, or
            cannot be written; or a number is out of range.
    """
    for name, number in (("--num-images", num_images), ("--workers", workers)):
        if number < 1:
            raise InputError(name, str(number), "1 or more", "change the option")
    if not _is_begun(out):
        config.check_drawn()  # what earlier versions have begun goes on
    for folder in (out, *(files.join(out, name) for name in (IMAGES, MASKS, UNFINISHED))):
        files.make_folder(folder)
    _check_free(out)
    with folder_lock.locked(out):
        _claim(config, out, num_images)
        for name in (IMAGES, MASKS, UNFINISHED):
            folder_lock.remove_unfinished(files.join(out, name))
        interrupts.keeps("the images so far are kept; the same command makes the data set whole")
        _write_tables(out, config, _truths(config, out, num_images, workers))
        for index in range(num_images):
            files.remove(_truth_path(out, image_id(config, index)))
        if not files.is_remote(out) and not files.list_names(files.join(out, UNFINISHED)):
            os.rmdir(files.join(out, UNFINISHED))


def _truths(config: SyntheticConfig, out: str, num_images: int, workers: int) -> list[pd.DataFrame]:
    """Return the truth of every image, in order; make those that are not there."""
    found = _made(config, out, num_images)
    missing = [index for index in range(num_images) if index not in found]
    with progress(total=num_images, initial=len(found), desc="synthetic images", unit="image") as bar:
        for index, truth in zip(missing, _run(config, out, missing, workers), strict=True):
            found[index] = truth
            bar.update()
    return [found[index] for index in range(num_images)]


def _made(config: SyntheticConfig, out: str, num_images: int) -> dict[int, pd.DataFrame]:
    """Return the truth of the images whose files are all there, by their number."""
    there = {*files.list_names(files.join(out, IMAGES)), *files.list_names(files.join(out, MASKS))}
    unfinished = set(files.list_names(files.join(out, UNFINISHED)))
    tables = cell_table.read(files.join(out, TRUTH)) if files.exists(files.join(out, TRUTH)) else None
    finished = {} if tables is None else dict(iter(tables.groupby("image_id", sort=False)))
    found = {}
    for index in range(num_images):
        name = image_id(config, index)
        if there.issuperset(map(os.path.basename, (*_channel_paths(out, name), *_mask_paths(out, name)))):
            if f"{name}.parquet" in unfinished:
                found[index] = cell_table.read(_truth_path(out, name))
            elif name in finished:
                found[index] = finished[name]
    return found


def _write_tables(out: str, config: SyntheticConfig, truths: list[pd.DataFrame]) -> None:
    """Write truth and image labels of the whole set."""
    cell_table.write(pd.concat(truths, ignore_index=True), files.join(out, TRUTH), "truth")
    labels = [np.flatnonzero(image_labels_of(config, index)) for index in range(len(truths))]
    rows = [(image_id(config, index), "|".join(map(str, classes))) for index, classes in enumerate(labels)]
    text = pd.DataFrame(rows, columns=["ID", "Label"]).to_csv(index=False, lineterminator="\n")
    files.write_bytes(files.join(out, TRAIN_CSV), text.encode())


def read(folder: str) -> Dataset:
    """Read the tables of a synthetic data set.

    Raises:
        InputError: A file is missing or damaged.
    """
    config, fix = files.read_json(files.join(folder, CONFIG)), "run the generator to its end"
    if not isinstance(config, dict) or not isinstance(config.get("config"), dict):
        raise InputError(files.join(folder, CONFIG), "no configuration", "the file that the generator wrote", fix)
    path, truth_path = files.join(folder, TRAIN_CSV), files.join(folder, TRUTH)
    if not files.exists(path):
        raise InputError(path, "no such file", "a finished data set", fix)
    labels, truth = read_image_labels(path), cell_table.read(truth_path)
    if missing := [name for name in _FACTS if name not in truth]:
        raise InputError(truth_path, f"no column {missing}", "the truth of a synthetic data set", fix)
    if lost := [name for name in truth["image_id"].unique() if name not in labels]:
        raise InputError(path, f"no row of image {lost[0]!r}, of which {TRUTH} speaks", "a finished data set", fix)
    return Dataset(config, truth, list(labels), np.array(list(labels.values()), bool).reshape(-1, NUM_CLASSES))


def _check_free(out: str) -> None:
    """Refuse a folder with real images or labels in the places of generated ones."""
    if (taken := _taken(out)) and not files.exists(files.join(out, CONFIG)):
        expected = "a folder without such files, or a data set that was begun here"
        raise InputError(out, f"{', '.join(taken)} of others", expected, "choose another --out")


def _taken(out: str) -> list[str]:
    """Name files in the places of generated images and tables."""
    taken = [name for name in (TRAIN_CSV, TRUTH) if files.exists(files.join(out, name))]
    return taken + [f"{folder}/{names[0]}" for folder, names in _shown(out).items() if names]


def _shown(out: str) -> dict[str, list[str]]:
    """Return the names of the files in each folder of a data set that is there."""
    folders = {name: files.join(out, name) for name in (IMAGES, MASKS, UNFINISHED)}
    return {name: files.list_shown(folder) for name, folder in folders.items() if files.exists(folder)}


def _is_begun(out: str) -> bool:
    """Tell whether a data set of this generator is in a folder: its configuration and a first image, or a table."""
    return files.exists(files.join(out, CONFIG)) and bool(_taken(out))


def _num_begun(config: SyntheticConfig, out: str) -> int:
    """Return how many images a data set has, by the names of its files and the rows of its truth."""
    names = [name for names in _shown(out).values() for name in names]
    if files.exists(files.join(out, TRUTH)):
        names += cell_table.read(files.join(out, TRUTH))["image_id"].unique().tolist()
    pattern = re.compile(re.escape(image_id(config, 0)[:-6]) + r"(\d{6,})(?:[_.].*)?")
    return max((int(found[1]) + 1 for name in names if (found := pattern.fullmatch(name))), default=0)


def _claim(config: SyntheticConfig, out: str, num_images: int) -> None:
    """Write the configuration, unless the folder has images of another one, or more of them."""
    path = files.join(out, CONFIG)
    content = {"version": VERSION, "num_images": num_images, "um_per_px": config.pixel_um, "config": config.as_dict()}
    if _is_begun(out):
        found, several = files.read_json(path), ("num_images",)
        before, now = ({name: v for name, v in one.items() if name not in several} for one in (found, content))
        check_same(out, before, now, "configuration", "choose another --out, or make the same data set")
        if (num_begun := _num_begun(config, out)) > num_images:
            fix = f"take --num-images {num_begun} or more, or choose another --out"
            raise InputError(out, f"{num_begun} images", f"at most {num_images}", fix)
    files.write_json(path, content)


def _run(config: SyntheticConfig, out: str, indices: list[int], workers: int) -> Iterator[pd.DataFrame]:
    """Make images; yield the truth of each, in order."""
    job = functools.partial(_make_and_write, config, out)
    if workers == 1:
        yield from map(job, indices)
        return
    with Pool(workers) as pool:
        yield from pool.map(job, indices, limit=4 * workers)


def _make_and_write(config: SyntheticConfig, out: str, index: int) -> pd.DataFrame:
    """Write an image, and its truth when all of its files are there."""
    made = make(config, index)
    write_field(made, out)
    cell_table.write(made.truth, _truth_path(out, made.field.image_id), "truth")
    return made.truth


def _truth_path(out: str, name: str) -> str:
    return files.join(out, UNFINISHED, f"{name}.parquet")


def _channel_paths(out: str, name: str) -> list[str]:
    return [files.join(out, IMAGES, f"{name}_{channel}.png") for channel in CHANNELS]


def _mask_paths(out: str, name: str) -> list[str]:
    return [files.join(out, MASKS, f"{name}_{kind}mask.png") for kind in ("cell", "nucleus")]


def write_field(made: SyntheticField, out: str) -> None:
    """Write the four pictures and the two masks of one image."""
    name = made.field.image_id
    for position, path in enumerate(_channel_paths(out, name)):
        files.write_bytes(path, encode_png(np.ascontiguousarray(made.field.pixels[..., position])))
    for mask, path in zip((made.masks.cell, made.masks.nucleus), _mask_paths(out, name), strict=True):
        files.write_bytes(path, encode_png(mask.astype(np.uint16)))


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode uint8 or uint16 [H, W] as PNG, at the fastest level (noise does not compress)."""
    done, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise ValueError(f"pixels: OpenCV cannot encode {pixels.dtype} {pixels.shape} as PNG")
    return data.tobytes()

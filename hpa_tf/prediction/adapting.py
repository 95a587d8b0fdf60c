"""`--adapt`: a network's batch statistics re-estimated on the images it is to predict, as a run folder of its own.

Another microscope, cell line or stain moves the mean and the spread of what each layer sees. Batch normalization keeps
both from the training; here they move towards those of the user's cells, which needs no labels. All trained weights
stay as they are. Source: Li et al. 2016 (AdaBN); Schneider et al. 2020 for the mixture with the training's statistics.
"""

import hashlib
import heapq
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpa_tf import files, run_folder
from hpa_tf.errors import InputError
from hpa_tf.identity import check_kind, check_same
from hpa_tf.imaging.segmentation.masks_on_disk import without_folder
from hpa_tf.prediction.results import in_full
from hpa_tf.prediction.sources import FieldCells, Source, digest
from hpa_tf.prediction.stages import Failed, load, worker_died
from hpa_tf.prediction.workers import Workers
from hpa_tf.progress import progress

if TYPE_CHECKING:  # TensorFlow
    from hpa_tf.prediction.members import Network

RECORD = run_folder.ADAPTED
_ASKED = "asked_run"
LEAST_CELLS = 100
"""Fewer cells say too little about means and spreads."""
MOST_CELLS, _MOST_BYTES = 2048, 2**29
_BATCH_PIXELS, _SUFFIX = 2**20, ".weights.h5"


@dataclass(frozen=True)
class Adaptation:
    """What to adapt.

    Attributes:
        run: Run to adapt, by the name that it was asked for.
        out: Run folder to write.
        reading: How the images are read, as JSON values.
        share: Weight of the images' own statistics, 0..1.
        skip: Leave images out that cannot be used, instead of raising the error.
    """

    run: str
    out: str
    reading: Mapping[str, object]
    share: float = 0.5
    skip: bool = False

    def write(self, source: Source, networks: Sequence["Network"], workers: Workers) -> None:
        """Write the adapted run, unless it is there.

        Args:
            source: The images.
            networks: Those of the one run.
            workers: What reads the images.

        Raises:
            InputError: The folder holds something else, there are too few cells, or the network has no such
                statistics.
        """
        from hpa_tf.models.normalization import batch_norms
        from hpa_tf.views import Crop

        run, view = networks[0].run, networks[0].view
        if not isinstance(view, Crop):
            found = f"a network that sees {type(view).__name__}"
            raise InputError("--adapt", found, "a network of single cells", "predict without --adapt")
        check_kind(self.out, run_folder.RECIPE, "--adapt")
        images = digest(sorted(source.stamps.items()))
        record = {
            "run": [network.digest for network in networks],
            "images": images,
            "reading": self.reading,
            "share": self.share,
        }
        if files.exists(files.join(self.out, RECORD)):
            before = _read_record(self.out)
            fix = "choose another --adapt, or remove the folder"
            check_same(self.out, {name: before.get(name) for name in record}, record, "adapted run", fix)
            if run_folder.is_finished(self.out) and run_folder.has_saved_model(self.out):
                return
        elif files.exists(files.join(self.out, run_folder.RECIPE)):
            raise InputError(self.out, "another run", "a new folder for the adapted run", "choose another --adapt")
        recipe = networks[0].served.recipe
        if not batch_norms(recipe.network.build(recipe.asked_view.specs())):
            raise _without_batch_norm(run)
        files.make_folder(os.path.dirname(os.path.abspath(self.out)), "--adapt")
        fields = _fields(source, workers, self.skip)
        cells = sample(fields, networks[0], view.specs()["image"].shape)
        if len(cells) < LEAST_CELLS:
            fix = "predict without --adapt, or give more images"
            raise InputError("--adapt", f"{len(cells)} cells in the images", f"{LEAST_CELLS} or more", fix)
        write_run(run, self.out, cells, self.share, {**record, _ASKED: in_full({"run": self.run})["run"]})


def run_of(folder: str) -> str | None:
    """Return the run that a folder was adapted from, by the name that it was asked for; None where nothing says it.

    Raises:
        InputError: The record is damaged.
    """
    return _read_record(folder).get(_ASKED) if files.exists(files.join(folder, RECORD)) else None


def _read_record(folder: str) -> dict[str, Any]:
    path = files.join(folder, RECORD)
    found = files.read_json(path)
    if not isinstance(found, dict):
        raise InputError(path, f"a {type(found).__name__}", "what the run was adapted to", "remove the folder")
    if isinstance(reading := found.get("reading"), dict):
        reading.pop("max_pixels", None)  # earlier versions wrote it down; it changes nothing that is read
        if isinstance(name := reading.get("segmenter"), str):
            reading["segmenter"] = without_folder(name)  # and the folder
    return found


def _fields(source: Source, workers: Workers, skip: bool) -> Iterator[FieldCells]:
    """Yield the cells of each image; `skip`: of those that can be used."""
    tasks = ((source.load, source.task(i), image_id) for i, image_id in enumerate(source.image_ids))
    with progress(desc="adapt", total=len(source.image_ids), unit="image") as bar:
        for field in workers.map(load, tasks, workers.count + 2, worker_died):
            bar.update()
            if not isinstance(field, Failed):
                yield field
            elif not skip:
                raise field.error


def sample(fields: Iterator[FieldCells], network: "Network", shape: tuple[int, int, int]) -> np.ndarray:
    """Prepare a sample of the cells as the network sees them: those whose names have the smallest hashes.

    Args:
        fields: Cells of each image, in any order.
        network: Prepares them.
        shape: [S, S, C] of a prepared cell.

    Returns:
        float32 [N, S, S, C], in the order of the hashes.
    """
    most = max(LEAST_CELLS, min(MOST_CELLS, _MOST_BYTES // (4 * math.prod(shape))))
    kept: list[tuple[int, np.ndarray]] = []  # a heap whose first entry has the largest hash
    for field in fields:
        names = (f"{field.image_id} {cell}".encode() for cell in field.table["cell"])
        for name, crop, region in zip(names, field.crops, field.regions, strict=True):
            key = -int.from_bytes(hashlib.sha256(name).digest()[:8])
            if len(kept) == most and key < kept[0][0]:
                continue
            entry = (key, network.prepare(crop=crop, region=region)["image"].numpy())
            heapq.heappush(kept, entry) if len(kept) < most else heapq.heapreplace(kept, entry)
    images = [image for _, image in sorted(kept, key=lambda entry: -entry[0])]
    return np.stack(images) if images else np.zeros((0, *shape), np.float32)


def _without_batch_norm(run: str) -> InputError:
    return InputError(run, "a network without batch normalization", "one with it", "predict without --adapt")


def write_run(run: str, out: str, images: np.ndarray, share: float, record: dict[str, Any]) -> None:
    """Write a run folder whose networks are those of `run` with re-estimated statistics.

    Args:
        run: Run folder with weights.
        out: Run folder to write.
        images: float32 [N, S, S, C], prepared cells.
        share: Weight of their statistics, 0..1.
        record: What the folder is made from.

    Raises:
        InputError: `run` has no weights, or its network no batch statistics.
    """
    from hpa_tf import serving
    from hpa_tf.models import weights
    from hpa_tf.models.normalization import re_estimate
    from hpa_tf.recipes.runs import read_run

    trained = read_run(run)
    batch_size = int(np.clip(_BATCH_PIXELS // images.shape[1] ** 2, 8, 256))
    checkpoints = []
    for path, part in trained.checkpoints:
        network = trained.recipe.network.build(trained.recipe.asked_view.specs())
        weights.load(network, path)
        if not re_estimate(network, {"image": images}, share, batch_size):
            raise _without_batch_norm(run)
        checkpoints.append(serving.Checkpoint(Path(path).name.removesuffix(_SUFFIX), network, part))
    files.make_folder(files.join(out, run_folder.WEIGHTS), "--adapt")
    files.write_json(files.join(out, RECORD), {**record, "cells": len(images)})
    shares = {}
    for one in checkpoints:
        name = f"{run_folder.WEIGHTS}/{one.name}{_SUFFIX}"
        weights.save(one.network, files.join(out, name))
        shares[name] = one.share
    for name in (run_folder.RECIPE, run_folder.DATASET):
        files.write_bytes(files.join(out, name), files.read_bytes(files.join(run, name)))
    serving.export(out, checkpoints, trained.recipe, trained.manifest)
    run_folder.write_result(out, shares, {})

"""Make the starter network: images with known cells -> shards -> network -> package data. Half an hour on 2 free cores.

Each step continues where a stopped one left. With real fields it ends by asking the network about them.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tyro

from hpa_tf import cell_table, child_commands, files
from hpa_tf.classes import NUM_CLASSES
from hpa_tf.errors import HpaError, InputError
from hpa_tf.evaluation.whole_fields import Half, agreement, interval, labelled_fields, resampled
from hpa_tf.imaging.fields import FieldOfView
from hpa_tf.starter import FOLDER, WEIGHTS
from hpa_tf.synthetic import dataset

UM_PER_PX = 0.32
SETS = {
    "real": ("--difficulty", "real", "--balance", "0.5", "--seed", "71"),
    "easy": ("--balance", "1", "--seed", "1"),
}
"""The generated sets, and how they are asked for."""


@dataclass(frozen=True)
class MakeStarter:
    """Generate, build, train, and write recipe and weights to the package's data."""

    out: str = "starter-build"
    """Folder to work in; one that was stopped continues there."""
    real_images: int = 1440
    """Images of real difficulty."""
    easy_images: int = 0
    """Easy images; 0 = none."""
    weights: str = "imagenet"
    """Where the training starts; starter = from the network in the package, which is then trained further."""
    epochs: int = 16
    """Epochs of the training."""
    cells: int = 8192
    """Cells of an epoch."""
    batch_size: int = 32
    """Cells of a step."""
    learning_rate: float = 2e-3
    """Highest learning rate; 5e-4 from the network in the package."""
    package: str = str(FOLDER)
    """Folder that gets recipe.json, dataset.json and weights.npz."""
    fields: str | None = None
    """Folder of real fields of view, to ask the network about; nothing is chosen by what comes out."""
    field_labels: str | None = None
    """CSV of their image labels: ID, label_2021."""
    half: Half = "all"
    """Which of them, by zlib.crc32 of the id."""


def steps(asked: MakeStarter) -> list[list[str]]:
    """Return the commands before packing, without `hpa-tf`."""
    out = Path(asked.out)
    numbers = sizes(asked)
    sets = [out / name for name in numbers]
    commands = [
        ["generate", "--out", str(out / name), "--num-images", str(number), *SETS[name]]
        for name, number in numbers.items()
        if not is_made(out / name, number)
    ]
    build = ["build", "--um-per-px", str(UM_PER_PX), "--encoding", "npy", "--out", str(out / "shards")]
    for option, name in (("--images", "images"), ("--labels", "train.csv"), ("--masks", "masks")):
        build += [option, *(str(folder / name) for folder in sets)]
    train = ["train", "--recipe", "starter", "--data", str(out / "shards"), "--labels", str(out / "truth.parquet")]
    train += ["--no-clean"]  # users ask about all of their cells, outliers too
    recipe = {
        "weights": asked.weights,
        "optimization.epochs": asked.epochs,
        "optimization.schedule.epochs": asked.epochs,
        "optimization.batch-size": asked.batch_size,
        "optimization.learning-rate": asked.learning_rate,
        "sampling.num-cells": asked.cells,
    }
    train += [word for name, value in recipe.items() for word in (f"--recipe.{name}", str(value))]
    return [*commands, build, [*train, "--out", str(out / "run")]]


def sizes(asked: MakeStarter) -> dict[str, int]:
    """Return the numbers of images of the sets that have any."""
    numbers = dict(zip(SETS, (asked.real_images, asked.easy_images), strict=True))
    return {name: number for name, number in numbers.items() if number}


def is_made(folder: Path, num_images: int) -> bool:
    """Tell whether a generated set is whole; else `hpa-tf generate` makes more of it, or refuses it: one of an
    earlier version, whose images are others.
    """
    whole = (folder / dataset.TRUTH).exists() and (folder / dataset.TRAIN_CSV).exists()
    whole = whole and not (folder / dataset.UNFINISHED).exists()  # begun anew with more images, and stopped
    if not whole:
        return False
    config = files.read_json(folder / dataset.CONFIG)
    return (config.get("version"), config.get("num_images")) == (dataset.VERSION, num_images)


def join_truth(out: str, sets: Iterable[str]) -> None:
    """Write the true cell labels of the sets as one table."""
    tables = [cell_table.read(files.join(out, name, dataset.TRUTH)) for name in sets]
    cell_table.write(pd.concat(tables, ignore_index=True), files.join(out, "truth.parquet"), "truth")


def pack_run(run: str, package: str) -> None:
    """Write recipe, manifest and weights of a finished run as the package's data."""
    from hpa_tf import quiet, run_folder

    quiet.import_tensorflow()
    from hpa_tf.models import packed, weights
    from hpa_tf.recipes.runs import read_run

    trained = read_run(run)
    network = trained.recipe.network.build(trained.recipe.view.specs())
    weights.load(network, trained.checkpoints[-1][0])
    files.make_folder(package)
    packed.pack(network, files.join(package, WEIGHTS.name))
    for name in (run_folder.RECIPE, run_folder.DATASET):
        files.write_bytes(files.join(package, name), files.read_bytes(files.join(run, name)))


def run_scores(run: str, fields: list[FieldOfView]) -> np.ndarray:
    """Score fields of view by a trained run: the mean of the probabilities of its cells, [F, 19]; 0 without cells."""
    from hpa_tf import Predictor
    from hpa_tf.classes import CLASSES

    predictor = Predictor(run)
    scores = np.zeros((len(fields), NUM_CLASSES))
    for row, field in enumerate(fields):
        table = predictor.predict(field)
        if len(table):
            scores[row] = table[[f"raw: {name}" for name in CLASSES]].mean()
    return scores


def evaluate(run: str, fields: list[FieldOfView], truth: np.ndarray) -> dict:
    """Return how a run's scores agree with the labels of real fields, bool [F, 19], with 95 % intervals."""
    scores = run_scores(run, fields)
    intervals = map(interval, resampled(truth, scores).T)
    return {**vars(agreement(truth, scores)), "intervals": dict(zip(("auc", "ap", "first"), intervals, strict=True))}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all steps; return the exit code of the step that failed, or 0."""
    asked = tyro.cli(MakeStarter, args=files.expand_home(arguments), prog="hpa-tf make-starter")
    try:
        if (asked.fields is None) != (asked.field_labels is None):
            raise InputError("--fields", "one of --fields and --field-labels", "both or neither", "add the other")
        if asked.real_images + asked.easy_images < 1:
            raise InputError("--real-images", "no images at all", "1 or more", "change the option")
        real = asked.fields and labelled_fields(asked.fields, asked.field_labels, UM_PER_PX, asked.half)
        for command in steps(asked):
            if command[0] == "train":
                join_truth(asked.out, sizes(asked))
            if code := child_commands.run("hpa-tf make-starter", command):
                return code
        run = files.join(asked.out, "run")
        pack_run(run, asked.package)
        if real:
            print(json.dumps(evaluate(run, *real), indent=1))
    except HpaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

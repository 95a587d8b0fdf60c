"""Which way of turning image labels into cell labels works? Each way trained on the bench, scored on true cell labels.

    python benchmarks/ladder.py --bench BENCH --out LADDER --budget 0.25 --seeds 0      # all rows
    python benchmarks/ladder.py --bench BENCH --out LADDER --budget 0.25 --rows "FCAN"  # one
    python benchmarks/ladder.py --bench BENCH --out LADDER --only-table                 # ladder.md, figures

BENCH is what `hpa-tf generate bench` wrote. Every row is `ladder_rows.py`'s; further rows are asked for by name. One
network is trained after the other; rows share networks, and a run that was stopped goes on. Times are processor seconds
divided by two: seconds of two cores, whatever else the machine does. Nothing is chosen by the test set: all trainings
have the same number of epochs and end with the last one.
"""

import contextlib
import difflib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
import tyro
from ladder_rows import BY_NAME, EPOCHS, FURTHER, NUM_FOLDS, ROWS, TEACHERS, Part, Row, Training
from ladder_scores import Truth, copied
from ladder_table import write_table

from hpa_tf import cell_table, files, label_rules
from hpa_tf.errors import InputError
from hpa_tf.memory import keep_freed_memory
from hpa_tf.models import weights
from hpa_tf.pipeline import Examples
from hpa_tf.postprocessing import mix_with_image_mean, weighted_mean
from hpa_tf.recipes import Recipe
from hpa_tf.run_folder import BEST_WEIGHTS, CHECKPOINTS, WEIGHTS
from hpa_tf.training import start
from hpa_tf.training.logs import Logs
from hpa_tf.training.loop import Loop, Pace
from hpa_tf.training.preemption import Preemption
from hpa_tf.training.site import Data
from hpa_tf.training.strategy import make_strategy
from hpa_tf.training.trainee import Trainee
from hpa_tf.training.validation import of_all_classes, predict

CORES = 2
SCORES, FACTS, TIMES = "scores.npy", "row.json", "seconds.json"


@dataclass(frozen=True)
class Options:
    """What is run."""

    bench: str
    """Folder with `train` and `test`."""
    out: str = "ladder"
    """Folder to work in."""
    rows: tuple[str, ...] = ()
    """Names of rows; default: all but the further ones."""
    budget: float = 1.0
    """Share of the examples that each training sees."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the trainings."""
    fields: int = 256
    """Side that fields of view are stored with, px; 0 = none are."""
    um_per_px: float = 0.32
    """Of the bench's images."""
    bootstrap: int = 500
    """Resamples of the images."""
    only_table: bool = False
    """Train nothing."""


class Ladder:
    """The trainings of one seed and budget, each in a folder of its own."""

    def __init__(self, options: Options, seed: int):
        self.options, self.seed = options, seed
        self.folder = files.join(options.out, f"budget-{options.budget:g}", f"seed-{seed}")
        self.data = shards(options, "train")
        self.test = read_test(options)

    # -- one network --------------------------------------------------------------------------------------------------

    def recipe(self, training: Training) -> Recipe:
        """Return a training's recipe at this budget."""
        recipe = replace(training.recipe, seed=self.seed)
        count = max(recipe.optimization.batch_size, round(training.examples * self.options.budget / EPOCHS))
        return replace(recipe, sampling=replace(recipe.sampling, num_cells=count))

    def place(self, training: Training) -> str:
        """Return a training's folder."""
        return files.join(self.folder, "networks", training.name)

    def built(self, margin: int) -> str:
        """Return the folder of the training shards with a margin, made if need be."""
        if margin:
            build(self.options, margin)
        return shards(self.options, "train", margin)

    def labels(self, training: Training) -> str | None:
        """Return the table of a training's labels, made if need be; None = those of the shards."""
        if training.labels == "image":
            return None
        if training.labels == "true":
            return files.join(self.options.bench, "train", "truth.parquet")
        path = files.join(self.folder, "tables", f"{training.labels}.parquet")
        if not files.exists(path):
            files.make_folder(files.join(self.folder, "tables"))
            self.write_labels(training.labels, path)
        return path

    def write_labels(self, name: str, path: str) -> None:
        """Write what networks say of the cells of images that they were not trained on."""
        teachers, found = TEACHERS[name], []
        for fold in range(NUM_FOLDS):
            examples = Data(self.data, clean=False).examples({fold})
            own = teachers.without(fold)
            if name == "five_levels":
                values = five_levels(self, own.parts[0].training, examples)
            else:
                values = self.together(own, examples, f"fold{fold}")
            found.append(cell_table.from_values(examples.table["image_id"], examples.table["cell"], values))
        cell_table.write(pd.concat(found, ignore_index=True), path, "labels")

    def train(self, training: Training) -> None:
        """Train a network unless it is trained."""
        folder, labels = self.place(training), self.labels(training)
        done = files.join(folder, "done")
        if files.exists(done):
            return
        if training.start:
            self.train(training.start)
        for name in (CHECKPOINTS, WEIGHTS):
            files.make_folder(files.join(folder, name))
        print(f"\n{training.name}, budget {self.options.budget:g}, seed {self.seed}", flush=True)
        with timed(folder, "training"), Preemption() as preemption:
            recipe, strategy = self.recipe(training), make_strategy("one")
            folds = None if training.without is None else set(range(NUM_FOLDS)) - {training.without}
            unknown = "drop" if training.labels == "true" else "error"
            place = self.built(training.margin)
            data = Data(place, labels, unknown if labels else "error", clean=training.clean)
            examples = data.examples(folds)
            trainee = Trainee(recipe, strategy, "float32")
            if not files.exists(files.join(folder, BEST_WEIGHTS)):
                if training.start:
                    start.copy_backbone(training.start.recipe, self.place(training.start), trainee.network)
                else:
                    start.initialize(trainee.network, recipe)
                trainee.start_average()
            logs = Logs(folder, is_chief=True)
            Loop(recipe, trainee, examples, None, logs).run(Pace(), preemption)
            logs.close()
        keras.backend.clear_session()
        files.write_bytes(done, b"")

    def answer(self, part: Part, examples: Examples | None = None, of: str = "test") -> np.ndarray:
        """Return a network's answer for cells, float [N, 19]; trains it if need be."""
        asked = part.asked or part.training.recipe.asked_view
        self.train(part.training)
        folder = self.place(part.training)
        kind = type(asked).__name__ if part.asked else "asked"
        path = files.join(folder, f"{of}-{kind}.npy")
        if files.exists(path):
            return read_array(path)
        with timed(folder, f"{of}-{kind}"):
            recipe = replace(self.recipe(part.training), asked=asked)
            if examples is None:
                margin = part.training.margin
                examples = read_test(self.options, margin) if margin else self.test
            values = self.ask(recipe, folder, examples)
        write_array(path, values)
        return values

    def ask(self, recipe: Recipe, folder: str, examples: Examples) -> np.ndarray:
        """Return what the network in a folder says of cells, float [N, 19]."""
        trainee = Trainee(recipe, make_strategy("one"), "float32")
        weights.load(trainee.network, files.join(folder, BEST_WEIGHTS))
        trainee.hand_over()
        found = predict(trainee.strategy, trainee.make_predict_step(), recipe, examples)
        keras.backend.clear_session()
        return of_all_classes(found, recipe.network.classes)

    # -- one row ------------------------------------------------------------------------------------------------------

    def run(self, row: Row) -> None:
        """Train and ask what a row needs, and write its scores."""
        folder = files.join(self.folder, "rows", row.name.replace("/", "-"))
        if files.exists(files.join(folder, FACTS)):
            return
        files.make_folder(folder)
        if row.copied:
            scores, facts = copied(image_labels(self.test), self.seed), {"training": 0.0, "asking": 0.0}
        else:
            scores = self.together(row)
            if row.instead:
                answered = self.answer(row.instead)
                scores = np.where(np.isnan(answered), scores, answered)
            if row.own < 1:
                everything = np.ones(len(scores), bool)
                scores = mix_with_image_mean(scores, everything, self.test.table["image_id"], (row.own,) * 19)
            facts = self.times(row)
        write_array(files.join(folder, SCORES), scores)
        files.write_json(files.join(folder, FACTS), {"cells": len(scores), **facts})

    def together(self, row: Row, examples: Examples | None = None, of: str = "test") -> np.ndarray:
        """Return the mean of a row's networks times the one that multiplies it, float [N, 19]."""
        answers = [self.answer(part, examples, of) for part in row.parts]
        mean = weighted_mean(answers, [part.weight for part in row.parts])
        return mean * self.answer(row.times, examples, of) if row.times else mean

    def times(self, row: Row) -> dict[str, float]:
        """Return seconds of two cores: of all trainings that a row rests on, and of asking its networks."""
        parts = row.networks
        trainings = {part.training.name: part.training for part in parts}
        for training in list(trainings.values()):
            if training.start:
                trainings[training.start.name] = training.start
            if training.labels in TEACHERS:
                for fold in range(NUM_FOLDS):
                    own = TEACHERS[training.labels].without(fold).networks
                    trainings |= {part.training.name: part.training for part in own}
        of_training = sum(self.seconds(training)["training"] for training in trainings.values())
        kinds = [f"test-{type(part.asked).__name__ if part.asked else 'asked'}" for part in parts]
        asking = sum(self.seconds(part.training)[kind] for part, kind in zip(parts, kinds, strict=True))
        return {"training": of_training, "asking": asking}

    def seconds(self, training: Training) -> dict[str, float]:
        """Return what a network took."""
        return files.read_json(files.join(self.place(training), TIMES))


def five_levels(ladder: Ladder, training: Training, examples: Examples) -> np.ndarray:
    """Return team 1's labels in five levels from an FCAN's answers for the cell and for the field."""
    ladder.train(training)
    recipe = ladder.recipe(training)
    answers = {}
    for readout in ("cell", "product"):
        asked = replace(recipe, network=replace(recipe.network, readout=readout))
        answers[readout] = ladder.ask(asked, ladder.place(training), examples)
    of_image = answers["product"] / np.maximum(answers["cell"], 1e-9)
    weak = label_rules.from_image(examples.table, {})
    return label_rules.five_levels(weak, of_image, answers["cell"], {}).values


@contextlib.contextmanager
def timed(folder: str, what: str) -> Iterator[None]:
    """Add the processor time of the block, in seconds of two cores, to what stands in a folder."""
    start = time.process_time()
    try:
        yield
    finally:
        path = files.join(folder, TIMES)
        before = files.read_json(path) if files.exists(path) else {}
        took = (time.process_time() - start) / CORES
        files.write_json(path, {**before, what: before.get(what, 0.0) + took})


def read_array(path: str) -> np.ndarray:
    """Read an array."""
    return np.load(path, allow_pickle=False)


def write_array(path: str, values: np.ndarray) -> None:
    """Write an array, whole or not at all."""
    np.save(path + ".part.npy", values)
    os.replace(path + ".part.npy", path)


# -- data -------------------------------------------------------------------------------------------------------------


def shards(options: Options, name: str, margin: int = 0) -> str:
    """Return the folder of a set's shards."""
    return files.join(options.out, f"{name}-margin-{margin}" if margin else name)


def build(options: Options, margin: int = 0) -> None:
    """Make shards of both sets, once: of cells with `margin` px around them, and, where there are none, of fields."""
    for name, folds in (("train", NUM_FOLDS), ("test", 1)):
        source = files.join(options.bench, name)
        words = ["--images", f"{source}/images", "--labels", f"{source}/train.csv", "--masks", f"{source}/masks"]
        words += ["--um-per-px", str(options.um_per_px), "--encoding", "npy", "--margin", str(margin)]
        words += ["--fields", str(options.fields)] if options.fields and not margin else []
        words += ["--num-folds", str(folds), "--out", shards(options, name, margin)]
        subprocess.run([sys.executable, "-m", "tfrecords_builder", "build", *words], check=True)


def read_test(options: Options, margin: int = 0) -> Examples:
    """Return the test set's cells, of the shards with that margin."""
    return Data(shards(options, "test", margin), clean=False).examples(None)


def image_labels(examples: Examples) -> np.ndarray:
    """Return the labels of each cell's image, bool [N, 19]."""
    return examples.images.labels[examples.image_of] > 0.5


def read_truth(options: Options, examples: Examples) -> Truth:
    """Return the true labels of the test set's cells.

    Raises:
        InputError: The shards hold other cells than the bench.
    """
    table = cell_table.read(files.join(options.bench, "test", "truth.parquet"))
    keys = pd.MultiIndex.from_frame(table[cell_table.KEYS])
    rows = keys.get_indexer(pd.MultiIndex.from_frame(examples.table[cell_table.KEYS]))
    if (rows < 0).any() or len(table) != len(examples):
        found = f"{len(examples)} cells, {(rows < 0).sum()} of them not in the bench's truth"
        raise InputError(files.join(options.out, "test"), found, f"its {len(table)} cells", "choose another --out")
    return Truth(cell_table.values(table)[rows] > 0.5, examples.image_of)


def chosen_rows(options: Options) -> list[Row]:
    """Return the rows that are asked for.

    Raises:
        InputError: There is no such row, or no bench to run it on.
    """
    if unknown := [name for name in options.rows if name not in BY_NAME]:
        near = " or ".join(map(repr, difflib.get_close_matches(unknown[0], BY_NAME, n=3, cutoff=0)))
        expected = f"some of {', '.join(map(repr, BY_NAME))}"
        raise InputError("--rows", repr(unknown[0]), expected, f"did you mean {near}?")
    for name in ("train", "test"):
        if not os.path.isdir(os.path.join(options.bench, name, "images")):
            fix = f"hpa-tf generate bench --out {options.bench}"
            raise InputError("--bench", f"no {name}/images in {options.bench}", "the folder of a bench", fix)
    return [BY_NAME[name] for name in options.rows] or list(ROWS)


def main(options: Options) -> None:
    """Run the rows, then write the table and the figures."""
    rows = chosen_rows(options)
    keep_freed_memory()
    tf.config.experimental.enable_op_determinism()
    files.make_folder(options.out)
    build(options)
    for seed in () if options.only_table else options.seeds:
        ladder = Ladder(options, seed)
        for row in rows:
            ladder.run(row)
    test = read_test(options)
    print(
        write_table(options.out, [row.name for row in (*ROWS, *FURTHER)], read_truth(options, test), options.bootstrap)
    )


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__))
    except InputError as error:
        sys.exit(f"ladder.py: {error}")
    except subprocess.CalledProcessError as error:  # the build has said why
        sys.exit(error.returncode)

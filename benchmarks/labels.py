"""What each rule of labels is worth to a trained network, on cells whose truth is known.

    python benchmarks/labels.py --bench BENCH --ladder LADDER --budget 0.25 --seeds 0 1                 # all rows
    python benchmarks/labels.py --bench BENCH --ladder LADDER --rows "+ drop_unlikely" --seeds 0        # one
    python benchmarks/labels.py --bench BENCH --ladder LADDER --first LADDER/budget-1/seed-0/networks/plain-image
    python benchmarks/labels.py --bench BENCH --ladder LADDER --only-table                              # labels.md

BENCH is what `hpa-tf generate bench` wrote; LADDER the folder of `ladder.py`: shards and networks are shared with it.
Rows are those of `labels_rows.py`, what a simulated grader does stands in `labels_grader.py`. One network is trained
after the other, a stopped run goes on, and nothing is chosen by the test set. Out-of-fold answers (`drop_unlikely`,
`out_of_fold`, uncertainty order) are those of the cleaned network, one for each half of the images.

Table: mAP over the 19 classes of the test cells at exact masks, its 95 % interval over test images, the difference to
the row that it builds on, paired over images (mean over seeds, and of each), the same for the eight graded classes and
for scores that prediction's border and outlier rules have lowered; then what the rule did to the labels.
"""

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

import numpy as np
import pandas as pd
import tensorflow as tf
import tyro
from labels_grader import Order, balanced, grade_cells, graded, lowered, removed
from labels_rows import BY_NAME, CLASSES_GRADED, CLEAN, FIRST, ROWS, SECOND, Row
from labels_table import Found, text_of
from ladder import FACTS, SCORES, Ladder, build, read_array, read_test, read_truth, write_array
from ladder import Options as LadderOptions
from ladder_rows import NUM_FOLDS, PLAIN, Part, Training

from hpa_tf import cell_table, files, label_rules
from hpa_tf.imaging import rules
from hpa_tf.label_rules import LabelTable
from hpa_tf.memory import keep_freed_memory
from hpa_tf.pipeline import Examples
from hpa_tf.recipes import Recipe
from hpa_tf.recipes.relabel import RELABEL_SMALL, half_and_half
from hpa_tf.records import CELL_TABLE_NAME
from hpa_tf.run_folder import BEST_WEIGHTS
from hpa_tf.training.relabelling import train_relabelling
from hpa_tf.training.site import Data, Site
from hpa_tf.training.strategy import make_strategy


@dataclass(frozen=True)
class Options:
    """What is run."""

    bench: str
    """Folder with `train` and `test`."""
    ladder: str = "ladder"
    """Folder of `ladder.py`: shards, networks, tables of labels."""
    out: str = "labels"
    """Folder of the rows' scores, the table and the figure."""
    rows: tuple[str, ...] = ()
    """Names of rows; default: all."""
    budget: float = 0.25
    """Share of the ladder's examples that a training from ImageNet weights sees."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds of trainings, grader and order."""
    first: tuple[str, ...] = ()
    """Network folder of the first stage: one for each seed, or one for all; default: the plain network of budget and
    seed."""
    second: int = 6144
    """Cells that a second stage sees."""
    bootstrap: int = 200
    """Resamples of the images."""
    only_table: bool = False
    """Train nothing."""

    @property
    def of_ladder(self) -> LadderOptions:
        """The ladder's options."""
        return LadderOptions(self.bench, self.ladder, budget=self.budget)


class Labels(Ladder):
    """The trainings of one seed: the ladder's, second stages, and tables of labels that rules wrote."""

    def __init__(self, options: Options, seed: int):
        build(options.of_ladder)
        super().__init__(options.of_ladder, seed)
        self.asked = options

    # -- networks -----------------------------------------------------------------------------------------------------

    @cached_property
    def first(self) -> str:
        """Folder of the first stage's network."""
        given = self.asked.first
        if not given:
            self.train(PLAIN)
            return super().place(PLAIN)
        folder = given[0] if len(given) == 1 else given[self.asked.seeds.index(self.seed)]
        if not files.exists(files.join(folder, "done")):
            raise SystemExit(f"--first: {folder} holds no finished network")
        return folder

    def place(self, training: Training) -> str:
        """Return a training's folder; that of a second stage names its first stage."""
        if training.recipe.name == FIRST.recipe.name:
            return self.first
        if training.recipe.name == SECOND.recipe.name:
            weights = files.sha256(files.join(self.first, BEST_WEIGHTS))[:8]
            return files.join(self.folder, "networks", f"{training.name}-{self.asked.second}-after-{weights}")
        return super().place(training)

    def recipe(self, training: Training) -> Recipe:
        """Return a training's recipe; that of a second stage begins with the first one's weights."""
        if training.recipe.name != SECOND.recipe.name:
            return super().recipe(training)
        sampling = replace(training.recipe.sampling, num_cells=self.asked.second)
        return replace(training.recipe, seed=self.seed, weights=files.join(self.first, BEST_WEIGHTS), sampling=sampling)

    @cached_property
    def answers(self) -> np.ndarray:
        """What the cleaned networks say of the training cells that they were not trained on, float32 [N, 19]."""
        found = []
        for fold in range(NUM_FOLDS):
            examples = Data(self.data, clean=False).examples({fold})
            values = self.answer(Part(replace(CLEAN, without=fold)), examples, f"fold{fold}")
            found.append(cell_table.from_values(examples.table["image_id"], examples.table["cell"], values))
        return self.weak.values_from(pd.concat(found, ignore_index=True), self.folder)

    @cached_property
    def answers_of_small(self) -> np.ndarray:
        """What `relabel_small`'s networks say of them: one for each class and fold, float32 [N, 19]."""
        folder = files.join(self.folder, "relabel_small")
        path = files.join(folder, "out_of_fold.parquet")
        if not files.exists(path):
            count = round(RELABEL_SMALL.sampling.num_cells * min(1.0, 4 * self.asked.budget))
            recipe = replace(RELABEL_SMALL, seed=self.seed, sampling=half_and_half(max(64, count)))
            train_relabelling(recipe, 0, Data(self.data), folder, path, Site(make_strategy("one"), "float32"))
        return self.weak.values_from(cell_table.read(path), path)

    # -- labels -------------------------------------------------------------------------------------------------------

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The cell table of the training images."""
        return cell_table.read(files.join(self.data, CELL_TABLE_NAME))

    @cached_property
    def weak(self) -> LabelTable:
        """The labels of their images."""
        return label_rules.from_image(self.cells, {})

    @cached_property
    def known(self) -> pd.DataFrame:
        """The truth of the training cells, in the order of `cells`; only graders and what is reported look at it."""
        table = cell_table.read(files.join(self.asked.bench, "train", "truth.parquet"))
        return table.iloc[self.weak.rows_of(table)].reset_index(drop=True)

    @cached_property
    def truth(self) -> np.ndarray:
        """Their true labels, bool [N, 19]."""
        return cell_table.values(self.known) > 0.5

    @cached_property
    def clean(self) -> np.ndarray:
        """Cells that cleaning leaves, bool [N]."""
        image_of = pd.factorize(self.cells["image_id"])[0]
        return rules.stay_in_training(self.cells["cleaning_value"].to_numpy(), self.weak.values[:, 11], image_of)

    def labels(self, training: Training) -> str | None:
        """Return the table of a training's labels, made if need be; None = those of the shards."""
        if training.labels in ("image", "true"):
            return super().labels(training)
        path = files.join(self.folder, "tables", f"{training.labels}.parquet")
        if not files.exists(path):
            files.make_folder(files.join(self.folder, "tables"))
            label_rules.write_labels(self.table(training.labels), path)
        return path

    def table(self, name: str) -> LabelTable:
        """Return the labels that a rule makes of the images'."""
        if name == "out_of_fold":
            return label_rules.out_of_fold(self.weak, self.answers, {})
        if name == "drop_unlikely":
            share = np.clip((self.weak.values[self.clean] > 0).mean(axis=0), 1e-3, 1 - 1e-3)
            return label_rules.drop_unlikely(self.weak, balanced(self.answers, share), {})
        if name == "drop_unlikely_small":
            return label_rules.drop_unlikely(self.weak, self.answers_of_small, {})
        return label_rules.from_grades(self.weak, self.grades(name), label_rules.MAPS[name.split("-")[3]], {})

    def grades(self, name: str) -> pd.DataFrame:
        """Return the grades of a table that `labels_rows.table_of` names."""
        _, count, order, _ = name.split("-")
        order: Order
        answers = self.answers if order == "uncertainty" else self.weak.values
        return grade_cells(self.weak, self.truth, self.clean, CLASSES_GRADED, int(count), order, answers, self.seed)

    def rule(self, training: Training) -> str:
        """Say what a training's rule did to the labels."""
        if training.labels.startswith("drop_unlikely"):
            return lowered(self.weak, label_rules.read_labels(self.labels(training)), self.truth, self.clean)
        if training.labels.startswith("graded"):
            return graded(self.grades(training.labels), self.weak, self.truth)
        if training.clean and training.recipe.name != SECOND.recipe.name and training.labels == "image":
            bad = self.known["cut"].to_numpy(bool) | (self.known["artefact"] != "").to_numpy()
            return removed(self.weak, self.clean, bad, self.truth)
        return ""

    # -- one row ------------------------------------------------------------------------------------------------------

    def measure(self, row: Row) -> None:
        """Train and ask the network of a row, and write its scores, unless they are there."""
        folder = files.join(row_folder(self.asked, self.seed), row.name)
        network = self.place(row.training)
        facts = files.join(folder, FACTS)
        if files.exists(facts) and files.read_json(facts)["network"] == network:
            return
        scores = self.answer(Part(row.training))
        files.make_folder(folder)
        write_array(files.join(folder, SCORES), scores)
        cells = cell_names(self.test)
        seconds = self.seconds(row.training)["training"]
        rule = self.rule(row.training)
        files.write_json(facts, {"network": network, "training": seconds, "rule": rule, "cells": cells})


def cell_names(examples: Examples) -> list[str]:
    """Return "image/cell" of each cell: by them a row says which cells its scores are of."""
    return examples.table["image_id"].str.cat(examples.table["cell"].astype(str), "/").tolist()


def row_folder(options: Options, seed: int) -> str:
    """Return the folder of a seed's rows."""
    return files.join(options.out, f"budget-{options.budget:g}", f"seed-{seed}")


def read_rows(options: Options) -> dict[str, Found]:
    """Return the rows that are there, by name, with all of their seeds."""
    found: dict[str, Found] = {}
    for row in ROWS:
        paths = {}
        for path in Path(options.out).glob(f"budget-{options.budget:g}/seed-*/{row.name}/{FACTS}"):
            paths[int(path.parts[-3].partition("-")[2])] = path
        if paths:
            scores = {seed: read_array(str(paths[seed].with_name(SCORES))) for seed in sorted(paths)}
            found[row.name] = Found(scores, [files.read_json(paths[seed]) for seed in sorted(paths)])
    return found


def write_table(options: Options) -> str:
    """Write OUT/labels.md and OUT/labels_curve.png, and return the table."""
    of_ladder = options.of_ladder
    test, found = read_test(of_ladder), read_rows(options)
    keys = cell_names(test)
    if other := [name for name, one in found.items() if any(facts["cells"] != keys for facts in one.facts)]:
        raise SystemExit(f"{options.out}: {other} scored other cells than those of {of_ladder.out}/test")
    cells = cell_table.read(files.join(of_ladder.out, "test", CELL_TABLE_NAME))
    value = rules.cell_values(cells)
    text, figure = text_of(found, read_truth(of_ladder, test), value, options.bootstrap)
    files.write_bytes(files.join(options.out, "labels.md"), text.encode())
    if figure:
        files.write_bytes(files.join(options.out, "labels_curve.png"), figure)
    return text


def main(options: Options) -> None:
    """Measure the rows that are not there yet, seed by seed; then write the table and the figure."""
    if unknown := set(options.rows) - set(BY_NAME):
        raise SystemExit(f"--rows: found {sorted(unknown)}; expected some of {list(BY_NAME)}")
    if len(options.first) not in (0, 1, len(options.seeds)):
        raise SystemExit(f"--first: found {len(options.first)} folders; expected one, or one for each seed")
    keep_freed_memory()
    tf.config.experimental.enable_op_determinism()
    files.make_folder(options.out)
    rows = [BY_NAME[name] for name in options.rows] or list(ROWS)
    for seed in () if options.only_table else options.seeds:
        labels = Labels(options, seed)
        for row in rows:
            labels.measure(row)
    print(write_table(options))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

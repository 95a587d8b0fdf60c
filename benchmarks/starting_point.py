"""Does it pay to start from the starter network?

    python benchmarks/starting_point.py --real DIR --labels CSV --out starting

Real fields in two halves: networks are trained on one half's image labels and tested on the other, both ways, from
random weights, from ImageNet's and from the starter's. DIR holds fields of view ({ID}_red.png, ...), CSV their image
labels (columns ID and label_2021, `a|b`); the halves are the fields with an even and an odd zlib.crc32 of their id.
Each training is the recipe `starter` for a few short epochs. The last epoch counts, so nothing is chosen by the half
that is tested. A field's score is the mean over its cells, a number in the table the mean over seeds; intervals come
from drawing fields with replacement, the same ones in every row. A benchmark that was stopped goes on.
"""

import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pandas as pd
import tyro

from hpa_tf import cell_table, files
from hpa_tf.errors import InputError
from hpa_tf.evaluation.whole_fields import agreement, interval, labelled_fields, resampled
from hpa_tf.identity import check_same
from hpa_tf.make_starter import run_scores

STARTS = {"random weights": "none", "ImageNet": "imagenet", "starter": "starter"}
UNTRAINED = "starter as it is"


@dataclass(frozen=True)
class Options:
    """What is trained."""

    real: str
    """Folder of real fields of view."""
    labels: str
    """CSV of their image labels: ID, label_2021."""
    out: str = "starting"
    """Folder to work in."""
    um_per_px: float = 0.32
    """Micrometres per pixel of the fields."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the trainings."""
    epochs: int = 3
    """Epochs of a training."""
    cells: int = 1024
    """Cells of an epoch."""
    learning_rate: float = 1e-3
    """Highest learning rate, for all."""
    samples: int = 1000
    """Resamples of the fields."""


def program(*words: str) -> None:
    """Run a command of hpa-tf."""
    subprocess.run([sys.executable, "-m", "hpa_tf.command_line", *words], check=True)


def build(options: Options) -> str:
    """Cut the fields into cells, one half a fold; return the data folder."""
    data, rows = files.join(options.out, "shards"), []
    if files.exists(files.join(data, "dataset.json")):
        return data
    for fold, half in enumerate(("even", "odd")):
        fields, truth = labelled_fields(options.real, options.labels, options.um_per_px, half)
        names = ["|".join(map(str, np.flatnonzero(row))) for row in truth]
        rows.append(pd.DataFrame({"ID": [field.image_id for field in fields], "Label": names, "fold": fold}))
    table = files.join(options.out, "train.csv")
    files.write_bytes(table, pd.concat(rows).to_csv(index=False).encode())
    words = ["--images", options.real, "--labels", table, "--folds-from", table, "--segmenter", "classical"]
    program("build", *words, "--um-per-px", str(options.um_per_px), "--encoding", "npy", "--out", data)
    return data


def trained(start: str, seed: int, data: str, options: Options) -> pd.DataFrame:
    """Return what networks of the other half say of each cell."""
    folder = files.join(options.out, f"{start}-{seed}")
    table = f"{folder}.parquet"
    if not files.exists(table):
        recipe = {
            "weights": start,
            "seed": seed,
            "ensemble": 1.0,
            "sampling.num-cells": options.cells,
            "optimization.epochs": options.epochs,
            "optimization.schedule.epochs": options.epochs,
            "optimization.learning-rate": options.learning_rate,
            "optimization.warmup-steps": 10,
        }
        words = ["--recipe", "starter", "--data", data, "--out", folder, "--folds", "2", "--out-of-fold", table]
        words += [word for name, value in recipe.items() for word in (f"--recipe.{name}", str(value))]
        program("train", *words)
    return cell_table.read(table)


def field_scores(cells: pd.DataFrame, image_ids: list[str]) -> np.ndarray:
    """Return the mean over the cells of each field, [F, 19]; 0 for a field without cells."""
    mean = cells.groupby("image_id")[cell_table.VALUES].mean()
    return mean.reindex(image_ids).fillna(0).to_numpy()


@dataclass(frozen=True)
class Row:
    """A way to start, measured.

    Attributes:
        means: AUC, AP and share of right first classes, mean over seeds, [3].
        drawn: The same for resamples of the fields, [S, 3].
    """

    means: np.ndarray
    drawn: np.ndarray

    def difference(self, other: "Row") -> "Row":
        """Return how much better this one is, fields paired."""
        return Row(self.means - other.means, self.drawn - other.drawn)

    def cells(self) -> list[str]:
        """Return the numbers with their intervals."""
        pairs = zip(self.means, map(interval, self.drawn.T), strict=True)
        return [f"{mean:.3f} [{low:.3f}, {high:.3f}]" for mean, (low, high) in pairs]


def measured(truth: np.ndarray, of_seeds: list[np.ndarray], samples: int) -> Row:
    """Return the row of scores [F, 19] of several seeds."""
    found = [agreement(truth, scores) for scores in of_seeds]
    means = np.mean([(one.auc, one.ap, one.first) for one in found], axis=0)
    return Row(means, np.mean([resampled(truth, scores, samples) for scores in of_seeds], axis=0))


def claim(options: Options) -> None:
    """Write down what the folder's trainings are made from.

    Raises:
        InputError: They were made from something else.
    """
    path = files.join(options.out, "options.json")
    other = {"out", "seeds", "samples"}
    asked = {name: value for name, value in vars(options).items() if name not in other}
    if files.exists(path):
        check_same(path, files.read_json(path), asked, "benchmark", "choose another --out")
    files.write_json(path, asked)


def main(options: Options) -> None:
    """Train, ask and print the table."""
    files.make_folder(options.out)
    claim(options)
    data = build(options)
    fields, truth = labelled_fields(options.real, options.labels, options.um_per_px, "all")
    image_ids = [field.image_id for field in fields]
    rows = {}
    for name, start in STARTS.items():
        tables = [trained(start, seed, data, options) for seed in options.seeds]
        rows[name] = measured(truth, [field_scores(table, image_ids) for table in tables], options.samples)
    rows[UNTRAINED] = measured(truth, [run_scores("starter", fields)], options.samples)
    rows["starter - ImageNet"] = rows["starter"].difference(rows["ImageNet"])
    rows[f"starter - {UNTRAINED}"] = rows["starter"].difference(rows[UNTRAINED])
    print(f"{len(fields)} fields, {len(options.seeds)} seeds, {options.epochs} epochs of {options.cells} cells\n")
    print("| start | AUC | AP | first class right |\n|---|---|---|---|")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(row.cells())} |")


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__))
    except InputError as error:
        sys.exit(f"starting_point.py: {error}")

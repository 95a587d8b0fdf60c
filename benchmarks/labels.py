"""What each rule of labels is worth, on cells whose truth is known; rows come one by one, and a stop loses one.

    python -m hpa_tf.synthetic --out made --num-images 600 --difficulty real --balance 0.5 --seed 71
    python -m tfrecords_builder build --images made/images --labels made/train.csv --masks made/masks \\
        --um-per-px 0.32 --margin 48 --out shards
    python benchmarks/labels.py --data shards --truth made/truth.parquet --out labels

Fold 0 is the test set; the other folds are trained on with image labels, which the rules refine. So that many rows can
be measured on a CPU, a row does not train a network: EfficientNet-Lite0 keeps its ImageNet weights, and a linear head
on the 256 main components of its features (the cell in four channels, and its protein alone) is trained on the soft
labels by cross entropy. Networks that say what is unlikely are heads too, out of fold. A grader is simulated: shown the
truth of a cell, it grades 5, 4 or 3 (or 1, 2, 3) with shares .6, .3, .1, but takes a tenth of the cells for the
opposite.

Printed: mean AP over the 19 classes of the test cells (the metric at exact masks) with a 95 % interval, the difference
to "+ cleaning" (of that row: to image labels) with the interval of pairs, the same for the eight graded classes, and
what the rule itself did. Intervals are over test images and over seeds (of the grader and of the order).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import tyro
from sklearn.decomposition import PCA

from hpa_tf import cell_table, files, label_rules
from hpa_tf.classes import NEGATIVE
from hpa_tf.evaluation.metric import average_precision, precision_recall
from hpa_tf.imaging import rules
from hpa_tf.label_rules import LabelTable
from hpa_tf.records import CELL_TABLE_NAME

CLASSES_GRADED = (1, 3, 5, 7, 11, 12, 15, 17)
"""The rarer or less often right classes, as team 4 chose. Source: METHODS 5 (penetrance)."""
COMPONENTS, BOOTSTRAPS, WRONG = 256, 300, 0.1
CUTTERS = {"cell alone": {}, "square of real pixels": {"surroundings": "background", "square": "grow", "margin": 16}}


@dataclass(frozen=True)
class Options:
    """What to measure."""

    data: str
    """Data folder, built with --margin 48 or more."""
    truth: str
    """Cell table of the truth."""
    out: str
    """Folder of features, rows and the figure; the same command goes on."""
    seeds: int = 2
    """Seeds of a row."""
    graded: tuple[int, ...] = (30, 100, 300, 1000)
    """Cells graded of each class."""
    figure: str | None = None
    """PNG of what a grade is worth."""


# -- cells ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """Cells with features, weak labels and truth; `clean` as in training."""

    table: pd.DataFrame
    truth: np.ndarray
    known: pd.DataFrame
    clean: np.ndarray
    features: dict[str, np.ndarray]
    labels: LabelTable

    @property
    def test(self) -> np.ndarray:
        """bool [N]: cells of the test fold that people would judge: not cut to nothing, no artefact."""
        return self.table["fold"].to_numpy() == 0


def read_bench(options: Options) -> Bench:
    """Read everything; compute the features of each cutter once."""
    table = cell_table.read(files.join(options.data, CELL_TABLE_NAME))
    labels = label_rules.from_image(table, {})
    known = cell_table.read(options.truth)
    rows = labels.rows_of(known)
    if (rows < 0).any():
        raise SystemExit(f"{options.truth}: lacks {int((rows < 0).sum())} cells of {options.data}")
    known = known.iloc[rows].reset_index(drop=True)
    features = {name: _features(options, name, view) for name, view in CUTTERS.items()}
    cleaning, image_of = table["cleaning_value"].to_numpy(), pd.factorize(table["image_id"])[0]
    clean = rules.stay_in_training(cleaning, labels.values[:, 11], image_of)
    return Bench(table, cell_table.values(known, np.float32), known, clean, features, labels)


def _features(options: Options, name: str, view: dict) -> np.ndarray:
    path = Path(options.out) / f"features-{name.replace(' ', '-')}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = [_pooled(options.data, channels, view) for channels in (("red", "green", "blue", "yellow"), ("green",))]
        whole = np.concatenate(parts, axis=1)
        whole = (whole - whole.mean(0)) / (whole.std(0) + 1e-6)
        reduced = PCA(COMPONENTS, svd_solver="randomized", random_state=0).fit_transform(whole)
        np.save(path, (reduced / reduced.std(0)).astype(np.float32))
    return np.load(path, allow_pickle=False)


def _pooled(data: str, channels: tuple[str, ...], view: dict) -> np.ndarray:
    """Return the mean over the last feature map of each cell, float32 [N, 1280]."""
    import tensorflow as tf

    from hpa_tf.models import weights
    from hpa_tf.models.classifier import Classifier
    from hpa_tf.models.efficientnet import EfficientNet
    from hpa_tf.pipeline import evaluation_batches, read_examples
    from hpa_tf.views import Crop

    crop = Crop(64, channels=channels, **view)
    spec = Classifier(EfficientNet("Lite0", drop_connect=0), dropout=0)
    network = spec.build(crop.specs())
    weights.initialize(network, spec, "imagenet", crop.channels)
    embed = tf.function(lambda inputs: network(inputs, training=False)["embedding"])
    examples = read_examples(data, clean=False)
    found = [embed(batch.inputs).numpy() for batch in evaluation_batches(examples, crop, batch_size=64)]
    return np.concatenate(found)[: len(examples)]


# -- the learner ------------------------------------------------------------------------------------------------------


def fit(
    x: np.ndarray, labels: np.ndarray, weights: np.ndarray, start: np.ndarray | None = None, steps: int = 150,
    rate: float = 0.05,
) -> np.ndarray:  # fmt: skip
    """Fit a linear head by Adam on all cells at once; return its weights [D + 1, 18]."""
    x = np.hstack([x, np.ones((len(x), 1), np.float32)])
    head = np.zeros((x.shape[1], NEGATIVE), np.float32) if start is None else start.copy()
    known = ~np.isnan(labels[:, :NEGATIVE])
    target = np.nan_to_num(labels[:, :NEGATIVE])
    share = weights * known / max(1.0, float(weights.mean() * len(x)))
    first, second = np.zeros_like(head), np.zeros_like(head)
    for step in range(1, steps + 1):
        slope = x.T @ ((1 / (1 + np.exp(-(x @ head))) - target) * share) + 1e-4 * head
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        head -= rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return head


def predict(x: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Return probabilities [N, 19], Negative derived."""
    p = 1 / (1 + np.exp(-(np.hstack([x, np.ones((len(x), 1), np.float32)]) @ head)))
    return np.hstack([p, 1 - p.max(axis=1, keepdims=True)])


def out_of_fold(bench: Bench, labels: np.ndarray, balanced: bool, steps: int) -> np.ndarray:
    """Return what heads that have not seen a cell's image say of it, [N, 19]; NaN in the test fold.

    `balanced`: positive and negative cells of each class weigh the same, as in `--recipe relabel_small`.
    """
    x, fold = bench.features["cell alone"], bench.table["fold"].to_numpy()
    found = np.full(bench.truth.shape, np.nan, np.float32)
    for k in sorted(set(fold) - {0}):
        train = (fold != 0) & (fold != k) & bench.clean
        weights = np.ones((int(train.sum()), NEGATIVE), np.float32)
        if balanced:
            positive = labels[train, :NEGATIVE] >= 0.1
            share = np.clip(positive.mean(axis=0), 1e-3, 1 - 1e-3)
            weights = np.where(positive, 0.5 / share, 0.5 / (1 - share)).astype(np.float32)
        own = fold == k
        found[own] = predict(x[own], fit(x[train], labels[train], weights, steps=steps))
    found[:, NEGATIVE] = np.nan
    return found


# -- the grader -------------------------------------------------------------------------------------------------------


def grade(bench: Bench, rows: np.ndarray, class_id: int, rng: np.random.Generator) -> pd.DataFrame:
    """Return the simulated grades of some cells."""
    shows = bench.truth[rows, class_id] > 0.5
    shows ^= rng.random(len(rows)) < WRONG
    steps = rng.choice([0, 1, 2], len(rows), p=[0.6, 0.3, 0.1])
    cells = bench.labels.cells.iloc[rows]
    grades = np.where(shows, 5 - steps, 1 + steps)
    return pd.DataFrame({"class": class_id, "grader": "simulated", "image_id": cells["image_id"].to_numpy(),
                         "cell": cells["cell"].to_numpy(), "grade": grades})  # fmt: skip


def graded(bench: Bench, count: int, order: str, scores: np.ndarray, allowed: np.ndarray, seed: int) -> pd.DataFrame:
    """Grade `count` cells of each chosen class, of those whose image has the label, in some order."""
    rng = np.random.default_rng([seed, count])
    tables = []
    for class_id in CLASSES_GRADED:
        rows = rng.permutation(np.flatnonzero(allowed & (bench.labels.values[:, class_id] > 0)))
        if order == "uncertainty":
            rows = rows[np.argsort(np.abs(scores[rows, class_id] - 0.5), kind="stable")]
        tables.append(grade(bench, rows[:count], class_id, rng))
    return pd.concat(tables, ignore_index=True)


# -- rows -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A row of the table: its name, and (bench, seed) -> (probabilities of the test cells, what the rule did)."""

    name: str
    make: Callable[[Bench, int], tuple[np.ndarray, str]]


def trained(bench: Bench, labels: np.ndarray, train: np.ndarray, cutter: str = "cell alone") -> np.ndarray:
    """Train on some cells, return the test cells' probabilities."""
    x = bench.features[cutter]
    weights = np.ones((int(train.sum()), NEGATIVE), np.float32)
    return predict(x[bench.test], fit(x[train], labels[train], weights))


def plain(which: str, clean: bool, cutter: str = "cell alone") -> Callable:
    """Train on image labels or on the truth."""

    def make(bench: Bench, seed: int) -> tuple[np.ndarray, str]:
        values = bench.labels.values if which == "image" else bench.truth
        train = ~bench.test & (bench.clean | (not clean))
        removed = ~bench.test & ~bench.clean
        bad = bench.known[["cut", "artefact"]].to_numpy(bool).any(axis=1)
        note = f"removed {removed.sum() / (~bench.test).sum():.1%}; of them cut or artefacts {bad[removed].mean():.0%}"
        note += f" (of all cells {bad[~bench.test].mean():.0%})"
        return trained(bench, values, train, cutter), note if clean and which == "image" else ""

    return make


def dropped(then_out_of_fold: bool) -> Callable:
    """Lower unlikely labels; then perhaps train a student."""

    def make(bench: Bench, seed: int) -> tuple[np.ndarray, str]:
        scores = out_of_fold(bench, bench.labels.values, balanced=True, steps=60)
        lowered = label_rules.drop_unlikely(bench.labels, scores, {})
        train = ~bench.test & bench.clean
        moved = (lowered.values != bench.labels.values) & train[:, None]
        positive = (bench.labels.values[:, :NEGATIVE] > 0) & train[:, None]
        wrong = bench.truth < 0.5
        note = f"lowered {moved.sum() / positive.sum():.1%} of the labels; of them wrong {wrong[moved].mean():.0%}"
        note += f" (of all {wrong[:, :NEGATIVE][positive].mean():.0%})"
        if then_out_of_fold:
            student = out_of_fold(bench, lowered.values, balanced=False, steps=150)
            lowered, note = label_rules.out_of_fold(lowered, student, {}), "targets: the heads' answers out of fold"
        return trained(bench, lowered.values, train), note

    return make


def by_hand(count: int, order: str, cap: bool = True, drop: bool = False) -> Callable:
    """Grade training cells."""

    def make(bench: Bench, seed: int) -> tuple[np.ndarray, str]:
        scores = out_of_fold(bench, bench.labels.values, balanced=True, steps=60)
        train = ~bench.test & bench.clean
        maps = label_rules.MAPS["train"]
        if not cap:
            maps = label_rules.GradeMaps(maps.default, maps.classes, {}, maps.exclusive)
        found = graded(bench, count, order, scores, train, seed)
        labels = label_rules.from_grades(bench.labels, found, maps, {})
        if drop:
            labels = label_rules.drop_unlikely(labels, scores, {})
        return trained(bench, labels.values, train), f"{len(found)} grades"

    return make


def fine_tuned(count: int) -> Callable:
    """Image labels of folds 2 to 4 first; then a second stage on fold 1, with a tenth of the rate and a sixteenth of
    the steps, where graded cells count five times; without grades, the first stage alone.
    """

    def make(bench: Bench, seed: int) -> tuple[np.ndarray, str]:
        x, fold = bench.features["cell alone"], bench.table["fold"].to_numpy()
        first, second = (fold > 1) & bench.clean, (fold == 1) & bench.clean
        ones = np.ones((int(first.sum()), NEGATIVE), np.float32)
        head = fit(x[first], bench.labels.values[first], ones)
        if not count:
            return predict(x[bench.test], head), "trained on folds 2 to 4"
        found = graded(bench, count, "random", bench.truth, second, seed)
        labels = label_rules.from_grades(bench.labels, found, label_rules.MAPS["validation"], {})
        weights = np.ones((int(second.sum()), NEGATIVE), np.float32)
        weights += 4.0 * labels.cells["graded"].to_numpy(bool)[second][:, None]
        head = fit(x[second], labels.values[second], weights, start=head, steps=9, rate=0.005)
        return predict(x[bench.test], head), f"{len(found)} grades, all in the validation fold"

    return make


def rows_of(options: Options) -> list[Row]:
    """Return the rows in order."""
    rows = [
        Row("image labels", plain("image", clean=False)),
        Row("+ cleaning", plain("image", clean=True)),
        Row("+ cleaning, square cutter", plain("image", clean=True, cutter="square of real pixels")),
        Row("+ drop_unlikely", dropped(False)),
        Row("+ drop_unlikely, out_of_fold", dropped(True)),
    ]
    for count in options.graded:
        rows += [Row(f"+ {count} grades, {order}", by_hand(count, order)) for order in ("random", "uncertainty")]
    some, most = sorted(options.graded)[-2:]
    rows += [
        Row(f"+ {some} grades, random, ungraded stay 1", by_hand(some, "random", cap=False)),
        Row(f"+ {some} grades, random, drop_unlikely", by_hand(some, "random", drop=True)),
        Row("first stage alone", fine_tuned(0)),
        Row(f"first stage, then second on {most} grades", fine_tuned(most)),
        Row("the truth", plain("truth", clean=True)),
    ]
    return rows


# -- scores -----------------------------------------------------------------------------------------------------------


def bootstrapped(bench: Bench, scores: list[np.ndarray]) -> np.ndarray:
    """Return the AP of each class for each draw of test images, [1 + draws, 19]; the first draw is every image once.

    Draws are the same for every row, and take the seeds in turn; NaN where a draw has no cell of a class.
    """
    truth, images = bench.truth[bench.test] > 0.5, bench.table["image_id"].to_numpy()[bench.test]
    _, index = np.unique(images, return_inverse=True)
    rng = np.random.default_rng(0)
    counts = [np.bincount(rng.integers(0, index.max() + 1, index.max() + 1), minlength=index.max() + 1)
              for _ in range(BOOTSTRAPS)]  # fmt: skip
    found = np.full((1 + BOOTSTRAPS, truth.shape[1]), np.nan)
    for class_id in range(truth.shape[1]):
        orders = [np.argsort(-one[:, class_id], kind="stable") for one in scores]
        ones = np.ones(len(truth))
        found[0, class_id] = np.mean([_ap(truth[order, class_id], ones) for order in orders])
        for draw, count in enumerate(counts):
            order = orders[draw % len(orders)]
            found[1 + draw, class_id] = _ap(truth[order, class_id], count[index[order]])
    return found


def _ap(right: np.ndarray, weights: np.ndarray) -> float:
    right, weights = right[weights > 0], weights[weights > 0]
    total = weights[right].sum()
    return average_precision(*precision_recall(right, total, weights)) if total else float("nan")


def main(options: Options) -> None:
    """Measure the rows that are not there yet; print the table; draw the figure."""
    bench = read_bench(options)
    folder = Path(options.out) / "rows"
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{int((~bench.test).sum())} cells to train on, {int(bench.test.sum())} test cells, {options.seeds} seeds")
    results: dict[str, np.ndarray] = {}
    of_hard: dict[str, np.ndarray] = {}
    for row in rows_of(options):
        scores, note = [], ""
        for seed in range(options.seeds):
            path = folder / f"{row.name.replace(' ', '-')}-{seed}.npy"
            if not path.exists():
                found, note = row.make(bench, seed)
                files.write_json(path.with_suffix(".json"), note)
                np.save(path, found.astype(np.float32))
            scores.append(np.load(path, allow_pickle=False))
            note = json.loads(path.with_suffix(".json").read_text())
        by_class = bootstrapped(bench, scores)
        found, of_graded = np.nanmean(by_class, axis=1), np.nanmean(by_class[:, list(CLASSES_GRADED)], axis=1)
        results[row.name], of_hard[row.name] = found, of_graded
        base = "image labels" if row.name in ("image labels", "+ cleaning") else "+ cleaning"
        cells = [_cell(found), _difference(found, results[base])]
        cells += [_cell(of_graded), _difference(of_graded, of_hard[base])]
        print(f"| {row.name} | {' | '.join(cells)} | {note} |", flush=True)
    if options.figure:
        draw(results, options)


def _cell(found: np.ndarray) -> str:
    low, high = np.percentile(found[1:], [2.5, 97.5])
    return f"{found[0]:.3f} ({low:.3f}-{high:.3f})"


def _difference(found: np.ndarray, base: np.ndarray) -> str:
    if found is base:
        return ""
    low, high = np.percentile(found[1:] - base[1:], [2.5, 97.5])
    return f"{found[0] - base[0]:+.3f} ({low:+.3f} to {high:+.3f})"


def draw(results: dict[str, np.ndarray], options: Options) -> None:
    """Draw what a grade is worth."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    base = results["+ cleaning"]
    for order, colour in (("random", "#3568c9"), ("uncertainty", "#c2571a")):
        found = [results[f"+ {count} grades, {order}"] - base for count in options.graded]
        low, high = np.percentile([one[1:] for one in found], [2.5, 97.5], axis=1)
        axes.plot(options.graded, [one[0] for one in found], "o-", color=colour, label=f"graded in {order} order")
        axes.fill_between(options.graded, low, high, color=colour, alpha=0.15, lw=0)
    for name, style in (("image labels", ":"), ("+ drop_unlikely", "--"), ("the truth", "-")):
        axes.axhline(results[name][0] - base[0], color="#555", ls=style, lw=1, label=name.removeprefix("+ "))
    axes.set(xscale="log", xlabel=f"cells graded of each of {len(CLASSES_GRADED)} classes")
    axes.set(ylabel="mean AP over that of cleaned image labels")
    axes.set_xticks(options.graded, [str(count) for count in options.graded])
    axes.minorticks_off()
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0.01, 0.93))
    figure.savefig(options.figure, dpi=150)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

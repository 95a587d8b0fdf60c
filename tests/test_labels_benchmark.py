"""The simulated grader of benchmarks/labels.py, what it reports, and the whole benchmark at a tiny size."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_trainings import tiny

from hpa_tf import cell_table, files, label_rules
from hpa_tf.synthetic import dataset
from hpa_tf.synthetic.config import SyntheticConfig

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import labels_grader  # noqa: E402
import labels_rows  # noqa: E402
import labels_table  # noqa: E402
import ladder_rows  # noqa: E402
from ladder_scores import Truth  # noqa: E402


@pytest.fixture(scope="module")
def cells() -> tuple[label_rules.LabelTable, np.ndarray, np.ndarray]:
    """Labels of 4,000 cells' images, the truth (never without the image's label), and which cells may be graded."""
    rng = np.random.default_rng(0)
    weak = rng.random((4000, 19)) < 0.4
    truth = weak & (rng.random(weak.shape) < 0.6)
    table = cell_table.from_values([f"i{k // 10}" for k in range(4000)], [k % 10 + 1 for k in range(4000)], weak)
    return label_rules.from_image(table, {}), truth, rng.random(4000) < 0.9


def test_more_than_a_tenth_of_the_grades_are_wrong_on_either_side():
    for shows in (True, False):
        grades = labels_grader.grade(np.full(40_000, shows), np.random.default_rng(1))
        wrong = (grades > 3) != shows
        assert 0.11 < wrong[grades != 3].mean() < 0.14
        assert set(grades) == {1, 2, 3, 4, 5} and abs((grades == 3).mean() - 0.1) < 0.01


def test_grades_are_of_allowed_positive_cells_and_fewer_ones_are_the_first_of_more(cells):
    labels, truth, allowed = cells
    asked = (labels, truth, allowed, (3, 7))
    many = labels_grader.grade_cells(*asked, 200, "random", truth, 5)
    few = labels_grader.grade_cells(*asked, 30, "random", truth, 5)
    assert dict(many["class"].value_counts()) == {3: 200, 7: 200} and len(few) == 60
    assert few.merge(many).equals(few)
    rows = pd.MultiIndex.from_frame(labels.cells[cell_table.KEYS])
    graded = rows.get_indexer(pd.MultiIndex.from_frame(many[cell_table.KEYS]))
    assert allowed[graded].all() and (labels.values[graded, many["class"]] == 1).all()
    other = labels_grader.grade_cells(*asked, 200, "random", truth, 6)
    assert not other[cell_table.KEYS].equals(many[cell_table.KEYS])
    text = labels_grader.graded(many, labels, truth)
    assert text.startswith("400 grades, ") and 0.04 < float(text.split()[-1].rstrip("%")) / 100 < 0.2


def test_uncertainty_order_takes_the_nearest_to_a_half(cells):
    labels, truth, allowed = cells
    probabilities = np.random.default_rng(2).random(truth.shape)
    found = labels_grader.grade_cells(labels, truth, allowed, (4,), 50, "uncertainty", probabilities, 0)
    rows = pd.MultiIndex.from_frame(labels.cells[cell_table.KEYS])
    distance = np.abs(probabilities[:, 4] - 0.5)
    possible = np.flatnonzero(allowed & (labels.values[:, 4] > 0))
    taken = rows.get_indexer(pd.MultiIndex.from_frame(found[cell_table.KEYS]))
    assert set(taken) == set(possible[np.argsort(distance[possible])[:50]])


def test_balanced_probabilities_undo_the_share_of_positive_cells():
    rng = np.random.default_rng(3)
    share = np.full(19, 0.05)
    shows = rng.random(400_000) < 0.05
    x = rng.normal(shows * 1.5)  # two normal distributions: the log odds are a straight line
    rare = 1 / (1 + np.exp(-(1.5 * x - 1.5**2 / 2 + np.log(0.05 / 0.95))))
    even = 1 / (1 + np.exp(-(1.5 * x - 1.5**2 / 2)))
    found = labels_grader.balanced(np.repeat(rare[:, None], 19, axis=1), share)
    np.testing.assert_allclose(found[:, 3], even, atol=1e-9)
    assert np.isnan(labels_grader.balanced(np.full((1, 19), np.nan), share)).all()


def test_what_a_rule_did_is_counted_against_the_truth(cells):
    labels, truth, allowed = cells
    after = label_rules.drop_unlikely(labels, np.where(truth, 0.9, 0.1), {})
    text = labels_grader.lowered(labels, after, truth, allowed)
    positive = (labels.values[allowed][:, :18] > 0).sum()
    share = 1 - truth[allowed][:, :18].sum() / positive
    assert text.startswith(f"lowered {share:.1%} of the labels; of them wrong 100%")
    assert labels_grader.lowered(labels, labels, truth, allowed).startswith("lowered 0.0%")
    bad = ~truth.any(axis=1)
    text = labels_grader.removed(labels, ~bad, bad, truth)
    wrong = 1 - truth[:, :18].sum() / (labels.values[:, :18] > 0).sum()
    assert text.startswith(f"removed {bad.mean():.1%}; of them cut or artefacts 100%")
    assert text.endswith(f"labels wrong 100% (of all {wrong:.0%})")


def test_rows_build_on_rows_and_have_networks_of_their_own():
    names = [row.name for row in labels_rows.ROWS]
    assert len(set(names)) == len(names) and {row.base for row in labels_rows.ROWS} <= set(names)
    trainings = {row.training.name: row.training for row in labels_rows.ROWS}
    assert len(trainings) == len(names)
    of_ladder = {part.training.name: part.training for row in ladder_rows.BY_NAME.values() for part in row.parts}
    shared = {name for name in trainings if name in of_ladder}
    assert shared == {"plain-image", "plain-true"} and all(trainings[name] == of_ladder[name] for name in shared)


def test_differences_are_of_the_seeds_that_both_rows_have():
    rng = np.random.default_rng(4)
    truth = Truth(rng.random((300, 19)) < 0.2, np.repeat(np.arange(30), 10))
    noise = [rng.random((300, 19)) for _ in range(2)]
    better = noise[1] + 0.5 * truth.labels
    facts = [{"training": 1.0, "rule": ""}]
    found = {
        "image labels": labels_table.Found({0: noise[0], 1: noise[1]}, facts * 2),
        "the truth": labels_table.Found({1: better}, facts),
    }
    text, figure = labels_table.text_of(found, truth, np.ones(300), 20)
    plain = labels_table.score(truth, [noise[1]], 0).mean
    gain = labels_table.score(truth, [better], 0).mean - plain
    row = next(line for line in text.splitlines() if line.startswith("| the truth | 1 |"))
    assert f" {gain:.3f} [" in row and f"| {gain:+.3f} |" in row and figure is None


@pytest.fixture
def tiny_labels(monkeypatch):
    """Let every row have a tiny network; return the benchmark's module."""
    import labels  # TensorFlow

    monkeypatch.setattr(labels, "PLAIN", tiny(labels.PLAIN))
    monkeypatch.setattr(labels, "CLEAN", tiny(labels.CLEAN))
    rows = {name: replace(row, training=tiny(row.training)) for name, row in labels.BY_NAME.items()}
    monkeypatch.setattr(labels, "BY_NAME", rows)
    return labels


@pytest.mark.slow
def test_rows_from_images_to_table(tmp_path, tiny_labels, capsys):
    dataset.write(SyntheticConfig(seed=1), tmp_path / "bench" / "train", 10, 1)
    dataset.write(SyntheticConfig(seed=2), tmp_path / "bench" / "test", 5, 1)
    out, ladder = tmp_path / "labels", tmp_path / "ladder"
    second = ["image labels", "drop_unlikely", "30 grades, uncertainty"]
    rows = ["+ cleaning, square cutter", "first stage", *(f"second stage, {name}" for name in second)]
    options = tiny_labels.Options(
        str(tmp_path / "bench"), str(ladder), str(out), tuple(rows), budget=0.001, seeds=(0,), second=32, bootstrap=10
    )
    tiny_labels.main(options)
    table = (out / "labels.md").read_text()
    assert all(f"| {name} | 1 |" in table for name in rows)
    assert (out / "labels_curve.png").stat().st_size > 5_000
    of_seed = ladder / "budget-0.001" / "seed-0"
    assert len(list((of_seed / "networks").glob("second-*-32-after-*"))) == len(second)
    graded = label_rules.read_labels(of_seed / "tables" / "graded-30-uncertainty-validation.parquet")
    assert graded.cells["graded"].any() and "from_grades" in {step.rule for step in graded.steps}
    capsys.readouterr()
    first = (str(of_seed / "networks" / "plain-image"),)
    again = replace(options, rows=("first stage", "second stage, image labels"), seeds=(0, 1), first=first)
    tiny_labels.main(again)
    printed = "".join(capsys.readouterr())
    assert printed.count("epoch 1:") == 1  # the second seed's, from the first's network
    assert "| first stage | 2 |" in printed
    facts = [files.read_json(out / "budget-0.001" / f"seed-{seed}" / "first stage" / "row.json") for seed in (0, 1)]
    assert facts[0]["network"] == facts[1]["network"]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"rows": ("x",)}, r"--rows: found \['x'\]; expected some of"),
        ({"first": ("a", "b", "c")}, "--first: found 3 folders; expected one, or one for each seed"),
    ],
)
def test_wrong_options_end_with_one_line(tmp_path, tiny_labels, changes, found):
    with pytest.raises(SystemExit, match=found):
        tiny_labels.main(tiny_labels.Options(str(tmp_path), out=str(tmp_path / "out"), **changes))
    assert not (tmp_path / "out").exists()

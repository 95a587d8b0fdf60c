"""The ladder's scores against slow loops, and the whole ladder at a tiny size."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from tiny_trainings import tiny

from hpa_tf import cell_table, files
from hpa_tf.errors import InputError
from hpa_tf.pipeline.sampling import SemiBalanced
from hpa_tf.recipes import recipe_from_json, recipe_to_json, system_named
from hpa_tf.synthetic import dataset
from hpa_tf.synthetic.config import SyntheticConfig

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import ladder_rows  # noqa: E402
import ladder_scores  # noqa: E402
import ladder_table  # noqa: E402

TEAMS = ("cpu_bestfitting", "cpu_red_ai", "cpu_mpware_zfturbo_dieter")


def truth_of(num_images: int = 20, seed: int = 0) -> ladder_scores.Truth:
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(num_images), rng.integers(1, 9, num_images))
    labels = rng.random((len(image), 19)) < 0.2
    labels[:, 5] = False
    return ladder_scores.Truth(labels, image)


def interpolated(labels: np.ndarray, scores: np.ndarray) -> float:
    """AP with the precision at each recall raised to the highest one at that recall or beyond, one by one."""
    order = np.argsort(-scores, kind="stable")
    right = labels[order]
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    return sum(precision[i:].max() for i in np.flatnonzero(right)) / labels.sum()


def test_average_precision_equals_a_slow_loop_and_repeats_images_that_were_drawn_twice():
    truth = truth_of()
    scores = np.random.default_rng(1).random(truth.labels.shape)
    ap = ladder_scores.average_precisions(truth, scores)
    assert np.isnan(ap[5])
    for c in (0, 11, 18):
        assert ap[c] == pytest.approx(interpolated(truth.labels[:, c], scores[:, c]), abs=1e-12)
        assert ap[c] >= average_precision_score(truth.labels[:, c], scores[:, c]) - 1e-12
    weights = np.random.default_rng(2).integers(0, 3, truth.num_images)
    rows = np.repeat(np.arange(len(truth.image)), weights[truth.image])
    repeated = ladder_scores.Truth(truth.labels[rows], truth.image[rows])
    weighted = ladder_scores.average_precisions(truth, scores, weights)
    # a cell that was drawn twice stands twice in the ranking: precision rises within it, the envelope hides that
    np.testing.assert_allclose(weighted, ladder_scores.average_precisions(repeated, scores[rows]), atol=0.02)


def test_perfect_scores_reach_1_and_cells_without_a_score_are_missed():
    truth = truth_of()
    perfect = truth.labels.astype(float)
    assert np.nanmin(ladder_scores.average_precisions(truth, perfect)) == 1
    half = np.where(np.arange(len(perfect))[:, None] % 2 == 0, perfect, np.nan)
    share = truth.labels[::2].sum(axis=0) / np.maximum(truth.labels.sum(axis=0), 1)
    found = ladder_scores.average_precisions(truth, half)
    np.testing.assert_allclose(np.delete(found, 5), np.delete(share, 5))


def test_the_share_of_the_gap_is_0_for_plain_and_1_for_true_labels():
    truth, rng = truth_of(), np.random.default_rng(3)
    noise = rng.random(truth.labels.shape)
    rows = [ladder_scores.score(truth, [noise + k * truth.labels], 20) for k in (0, 0.4, 1)]
    plain, row, best = rows
    assert ladder_scores.closed(plain, plain, best)[0] == 0 and ladder_scores.closed(best, plain, best)[0] == 1
    share, resampled = ladder_scores.closed(row, plain, best)
    assert 0 < share < 1 and resampled.shape == (20,)
    assert ladder_scores.score(truth, [noise, noise], 5).mean == pytest.approx(plain.mean)


def test_without_a_gap_no_share_of_it_is_claimed():
    truth, rng = truth_of(), np.random.default_rng(3)
    noise = [rng.random(truth.labels.shape) for _ in range(3)]
    plain, row, best = (ladder_scores.score(truth, [one], 40) for one in noise)
    assert ladder_table.share_closed(row, plain, best) == "no gap shown"
    best = ladder_scores.score(truth, [noise[2] + truth.labels], 40)
    assert ladder_table.share_closed(best, plain, best).startswith("1.000 [1.000")
    low, high = sorted((plain, row), key=lambda one: one.mean)
    assert ladder_table.share_closed(low, high, best) == "none"


def test_differences_are_those_of_the_seeds_that_both_rows_have(tmp_path):
    truth, rng = truth_of(), np.random.default_rng(3)
    gain = {ladder_table.PLAIN: (0.1, 0.9), "FCAN": (0.3,), ladder_table.BEST: (0.6, 0.95)}
    scores = {name: [rng.random(truth.labels.shape) + k * truth.labels for k in of] for name, of in gain.items()}
    for name, of_seeds in scores.items():
        for seed, values in enumerate(of_seeds):
            folder = tmp_path / "budget-2" / f"seed-{seed}" / "rows" / name
            folder.mkdir(parents=True)
            np.save(folder / "scores.npy", values)
            files.write_json(folder / "row.json", {"training": 1.0, "asking": 1.0, "cells": 2})
    text = ladder_table.write_table(str(tmp_path), list(gain), truth, 0)
    cells = next(line for line in text.splitlines() if "FCAN" in line).split(" | ")
    plain, row, best = (ladder_scores.score(truth, [scores[name][0]], 0).mean for name in gain)
    assert cells[:3] == ["| 2", "FCAN", "1"]
    assert cells[4] == f"{row - plain:.3f}" and cells[5] == f"{(row - plain) / (best - plain):.3f}"


def test_copied_labels_are_those_of_the_image_in_random_order():
    labels = np.zeros((6, 19), bool)
    labels[:, [2, 7]] = True
    scores = ladder_scores.copied(labels, 0)
    np.testing.assert_array_equal(~np.isnan(scores), labels)
    assert len(np.unique(scores[labels])) == 12


def test_rows_have_different_names_and_their_recipes_survive_json():
    rows = (*ladder_rows.ROWS, *ladder_rows.FURTHER)
    assert len(ladder_rows.BY_NAME) == len(rows)
    recipes: dict = {}
    for row in rows:
        for part in row.networks:
            training = part.training
            assert recipes.setdefault(training.name, training) == training  # a folder holds one network
            assert recipe_from_json(recipe_to_json(training.recipe), "here") == training.recipe
            assert training.recipe.optimization.epochs == ladder_rows.EPOCHS and training.recipe.validation_fold == -1
    weights = [sum(part.weight for part in row.parts) for row in rows if len(row.parts) > 1]
    np.testing.assert_allclose(weights, 1)
    assert isinstance(ladder_rows.CLEANED.recipe.sampling, SemiBalanced)


def test_all_four_teams_are_the_members_of_their_systems():
    row = ladder_rows.BY_NAME["all four teams together"]
    members = [one for name in TEAMS for one in system_named(name).members]
    assert [part.asked for part in row.parts] == [*(member.asked for member in members), None]
    for part, member in zip(row.parts, members, strict=False):
        recipe = part.training.recipe
        assert (recipe.view, recipe.network) == (member.recipe.view, member.recipe.network)
        assert part.weight == pytest.approx(member.weight / 4, rel=2e-3)  # team 2's are .167 each


def test_teachers_never_saw_the_fold_that_they_label():
    assert {len(row.networks) for row in ladder_rows.TEACHERS.values()} == {1, 2, 12}
    for row in ladder_rows.TEACHERS.values():
        kept = row.without(1)
        assert [part.training.without for part in kept.networks] == [1] * len(row.networks)
        assert [part.weight for part in kept.networks] == [part.weight for part in row.networks]
        assert bool(kept.times) == bool(row.times)


def tiny_part(part: ladder_rows.Part) -> ladder_rows.Part:
    return replace(part, training=tiny(part.training))


def tiny_row(row: ladder_rows.Row) -> ladder_rows.Row:
    times, instead = (part and tiny_part(part) for part in (row.times, row.instead))
    return replace(row, parts=tuple(map(tiny_part, row.parts)), times=times, instead=instead)


@pytest.fixture
def tiny_ladder(monkeypatch):
    """Let every row have tiny networks; return the ladder's module."""
    import ladder  # TensorFlow

    teachers = {name: tiny_row(row) for name, row in ladder_rows.TEACHERS.items()}
    rows = {name: tiny_row(row) for name, row in ladder_rows.BY_NAME.items()}
    monkeypatch.setattr(ladder, "BY_NAME", rows)
    monkeypatch.setattr(ladder, "TEACHERS", teachers)
    return ladder


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"rows": ("FCAN", "Puzle-CAM")},
            "--rows: found 'Puzle-CAM'; .*'cleaned, mixed .6/.4'.*mean 'Puzzle-CAM' or",
        ),
        ({"rows": ("FCAN",)}, "no train/images in .*nowhere.* generate bench"),
    ],
)
def test_other_rows_and_folders_are_refused_before_anything_is_built(tmp_path, monkeypatch, options, said):
    import ladder

    monkeypatch.setattr(ladder, "build", lambda options: pytest.fail("built"))
    with pytest.raises(InputError, match=said):
        ladder.main(ladder.Options(bench=str(tmp_path / "nowhere"), out=str(tmp_path / "out"), **options))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_ladder_from_images_to_table(tmp_path, tiny_ladder, monkeypatch, capsys):
    dataset.write(SyntheticConfig(seed=1), tmp_path / "bench" / "train", 8, 1)
    dataset.write(SyntheticConfig(seed=2), tmp_path / "bench" / "test", 5, 1)
    rows = ["plain image labels on crops", "FCAN", "student of image x cell", "bound: true cell labels"]
    rows += ["bound: image labels copied", "plain, mixed .6/.4 with the image's mean", "five levels of FCAN"]
    rows += ["larger surroundings", "plain, nucleus crops for nuclear classes"]
    out = tmp_path / "ladder"
    options = tiny_ladder.Options(str(tmp_path / "bench"), str(out), tuple(rows), budget=0.001, bootstrap=10)
    tiny_ladder.main(options)
    table = (out / "ladder.md").read_text()
    assert all(f"| 0.001 | {name} | 1 |" in table for name in rows)
    assert all((out / f"ladder_{name}.png").stat().st_size > 5_000 for name in ("called", "budgets"))
    facts = files.read_json(out / "budget-0.001" / "seed-0" / "rows" / rows[2] / "row.json")
    assert facts["training"] > facts["asking"] > 0
    of_folds = [
        list((out / "budget-0.001/seed-0/networks").glob(f"{name}-image-without*/fold*.npy"))
        for name in ("plain", "field")
    ]
    assert list(map(len, of_folds)) == [2, 2]
    student = cell_table.read(out / "budget-0.001/seed-0/tables/image_x_cell.parquet")
    products = [np.load(plain) * np.load(field) for plain, field in zip(*map(sorted, of_folds), strict=True)]
    np.testing.assert_allclose(cell_table.values(student), np.concatenate(products), rtol=1e-5)
    with_margin = cell_table.read(out / "test-margin-24" / "cells.parquet")
    assert with_margin[cell_table.KEYS].equals(cell_table.read(out / "test" / "cells.parquet")[cell_table.KEYS])
    plain, nuclei = (np.load(out / f"budget-0.001/seed-0/rows/{name}/scores.npy") for name in (rows[0], rows[-1]))
    np.testing.assert_array_equal(nuclei[:, 6:], plain[:, 6:])
    assert (nuclei[:, :6] != plain[:, :6]).any(axis=0).all()
    capsys.readouterr()
    monkeypatch.setattr(tiny_ladder, "Trainee", None)  # nothing is trained or asked twice
    tiny_ladder.main(options)
    assert (out / "ladder.md").read_text() == table
    assert ladder_table.PLAIN in capsys.readouterr().out

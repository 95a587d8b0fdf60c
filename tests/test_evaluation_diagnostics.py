"""Diagnostics: numbers that can be worked out by hand, and the page they end in."""

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score
from test_evaluation import make_world, true_labels, write_prediction, write_submission

from hpa_tf import cell_table, files
from hpa_tf.classes import CLASSES, NUM_CLASSES
from hpa_tf.errors import InputError
from hpa_tf.evaluation import diagnostics, plots
from hpa_tf.evaluation.__main__ import main
from hpa_tf.evaluation.diagnose import confused_pairs
from hpa_tf.evaluation.raw_predictions import read_raw_predictions


def test_calibrated_scores_have_no_error_and_shifted_ones_do():
    rng = np.random.default_rng(0)
    scores = rng.random(200_000)
    labels = rng.random(scores.size) < scores
    assert diagnostics.expected_calibration_error(diagnostics.reliability(labels, scores)) < 0.01
    halved = diagnostics.reliability(labels, scores / 2)
    assert diagnostics.expected_calibration_error(halved) == pytest.approx(0.25, abs=0.01)


def test_reliability_by_hand():
    curve = diagnostics.reliability(np.array([True, False, True, False]), np.array([0.1, 0.15, 1.0, np.nan]))
    assert curve["bin"].tolist() == [1, 9]
    assert curve["count"].tolist() == [2, 1]
    np.testing.assert_allclose(curve["mean_score"], [0.125, 1.0])
    np.testing.assert_allclose(curve["share"], [0.5, 1.0])
    assert diagnostics.expected_calibration_error(curve) == pytest.approx(2 / 3 * 0.375)


def test_confusion_by_hand():
    labels = np.zeros((3, NUM_CLASSES), bool)
    labels[0, [2, 5]], labels[1, 2], labels[2, 5] = True, True, True
    scores = np.zeros((3, NUM_CLASSES))
    scores[0, [2, 7]], scores[1, 2], scores[2, 2] = [0.9, 0.8], 0.9, 0.4
    matrix = diagnostics.confusion(labels, scores)
    assert matrix[2, 2] == 1
    assert matrix[2, 7] == 0.5
    assert matrix[5, 5] == 0
    assert matrix[5, 7] == 0.5
    assert matrix[5, 2] == 0.5  # of the two cells with class 5, one has class 2 as well: naming it there is right
    assert np.isnan(matrix[0]).all()
    pairs = confused_pairs(matrix, labels.sum(axis=0), count=2)
    assert pairs[0] == (CLASSES[2], CLASSES[7], 0.5, 2)
    assert matrix[2, 2] == 1  # the matrix itself is left alone
    named = {(true, other) for true, other, _, _ in confused_pairs(matrix, labels.sum(axis=0), count=400)}
    assert named == {(CLASSES[2], CLASSES[7]), (CLASSES[5], CLASSES[7]), (CLASSES[5], CLASSES[2])}


@pytest.mark.parametrize("score", [0.0, np.nan])
def test_no_class_is_named_that_has_no_score(score):
    labels, scores = np.zeros((2, NUM_CLASSES), bool), np.full((2, NUM_CLASSES), score)
    labels[0, 3], labels[1, [4, 5]], scores[1, 4] = True, True, 0.5
    matrix = diagnostics.confusion(labels, scores)
    assert not matrix[3].any() and matrix[5, 4] == 0 and not matrix[5].any()
    assert matrix[4, 4] == 1 and matrix[4].sum() == 1


def test_ranked_average_precision_is_above_the_uninterpolated_one_and_equal_for_a_perfect_ranking():
    rng = np.random.default_rng(1)
    for _ in range(20):
        labels, scores = rng.random(30) < 0.4, rng.random(30)
        if labels.any():
            found = diagnostics.ranked_average_precision(labels, scores)
            assert average_precision_score(labels, scores) - 1e-12 <= found <= 1
    assert diagnostics.ranked_average_precision(np.array([False, True]), np.array([0.1, 0.9])) == 1


@pytest.mark.parametrize(
    "values, num_bins, expected",
    [
        ([1, 2, 3, 4], 2, ["1: 1 to 2 px", "1: 1 to 2 px", "2: 3 to 4 px", "2: 3 to 4 px"]),
        ([5, 5, 5], 4, ["1: 5 to 5 px"] * 3),
        ([], 4, []),
    ],
)
def test_bin_names(values, num_bins, expected):
    assert diagnostics.bin_names(np.array(values), num_bins, "px") == expected


def test_groups_stand_in_the_order_of_their_numbers():
    """12 bins of cells, the smallest first; names that are no bins stand by name."""
    areas, labels = np.arange(24)[::-1] + 1, np.zeros((24, 19), bool)
    labels[:, 3] = True
    ids = np.full(24, "image", object)
    table = diagnostics.area_scores(diagnostics.MatchedCells(ids, areas, areas, labels, labels * 0.5), 12)
    assert table["group"].str.split(":").str[0].tolist() == [str(number) for number in range(1, 13)]
    assert diagnostics.group_scores([], []).empty
    rows = pd.DataFrame({"group": ["line $\\x$", "$1"], "mAP": 0.5, "low": 0.4, "high": 0.6})
    assert plots.group_bars(rows).startswith(b"\x89PNG")  # no formulas, which some names cannot be


@pytest.mark.parametrize(("command", "value"), [("score", "60"), ("diagnose", "0"), ("ablation", "nan")])
def test_a_threshold_that_cannot_be_is_named(capsys, command, value):
    source = ["--prediction", "x"] if command == "ablation" else ["--submission", "x"]
    words = ["--truth-labels", "x", *source, "--out", "x", "--iou-threshold", value]
    assert main([command, *words]) == 2
    assert "error: --iou-threshold: found " in capsys.readouterr().err


def test_the_report_of_a_prediction_is_not_written_over(tmp_path, capsys):
    for name in ("predictions.json", "report.html"):
        (tmp_path / name).write_text(name)
    assert main(["diagnose", "--truth-labels", "x", "--prediction", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "report.html, the report of a prediction" in capsys.readouterr().err
    assert (tmp_path / "report.html").read_text() == "report.html"


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"request": []},
        {"request": {"networks": ["net"]}, "state": "done"},
        {"request": {"networks": [{"name": "net"}]}},
    ],
)
def test_what_describes_no_prediction_is_refused(tmp_path, content):
    files.write_json(tmp_path / "predictions.json", content)
    with pytest.raises(InputError, match="no description of a prediction"):
        read_raw_predictions(tmp_path)


@pytest.fixture(scope="module")
def diagnosed(tmp_path_factory):
    world = make_world(tmp_path_factory.mktemp("world"))
    labels, rng = true_labels(world), np.random.default_rng(4)
    probabilities = np.clip(0.6 * labels[:, :18] + 0.5 * rng.random((len(labels), 18)), 0, 1)
    border = rng.choice([1.0, 0.5], len(labels))
    write_prediction(world, world / "prediction", {"net": (1.0, probabilities)}, border, np.ones(len(labels)))
    arguments = ["--truth-labels", str(world / "truth.parquet"), "--truth-masks", str(world / "masks")]
    code = main(["diagnose", *arguments, "--prediction", str(world / "prediction"), "--out", str(world / "out")])
    assert code == 0
    return world, probabilities


def test_before_is_the_probabilities_and_after_the_scores(diagnosed):
    folder, probabilities = diagnosed
    table = pd.read_csv(folder / "out" / "calibration.csv")
    labels = true_labels(folder)[:, 2] > 0
    expected = diagnostics.reliability(labels, probabilities[:, 2])
    found = table.query("stage == 'before' and class_id == 2")
    np.testing.assert_allclose(found["mean_score"], expected["mean_score"])
    np.testing.assert_allclose(found["share"], expected["share"])
    after = table.query("stage == 'after' and class_id == 2")
    assert (after["count"].sum(), found["count"].sum()) == (len(labels), len(labels))
    assert (after["mean_score"] * after["count"]).sum() < (found["mean_score"] * found["count"]).sum()


def test_groups_cover_all_images_and_cells(diagnosed):
    folder, _ = diagnosed
    by_number = pd.read_csv(folder / "out" / "by_number_of_cells.csv")
    assert by_number["num_images"].sum() == 7
    assert by_number["num_cells"].sum() == len(true_labels(folder))
    assert pd.read_csv(folder / "out" / "by_cell_area.csv")["num_cells"].sum() == len(true_labels(folder))
    assert set(pd.read_csv(folder / "out" / "by_cell_line.csv")["group"]) == {"A", "B", "unknown"}


@pytest.mark.parametrize("missing", [None, ""])
def test_images_without_a_cell_line_are_a_group(tmp_path, missing):
    world = make_world(tmp_path)
    write_submission(world, true_labels(world) * 0.5, world / "s.csv")
    truth = cell_table.read(world / "truth.parquet")
    truth.loc[truth["image_id"].isin(["image0", "image3"]), "cell_line"] = missing
    cell_table.write(truth, world / "truth.parquet", "truth")
    arguments = ["--truth-labels", str(world / "truth.parquet"), "--truth-masks", str(world / "masks")]
    assert main(["diagnose", *arguments, "--submission", str(world / "s.csv"), "--out", str(world / "out")]) == 0
    groups = pd.read_csv(world / "out" / "by_cell_line.csv").set_index("group")["num_images"]
    assert groups.to_dict() == {"A": 2, "B": 2, "unknown": 3}


def test_the_page_says_that_no_classes_are_confused(diagnosed):
    folder, _ = diagnosed
    assert "<td>none</td>" not in (folder / "out" / "report.html").read_text()
    labels = true_labels(folder)
    write_submission(folder, labels * 0.5, folder / "right.csv")
    arguments = ["--truth-labels", str(folder / "truth.parquet"), "--truth-masks", str(folder / "masks")]
    assert (
        main(["diagnose", *arguments, "--submission", str(folder / "right.csv"), "--out", str(folder / "right")]) == 0
    )
    assert '<td colspan="4">none</td>' in (folder / "right" / "report.html").read_text()


def test_the_page_is_self_contained(diagnosed):
    folder, _ = diagnosed
    page = (folder / "out" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert "http" not in page.replace("http-equiv", "")
    assert all(name in page for name in ("Calibration", "Nucleoli fibrillar center", "before", "after"))


def test_a_submission_is_diagnosed_without_the_before_stage(tmp_path):
    world = make_world(tmp_path)
    write_submission(world, true_labels(world) * 0.5, world / "s.csv")
    arguments = ["--truth-labels", str(world / "truth.parquet"), "--truth-masks", str(world / "masks")]
    assert main(["diagnose", *arguments, "--submission", str(world / "s.csv"), "--out", str(world / "out")]) == 0
    assert set(pd.read_csv(world / "out" / "calibration.csv")["stage"]) == {"after"}


def test_a_prediction_is_diagnosed_with_its_own_masks(tmp_path):
    """Its segmenter numbered the cells otherwise than the truth: cell 1 of the one is the last cell of the other."""
    world, out = make_world(tmp_path), tmp_path / "out"
    labels = true_labels(world)
    ones, probabilities = np.ones(len(labels)), np.where(labels[:, :18] > 0, 0.9, 0.1)
    write_prediction(world, world / "prediction", {"net": (1.0, probabilities)}, ones, ones)
    for path in (world / "masks").glob("image*.png"):
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), np.where(mask > 0, mask.max() + 1 - mask, 0).astype(np.uint16))
    truth = cell_table.read(world / "truth.parquet")
    last = truth.groupby("image_id")["cell"].transform("max")
    cell_table.write(truth.assign(cell=last + 1 - truth["cell"]), world / "truth.parquet", "truth")
    arguments = ["--truth-labels", str(world / "truth.parquet"), "--truth-masks", str(world / "masks")]
    assert main(["diagnose", *arguments, "--prediction", str(world / "prediction"), "--out", str(out)]) == 0
    table = pd.read_csv(out / "calibration.csv").query("stage == 'before' and class_id < 18")
    np.testing.assert_allclose(table["share"], np.where(table["mean_score"] > 0.5, 1, 0))


def test_before_is_what_the_prediction_took_for_negative(diagnosed):
    """One of two networks answers Negative: predict.py derives it from the others' mean then."""
    folder, _ = diagnosed
    cells = cell_table.read(folder / "prediction" / "cells.parquet")
    path = folder / "prediction" / "raw" / "net.parquet"
    before = path.read_bytes()
    cell_table.write(cell_table.read(path).assign(Negative=0.25), path, "predictions")
    arguments = ["--truth-labels", str(folder / "truth.parquet"), "--truth-masks", str(folder / "masks")]
    out = folder / "negative"
    assert main(["diagnose", *arguments, "--prediction", str(folder / "prediction"), "--out", str(out)]) == 0
    path.write_bytes(before)
    found = pd.read_csv(out / "calibration.csv").query("stage == 'before' and class_id == 18")
    assert (found["mean_score"] * found["count"]).sum() == pytest.approx(cells["raw: Negative"].sum())


@pytest.mark.parametrize("fault", ["other cells", "no probabilities"])
def test_a_cell_table_of_another_prediction_is_refused(tmp_path, capsys, fault):
    world = make_world(tmp_path)
    ones = np.ones(len(true_labels(world)))
    write_prediction(world, world / "prediction", {"net": (1.0, np.full((len(ones), 18), 0.5))}, ones, ones)
    path = world / "prediction" / "cells.parquet"
    table = cell_table.read(path)
    table = table.assign(cell_area=35) if fault == "other cells" else table.drop(columns="raw: Negative")
    cell_table.write(table, path, "predictions")
    arguments = ["--truth-labels", str(world / "truth.parquet"), "--truth-masks", str(world / "masks")]
    assert main(["diagnose", *arguments, "--prediction", str(world / "prediction"), "--out", str(world / "out")]) == 2
    found = {"other cells": "other cells of image image0", "no probabilities": "no column 'raw: Negative'"}[fault]
    assert f"cells.parquet: found {found}" in capsys.readouterr().err

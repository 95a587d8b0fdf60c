"""Cell tables compared cell by cell: equal to scikit-learn, joined by name, clear about what was left out."""

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from hpa_tf import cell_table
from hpa_tf.classes import CLASSES
from hpa_tf.evaluation.__main__ import main


def tables(folder, shuffled=True, seed=0, num_images=12, num_cells=20):
    rng = np.random.default_rng(seed)
    ids = np.repeat([f"img{i}" for i in range(num_images)], num_cells)
    cells = np.tile(np.arange(1, num_cells + 1), num_images)
    labels = (rng.random((len(ids), 19)) < 0.3).astype(float)
    scores = np.clip(labels * 0.3 + rng.random(labels.shape) * 0.7, 0, 1)
    cell_table.write(cell_table.from_values(ids, cells, labels), folder / "labels.parquet", "labels")
    order = rng.permutation(len(ids)) if shuffled else np.arange(len(ids))
    predicted = cell_table.from_values(ids[order], cells[order], scores[order])
    cell_table.write(predicted, folder / "predictions.parquet", "predictions")
    return labels, scores


def run(folder, *options):
    files = ["--labels", str(folder / "labels.parquet"), "--predictions", str(folder / "predictions.parquet")]
    code = main(["cells", *files, "--out", str(folder / "out"), *options])
    path = folder / "out" / "cells.json"
    return code, json.loads(path.read_text()) if path.exists() else None


def by_hand(labels, scores):
    """Soft-label AP from its definition, one cell after the other."""

    def area(ordered):
        return sum(sum(ordered[: k + 1]) / (k + 1) for k in range(len(ordered)))

    return area([label for _, label in sorted(zip(scores, labels, strict=True), reverse=True)]) / area(
        sorted(labels, reverse=True)
    )


def test_equals_scikit_learn_whatever_the_order_of_the_rows(tmp_path):
    labels, scores = tables(tmp_path)
    code, result = run(tmp_path, "--bootstrap", "50")
    assert code == 0 and result["num_cells"] == len(labels)
    for k, name in enumerate(CLASSES):
        row = result["classes"][name]
        assert row["AUC"] == pytest.approx(roc_auc_score(labels[:, k], scores[:, k]), abs=1e-12), name
        assert row["AP"] == pytest.approx(average_precision_score(labels[:, k], scores[:, k]), abs=1e-12), name
        assert row["soft_label_AP"] == pytest.approx(by_hand(labels[:, k], scores[:, k]), abs=1e-12), name
    mean = result["classes"]["mean"]
    assert mean["AUC_low"] < mean["AUC"] < mean["AUC_high"] and mean["AP_low"] < mean["AP"] < mean["AP_high"]
    assert result["classes"]["mean"]["AUC"] == pytest.approx(
        np.mean([row["AUC"] for name, row in result["classes"].items() if name != "mean"])
    )


def test_perfect_predictions_have_ap_one(tmp_path):
    tables(tmp_path)
    table = cell_table.read(tmp_path / "labels.parquet")
    cell_table.write(table, tmp_path / "predictions.parquet", "predictions")
    _, result = run(tmp_path, "--bootstrap", "0")
    assert result["classes"]["mean"]["AP"] == result["classes"]["mean"]["AUC"] == 1
    assert "AP_low" not in result["classes"]["mean"]


def test_soft_labels_below_a_half_are_negative_for_ap_and_count_as_they_are_for_the_soft_one(tmp_path):
    """A class that no cell has is measured by neither: all of its softened labels are alike, and any order fits."""
    labels, scores = tables(tmp_path)
    soft = np.where(labels > 0, 0.99, 0.01)
    soft[:, 3] = 0.01
    ids = cell_table.read(tmp_path / "labels.parquet")[cell_table.KEYS]
    cell_table.write(cell_table.from_values(ids["image_id"], ids["cell"], soft), tmp_path / "labels.parquet", "labels")
    _, result = run(tmp_path, "--bootstrap", "0")
    row = result["classes"][CLASSES[4]]
    assert row["AP"] == pytest.approx(average_precision_score(labels[:, 4], scores[:, 4]), abs=1e-12)
    assert row["soft_label_AP"] == pytest.approx(by_hand(soft[:, 4], scores[:, 4]), abs=1e-12)
    assert result["classes"][CLASSES[3]]["AP"] is None and result["classes"][CLASSES[3]]["soft_label_AP"] is None


def test_unknown_labels_and_unmatched_cells_are_left_out_and_counted(tmp_path, capsys):
    tables(tmp_path)
    table = cell_table.read(tmp_path / "labels.parquet").iloc[5:]
    table.loc[table["image_id"] == "img1", "Nucleoli"] = np.nan
    cell_table.write(table, tmp_path / "labels.parquet", "labels")
    _, result = run(tmp_path, "--bootstrap", "0")
    assert result["classes"]["Nucleoli"]["cells"] == result["num_cells"] - 20
    assert (result["cells_without_label"], result["cells_without_prediction"]) == (5, 0)
    assert "5 without a label" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["left", "cell_area"])
def test_tables_of_other_masks_are_refused(tmp_path, capsys, name):
    """The same numbers are other cells there."""
    tables(tmp_path)
    for path, value in ((tmp_path / "labels.parquet", 7), (tmp_path / "predictions.parquet", 8)):
        cell_table.write(cell_table.read(path).assign(**{name: value}), path, "labels")
    code, result = run(tmp_path, "--bootstrap", "0")
    assert (code, result) == (2, None)
    said = f"found image img0 cell 1 with {name!r} 8 (240 of 240 cells differ); expected 7, as in"
    assert said in capsys.readouterr().err
    path = tmp_path / "labels.parquet"
    cell_table.write(cell_table.read(path).assign(**{name: 8}), path, "labels")
    assert run(tmp_path, "--bootstrap", "0")[0] == 0


@pytest.mark.parametrize("fault", ["other ids", "no table", "not a table", "a class is missing"])
def test_tables_that_do_not_fit_are_refused(tmp_path, fault, capsys):
    tables(tmp_path)
    path = tmp_path / "predictions.parquet"
    table = cell_table.read(path)
    if fault == "other ids":
        table["image_id"] = "other_" + table["image_id"]
    if fault == "a class is missing":
        table.loc[3, "Cytosol"] = np.nan
    cell_table.write(table, path, "predictions")
    if fault == "no table":
        path.unlink()
    if fault == "not a table":
        path.write_text("image_id,cell\n")
    code, _ = run(tmp_path)
    assert code == 2 and str(path) in capsys.readouterr().err

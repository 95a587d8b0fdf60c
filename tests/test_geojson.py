"""Outlines cover the masks that they were made of, holes and pieces included."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from submission_rows import make_row

from hpa_tf import cell_table, geojson, submission
from hpa_tf.classes import CLASSES
from hpa_tf.evaluation.command import main


def rasterize(geometry: dict, shape: tuple[int, int]) -> np.ndarray:
    """Fill a geometry, eight times finer, and keep the pixels whose centre is inside."""
    polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    yy, xx = np.mgrid[: shape[0], : shape[1]] + 0.5
    inside = np.zeros(shape, bool)
    for rings in polygons:
        for ring in rings:  # even-odd: a hole takes away again
            contour = np.array(ring, np.float32).reshape(-1, 1, 2)
            hit = [
                cv2.pointPolygonTest(contour, (float(x), float(y)), False) >= 0
                for y, x in zip(yy.flat, xx.flat, strict=True)
            ]
            inside ^= np.reshape(hit, shape)
    return inside


def blob(shape, centre, radius):
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    return (yy - centre[0]) ** 2 + (xx - centre[1]) ** 2 <= radius**2


@pytest.fixture
def cells():
    mask = np.zeros((40, 56), np.int32)
    mask[blob(mask.shape, (12, 12), 9)] = 3
    mask[blob(mask.shape, (12, 12), 3)] = 0  # a hole
    mask[20:30, 40:56] = 700  # cut by the frame
    mask[35, 5] = 8  # one pixel
    mask[2:8, 30:34] = 9
    mask[2:8, 40:44] = 9  # a second piece
    return mask


def test_an_outline_covers_its_cell(cells):
    found = dict(geojson.outlines(cells))
    assert set(found) == {3, 8, 9, 700}
    for number, geometry in found.items():
        wrong = (rasterize(geometry, cells.shape) != (cells == number)).sum()
        assert wrong <= 0.05 * (cells == number).sum(), number
    assert len(found[3]["coordinates"]) == 2 and found[9]["type"] == "MultiPolygon"


def test_rings_are_closed_and_inside_the_image(cells):
    for _, geometry in geojson.outlines(cells):
        polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        for ring in (ring for rings in polygons for ring in rings):
            assert ring[0] == ring[-1] and len(ring) >= 4
            x, y = np.array(ring).T
            assert x.min() >= 0 and x.max() <= 56 and y.min() >= 0 and y.max() <= 40


def test_scores_are_measurements_and_the_first_class_is_named(cells):
    scores = {3: np.linspace(0, 1, 19)}
    collection = json.loads(geojson.dumps(geojson.features(cells, scores, {18: (1, 2, 3)})))
    by_cell = {feature["properties"]["cell"]: feature["properties"] for feature in collection["features"]}
    assert by_cell[3]["classification"] == {"name": "Negative", "color": [1, 2, 3]}
    assert set(by_cell[3]["measurements"]) == set(CLASSES) and "measurements" not in by_cell[8]


def test_the_first_class_is_the_highest_that_is_known():
    scores = np.array([[0, 0, 0], [np.nan] * 3, [0, 0.1, np.nan], [np.nan, -2, -1], [0.3, 0.3, 0]])
    assert cell_table.first_classes(scores).tolist() == [-1, -1, 1, 2, 0]
    assert cell_table.first_classes(np.zeros((0, 19))).shape == (0,)


def test_a_cell_without_a_score_has_no_class_and_unknown_scores_are_no_measurements(cells):
    scores = {3: np.zeros(19), 8: np.full(19, np.nan), 9: np.array([-2.0, np.nan, -0.5, *[np.nan] * 16])}
    collection = json.loads(geojson.dumps(geojson.features(cells, scores)))
    by_cell = {feature["properties"]["cell"]: feature["properties"] for feature in collection["features"]}
    assert "classification" not in by_cell[3] and set(by_cell[3]["measurements"].values()) == {0}
    assert "classification" not in by_cell[8] and by_cell[8]["measurements"] == {}
    assert by_cell[9]["classification"]["name"] == CLASSES[2]
    assert by_cell[9]["measurements"] == {CLASSES[0]: -2, CLASSES[2]: -0.5}


def test_classes_that_a_submission_does_not_claim_are_not_measured(cells, tmp_path):
    """Of logits: a class that is not claimed is not 0, above those that are."""
    row = make_row("img", cells, [3], np.full((1, 19), -4.0))
    claimed = replace(row, mask_index=row.mask_index[:2], class_ids=np.array([5, 7]), confidences=np.array([-3.0, -1]))
    with submission.SubmissionWriter(tmp_path / "submission.csv") as writer:
        writer.write(claimed)
    assert main(["outlines", str(tmp_path / "submission.csv"), "--out", str(tmp_path / "out")]) == 0
    ((feature),) = json.loads((tmp_path / "out" / "img.geojson").read_text())["features"]
    assert feature["properties"]["classification"]["name"] == CLASSES[7]
    assert feature["properties"]["measurements"] == {CLASSES[5]: -3, CLASSES[7]: -1}


def test_an_image_without_cells_has_no_features():
    assert geojson.features(np.zeros((5, 5), np.uint16), {})["features"] == []


def test_outlines_of_a_submission_have_its_scores(cells, tmp_path):
    scores = np.random.default_rng(0).random((4, 19)).round(6)
    with submission.SubmissionWriter(tmp_path / "submission.csv") as writer:
        writer.write(make_row("img", cells, [3, 8, 9, 700], scores))
        writer.write(make_row("empty", np.zeros((6, 9), np.int32), [], np.zeros((0, 19))))
    assert main(["outlines", str(tmp_path / "submission.csv"), "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "img.geojson").read_text())["features"]
    assert len(found) == 4
    for feature, own, number in zip(found, scores, (3, 8, 9, 700), strict=True):
        measured = [feature["properties"]["measurements"][name] for name in CLASSES]
        np.testing.assert_allclose(measured, own, atol=1e-5)
        wrong = (rasterize(feature["geometry"], cells.shape) != (cells == number)).sum()
        assert wrong <= 0.05 * (cells == number).sum()
    places = [(feature["id"], feature["properties"]["name"], feature["properties"]["mask"]) for feature in found]
    assert places == [(f"{place}", f"mask {place}", place) for place in (1, 2, 3, 4)]
    assert not any("cell" in feature["properties"] for feature in found), "a submission has no cell numbers"
    assert json.loads((tmp_path / "out" / "empty.geojson").read_text())["features"] == []


@pytest.mark.parametrize("largest", [700, 2_000_000_000])
def test_outlines_of_a_cell_table_have_its_numbers(cells, tmp_path, largest):
    cells[2:8, 40:44] = 0  # a number in two pieces is no cell in a mask on disk
    cells[cells == 700] = largest
    numbers = np.array([largest, 3, 9, 8])
    scores = np.random.default_rng(0).random((4, 19)).round(6)
    (tmp_path / "masks").mkdir()
    np.save(tmp_path / "masks/img.npy", cells)
    cell_table.write(cell_table.from_values(["img"] * 4, numbers, scores), tmp_path / "cells.parquet", "predictions")
    words = [str(tmp_path / name) for name in ("cells.parquet", "masks", "out")]
    assert main(["outlines", words[0], "--masks", words[1], "--out", words[2]]) == 0
    found = json.loads((tmp_path / "out" / "img.geojson").read_text())["features"]
    by_cell = {feature["properties"]["cell"]: feature for feature in found}
    assert set(by_cell) == set(numbers.tolist())
    for number, own in zip(numbers.tolist(), scores, strict=True):
        feature = by_cell[number]
        assert (feature["id"], feature["properties"]["name"]) == (str(number), f"cell {number}")
        np.testing.assert_allclose([feature["properties"]["measurements"][name] for name in CLASSES], own, atol=1e-5)
        wrong = (rasterize(feature["geometry"], cells.shape) != (cells == number)).sum()
        assert wrong <= 0.05 * (cells == number).sum()


def test_ids_that_a_prediction_may_have_are_files_of_outlines(tmp_path):
    image_id = "2026-11-27T12:30"
    mask = np.zeros((20, 30), np.int32)
    mask[3:9, 4:12] = 1
    with submission.SubmissionWriter(tmp_path / "submission.csv") as writer:
        writer.write(make_row(image_id, mask, [1], np.full((1, len(CLASSES)), 0.5)))
    assert main(["outlines", str(tmp_path / "submission.csv"), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / f"{image_id}.geojson").exists()

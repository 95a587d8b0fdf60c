"""The demo's page: one self-contained file that opens with a picture, escapes names, and shows maps where there are."""

import base64
import dataclasses
import io
import json
import re

import numpy as np
import pandas as pd
import prediction_cases as cases
import pytest
from PIL import Image

from hpa_tf import cell_table, heat_map_files
from hpa_tf.classes import CLASSES, NUM_CLASSES
from hpa_tf.evaluation import opening
from hpa_tf.evaluation.command import main
from hpa_tf.heat_map_files import HeatMaps
from hpa_tf.imaging.cells import find_boxes
from hpa_tf.imaging.fields import FieldOfView
from hpa_tf.imaging.pictures import CLASS_COLOURS
from hpa_tf.recipes import recipe_named, save

HOSTILE = '<img src=x onerror="alert(1)">{{7*7}}'


def one_hot(classes: list[int]) -> np.ndarray:
    return np.eye(NUM_CLASSES)[classes]


def table(cells: dict[str, list[int]]) -> pd.DataFrame:
    """Return a cell table: image id -> the class of each of its cells, from 1 on."""
    keys = [(name, i) for name, classes in cells.items() for i in range(1, len(classes) + 1)]
    values = one_hot([c for classes in cells.values() for c in classes])
    return cell_table.from_values(*zip(*keys, strict=True), values)


def test_the_opening_image_is_a_typical_one():
    """Right in all cells, in half of them and in none; the mean is a half, so neither the best nor the worst."""
    truth = table({"best": [0, 1, 2, 3], "half": [0, 1, 2, 3], "none": [0, 1, 2, 3]})
    predicted = table({"best": [0, 1, 2, 3], "half": [0, 1, 5, 5], "none": [6, 7, 8, 9]})
    assert opening.choose(predicted, truth) == "half"


def test_negative_cells_have_no_place_that_could_be_right():
    truth = table({"a": [18, 18, 18, 0], "b": [18, 0, 1, 2], "c": [0, 0, 0, 1]})
    predicted = table({"a": [5, 5, 5, 0], "b": [3, 4, 5, 6], "c": [0, 0, 0, 1]})
    assert opening.choose(predicted, truth) in ("a", "c"), "right in all cells that have a place; b in none"


def test_a_score_that_is_not_known_is_no_place():
    truth = table({"a": [1, 2], "b": [1, 2], "c": [1, 2]})
    predicted = table({"a": [1, 2], "b": [1, 5], "c": [6, 7]})
    predicted[CLASSES[0]] = np.nan
    assert opening.choose(predicted, truth) == "b", "right in half of its cells, as all of them are"


def test_cells_without_a_score_have_no_place():
    truth = table({"a": [0, 0], "b": [0, 0], "c": [0, 0]})
    predicted = table({"a": [0, 5], "b": [0, 0], "c": [0, 0]})
    predicted.loc[predicted["image_id"] == "b", list(CLASSES)] = 0.0
    assert opening.choose(predicted, truth) == "a", "b: none is right"
    pixels, mask = np.full((40, 40, 4), 200, np.uint8), np.zeros((40, 40), np.int32)
    mask[4:20, 4:36], mask[24:36, 4:36] = 1, 2
    known = {"white": predicted[predicted["image_id"] == "b"], "coloured": truth[truth["image_id"] == "b"]}
    pictures = {name: opening.draw(FieldOfView("b", pixels), mask, own, truth) for name, own in known.items()}
    assert not np.array_equal(pictures["white"], pictures["coloured"])


@pytest.fixture
def world(tmp_path):
    predicted, truth = [], []
    rng = np.random.default_rng(0)
    for seed, name in enumerate(("a", HOSTILE)):
        mask = cases.write_field(tmp_path / "images", name, 4, seed)
        numbers = [int(n) for n in np.unique(mask) if n]
        predicted.append(cell_table.from_values([name] * 4, numbers, rng.random((4, NUM_CLASSES))))
        truth.append(cell_table.from_values([name] * 4, numbers, one_hot(rng.integers(0, 19, 4).tolist())))
        square = np.array([[0, 0, 48, 48]] * 4, np.int32)
        maps = HeatMaps(np.array(numbers, np.int32), np.full(4, 7, np.int32), np.full((4, 4, 4), 99, np.uint8), square)
        if name == "a":
            (tmp_path / "predictions/heat_maps").mkdir(parents=True)
            heat_map_files.write(tmp_path / "predictions", name, maps)
    cell_table.write(pd.concat(predicted), tmp_path / "predictions/cells.parquet", "predictions")
    cell_table.write(pd.concat(truth), tmp_path / "truth.parquet", "truth")
    run = tmp_path / "run"
    run.mkdir()
    save(recipe_named("cpu_small"), run / "recipe.json")
    rows = "epoch,step,loss,mAP,seconds,cells_per_second\n1,10,0.5,0.3,1,9\n2,20,0.4,0.4,1,9\n"
    (run / "history.csv").write_text(rows)
    ap = dict.fromkeys(CLASSES, 0.25) | {"Centrosome": None}
    one = {"mAP": 0.25, "AP": ap, "mAP_interval": [0.2, 0.3]}
    scores = {**one, "baselines": {"random": one, "image_labels_copied": one}, "num_images": 2, "num_cells": 8}
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores/scores.json").write_text(json.dumps(scores))
    (tmp_path / "heat").mkdir()
    measured = "class,cells,iou,iou_low,iou_high,chance,another,brightness\n"
    (tmp_path / "heat/heat.csv").write_text(f"{measured}Golgi apparatus,4,0.321,0.3,0.34,0.1,0.2,0.3\n")
    return tmp_path


def words(world, *more: str) -> list[str]:
    """Return the command line; what `more` repeats counts."""
    folders = {"--run-folder": "run", "--predictions": "predictions", "--scores": "scores", "--images": "images"}
    folders |= {"--masks": "images", "--truth-labels": "truth.parquet", "--out": "report.html"}
    return ["page", *(word for option, name in folders.items() for word in (option, str(world / name))), *more]


def page(world, *more: str) -> str:
    assert main(words(world, *more)) == 0
    return (world / "report.html").read_text()


@pytest.fixture
def refused(world, capsys):
    """Return what makes a page that is refused: its message; nothing is written."""

    def make(*more: str) -> str:
        assert main(words(world, "--picture", str(world / "picture.png"), *more)) == 2
        assert not (world / "report.html").exists() and not (world / "picture.png").exists()
        return capsys.readouterr().err

    return make


def test_the_report_of_a_prediction_is_not_written_over(world, refused):
    (world / "predictions/predictions.json").write_text("{}")
    assert "the report of a prediction" in refused("--out", str(world / "predictions/report.html"))


def test_the_page_holds_everything_and_escapes_names(world):
    text = page(world, "--heat", str(world / "heat"), "--picture", str(world / "picture.png"))
    assert HOSTILE not in text and "&lt;img src=x onerror=" in text and "{{7*7}}" in text
    assert "http://" not in text and "https://" not in text and text.count('src="data:image/png') == text.count('src="')
    assert text.index("<img") < text.index("mAP 0.250"), "the picture comes first"
    assert "0.321" in text and "0.300 to 0.340" in text and "map of: Golgi apparatus" in text
    picture = Image.open(io.BytesIO((world / "picture.png").read_bytes()))
    assert picture.size[0] > 1000 and len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 100


@pytest.mark.parametrize("option, value", [("--num-fields", -1), ("--cells-per-class", -2), ("--um-per-px", 0)])
def test_numbers_out_of_range_are_refused(refused, option, value):
    assert refused(option, str(value)).startswith(f"error: {option}: found {value}")


def test_soft_labels_are_true_where_the_score_takes_them_so(world):
    """Labels that `label --rule soften` made: .01 is no true class."""
    hard = page(world)
    table = cell_table.read(world / "truth.parquet")
    table[cell_table.VALUES] = 0.01 + 0.98 * cell_table.values(table)
    cell_table.write(table, world / "truth.parquet", "truth")
    assert page(world) == hard


def test_images_named_otherwise_are_shown(world, refused):
    for path in (world / "images").glob("*_green.png"):
        path.rename(path.with_name(path.name.replace("_green", "_gfp")))
    assert "green" in refused()
    assert "report" not in page(world, "--pattern", "{ID}_{channel}.png", "--channels", "protein=gfp")


def test_an_image_that_prediction_skipped_is_left_out_and_no_other(world, refused):
    usual = page(world)
    for name in ("z_red.png", "z_red.tif"):
        (world / "images" / name).write_bytes(b"")
    assert page(world) == usual
    folders = {"--predictions": "predictions", "--images": "images", "--masks": "images", "--out": "measured"}
    words = [word for option, name in folders.items() for word in (option, str(world / name))]
    assert main(["heat", *words, "--bootstrap", "0"]) == 0
    (world / "images/a_red.tif").write_bytes(b"")
    (world / "report.html").unlink()
    (world / "picture.png").unlink(missing_ok=True)
    assert "a second file for red" in refused()
    assert main(["heat", *words, "--bootstrap", "0"]) == 2


def test_heat_maps_of_images_named_otherwise_are_measured(world):
    def measured(*more: str) -> pd.DataFrame:
        folders = {"--predictions": "predictions", "--images": "images", "--masks": "images", "--out": "measured"}
        paths = [word for option, name in folders.items() for word in (option, str(world / name))]
        assert main(["heat", *paths, "--bootstrap", "0", *more]) == 0
        return pd.read_csv(world / "measured/heat_cells.csv")

    usual = measured()
    for path in (world / "images").glob("*_green.png"):
        path.rename(path.with_name(path.name.replace("_green", "_gfp")))
    named = measured("--pattern", "{ID}_{channel}.png", "--channels", "protein=gfp")
    assert len(usual) == 4
    pd.testing.assert_frame_equal(named, usual)


def test_without_heat_maps_the_page_has_none(world):
    (world / "predictions/heat_maps/a.npz").unlink()
    text = page(world)
    assert "map of:" not in text and "Do the heat maps" not in text


def test_a_missing_table_of_heat_maps_is_named(world, refused):
    (world / "heat/heat.csv").unlink()
    assert "evaluation heat" in refused("--heat", str(world / "heat"))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("predictions,class,cells,iou,chance,another,brightness\nA,Golgi apparatus,4,0.3,0.1,0.2,0.3\n"
         "B,Golgi apparatus,4,0.3,0.1,0.2,0.3\nB - A,Golgi apparatus,4,0,0,0,0\n", "several folders (A, B, B - A)"),
        ("class,cells\nGolgi apparatus,4\n", "no column 'another'"),
        ("", "no table"),
    ],
)  # fmt: skip
def test_a_table_of_heat_maps_that_is_not_of_one_folder_is_refused(world, refused, content, found):
    (world / "heat/heat.csv").write_text(content)
    message = refused("--heat", str(world / "heat"))
    assert "heat.csv" in message and f"found {found}" in message


def test_images_that_are_missing_are_named(world, refused):
    cases.write_field(world / "others", "b", 4, 0)
    message = refused("--images", str(world / "others"))
    assert "others: found no image" in message and "and 1 more" in message
    cases.write_field(world / "others", HOSTILE, 4, 1)
    assert "found no image a;" in refused("--images", str(world / "others"))


def test_masks_of_other_sizes_and_with_other_cells_are_named(world, refused):
    for name in ("a", HOSTILE):
        cases.write_field(world / "larger", name, 4, 0, size=(100, 120))
        cases.write_field(world / "fewer", name, 3, 0)
    assert "found 120 x 100 px; expected 120 x 96 px" in refused("--masks", str(world / "larger"))
    assert "found no cells [10]; expected the cells of" in refused("--masks", str(world / "fewer"))
    predicted = cell_table.read(world / "predictions/cells.parquet").assign(cell_area=7)
    cell_table.write(predicted, world / "predictions/cells.parquet", "predictions")
    assert "px of cell 1; expected its 7 px in" in refused()


def test_the_truth_of_other_cells_is_named(world, refused):
    cell_table.write(table({"b": [0, 1]}), world / "truth.parquet", "truth")
    assert "--truth-labels: found no location of any predicted cell" in refused()


def test_the_truth_of_other_masks_is_refused(world, refused):
    """Its numbers are those of other cells."""
    mask = cases.write_field(world / "images", "a", 4, 0)
    top = np.array([rows.start for _, (rows, _) in find_boxes(mask)] + [np.nan] * 4)
    for name, lower in (("predictions/cells.parquet", 0), ("truth.parquet", 1)):
        cell_table.write(cell_table.read(world / name).assign(top=top + lower), world / name, "truth")
    assert f"truth.parquet: found image a cell 1 with 'top' {top[0] + 1:.0f} (4 of 8" in refused()


@pytest.mark.parametrize(
    ("recipe", "steps"),
    [
        ("cpu_small", "20 of 32 cells: 640 cells in 2 epochs"),
        ("red_ai_duo_b3", "20 of 32 images: 640 images in 2 epochs"),
        ("bestfitting_fcan", "20 of 32 images: 640 images in 2 epochs"),
    ],
)
def test_the_training_says_what_it_drew(world, recipe, steps):
    chosen = recipe_named(recipe)
    optimization = dataclasses.replace(chosen.optimization, batch_size=32)
    save(dataclasses.replace(chosen, optimization=optimization), world / "run/recipe.json")
    text = page(world)
    assert steps in text and f"9 {'cells' if recipe == 'cpu_small' else 'images'}/s" in text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "at mask IoU 0.6, on 2 test images with 8 cells."),
        ({"iou_threshold": 0.5, "geometry": "boxes", "verified": "present", "seed": 0},
         "at box IoU 0.5, on 2 test images with 8 cells; in each image only the classes of its true cells count."),
    ],
)  # fmt: skip
def test_the_page_says_how_was_scored(world, settings, said):
    path = world / "scores/scores.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | ({"settings": settings} if settings else {})))
    assert said in page(world)


@pytest.mark.parametrize("scores", [{}, [], {"mAP": None, "AP": {}}])
def test_scores_of_another_kind_are_refused(world, refused, scores):
    (world / "scores/scores.json").write_text(json.dumps(scores))
    assert "scores.json: found no mAP" in refused()


def colours_of_outlines(uri: str) -> set[tuple[int, ...]]:
    """Return the classes' colours that a picture holds."""
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))
    return {tuple(map(int, colour)) for colour in np.unique(pixels.reshape(-1, 3), axis=0)} & set(CLASS_COLOURS)


def test_only_a_class_that_a_cell_has_is_painted_as_true(world):
    """Four cells: an artefact without labels, labels that are not known, Golgi apparatus beside a NaN, Negative."""
    truth = cell_table.read(world / "truth.parquet").reset_index(drop=True)
    rows = truth.index[truth["image_id"] == "a"]
    truth.loc[rows, list(CLASSES)] = 0.0
    truth.loc[rows[1], list(CLASSES)] = np.nan
    truth.loc[rows[2], [CLASSES[2], CLASSES[7]]] = np.nan, 1
    truth.loc[rows[3], CLASSES[18]] = 1
    cell_table.write(truth, world / "truth.parquet", "truth")
    uris = re.findall(r'<img src="([^"]+)" alt="true">', page(world))
    assert len(uris) == 2 and colours_of_outlines(uris[1]) == {CLASS_COLOURS[7], CLASS_COLOURS[18]}

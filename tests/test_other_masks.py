"""Predictions of cells of other masks, matched to one's own; softened labels."""

import re
import time
import warnings
from itertools import product

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shards import one_hot, write_dataset

from hpa_tf import cell_table
from hpa_tf import label_rules as rules
from hpa_tf.errors import HpaWarning, InputError
from tfrecords_builder import label_predictions
from tfrecords_builder.__main__ import main


@given(st.integers(0, 10_000), st.sampled_from([0.5, 0.6, 0.8]))
@settings(max_examples=60, deadline=None)
def test_partners_are_those_of_a_slow_loop_and_no_cell_has_two(seed, least):
    rng = np.random.default_rng(seed)
    own = np.repeat(np.repeat(rng.integers(0, 5, (4, 5)), 3, 0), 3, 1) * 10
    other = np.where(rng.random(own.shape) < 0.8, own // 10, rng.integers(0, 5, own.shape)) * 300
    expected = {}
    for i, j in product(np.unique(own[own > 0]), np.unique(other[other > 0])):
        union = ((own == i) | (other == j)).sum()
        if ((own == i) & (other == j)).sum() > least * union:
            expected[i] = j
    found = rules.match_cells(own, other, least)
    assert found == expected and len(set(found.values())) == len(found)


def test_numbers_of_32_bits_are_told_apart():
    own = np.array([[0, 1, 1, 2, 2, 2**31 - 1]], np.int32)
    other = np.array([[7, 2**31 - 1, 2**31 - 1, 2**31 - 2, 2**31 - 2, 1]], np.int32)
    assert rules.match_cells(own, other) == {1: 2**31 - 1, 2: 2**31 - 2, 2**31 - 1: 1}
    assert rules.match_cells(np.zeros((2, 2), np.uint16), np.ones((2, 2), np.uint16)) == {}


def test_a_large_image_is_matched_at_once():
    """4 megapixels: pairs of pixels compared as pairs took seconds."""
    own = np.kron(np.arange(1, 401).reshape(20, 20), np.ones((100, 100), int)).astype(np.int32)
    start = time.process_time()
    assert rules.match_cells(own, 1000 - own) == {n: 1000 - n for n in range(1, 401)}
    assert time.process_time() - start < 1.5


def test_refuses_masks_of_two_sizes_and_thresholds_with_two_partners():
    mask = np.ones((4, 4), int)
    for arguments in ((mask, mask[:3]), (mask, mask, 0.4)):
        with pytest.raises(ValueError, match="one size"):
            rules.match_cells(*arguments)


def masks(shift: int) -> np.ndarray:
    """Return three cells in a row, moved to the right; renumbered where they are moved."""
    mask = np.zeros((20, 80), np.uint16)
    for number, left in enumerate((2, 28, 54), start=1):
        mask[4:16, left + shift : left + shift + 20] = number if shift == 0 else 100 - number
    return mask


@pytest.fixture
def folders(tmp_path):
    """Write a data folder of two images of three cells, its masks, and other masks: of image 1 far off."""
    labels = np.stack([one_hot(3)] * 6)
    left = np.tile([2, 28, 54], 2)
    places = {"top": 4, "left": left, "bottom": 16, "right": left + 20, "cell_area": 240}
    table = write_dataset(tmp_path / "data", labels, cells_per_image=3, num_shards=1, num_folds=1, columns=places)
    ids = table["image_id"].unique()
    for name, shifts in (("own", (0, 0)), ("other", (2, 15))):
        (tmp_path / name).mkdir()
        for image_id, shift in zip(ids, shifts, strict=True):
            cv2.imwrite(str(tmp_path / name / f"{image_id}_cellmask.png"), masks(shift))
    values = np.full((6, 19), 0.1)
    values[:, 3] = [0.6, 0.7, 0.8, 0.9, 0.9, 0.9]  # cells 97, 98, 99 of each image
    predicted = cell_table.from_values(np.repeat(ids, 3), [97, 98, 99] * 2, values)
    cell_table.write(predicted, tmp_path / "oof.parquet", "out_of_fold")
    return tmp_path


def words(folder, *more: str) -> list[str]:
    given_masks = ["--masks", str(folder / "own"), "--prediction-masks", str(folder / "other")]
    start = ["label", "--rule", "out_of_fold", "--data", str(folder / "data"), "--out", str(folder / "out.parquet")]
    return [*start, "--predictions", str(folder / "oof.parquet"), *(more or given_masks)]


def test_the_command_matches_cells_and_prints_the_share(folders, capsys):
    assert main(words(folders)) == 0
    assert "50.0% of the cells have a partner among the predicted ones (3 cells)" in capsys.readouterr().out
    labels = rules.read_labels(folders / "out.parquet").values
    np.testing.assert_allclose(labels[:3, 3], [0.8, 0.7, 0.6])  # 1 is 99 there
    np.testing.assert_allclose(labels[:3, 18], 0.1)  # a student learns Negative too
    np.testing.assert_allclose(labels[3:, 3], 1)  # no partner: the label so far


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--masks", "MASKS"), "both folders"),
        (("--prediction-masks", "MASKS"), "both folders"),
        (("--iou", "0.7"), "both folders"),
        (("--cell-pattern", "{ID}_own"), "both folders"),
        (("--prediction-cell-pattern", "{ID}_own"), "both folders"),
        (("--masks", "MASKS", "--prediction-masks", "MASKS", "--iou", "0.3"), "two partners"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(folders, capsys, more, said):
    filled = [str(folders / "own") if word == "MASKS" else word for word in more]
    assert main(words(folders, *filled)) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_masks_of_any_name_and_size_are_read(folders, monkeypatch, capsys):
    """What cannot be found is found by the fix that the error names."""
    more = ["--masks", str(folders / "own"), "--prediction-masks", str(folders / "other")]
    for name, option in (("own", "--cell-pattern"), ("other", "--prediction-cell-pattern")):
        for path in (folders / name).iterdir():
            path.rename(path.with_name(path.name.replace("_cellmask", f"_{name}")))
        assert main(words(folders, *more)) == 2
        assert f"give its name: {option} '{{ID}}_{name}.png'" in capsys.readouterr().err
        more += [option, f"{{ID}}_{name}.png"]
    assert main(words(folders, *more)) == 0
    monkeypatch.setattr(label_predictions, "MOST_PIXELS", 20 * 80 - 1)
    assert main(words(folders, *more)) == 2 and "80 x 20 px" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("own", "other", "own_area", "other_area", "said"),
    [
        ("other", "own", 240, None, r"in .*other: found no cells \[1, 2, 3\]; expected the cells of .*data"),
        ("own", "other", 239, None, "in .*own: found 240 px of cell 1; expected its 239 px in .*data"),
        ("own", "other", 240, 241, "in .*other: found 240 px of cell 97; expected its 241 px in .*oof.parquet"),
        ("own", "own", 240, None, r"own: found no cells \[97, 98, 99\]; expected the cells of .*oof.parquet"),
    ],
)
def test_masks_that_data_or_predictions_are_not_of_are_refused(folders, capsys, own, other, own_area, other_area, said):
    """Exchanged, they would give probabilities to wrong cells, and all of them a partner."""
    data, oof = folders / "data" / "cells.parquet", folders / "oof.parquet"
    cell_table.write(cell_table.read(data).assign(cell_area=own_area), data, "labels")
    if other_area:
        cell_table.write(cell_table.read(oof).assign(cell_area=other_area), oof, "out_of_fold")
    given_masks = ["--masks", str(folders / own), "--prediction-masks", str(folders / other)]
    assert main(words(folders, *given_masks)) == 2
    error = capsys.readouterr().err
    assert re.search(said, error) and error.count("\n") == 1 and not (folders / "out.parquet").exists()


def test_masks_are_checked_with_the_data_of_the_labels(folders, capsys):
    labels = str(folders / "labels.parquet")
    rules.write_labels(rules.read_labels(folders / "data" / "cells.parquet"), labels)
    with_labels = [labels if word == str(folders / "data") else word for word in words(folders)]
    with_labels[with_labels.index("--data")] = "--labels"
    assert main(with_labels) == 2 and "--data: found none" in capsys.readouterr().err
    assert main([*with_labels, "--data", str(folders / "data")]) == 0
    area = {"cell_area": np.full(4, 240)}
    write_dataset(folders / "others", np.stack([one_hot(3)] * 4), num_shards=1, num_folds=1, columns=area)
    assert main([*with_labels, "--data", str(folders / "others")]) == 2
    assert "no image 'image-00001' cell 1; expected the cells of the labels" in capsys.readouterr().err


@pytest.mark.parametrize(("numbers", "told"), [([1, 2, 5] * 2, True), ([1, 2, 3] * 2, False), ([1, 2] * 2, False)])
def test_predictions_of_other_cells_of_the_same_images_are_told(folders, numbers, told):
    """Cell 1 of other masks is another cell: numbers that do not pair up give it away."""
    ids = cell_table.read(folders / "data" / "cells.parquet")["image_id"].unique()
    count = len(numbers) // 2
    predicted = cell_table.from_values(np.repeat(ids, count), numbers, np.full((2 * count, 19), 0.5))
    cell_table.write(predicted, folders / "oof.parquet", "out_of_fold")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        assert main(words(folders, "--share", "0.5")) == 0
    text = "of the same images 2 cells without a prediction, 2 predictions without a cell; if they are of other masks"
    said = [str(one.message) for one in found if one.category is HpaWarning]
    assert [text in one and "give --masks and --prediction-masks" in one for one in said] == [True] * told


def test_predictions_of_other_cells_with_the_same_numbers_are_refused(folders, capsys):
    """No number is missing, but the cells are larger there."""
    cells = cell_table.read(folders / "data" / "cells.parquet")
    for larger in (0, 5):
        columns = {"cell_area": cells["cell_area"] + larger}
        predicted = cell_table.from_values(cells["image_id"], cells["cell"], np.full((len(cells), 19), 0.5), columns)
        cell_table.write(predicted, folders / "oof.parquet", "out_of_fold")
        assert main(words(folders, "--share", "0.5")) == (2 if larger else 0)
    assert f"({len(cells)} of {len(cells)} cells differ)" in capsys.readouterr().err


def test_five_levels_names_no_option_that_it_has_not(folders):
    words = ["label", "--rule", "five_levels", "--data", str(folders / "data"), "--out", str(folders / "out.parquet")]
    ids = cell_table.read(folders / "data" / "cells.parquet")["image_id"].unique()
    predicted = cell_table.from_values(np.repeat(ids, 3), [1, 2, 5] * 2, np.full((6, 19), 0.5))
    cell_table.write(predicted, folders / "oof.parquet", "out_of_fold")
    tables = [word for name in ("image", "cell") for word in (f"--{name}-predictions", str(folders / "oof.parquet"))]
    with pytest.warns(HpaWarning, match="predict with the masks of the data") as found:
        assert main([*words, *tables]) == 0
    assert not any("--prediction-masks" in str(one.message) for one in found)


def test_the_share_is_of_the_images_that_were_predicted():
    """A half that was never predicted is no cell without a partner."""
    cells = pd.DataFrame({"image_id": ["a", "a", "b", "b"], "cell": [1, 2, 1, 2]})
    predicted = cell_table.from_values(["a"], [7], np.full((1, 19), 0.5))
    own, other = np.array([[1, 1, 0, 2, 2, 0]]), np.array([[7, 7, 0, 0, 0, 0]])
    table, share = rules.on_own_cells(predicted, cells, lambda i: own, lambda i: other, "there")
    assert table[["image_id", "cell"]].to_numpy().tolist() == [["a", 1]] and share == 0.5


def test_images_or_cells_that_are_all_others_are_refused():
    cells = pd.DataFrame({"image_id": ["a", "a"], "cell": [1, 2]})
    predicted = cell_table.from_values(["b"], [1], np.full((1, 19), 0.5))
    own = np.array([[1, 1, 0, 2, 2, 0]])
    with pytest.raises(InputError, match="no image of the data folder"):
        rules.on_own_cells(predicted, cells, lambda i: own, lambda i: own, "there")
    predicted = predicted.assign(image_id="a")
    with pytest.raises(InputError, match="masks of 6 x 1 px and 5 x 1 px of image a"):
        rules.on_own_cells(predicted, cells, lambda i: own, lambda i: own[:, 1:], "there")
    with pytest.raises(InputError, match="none of 2 cells overlaps"):
        rules.on_own_cells(predicted, cells, lambda i: own, lambda i: own[:, ::-1] * 0 + 7, "there")


def test_softened_labels_are_those_of_the_formula():
    values = np.zeros((3, 19), np.float32)
    values[0, [1, 4]], values[1, 2], values[2, :] = 1, 1, np.nan
    table = cell_table.from_values(["a"] * 3, [1, 2, 3], values)
    found = rules.soften(rules.from_image(table, {}), 0.01).values
    np.testing.assert_allclose(found[0, [1, 4]], 0.98)
    np.testing.assert_allclose(found[0, 0], 0.02)
    np.testing.assert_allclose(found[1, [2, 3]], [0.99, 0.01])
    assert np.isnan(found[2]).all()
    more = rules.soften(rules.from_image(table, {}), 0.3).values
    np.testing.assert_allclose(more[:2, [1, 2]], [[0.5, 0.5], [0.3, 0.7]], err_msg="at most half of the way")

"""Cells cut by a random line, against NumPy; which cells are whole; batches that say which were cut."""

import numpy as np
import pytest
import tensorflow as tf
from shards import random_cell, write_dataset

from hpa_tf.errors import InputError
from hpa_tf.pipeline import Augmentation, CutCells, EveryCell, read_examples, training_batches, whole_cells
from hpa_tf.pipeline.cutting import Line, cut_region, draw_line
from hpa_tf.recipes import recipe_named
from hpa_tf.records import read_manifest
from hpa_tf.training.run import split
from hpa_tf.training.site import Data
from hpa_tf.views import Crop

BOX = {"top": [0, 5, 5, 5, 5], "left": [5, 0, 5, 5, 5], "bottom": [20, 20, 50, 20, 49], "right": [20, 20, 20, 60, 59]}


@pytest.mark.parametrize("angle", [0.0, 0.7, 2.0, 3.5, 5.9])
@pytest.mark.parametrize("left", [0.1, 0.35, 0.6, 1.0])
def test_a_line_leaves_the_drawn_share_of_the_area_on_one_side(angle, left):
    _, region = random_cell(np.random.default_rng(1), 60, 45)
    inside = np.isin(region, (1, 2))
    found = cut_region(tf.constant(region), Line(tf.constant(True), tf.constant(angle), tf.constant(left))).numpy()
    lost = inside & (found == 0)
    rows, columns = np.mgrid[:60, :45]
    distance = np.cos(angle) * rows + np.sin(angle) * columns
    kept = inside & ~lost
    assert kept.sum() / inside.sum() == pytest.approx(left, abs=0.06)  # a row of pixels at once where the line is level
    if lost.any():
        assert distance[lost].min() > distance[kept].max() - 1e-3
    np.testing.assert_array_equal(found[~lost], region[~lost])  # nucleus, neighbours and background stay


def test_nothing_happens_where_the_coin_says_so_or_where_there_is_no_cell():
    _, region = random_cell(np.random.default_rng(1), 30, 30)
    line = Line(tf.constant(False), tf.constant(1.0), tf.constant(0.3))
    np.testing.assert_array_equal(cut_region(tf.constant(region), line), region)
    empty = np.where(region == 3, 3, 0).astype(np.uint8)
    np.testing.assert_array_equal(cut_region(tf.constant(empty), line._replace(happens=tf.constant(True))), empty)


def test_lines_have_the_documented_ranges():
    seeds = np.random.default_rng(0).integers(-(2**31), 2**31, (1000, 2), np.int32)
    dataset = tf.data.Dataset.from_tensor_slices(seeds).map(lambda seed: draw_line(seed, CutCells()))
    lines = list(dataset.as_numpy_iterator())
    assert np.mean([line.happens for line in lines]) == pytest.approx(0.5, abs=0.05)
    left = np.array([line.left for line in lines])
    assert 0.1 <= left.min() < 0.105 and 0.595 < left.max() <= 0.6
    assert np.ptp([line.angle for line in lines]) > 6.2


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut") / "data"
    columns = {name: np.tile(values, 8) for name, values in BOX.items()}
    columns |= {"height": np.full(40, 50), "width": np.full(40, 60)}
    write_dataset(folder, np.zeros((40, 19), np.float32), columns=columns, cells_per_image=5)
    return read_examples(folder, clean=False)


def test_cells_at_the_frame_are_not_whole(examples):
    assert whole_cells(examples).table["right"].eq(59).all() and len(whole_cells(examples)) == 8
    with pytest.raises(InputError, match="all at the frame"):
        whole_cells(examples.select(examples.table["top"].to_numpy() == 0))
    examples = type(examples)(examples.folder, examples.table.drop(columns="top"))
    with pytest.raises(InputError, match=r"no columns \['top'\]"):
        whole_cells(examples)


def test_a_recipe_of_completeness_trains_on_whole_cells_of_all_folds(examples):
    recipe = recipe_named("cpu_completeness")
    training, validation = split(recipe, Data(examples.folder, clean=False), read_manifest(examples.folder))
    assert len(training) == 8 and validation is None
    assert set(training.table["fold"]) == {0, 1}


def test_batches_say_which_cells_were_cut(examples):
    view = Crop(24, channels=("red", "cell"))
    options = {"sampling": EveryCell(num_cells=80), "batch_size": 8, "seed": 3, "epoch": 0}
    cut = Augmentation(flip=0, rotation=0, cut=CutCells())
    plain = Augmentation(flip=0, rotation=0)
    changed = 0
    batches = zip(
        *(training_batches(examples, view, one, **options).as_numpy_iterator() for one in (cut, plain)), strict=True
    )
    for batch, other in batches:
        np.testing.assert_array_equal(batch.rows, other.rows)
        assert (batch.cell_known == 1).all() and set(np.unique(batch.cell_labels)) <= {0, 1}
        assert (batch.cell_labels == batch.cell_labels[..., :1]).all()
        same = np.isclose(batch.inputs["image"], other.inputs["image"], atol=1e-6).all(axis=(1, 2, 3))
        np.testing.assert_array_equal(same, batch.cell_labels[:, 0, 0] == 1)
        changed += (~same).sum()
        assert set(batch.inputs) == {"image"}
    assert 25 < changed < 55


@pytest.mark.parametrize("fields", [{"probability": 1.2}, {"left": (0, 0.5)}, {"left": (0.7, 0.5)}])
def test_refuses_impossible_options(fields):
    with pytest.raises(ValueError, match=r"augmentation\.cut"):
        CutCells(**fields)

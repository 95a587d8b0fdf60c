"""Pasting cells of other images: the plan, and the place that is found, against loops in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from hpa_tf import cell_table
from hpa_tf.pipeline import Examples, PasteCells
from hpa_tf.pipeline.pasting import TRIES, paste_cell, plan_pasting

SIZE = 24


def drawn_field(rng: np.random.Generator, share: float):
    """Return a field whose cells take a share of the pixels, and another with one cell."""
    taken = np.zeros((SIZE, SIZE), bool)
    while taken.mean() < share:
        top, left = rng.integers(0, SIZE - 3, 2)
        taken[top : top + 4, left : left + 4] = True
    masks = np.where(taken & (np.arange(SIZE) < SIZE // 2), 1, 0).astype(np.int32)
    field = {"image": rng.random((SIZE, SIZE, 2), np.float32), "masks": masks, "taken": taken}
    cell = np.zeros((SIZE, SIZE), np.int32)
    cell[3:8, 10:14], cell[5, 14] = 1, 1
    return field, {"image": rng.random((SIZE, SIZE, 2), np.float32), "masks": cell}


def pasted(field, donor, place: int, numbers: np.ndarray):
    """Try one place after the other."""
    image, masks = field["image"].copy(), np.where(field["masks"] == place + 1, 0, field["masks"])
    background, cell = np.argwhere(~field["taken"]), np.argwhere(donor["masks"] == 1)
    middle = (cell.min(0) + cell.max(0)) // 2
    for number in numbers:
        to = cell + background[int(np.float32(number) * np.float32(len(background)))] - middle
        if to.min() >= 0 and to.max() < SIZE and not field["taken"][tuple(to.T)].any():
            image[tuple(to.T)] = donor["image"][tuple(cell.T)]
            masks[tuple(to.T)] = place + 1
            break
    return image, masks


@pytest.mark.parametrize("share, room", [(0.1, True), (0.5, None), (0.97, False)])
def test_the_place_is_the_first_with_room(share, room):
    rng = np.random.default_rng(2)
    step = tf.function(paste_cell)
    for seed in rng.integers(-(2**31), 2**31, (12, 2), np.int32):
        field, donor = drawn_field(rng, share)
        place = int(rng.integers(0, 3))
        numbers = tf.random.stateless_uniform([TRIES], seed).numpy()
        image, masks = pasted(field, donor, place, numbers)
        tensors = ({name: tf.constant(value) for name, value in one.items()} for one in (field, donor))
        found = step(*tensors, tf.constant(place), tf.constant(seed))
        np.testing.assert_array_equal(found["image"], image)
        np.testing.assert_array_equal(found["masks"], masks)
        assert room is None or bool((masks == place + 1).any()) == room


@pytest.mark.parametrize("full", [True, False])
def test_nothing_happens_without_background_or_without_a_cell(full):
    field, donor = drawn_field(np.random.default_rng(0), 0.2)
    if full:
        field["taken"][:] = True
    else:
        donor["masks"][:] = 0
    tensors = ({name: tf.constant(value) for name, value in one.items()} for one in (field, donor))
    found = paste_cell(*tensors, tf.constant(2), tf.constant([1, 2]))
    np.testing.assert_array_equal(found["image"], field["image"])
    np.testing.assert_array_equal(found["masks"], field["masks"])


def table(counts, mitotic) -> Examples:
    ids = np.repeat(np.arange(len(counts)), counts).astype(str)
    labels = np.zeros((len(ids), 19), np.float32)
    labels[np.asarray(mitotic, int), 11] = 0.95
    return Examples("nowhere", cell_table.from_values(ids, np.arange(1, len(ids) + 1), labels))


def test_plans_paste_cells_of_other_images_and_keep_the_first_cell():
    examples = table([3, 5, 8, 4], [0, 9, 10])
    rows = np.array([[0, 1, -1], [3, 4, 5], [8, 9, 10], [16, 17, 18]] * 500)
    planned, what = plan_pasting(examples, rows, PasteCells(probability=0.5), (1, 2))
    happens = what.rows >= 0
    assert happens.mean() == pytest.approx(0.5 * (2 / 3 + 1 + 1 / 3 + 1) / 4, abs=0.04)
    np.testing.assert_array_equal(planned[~happens], rows[~happens])
    np.testing.assert_array_equal(planned[:, 0], rows[:, 0])
    np.testing.assert_array_equal(planned[happens, what.places[happens]], what.rows[happens])
    assert set(what.rows[happens]) == {0, 9, 10} and (what.places[happens] == 2).all()
    assert (examples.image_of[what.rows[happens]] != examples.image_of[rows[happens, 0]]).all()
    again, _ = plan_pasting(examples, rows, PasteCells(probability=0.5), (1, 2))
    np.testing.assert_array_equal(again, planned)


def test_plans_without_such_cells_or_without_a_second_place_paste_nothing():
    rows = np.array([[0, 1], [3, -1]])
    planned, what = plan_pasting(table([3, 2], []), rows, PasteCells(probability=1), (1,))
    assert (what.rows == -1).all() and (planned == rows).all()
    planned, what = plan_pasting(table([3, 2], [0]), rows[:, :1], PasteCells(probability=1), (1,))
    assert (what.rows == -1).all() and (planned == rows[:, :1]).all()


@pytest.mark.parametrize("fields", [{"probability": 2}, {"class_id": 19}])
def test_refuses_impossible_options(fields):
    with pytest.raises(ValueError, match=r"augmentation\.paste"):
        PasteCells(**fields)

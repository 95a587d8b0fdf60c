"""Views: which cells an example answers for, what it shows of them, and batches of every view."""

import dataclasses

import cv2
import numpy as np
import pytest
import tensorflow as tf
from builder_inputs import write_inputs
from hypothesis import given, settings
from hypothesis import strategies as st
from shards import random_cell

from hpa_tf import cell_table, framing, records
from hpa_tf.encoding import decode_picture
from hpa_tf.errors import InputError
from hpa_tf.pipeline import (
    NO_AUGMENTATION,
    Augmentation,
    EveryCell,
    Examples,
    PasteCells,
    augment_record,
    evaluation_batches,
    read_examples,
    steps_per_epoch,
    training_batches,
)
from hpa_tf.pipeline.batches import plan_epoch
from hpa_tf.views import Bag, CellInField, Crop, Field, View
from tfrecords_builder.__main__ import main as builder

RGB = ("red", "green", "blue")
VIEWS: tuple[View, ...] = (
    Crop(16, channels=("green", "cell", "nucleus", "blue")),
    Bag(3, Crop(16, channels=RGB)),
    Field(32, num_cells=3),
    CellInField(32, RGB),
)
OPTIONS = {"batch_size": 4, "seed": 5, "epoch": 1}
MOVING = Augmentation(flip=0.5, quarter_turns=True, rotation=90, pad=0.5)


@pytest.fixture(scope="module")
def examples(tmp_path_factory) -> Examples:
    """Return the cells of 9 images of 2 x 2 cells, 8 bit, and of 2 of 3 x 3, 16 bit, which the builder has made."""
    root = tmp_path_factory.mktemp("views")
    few = write_inputs(root / "few", 9, size=64, grid=2)
    many = write_inputs(root / "many", 2, size=96, grid=3, bits=16, seed=1)
    for path in [*many.images.iterdir(), *many.masks.iterdir()]:
        path.rename(path.with_name(path.name.replace("image_", "large_")))
    many.labels.write_text(many.labels.read_text().replace("image_", "large_"))
    pairs = {"--images": (few.images, many.images), "--masks": (few.masks, many.masks)}
    pairs["--labels"] = (few.labels, many.labels)
    arguments = [str(word) for name, values in pairs.items() for word in (name, *values)]
    options = ["--out", str(root / "data"), "--num-folds", "1", "--workers", "1", "--fields", "32"]
    assert builder(["build", *arguments, *options]) == 0
    return read_examples(root / "data", clean=False)


def stored_field(examples: Examples, image: int) -> tuple[np.ndarray, np.ndarray]:
    """Read (pixels, masks) of a field without the pipeline."""
    place = examples.images.table.iloc[image]
    with open(f"{examples.folder}/{place['shard']}", "rb") as stream:
        stream.seek(place["offset"])
        record = records.decode(next(framing.read_frames(stream, place["shard"])), records.IMAGE_FIELDS)
    assert record["image_id"].decode() == place["image_id"]
    return decode_picture(record["image"]), decode_picture(record["masks"])


def batches(examples: Examples, view: View, augmentation=NO_AUGMENTATION, **options) -> list:
    dataset = training_batches(examples, view, augmentation, EveryCell(), **{**OPTIONS, **options})
    return list(dataset.as_numpy_iterator())


def same(one, other) -> None:
    tf.nest.assert_same_structure(one, other)
    for a, b in zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True):
        np.testing.assert_array_equal(a, b)


# -- plans ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 5), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_plans_hold_each_cell_where_it_belongs(counts, size, seed):
    """Images whose rows are not even together in the table."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    table = cell_table.from_values(ids.astype(str), np.arange(1, len(ids) + 1), np.zeros((len(ids), 19)))
    found = Examples("nowhere", table)
    bag = Bag(size, Crop(8))
    order = rng.integers(0, len(counts), 7)
    drawn = bag.plan(found, order, (seed, 1))
    assert drawn.shape == (7, size)
    for image, rows in zip(order, drawn, strict=True):
        real = rows[rows >= 0]
        assert len(set(real)) == len(real) == min(size, (found.image_of == image).sum())
        assert (found.image_of[real] == image).all() and (rows[: len(real)] == real).all()
    np.testing.assert_array_equal(bag.plan(found, order, (seed, 1)), drawn)
    every = bag.plan(found, np.arange(len(counts)), None)
    assert sorted(every[every >= 0]) == list(range(len(ids))) and (every[:, 0] >= 0).all()
    assert all(len(set(found.image_of[rows[rows >= 0]])) == 1 for rows in every)


def test_every_cell_of_a_large_image_is_drawn_as_often():
    table = cell_table.from_values(["a"] * 7, range(1, 8), np.zeros((7, 19)))
    rows = Bag(3).plan(Examples("nowhere", table), np.zeros(7000, int), (0,))
    counts = np.bincount(rows.ravel(), minlength=7)
    assert np.abs(counts / 3000 - 1).max() < 0.06  # 3 standard deviations
    assert len(np.unique(rows[:, 0])) == 7


def test_a_plan_of_100000_images_is_quick():
    import time

    ids = np.repeat(np.arange(100_000), 20)
    table = cell_table.from_values(ids.astype(str), np.tile(np.arange(1, 21), 100_000), np.zeros((len(ids), 19)))
    found = Examples("nowhere", table)
    assert len(found.by_image) == len(ids)
    start = time.process_time()
    assert Bag(16).plan(found, np.arange(100_000), (0,)).shape == (100_000, 16)
    assert time.process_time() - start < 5  # 1 s where nothing else runs


# -- what is shown ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("square", ["pad", "grow"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_channels_of_a_crop(square, dtype):
    crop, region = random_cell(np.random.default_rng(1), 40, 27, dtype)
    stored = {"crop": tf.constant(crop), "region": tf.constant(region)}
    whole = Crop(24, "all", square, margin=2).prepare(stored)["image"].numpy()
    names = ("nucleus", "green", "red", "cell")
    view = Crop(24, "all", square, margin=2, channels=names)
    found = view.prepare(stored)["image"].numpy()
    assert found.shape == view.specs()["image"].shape
    np.testing.assert_array_equal(found[..., 1], whole[..., 1])
    np.testing.assert_array_equal(found[..., 2], whole[..., 0])
    # a mask is a channel like any other: prepared as the picture that it is
    for i, own in ((0, region == 2), (3, np.isin(region, (1, 2)))):
        picture = np.repeat((own * np.iinfo(dtype).max)[..., None], 4, axis=2).astype(dtype)
        expected = Crop(24, "all", square, margin=2).prepare({**stored, "crop": tf.constant(picture)})["image"].numpy()
        np.testing.assert_allclose(found[..., i], expected[..., 0], atol=1e-6)
    assert 0 < found[..., 0].mean() < found[..., 3].mean() < 1


@pytest.mark.parametrize("bad", [(), ("green", "green"), ("infrared",)])
def test_impossible_channels_are_refused(bad):
    for view in (Crop, Field, CellInField):
        with pytest.raises(InputError, match="channels"):
            view(16, channels=bad)
    with pytest.raises(InputError, match="channels"):
        Field(16, channels=("cell",))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_field_shows_its_cells_by_their_place_in_the_example(dtype):
    masks = np.array([[0, 7, 7, 0], [2, 2, 7, 0], [2, 9, 9, 0], [0, 0, 9, 9]], np.uint16)
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (4, 4, 4)).astype(dtype)
    stored = {"image": tf.constant(image), "masks": tf.constant(masks), "numbers": tf.constant([9, 2, -1])}
    shown = Field(4, ("blue", "red"), num_cells=3).prepare(stored)
    np.testing.assert_array_equal(shown["masks"], np.select([masks == 9, masks == 2], [1, 2], 0))
    np.testing.assert_allclose(shown["image"], image[..., [2, 0]] / np.iinfo(dtype).max, atol=1e-7)
    for surroundings, kept in (("none", masks == 9), ("background", np.isin(masks, (0, 9))), ("all", masks >= 0)):
        view = CellInField(4, surroundings=surroundings)
        shown = view.prepare({**stored, "numbers": tf.constant([9])})["image"]
        np.testing.assert_allclose(shown, image * kept[..., None] / np.iinfo(dtype).max, atol=1e-7)


def test_a_smaller_field_is_averaged_and_its_masks_stay_whole_numbers():
    masks = np.repeat(np.repeat(np.array([[1, 0], [3, 2]], np.uint16), 8, 0), 8, 1)
    image = np.random.default_rng(0).integers(0, 255, (16, 16, 4), dtype=np.uint8)
    numbers = tf.constant([1, 2, 3])
    shown = Field(4, num_cells=3).prepare(
        {"image": tf.constant(image), "masks": tf.constant(masks), "numbers": numbers}
    )
    np.testing.assert_array_equal(shown["masks"], np.repeat(np.repeat([[1, 0], [3, 2]], 2, 0), 2, 1))
    expected = cv2.GaussianBlur(image, (0, 0), 2)[2::4, 2::4] / 255
    assert np.corrcoef(expected.ravel(), shown["image"].numpy().ravel())[0, 1] > 0.95
    assert image.std() / 255 / 4 < shown["image"].numpy().std() * 2


# -- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: type(view).__name__)
def test_a_batch_shows_its_rows(examples, view):
    found = batches(examples, view)
    rows = plan_epoch(examples, view, EveryCell(), 5, 1).rows
    np.testing.assert_array_equal(np.concatenate([batch.rows for batch in found]), rows[: len(found) * 4])
    assert len(found) == steps_per_epoch(examples, view, EveryCell(), 4) == len(rows) // 4
    crops = {}
    if isinstance(view, Bag | Crop):
        of_cell = view.cell if isinstance(view, Bag) else view
        for batch in evaluation_batches(examples, of_cell, batch_size=6).as_numpy_iterator():
            crops |= dict(zip(batch.rows[:, 0].tolist(), batch.inputs["image"], strict=True))
    for batch in found[:3]:
        for b, own in enumerate(batch.rows):
            real = own[own >= 0]
            image = examples.image_of[real[0]]
            np.testing.assert_array_equal(batch.cell_labels[b, : len(real)], examples.labels[real])
            np.testing.assert_array_equal(batch.image_labels[b], examples.images.labels[image])
            assert not batch.cell_known[b, len(real) :].any() and batch.weight[b] == 1
            if "present" in batch.inputs:
                np.testing.assert_array_equal(batch.inputs["present"][b], own >= 0)
            if isinstance(view, Bag):
                for k, row in enumerate(own):
                    expected = crops[row] if row >= 0 else np.zeros_like(batch.inputs["image"][b, k])
                    np.testing.assert_array_equal(batch.inputs["image"][b, k], expected)
            elif isinstance(view, Crop):
                np.testing.assert_array_equal(batch.inputs["image"][b], crops[own[0]])
            else:
                pixels, masks = stored_field(examples, image)
                numbers = [int((examples.table.index[examples.image_of == image] <= row).sum()) for row in real]
                scaled = pixels / np.iinfo(pixels.dtype).max
                if isinstance(view, Field):
                    places = np.select([masks == number for number in numbers], range(1, len(numbers) + 1), 0)
                    np.testing.assert_array_equal(batch.inputs["masks"][b], places)
                    np.testing.assert_allclose(batch.inputs["image"][b], scaled, atol=1e-6)
                else:
                    kept = scaled[..., :3] * np.isin(masks, (0, numbers[0]))[..., None]
                    np.testing.assert_allclose(batch.inputs["image"][b], kept, atol=1e-6)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: type(view).__name__)
def test_batches_are_static_resumable_and_shared_out(examples, view):
    dataset = training_batches(examples, view, MOVING, EveryCell(), **OPTIONS)
    assert all(spec.shape.is_fully_defined() for spec in tf.nest.flatten(dataset.element_spec))
    shapes = {name: (tuple(spec.shape[1:]), spec.dtype.name) for name, spec in dataset.element_spec.inputs.items()}
    assert shapes == {name: (spec.shape, spec.dtype) for name, spec in view.specs().items()}
    whole = batches(examples, view, MOVING)
    for batch, other in zip(whole[1:], batches(examples, view, MOVING, first_step=1), strict=True):
        same(batch, other)
    parts = [batches(examples, view, MOVING, first_step=1, shard=(worker, 2)) for worker in range(2)]
    same(whole[1], tf.nest.map_structure(lambda *some: np.concatenate(some), *(part[0] for part in parts)))
    assert any(
        (one.rows != other.rows).any() for one, other in zip(whole, batches(examples, view, epoch=2), strict=True)
    )


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: type(view).__name__)
def test_evaluation_answers_for_every_cell_once(examples, view):
    found = list(evaluation_batches(examples, view, batch_size=5).as_numpy_iterator())
    rows = np.concatenate([batch.rows for batch in found])
    assert sorted(rows[rows >= 0]) == list(range(len(examples)))
    padding = (rows == -1).all(axis=1)
    num_examples = sum(-(-count // view.num_cells) for count in np.bincount(examples.image_of).tolist())
    assert padding.sum() == -num_examples % 5 > 0 and (rows[~padding, 0] >= 0).all()
    np.testing.assert_array_equal(np.concatenate([batch.weight for batch in found]), ~padding)
    assert not any(value[batch.weight == 0].any() for batch in found for value in batch.inputs.values())


def test_cells_of_a_bag_are_augmented_each_in_its_own_way(examples):
    view = Bag(3, Crop(16, "all", "grow"))
    plain, moved = (batches(examples, view, change)[0] for change in (NO_AUGMENTATION, Augmentation(rotation=0)))
    flips = {}
    for b, k in np.argwhere(moved.rows >= 0):
        one, other = plain.inputs["image"][b, k], moved.inputs["image"][b, k]
        choices = {(0, 0): one, (1, 0): one[::-1], (0, 1): one[:, ::-1], (1, 1): one[::-1, ::-1]}
        flips[b, k] = [name for name, image in choices.items() if np.allclose(image, other)]
        assert flips[b, k]
    assert any(flips[b, 0] != flips[b, 1] for b in range(4))


def test_masks_move_with_their_image():
    """An image that is 1 where its masks are not 0, and nothing but a picture of them, stays so."""
    masks = np.zeros((40, 40), np.int32)
    masks[4:14, 6:20], masks[20:36, 22:30] = 2, 1
    image = np.repeat((masks > 0)[..., None], 4, axis=2).astype(np.float32)
    prepared, num_moved = {"image": tf.constant(image), "masks": tf.constant(masks)}, 0
    for change in (dataclasses.replace(MOVING, pad=0), MOVING, Augmentation(resizer=1, rotation=45)):
        for seed in range(6):
            moved = augment_record(prepared, tf.constant([seed, 3]), change)
            agree = (moved["image"].numpy()[..., 0] > 0.5) == (moved["masks"].numpy() > 0)
            assert agree.mean() > (0.999 if not (change.pad or change.resizer) else 0.96)
            assert set(np.unique(moved["masks"])) <= {0, 1, 2}
            num_moved += (moved["masks"].numpy() != masks).any()
    assert num_moved > 12


# -- random squares, pasted cells -------------------------------------------------------------------------------------

SQUARES = Field(20, num_cells=3, whole=32)
PASTE = Augmentation(flip=0, rotation=0, paste=PasteCells(probability=1, class_id=16, least=0.5))


@pytest.mark.parametrize("augmentation", [MOVING, dataclasses.replace(MOVING, paste=PASTE.paste)], ids=["", "pasting"])
def test_batches_of_squares_are_static_resumable_and_shared_out(sparse, augmentation):
    examples = with_class_16(sparse)

    def made(**options) -> list:
        return batches(examples, SQUARES, augmentation, batch_size=2, **options)

    whole = made()
    assert whole[0].inputs["image"].shape == (2, 20, 20, 4) and whole[0].inputs["masks"].shape == (2, 20, 20)
    for batch, other in zip(whole[1:], made(first_step=1), strict=True):
        same(batch, other)
    parts = [made(first_step=1, shard=(worker, 2)) for worker in range(2)]
    same(whole[1], tf.nest.map_structure(lambda *some: np.concatenate(some), *(part[0] for part in parts)))


def test_a_cell_that_a_square_does_not_show_is_not_answered_for(examples):
    hidden = 0
    for batch in batches(examples, SQUARES) + batches(examples, SQUARES, epoch=2):
        shown = np.stack([(batch.inputs["masks"] == k).any(axis=(1, 2)) for k in (1, 2, 3)], axis=1)
        np.testing.assert_array_equal(batch.inputs["present"], shown)
        np.testing.assert_array_equal(batch.rows >= 0, shown)
        np.testing.assert_array_equal(batch.cell_known.any(axis=2), shown)
        assert batch.weight.all() and batch.image_known.all()
        hidden += (~shown).sum()
    assert hidden > 3


@pytest.fixture(scope="module")
def sparse(tmp_path_factory) -> Examples:
    """Return the cells of 6 images with two cells in a corner, but the first with nine."""
    root = tmp_path_factory.mktemp("sparse")
    inputs = write_inputs(root / "in", 6, size=96, grid=3)
    for image_id in inputs.ids[1:]:
        for kind in ("cellmask", "nucleusmask"):
            path = str(inputs.masks / f"{image_id}_{kind}.png")
            mask = cv2.imread(path, cv2.IMREAD_UNCHANGED)
            cv2.imwrite(path, np.where(np.isin(mask, (1, 2)), mask, 0).astype(np.uint16))
    arguments = [*inputs.arguments(root / "data"), "--num-folds", "1", "--workers", "1", "--fields", "32"]
    assert builder(arguments) == 0
    return read_examples(root / "data", clean=False)


def with_class_16(examples: Examples) -> Examples:
    """Give cells of the first image class 16, and all others not."""
    table = examples.table.copy()
    table[cell_table.VALUES[16]] = (examples.image_of == 0).astype(np.float32)
    return Examples(examples.folder, table, examples.image_table)


def test_pasted_cells_bring_their_pixels_masks_and_labels(sparse):
    examples = with_class_16(sparse)
    view = Field(32, num_cells=3)
    pasted = [batch for epoch in range(3) for batch in batches(examples, view, PASTE, epoch=epoch)]
    plain = [batch for epoch in range(3) for batch in batches(examples, view, epoch=epoch)]
    count = 0
    for one, other in zip(pasted, plain, strict=True):
        for b in range(4):
            donors = [k for k, row in enumerate(one.rows[b]) if row >= 0 and examples.labels[row, 16]]
            if examples.image_of[other.rows[b, 0]] == 0 or not donors:  # the donor's own image, or no room
                np.testing.assert_array_equal(one.inputs["image"][b], other.inputs["image"][b])
                np.testing.assert_array_equal(one.image_labels[b], other.image_labels[b])
                continue
            (k,) = donors
            count += 1
            row = one.rows[b, k]
            mask = one.inputs["masks"][b] == k + 1
            pixels, masks = stored_field(examples, 0)
            number = int(examples.field_numbers[row])
            found = one.inputs["image"][b][mask] * np.iinfo(pixels.dtype).max
            np.testing.assert_allclose(found, pixels[masks == number], atol=1e-3)
            _, there = stored_field(examples, examples.image_of[other.rows[b, 0]])
            assert not there[mask].any()  # it lies on background
            np.testing.assert_array_equal(one.inputs["image"][b][~mask], other.inputs["image"][b][~mask])
            expected = np.maximum(other.image_labels[b], examples.labels[row])
            np.testing.assert_array_equal(one.image_labels[b], expected)
            np.testing.assert_array_equal(one.cell_labels[b, k], examples.labels[row])
    assert count >= 5


# -- folders without fields -------------------------------------------------------------------------------------------


def test_a_folder_without_fields_says_what_adds_them(tmp_path):
    inputs = write_inputs(tmp_path / "in", 4)
    assert builder([*inputs.arguments(tmp_path / "data"), "--num-folds", "1", "--workers", "1"]) == 0
    found = read_examples(tmp_path / "data", clean=False)
    assert len(batches(found, Bag(2, Crop(8)))) == 1  # bags need cells alone
    with pytest.raises(InputError, match=r"no fields of view.*--fields SIZE adds them.*tfrecords_builder index"):
        batches(found, Field(32))


def test_labels_of_the_image_are_those_of_the_shards_whatever_the_table_of_labels_says(examples, tmp_path):
    table = examples.table[["image_id", "cell", *cell_table.VALUES]].copy()
    table[cell_table.VALUES] = 0.25
    cell_table.write(table, tmp_path / "other.parquet", "labels")
    found = read_examples(examples.folder, clean=False, labels=tmp_path / "other.parquet")
    batch = batches(found, Bag(2, Crop(8)))[0]
    assert set(np.unique(batch.cell_labels)) <= {0, 0.25} and set(np.unique(batch.image_labels)) == {0, 1}

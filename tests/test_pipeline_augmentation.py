"""Augmentations: known geometry, identity at probability 0, eager = in tf.data, one by one = as a batch."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from hpa_tf.pipeline import NO_AUGMENTATION, Augmentation, augment, augment_batch
from hpa_tf.pipeline.augmentation import Draw, draw, pad_and_shrink, shrink_and_enlarge, turn, uniforms

FLIPS = dataclasses.replace(NO_AUGMENTATION, flip=0.5)
QUARTERS = dataclasses.replace(NO_AUGMENTATION, quarter_turns=True)
ROTATION = dataclasses.replace(NO_AUGMENTATION, rotation=90.0)
RESIZER = dataclasses.replace(NO_AUGMENTATION, resizer=0.4)
PAD = dataclasses.replace(NO_AUGMENTATION, pad=0.3)
TEAM_4 = Augmentation(flip=0.5, rotation=90.0, resizer=0.4, pad=0.3)
ALL = [FLIPS, QUARTERS, ROTATION, RESIZER, PAD, TEAM_4]
NAMES = ["flips", "quarters", "rotation", "resizer", "pad", "team 4"]


def noise(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((size, size, 4), np.float32)


def drawn(size: int, flip_rows=False, flip_columns=False, turns=0, degrees=0.0) -> Draw:
    scalars = (tf.constant(flip_rows), tf.constant(flip_columns), tf.constant(turns), tf.constant(degrees, tf.float32))
    return Draw(*scalars, tf.constant(size), tf.zeros(4, tf.int32))


def seeds(count: int) -> np.ndarray:
    return np.random.default_rng(9).integers(-(2**31), 2**31, (count, 2), np.int32)


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("turns", range(4))
def test_flips_and_quarter_turns_move_every_pixel_exactly(size, rows, columns, turns):
    image = noise(size)
    expected = image[::-1] if rows else image
    expected = np.rot90(expected[:, ::-1] if columns else expected, turns)
    np.testing.assert_array_equal(turn(tf.constant(image), drawn(size, rows, columns, turns)), expected)


@pytest.mark.parametrize("degrees", [-90, -60.5, -3, 0.4, 45, 71, 90])
@pytest.mark.parametrize("size", [32, 33])
def test_rotation_equals_scipy_nearest_with_zeros_outside(degrees, size):
    image, centre = noise(size) + 1, (size - 1) / 2
    a = np.deg2rad(degrees)
    rows, columns = np.mgrid[:size, :size] - centre
    grid = [np.cos(a) * rows + np.sin(a) * columns + centre, -np.sin(a) * rows + np.cos(a) * columns + centre]
    planes = [ndimage.map_coordinates(image[..., c], grid, order=0, mode="grid-constant") for c in range(4)]
    rotated = turn(tf.constant(image), drawn(size, degrees=degrees)).numpy()
    differs = (rotated != np.stack(planes, axis=-1)).any(axis=-1)
    assert differs.mean() < 0.005  # a coordinate on .5 may round either way in float32


def test_rotation_is_counter_clockwise():
    image = np.zeros((9, 9, 4), np.float32)
    image[4, 8] = 1  # east
    at_45 = turn(tf.constant(image), drawn(9, degrees=45.0)).numpy()[..., 0]
    assert np.argwhere(at_45).mean(axis=0) == pytest.approx([1, 7], abs=0.6)  # north-east


def test_flips_then_rotation_in_one_resampling_equals_one_after_the_other():
    image = noise(31)
    together = turn(tf.constant(image), drawn(31, True, False, 1, 33.3)).numpy()
    one_by_one = tf.constant(image)
    for step in (drawn(31, flip_rows=True), drawn(31, turns=1), drawn(31, degrees=33.3)):
        one_by_one = turn(one_by_one, step)
    assert (together != one_by_one.numpy()).any(axis=-1).mean() < 0.005


@pytest.mark.parametrize("shrunken", [1, 5, 8, 12, 15])
def test_resizer_equals_bilinear_down_and_up(shrunken):
    image = noise(16)
    small = bilinear(image, shrunken, shrunken)
    result = shrink_and_enlarge(tf.constant(image), tf.constant(shrunken))
    np.testing.assert_allclose(result, bilinear(small, 16, 16), atol=1e-6)


@pytest.mark.parametrize("pads", [(0, 0, 0, 3), (5, 1, 2, 0), (6, 6, 6, 6), (1, 0, 0, 0)])
def test_pad_equals_zeros_around_then_bilinear(pads):
    image = noise(16) + 1
    top, left, bottom, right = pads
    padded = np.pad(image, ((top, bottom), (left, right), (0, 0)))
    result = pad_and_shrink(tf.constant(image), tf.constant(pads))
    np.testing.assert_allclose(result, bilinear(padded, 16, 16), atol=1e-6)


def bilinear(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    grid = np.meshgrid(
        (np.arange(rows) + 0.5) * image.shape[0] / rows - 0.5,
        (np.arange(columns) + 0.5) * image.shape[1] / columns - 0.5,
        indexing="ij",
    )
    planes = [ndimage.map_coordinates(image[..., c].astype(float), grid, order=1, mode="nearest") for c in range(4)]
    return np.stack(planes, axis=-1)


def test_nothing_happens_at_probability_0():
    image = tf.constant(noise(24))
    identity = dataclasses.replace(NO_AUGMENTATION, resizer_range=(0.5, 0.5))
    for seed in seeds(5):
        np.testing.assert_array_equal(augment(image, seed, identity), image)
    whole = dataclasses.replace(TEAM_4, flip=0.0, rotation=0.0, resizer=1e-12, pad=1e-12)  # traced, never drawn
    np.testing.assert_array_equal(augment(image, seeds(1)[0], whole), image)
    np.testing.assert_allclose(augment_batch(image[None], seeds(1), whole)[0], image, atol=1e-6)


@pytest.mark.parametrize("augmentation", ALL, ids=NAMES)
def test_eagerly_equals_in_tf_data_and_depends_on_the_seed(augmentation):
    image, some = noise(20), seeds(24)
    eager = [augment(tf.constant(image), seed, augmentation).numpy() for seed in some]
    dataset = tf.data.Dataset.from_tensor_slices(some).map(
        lambda seed: augment(tf.constant(image), seed, augmentation), num_parallel_calls=2
    )
    for one, other in zip(eager, dataset.as_numpy_iterator(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len({one.tobytes() for one in eager}) > 2


@pytest.mark.parametrize("augmentation", ALL, ids=NAMES)
@pytest.mark.parametrize("size", [20, 33])
def test_a_batch_equals_one_by_one(augmentation, size):
    images, some = np.stack([noise(size, i) for i in range(16)]), seeds(16)
    batch = augment_batch(tf.constant(images), tf.constant(some), augmentation).numpy()
    for one, image, seed in zip(batch, images, some, strict=True):
        np.testing.assert_allclose(one, augment(tf.constant(image), seed, augmentation), atol=1e-5)


def test_a_batch_keeps_static_shapes():
    traced = tf.function(lambda x, s: augment_batch(x, s, TEAM_4)).get_concrete_function(
        tf.TensorSpec([8, 32, 32, 4]), tf.TensorSpec([8, 2], tf.int32)
    )
    assert traced.structured_outputs.shape == (8, 32, 32, 4)


def test_draws_have_the_documented_ranges_and_probabilities():
    numbers = tf.stack([uniforms(seed) for seed in seeds(4000)])
    found = Draw(*(value.numpy() for value in draw(numbers, dataclasses.replace(TEAM_4, quarter_turns=True), 512)))
    for flips in (found.flip_rows, found.flip_columns):
        assert flips.mean() == pytest.approx(0.5, abs=0.03)
    assert abs(np.corrcoef(found.flip_rows, found.flip_columns)[0, 1]) < 0.05
    np.testing.assert_allclose(np.bincount(found.turns) / 4000, 0.25, atol=0.03)
    assert -90 <= found.degrees.min() < -89 and 89 < found.degrees.max() <= 90
    resized = found.shrunken[found.shrunken < 512]
    assert len(resized) / 4000 == pytest.approx(0.4, abs=0.03)
    assert (resized.min(), resized.max()) == (256, 384)
    padded = found.pads[found.pads.any(axis=-1)]
    assert len(padded) / 4000 == pytest.approx(0.3, abs=0.03)
    assert (padded.min(), padded.max()) == (0, 200)
    for values, low, high in ((resized, 256, 384), (padded, 0, 200), (found.degrees, -90, 90)):  # all alike likely
        shares = np.histogram(values, bins=4, range=(low, high))[0] / values.size
        np.testing.assert_allclose(shares, 0.25, atol=0.05)
    assert np.abs(np.corrcoef(padded.T) - np.eye(4)).max() < 0.1


def test_switching_one_op_off_leaves_the_others_draws_alone():
    numbers = uniforms(tf.constant([3, 4]))
    full, less = draw(numbers, TEAM_4, 64), draw(numbers, dataclasses.replace(TEAM_4, flip=0.0, resizer=0.0), 64)
    assert full.degrees == less.degrees
    np.testing.assert_array_equal(full.pads, less.pads)


@pytest.mark.parametrize("fields", [{"flip": 1.5}, {"pad": -0.1}, {"pad_most": -0.2}, {"resizer_range": (0.8, 0.5)}])
def test_refuses_impossible_options(fields):
    with pytest.raises(ValueError, match="augmentation"):
        Augmentation(**fields)

"""Warps, changes of tone and random squares on drawn parameters: equal to definitions in NumPy, SciPy and OpenCV."""

import dataclasses
import math
import sys
import typing
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from hpa_tf.pipeline import NO_AUGMENTATION, Augmentation, EveryCell, augment_record, training_batches
from hpa_tf.pipeline.augmentation import random_square
from hpa_tf.pipeline.photometry import (
    Blur,
    Brightness,
    Gamma,
    Holes,
    MedianBlur,
    MotionBlur,
    Noise,
    Staining,
    _selection,
)
from hpa_tf.pipeline.steps import AnyStep, OneOf
from hpa_tf.pipeline.warps import (
    Affine,
    ElasticDistortion,
    GridDistortion,
    OpticalDistortion,
    Perspective,
    resample,
    resample_masks,
)
from hpa_tf.recipes import bestfitting, milimed, mpware_zfturbo_dieter, recipe_named, red_ai

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import loader_steps
import loader_views

SIZE = 41
MODES = {"zeros": "grid-constant", "mirror": "mirror"}


def image_of(size: int = SIZE, channels: int = 3, seed: int = 0) -> np.ndarray:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).random((size, size, channels)), (2, 2, 0))
    return ((smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)


def masks_of(size: int = SIZE) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    return (1 + rows // 14 * 3 + columns // 14).astype(np.int32)


def seeds(count: int) -> np.ndarray:
    return np.random.default_rng(5).integers(-(2**31), 2**31, (count, 2), np.int32)


# -- warps ------------------------------------------------------------------------------------------------------------


def affine(drawn, size):
    """Compose 3 x 3 matrices of (row, column, 1): the image is sheared, turned, enlarged, moved; then inverted."""
    a, s, centre = np.deg2rad(float(drawn.degrees)), float(drawn.scale), (size - 1) / 2
    to_centre, back = np.eye(3), np.eye(3)
    to_centre[:2, 2], back[:2, 2] = -centre, centre
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    shear = np.array([[1, -np.tan(np.deg2rad(float(drawn.shear))), 0], [0, 1, 0], [0, 0, 1]])
    move = np.eye(3)
    move[:2, 2] = drawn.shift.numpy()
    forward = back @ move @ shear @ np.diag([s, s, 1]) @ turn @ to_centre
    rows, columns = np.mgrid[:size, :size]
    found = np.linalg.inv(forward) @ np.stack([rows.ravel(), columns.ravel(), np.ones(size * size)])
    return found[:2].reshape(2, size, size)


def perspective(drawn, size):
    """OpenCV's transform between four pairs of corners."""
    u, left = drawn.numpy()
    corners = np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)], np.float32)
    targets = np.array([(-1 - u, -1 - left), (-1 + u, 1 + left), (1 + u, -1 + left), (1 - u, 1 - left)], np.float32)
    matrix = cv2.getPerspectiveTransform(corners, targets)
    place = (np.arange(size) + 0.5) * 2 / size - 1
    grid = np.stack(np.meshgrid(place, place), axis=-1).reshape(1, -1, 2)
    found = cv2.perspectiveTransform(grid, matrix).reshape(size, size, 2)
    return ((found + 1) * size / 2 - 0.5)[..., ::-1].transpose(2, 0, 1)


def optical(drawn, size):
    """OpenCV's camera model with k1 = k2 = k, as albumentations calls it."""
    k, camera = float(drawn), np.array([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1]], np.float32)
    maps = cv2.initUndistortRectifyMap(camera, np.array([k, k, 0, 0, 0]), None, camera, (size, size), cv2.CV_32FC1)
    return np.stack(maps[::-1])


def grid(drawn, size, steps=5):
    """Sum the factors of the stretches along each axis."""
    found = []
    for factors in drawn:
        per_pixel = [float(factors[min(i // (size // steps), steps)]) for i in range(size)]
        found.append(np.concatenate([[0], np.cumsum(per_pixel)[:-1]]))
    return np.stack(np.meshgrid(*found, indexing="ij"))


def elastic(drawn, size, step):
    """OpenCV's affine transform of three points, plus SciPy's Gaussian filter of the noise."""
    third, middle = size // 3, size // 2
    points = np.array([[third, third], [third, -third], [-third, -third]], np.float32) + middle
    matrix = cv2.getAffineTransform(points, points + drawn.corners.numpy())
    columns, rows = np.meshgrid(np.arange(size), np.arange(size))
    right, down = np.einsum("ij,jhw->ihw", matrix, np.stack([columns, rows, np.ones((size, size))]))
    smooth = [
        ndimage.gaussian_filter(one, step.smoothness * size, mode="constant", truncate=size) for one in drawn.noise
    ]
    return np.stack([down + smooth[1] * step.amplitude * size, right + smooth[0] * step.amplitude * size])


ELASTIC = ElasticDistortion(amplitude=0.1, smoothness=0.05, corners=0.2)
WARPS = {
    "rotate, scale, shift": (Affine(rotation=45, scale=(0.7, 1.3), shift=0.2), affine),
    "shear": (Affine(shear=25, border="mirror"), affine),
    "everything": (Affine(rotation=180, scale=(0.5, 2), shear=30, shift=0.5, border="mirror"), affine),
    "anywhere": (Affine(rotation=180, scale=(0.75, 4 / 3), anywhere=True), affine),
    "perspective": (Perspective(strength=0.3), perspective),
    "optical": (OpticalDistortion(strength=1.0), optical),
    "grid": (GridDistortion(strength=1.0), grid),
    "elastic": (ELASTIC, lambda drawn, size: elastic(drawn, size, ELASTIC)),
}


@pytest.mark.parametrize("name", WARPS)
def test_warps_equal_their_definitions(name):
    step, definition = WARPS[name]
    image, masks = image_of(), masks_of()
    for seed in seeds(5):
        drawn = step.draw(tf.constant(seed), SIZE)
        places = definition(drawn, SIZE)
        source = step.source(drawn, SIZE)
        np.testing.assert_allclose(source, places, atol=2e-3)
        planes = [
            ndimage.map_coordinates(plane, places, order=1, mode=MODES[step.border])
            for plane in image.transpose(2, 0, 1)
        ]
        warped = resample(tf.constant(image), source, step.border)
        # a pixel across the border of a frame of zeros differs by as much as its place does
        assert np.mean(np.abs(warped - np.stack(planes, axis=-1)) > 2e-3) < 0.003
        nearest = ndimage.map_coordinates(masks, places, order=0, mode=MODES[step.border])
        moved = resample_masks(tf.constant(masks), source, step.border)
        assert np.mean(moved.numpy() != nearest) < 0.01  # a place on .5 may go either way


def test_a_warp_that_moves_nothing_changes_nothing():
    image, masks = tf.constant(image_of()), tf.constant(masks_of())
    still = (Affine(), Perspective(strength=0), OpticalDistortion(strength=0), GridDistortion(strength=0))
    for step in (*still, ElasticDistortion(amplitude=0, corners=0)):
        source = step.source(step.draw(tf.constant([1, 2]), SIZE), SIZE)
        np.testing.assert_allclose(resample(image, source, step.border), image, atol=3e-5)
        np.testing.assert_array_equal(resample_masks(masks, source, step.border), masks)


def test_affine_draws_have_the_documented_ranges():
    step = Affine(rotation=30, scale=(0.9, 1.1), shear=5, shift=0.05)
    drawn = [step.draw(tf.constant(seed), 200) for seed in seeds(400)]
    for name, low, high in (("degrees", -30, 30), ("scale", 0.9, 1.1), ("shear", -5, 5)):
        values = np.array([getattr(one, name) for one in drawn])
        assert low <= values.min() < low + (high - low) / 20 and high - (high - low) / 20 < values.max() <= high
    shifts = np.array([one.shift for one in drawn])
    assert np.abs(shifts).max(axis=0) == pytest.approx([10, 10], abs=0.5)
    assert abs(np.corrcoef(shifts.T)[0, 1]) < 0.15


def test_anywhere_keeps_a_shrunken_image_whole():
    step = Affine(rotation=180, scale=(0.5, 0.6), anywhere=True)
    spot = np.zeros((60, 60, 1), np.float32)
    spot[20:40, 20:40] = 1
    for seed in seeds(20):
        drawn = step.draw(tf.constant(seed), 60)
        warped = resample(tf.constant(spot), step.source(drawn, 60), "zeros").numpy()
        assert warped.sum() == pytest.approx(400 * float(drawn.scale) ** 2, rel=0.03)


# -- tone -------------------------------------------------------------------------------------------------------------


def holes(image, drawn):
    image = image.copy()
    for top, left, bottom, right in drawn:
        image[top:bottom, left:right] = 0
    return image


def correlated(image, drawn):
    planes = [ndimage.correlate(plane, np.asarray(drawn), mode="mirror") for plane in image.transpose(2, 0, 1)]
    return np.stack(planes, axis=-1)


def medians(image, drawn):
    return ndimage.median_filter(image, ((3, 5, 7)[int(drawn)],) * 2 + (1,), mode="nearest")


TONES = {
    "noise": (Noise(), lambda image, drawn: np.clip(image + drawn, 0, 1)),
    "holes": (Holes(count=3, side=0.4, smallest=0.1), lambda image, drawn: holes(image, drawn.numpy())),
    "blur": (Blur(), correlated),
    "motion blur": (MotionBlur(sizes=(3, 5, 7)), correlated),
    "median blur": (MedianBlur(), medians),
    "gamma": (Gamma(), lambda image, drawn: np.power(image, float(drawn))),
    "staining": (Staining(), lambda image, drawn: np.clip(np.asarray(drawn[0]) * image ** np.asarray(drawn[1]), 0, 1)),
    "brightness": (Brightness(), lambda image, drawn: np.clip(image * float(drawn[0]) + float(drawn[1]), 0, 1)),
}


@pytest.mark.parametrize("name", TONES)
def test_changes_of_tone_equal_their_definitions(name):
    step, definition = TONES[name]
    image, results = image_of(), set()
    for seed in seeds(12):
        drawn = step.draw(tf.constant(seed), tf.constant(image))
        changed = step.change(tf.constant(image), drawn).numpy()
        np.testing.assert_allclose(changed, definition(image, drawn), atol=1e-5)
        results.add(changed.tobytes())
    assert len(results) >= 2


@pytest.mark.parametrize("count", [9, 25, 49])
def test_the_median_is_selected_by_any_order(count):
    """The 0-1 principle: pairs that put every row of zeros and ones right put every row right."""
    rows = [np.arange(count) < ones for ones in range(count + 1)]
    rng = np.random.default_rng(0)
    values = np.array([rng.permutation(rows[i % len(rows)]) for i in range(4000)], float).T
    expected = np.sort(values, axis=0)[count // 2]
    for i, j, lower, higher in _selection(count):
        one, other = values[i].copy(), values[j].copy()
        values[i] = np.minimum(one, other) if lower else np.nan  # what is not needed is never looked at
        values[j] = np.maximum(one, other) if higher else np.nan
    np.testing.assert_array_equal(values[count // 2], expected)


def test_kernels_are_those_of_the_documented_sizes():
    image = tf.constant(image_of())
    box = [Blur().draw(tf.constant(seed), image).numpy() for seed in seeds(200)]
    widths = np.bincount([int((one[3] > 0).sum()) for one in box])
    assert widths[3] + widths[5] == 200 and min(widths[3], widths[5]) > 70
    for one in box:
        side = int((one[3] > 0).sum())
        np.testing.assert_allclose(one[one > 0], 1 / side**2, rtol=1e-6)
        assert (one > 0).sum() == side**2
    lines = [MotionBlur().draw(tf.constant(seed), image).numpy() for seed in seeds(200)]
    assert max((one > 0).sum() for one in lines) == 5 and all(one.sum() == pytest.approx(1) for one in lines)
    assert all((one[[0, 6]] == 0).all() and (one[:, [0, 6]] == 0).all() for one in lines)
    assert all(ndimage.label(one > 0, np.ones((3, 3)))[1] == 1 for one in lines)  # a line has no gaps


def test_a_line_of_motion_joins_its_drawn_ends():
    """Rasterised here in fractions, from the ends: a pixel for each step along the longer axis, halves rounded up."""
    image, blur = tf.constant(image_of()), MotionBlur(sizes=(3, 5, 7))
    for seed in seeds(200):
        first, second = tf.unstack(tf.random.split(tf.constant(seed), 2))
        side = blur.sizes[int(tf.random.stateless_uniform([], first) * 3)]
        ends = np.floor(tf.random.stateless_uniform([2, 2], second).numpy() * side).astype(int) - side // 2
        (top, left), (bottom, right) = ends.tolist()
        steps = max(abs(bottom - top), abs(right - left))
        expected = np.zeros((7, 7))
        for i in range(steps + 1):
            share = Fraction(i, max(steps, 1))
            row, column = (math.floor(a + (b - a) * share + Fraction(1, 2)) for a, b in ((top, bottom), (left, right)))
            expected[3 + row, 3 + column] = 1 / (steps + 1)
        np.testing.assert_allclose(blur.draw(tf.constant(seed), image), expected, rtol=1e-6)


def test_holes_lie_in_the_image_and_have_the_documented_sides():
    image = tf.zeros([100, 100, 1])
    boxes = np.concatenate(
        [Holes(count=2, side=0.3, smallest=0.1).draw(tf.constant(seed), image) for seed in seeds(200)]
    )
    assert boxes.min() == 0 and boxes.max() == 100
    sides = boxes[:, 2] - boxes[:, 0]
    np.testing.assert_array_equal(sides, boxes[:, 3] - boxes[:, 1])
    assert (sides.min(), sides.max()) == (10, 30)


def test_noise_has_the_documented_deviation():
    image = tf.fill([64, 64, 4], 0.5)
    found = [float(np.std(Noise().draw(tf.constant(seed), image))) * 255 for seed in seeds(100)]
    assert 4.8 < min(found) < 5.5 and 12.5 < max(found) < 13.3


def test_staining_draws_each_channel_on_its_own_in_the_documented_ranges():
    step, image = Staining(factor=(0.25, 4), exponent=(0.5, 2)), tf.zeros([8, 8, 4])
    drawn = np.log2([np.stack(step.draw(tf.constant(seed), image)) for seed in seeds(300)])  # [300, 2, 4]
    for column, end in zip(drawn.transpose(1, 0, 2), (2, 1), strict=True):
        assert -end <= column.min() < -0.95 * end and 0.95 * end < column.max() <= end
        assert np.abs(column.mean(0)).max() < 0.15 * end  # as often weaker as stronger
    assert np.abs(np.corrcoef(drawn.reshape(300, 8).T) - np.eye(8)).max() < 0.25


@pytest.mark.parametrize("given", [{"factor": (0, 2)}, {"factor": (2, 0.5)}, {"exponent": (-1, 1)}])
def test_staining_without_a_logarithm_is_refused(given):
    with pytest.raises(ValueError, match="expected 0 < low <= high"):
        Staining(**given)


# -- steps ------------------------------------------------------------------------------------------------------------

ALL_STEPS = (
    Affine(rotation=45, scale=(0.7, 1.3), shift=0.06, border="mirror"),
    OneOf(0.5, (OpticalDistortion(), GridDistortion(), ElasticDistortion()), (1, 2, 1)),
    OneOf(0.5, (Blur(), MotionBlur(), MedianBlur())),
    Brightness(),
    Holes(),
)
EVERYTHING = Augmentation(flip=0.5, quarter_turns=True, rotation=0, steps=ALL_STEPS)


def test_eagerly_equals_in_tf_data_and_depends_on_the_seed():
    image, masks, some = tf.constant(image_of()), tf.constant(masks_of()), seeds(12)

    def augmented(seed):
        return augment_record({"image": image, "masks": masks}, seed, EVERYTHING)

    eager = [augmented(tf.constant(seed)) for seed in some]
    dataset = tf.data.Dataset.from_tensor_slices(some).map(augmented, num_parallel_calls=2)
    for one, other in zip(eager, dataset.as_numpy_iterator(), strict=True):
        np.testing.assert_allclose(one["image"], other["image"], atol=1e-6)
        np.testing.assert_array_equal(one["masks"], other["masks"])
    assert len({one["image"].numpy().tobytes() for one in eager}) == 12
    spec = dataset.element_spec
    assert spec["image"].shape == (SIZE, SIZE, 3) and spec["masks"].shape == (SIZE, SIZE)


def test_masks_move_with_their_image():
    spots = np.zeros((64, 64, 1), np.float32)
    masks = np.zeros((64, 64), np.int32)
    spots[10:30, 15:45], masks[10:30, 15:45] = 1, 7
    warps = [step for step, _ in WARPS.values()]
    for seed in seeds(10):
        steps = tuple(OneOf(1.0, (step,)) for step in warps)
        one = augment_record(
            {"image": tf.constant(spots), "masks": tf.constant(masks)},
            tf.constant(seed),
            Augmentation(flip=0.5, rotation=0, steps=steps[:1] + steps[4:6]),
        )
        inside = one["image"].numpy()[..., 0]
        agrees = (inside > 0.5) == (one["masks"].numpy() == 7)
        assert agrees.mean() > 0.95


def test_masks_among_the_channels_are_warped_and_keep_their_values():
    image = np.concatenate([image_of(), np.ones((SIZE, SIZE, 1), np.float32)], axis=-1)
    tone = dataclass_steps(OneOf(1.0, (Brightness(),)), OneOf(1.0, (Noise(),)), OneOf(1.0, (Holes(),)))
    found = augment_record({"image": tf.constant(image)}, tf.constant([3, 4]), tone, [True, True, True, False])
    np.testing.assert_array_equal(found["image"][..., 3], image[..., 3])
    assert np.abs(found["image"][..., :3] - image[..., :3]).mean() > 0.01
    moved = dataclass_steps(OneOf(1.0, (Affine(shift=0.3),)))
    found = augment_record({"image": tf.constant(image)}, tf.constant([3, 4]), moved, [True, True, True, False])
    assert (found["image"].numpy()[..., 3] == 0).any()


def dataclass_steps(*steps) -> Augmentation:
    return Augmentation(flip=0, rotation=0, steps=steps)


def test_one_of_chooses_by_its_weights_and_steps_happen_as_often_as_they_say():
    marks = [Brightness(brightness=0, contrast=0), Gamma(exponent=(2, 2)), Gamma(exponent=(3, 3))]
    augmentation = dataclass_steps(OneOf(0.8, tuple(marks), (1, 2, 5)))
    image = tf.fill([2, 2, 1], 0.5)
    dataset = tf.data.Dataset.from_tensor_slices(seeds(3000))
    dataset = dataset.map(lambda seed: augment_record({"image": image}, seed, augmentation)["image"][0, 0, 0])
    values = np.array(list(dataset.as_numpy_iterator()))
    shares = [np.mean(np.isclose(values, value)) for value in (0.5, 0.25, 0.125)]
    assert shares == pytest.approx([0.2 + 0.1, 0.2, 0.5], abs=0.03)


def test_switching_a_step_off_leaves_the_others_draws_alone():
    image = tf.constant(image_of())
    off = Augmentation(flip=0, rotation=0, steps=(Noise(probability=0), *ALL_STEPS[:1]))
    other = Augmentation(flip=0, rotation=0, steps=(Gamma(probability=0), *ALL_STEPS[:1]))
    for seed in seeds(5):
        one, two = (augment_record({"image": image}, tf.constant(seed), a)["image"] for a in (off, other))
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("steps", [(Noise(probability=1.5),), (Affine(probability=-0.1),)])
def test_refuses_impossible_probabilities(steps):
    with pytest.raises(ValueError, match=r"augmentation\.steps"):
        Augmentation(steps=steps)


def test_refuses_one_of_nothing_or_with_other_weights():
    for steps, weights in (((), ()), ((Noise(), Gamma()), (1.0,)), ((Noise(),), (0.0,))):
        with pytest.raises(ValueError, match=r"augmentation\.steps"):
            OneOf(0.5, steps, weights)


# -- random squares ---------------------------------------------------------------------------------------------------


def test_random_squares_cut_image_and_masks_at_every_place():
    places = np.arange(100, dtype=np.float32).reshape(10, 10, 1)
    picture = {"image": tf.constant(places), "masks": tf.constant(places[..., 0].astype(np.int32))}
    corners = set()
    for seed in seeds(300):
        cut = random_square(picture, tf.constant(seed), 7)
        corner = int(cut["masks"][0, 0])
        top, left = divmod(corner, 10)
        np.testing.assert_array_equal(cut["image"], places[top : top + 7, left : left + 7])
        np.testing.assert_array_equal(cut["masks"], places[top : top + 7, left : left + 7, 0])
        corners.add((top, left))
    assert corners == {(top, left) for top in range(4) for left in range(4)}


def test_no_augmentation_is_the_identity_for_records_too():
    image, masks = tf.constant(image_of()), tf.constant(masks_of())
    same = augment_record({"image": image, "masks": masks}, tf.constant([1, 2]), NO_AUGMENTATION)
    np.testing.assert_array_equal(same["image"], image)
    np.testing.assert_array_equal(same["masks"], masks)


# -- what they cost ---------------------------------------------------------------------------------------------------


def test_every_step_and_every_augmentation_of_a_team_has_its_cost_measured():
    """docs/teams.md is written from it."""
    assert {type(step) for step in loader_steps.STEPS} == {*typing.get_args(AnyStep)} - {OneOf}

    def alone(name: str) -> Augmentation:
        return dataclasses.replace(recipe_named(name).augmentation, paste=None, cut=None)

    measured = {alone(name) for name in loader_steps.RECIPES}
    for team in (bestfitting, red_ai, mpware_zfturbo_dieter, milimed):
        assert {recipe.name for recipe in team.RECIPES if alone(recipe.name) not in measured} == set()


def test_what_is_pasted_cut_out_or_cut_has_its_cost_measured(tmp_path, monkeypatch):
    """Each always happens: the pasted cell finds room, in a field of another image without mitotic cells."""
    fields, cells = loader_views.FIELD_CHANGES, loader_views.CELL_CHANGES
    steps = {"paste": fields["a cell pasted"][1], "cut": cells["cut by a line"][1]}
    assert all(getattr(augmentation, name).probability == 1 for name, augmentation in steps.items())
    square = fields["a square of 384 px"][0]
    assert (square.size, square.whole) == (384, 512)
    monkeypatch.setattr(loader_views, "FIELDS", 4)
    examples = loader_views.write_fields(tmp_path / "fields", 8, num_cells=8)
    view, paste = fields["a cell pasted"]
    options = {"sampling": EveryCell(num_cells=4), "batch_size": 4, "seed": 0, "epoch": 0}
    (batch,) = training_batches(examples, view, paste, **options)
    assert tf.reduce_sum(batch.inputs["present"][:, 8]) == 3


def test_the_cost_of_a_recipe_is_that_of_its_own_view():
    for name, expected in (
        ("cpu_fcan", "Field, 192 px, 4 channels"),
        ("cpu_puzzle_cam", "Field, 256 px, 4 channels"),
        ("cpu_duo_branch", "Bag, 64 px, 4 channels"),
        ("cpu_student_green", "Crop, 64 px, 1 channels"),
    ):
        what, seconds = loader_steps.recipe_cost(recipe_named(name), 1)
        assert what == expected and 0 < seconds < 60

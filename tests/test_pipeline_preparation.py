"""The preparation against an independent NumPy implementation, the parser against the schema, depths, hostile sizes."""

import dataclasses

import cv2
import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage
from shards import one_hot, png, random_cell, write_dataset

from hpa_tf import records
from hpa_tf.pipeline import decode_and_prepare, parse_cell
from hpa_tf.pipeline.parsing import feature_specification
from hpa_tf.views import Crop
from hpa_tf.views.crop import cell_box, prepare


def reference(crop: np.ndarray, region: np.ndarray, preparation: Crop) -> np.ndarray:
    """Prepare in float64 with NumPy and SciPy, written from METHODS 3 alone."""
    own = region == 2 if preparation.surroundings == "nucleus" else np.isin(region, (1, 2))
    if own.any():
        rows, columns = np.nonzero(own.any(axis=1))[0], np.nonzero(own.any(axis=0))[0]
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    else:
        top, left, bottom, right = 0, 0, *region.shape
    if preparation.square == "grow":
        side = max(bottom - top, right - left)
        top -= (side - (bottom - top)) // 2
        left -= (side - (right - left)) // 2
        bottom, right = top + side, left + side
    top, left = max(top - preparation.margin, 0), max(left - preparation.margin, 0)
    bottom = min(bottom + preparation.margin, region.shape[0])
    right = min(right + preparation.margin, region.shape[1])
    pixels = crop.astype(np.float64) / (255 if crop.dtype == np.uint8 else 65535)
    if preparation.surroundings in ("none", "nucleus"):
        pixels[~own] = 0
    elif preparation.surroundings == "background":
        pixels[region == 3] = 0
    pixels = pixels[top:bottom, left:right]
    side = max(pixels.shape[:2])
    square = np.zeros((side, side, 4))
    above, before = (side - pixels.shape[0]) // 2, (side - pixels.shape[1]) // 2
    square[above : above + pixels.shape[0], before : before + pixels.shape[1]] = pixels
    places = (np.arange(preparation.size) + 0.5) * side / preparation.size - 0.5
    grid = np.meshgrid(places, places, indexing="ij")
    return np.stack([ndimage.map_coordinates(square[..., c], grid, order=1, mode="nearest") for c in range(4)], axis=-1)


def shape_error(crop: np.ndarray) -> float:
    """Return what float32 positions in a crop of this size cost on noise, 0..1."""
    return (max(crop.shape[:2]) + 4) * 2**-23


PREPARATIONS = [
    Crop(size=32),
    Crop(size=33, surroundings="background", square="grow", margin=3),
    Crop(size=16, surroundings="all", margin=2),
    Crop(size=48, surroundings="none", square="grow"),
    Crop(size=1),
]
OF_NUCLEI = [Crop(size=24, surroundings="nucleus"), Crop(20, "nucleus", "grow", 2)]


@pytest.mark.parametrize("preparation", PREPARATIONS + OF_NUCLEI, ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(40, 25), (7, 90), (12, 12)])
def test_equals_the_independent_implementation(size, dtype, preparation):
    crop, region = random_cell(np.random.default_rng(sum(size)), *size, dtype)
    prepared = prepare(tf.constant(crop), tf.constant(region), preparation).numpy()
    assert prepared.shape == (preparation.size, preparation.size, 4) and prepared.dtype == np.float32
    np.testing.assert_allclose(prepared, reference(crop, region, preparation), atol=shape_error(crop))
    assert prepared.max() > 0.1


@pytest.mark.parametrize("preparation", PREPARATIONS, ids=str)
def test_the_box_of_a_record_saves_looking_for_it(preparation):
    crop, region = random_cell(np.random.default_rng(7), 40, 55)
    rows, columns = np.nonzero(np.isin(region, (1, 2)))
    box = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
    np.testing.assert_array_equal(cell_box(tf.constant(region)), box)
    for given in (tf.constant(box, tf.int64), tf.constant(box, tf.int32)):
        prepared = prepare(tf.constant(crop), tf.constant(region), preparation, given).numpy()
        np.testing.assert_array_equal(prepared, prepare(tf.constant(crop), tf.constant(region), preparation))
    other = prepare(tf.constant(crop), tf.constant(region), preparation, tf.constant([0, 0, 9, 9])).numpy()
    assert (other != prepared).any()  # it is the given box that counts


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 3), (600, 450)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_sizes_from_one_pixel_to_larger_than_the_target(shape, dtype):
    rng = np.random.default_rng(1)
    crop = rng.integers(1, np.iinfo(dtype).max, (*shape, 4), dtype=dtype)
    region = np.ones(shape, np.uint8)
    for preparation in (Crop(size=24), Crop(size=24, square="grow", margin=5)):
        prepared = prepare(tf.constant(crop), tf.constant(region), preparation).numpy()
        np.testing.assert_allclose(prepared, reference(crop, region, preparation), atol=shape_error(crop))


def test_one_pixel_fills_the_input():
    crop = np.array([[[51, 102, 153, 255]]], np.uint8)
    prepared = prepare(tf.constant(crop), tf.constant([[2]], tf.uint8), Crop(size=5)).numpy()
    np.testing.assert_allclose(prepared, np.broadcast_to([0.2, 0.4, 0.6, 1.0], (5, 5, 4)), atol=1e-7)


def test_hand_checked_mask_pad_and_place():
    crop = np.full((4, 6, 4), 255, np.uint8)
    region = np.array([[0, 0, 0, 0, 0, 0], [3, 1, 1, 2, 1, 0], [3, 0, 1, 2, 0, 0], [0, 0, 0, 0, 0, 3]], np.uint8)
    tight = np.array([[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]])  # 2 x 4 box: one row of zeros each side
    prepared = prepare(tf.constant(crop), tf.constant(region), Crop(size=4)).numpy()
    np.testing.assert_array_equal(prepared, np.repeat(tight[..., None], 4, axis=-1))
    grown = prepare(tf.constant(crop), tf.constant(region), Crop(size=4, square="grow", surroundings="all"))
    np.testing.assert_array_equal(grown, np.ones((4, 4, 4)))
    kept = prepare(tf.constant(crop), tf.constant(region), Crop(size=6, surroundings="background", margin=1))
    np.testing.assert_array_equal(kept[1:5, :, 0], (region != 3).astype(float))


def test_a_nucleus_fills_the_input_whatever_box_the_cell_has_and_one_that_is_not_there_is_black():
    crop, region = np.full((9, 7, 4), 51, np.uint8), np.ones((9, 7), np.uint8)
    crop[3:5, 2:6] = 102
    view, box = Crop(size=8, surroundings="nucleus"), tf.constant([0, 0, 9, 7])
    np.testing.assert_array_equal(prepare(tf.constant(crop), tf.constant(region), view, box), 0)
    region[3:5, 2:6] = 2  # 2 x 4 px: a row of zeros above and below
    prepared = prepare(tf.constant(crop), tf.constant(region), dataclasses.replace(view, size=4), box).numpy()
    np.testing.assert_allclose(prepared[:, :, 0], np.repeat([[0], [0.4], [0.4], [0]], 4, axis=1), atol=1e-7)


def test_a_crop_without_its_cell_is_black_not_an_error():
    crop, region = np.full((8, 5, 4), 200, np.uint8), np.full((8, 5), 3, np.uint8)
    np.testing.assert_array_equal(prepare(tf.constant(crop), tf.constant(region), Crop(size=8)), 0)


@pytest.mark.parametrize("preparation", PREPARATIONS, ids=str)
def test_8_bit_is_16_bit_times_257(preparation):
    crop, region = random_cell(np.random.default_rng(3), 50, 37)
    low = prepare(tf.constant(crop), tf.constant(region), preparation).numpy()
    high = prepare(tf.constant(crop.astype(np.uint16) * 257), tf.constant(region), preparation).numpy()
    np.testing.assert_allclose(low, high, rtol=0, atol=2.5e-7)  # two float32 roundings at 1.0


def test_16_bit_never_becomes_8():
    crop = np.arange(64 * 4, dtype=np.uint16).reshape(8, 8, 4)  # all below 256: 8 bit would leave nothing
    region = np.ones((8, 8), np.uint8)
    prepared = decode_and_prepare(tf.constant(png(crop)), tf.constant(png(region)), Crop(size=8)).numpy()
    np.testing.assert_allclose(prepared * 65535, crop, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_same_bits_eagerly_in_a_graph_and_in_tf_data(dtype):
    preparation = Crop(size=40)
    crop, region = random_cell(np.random.default_rng(4), 61, 44, dtype)
    eager = prepare(tf.constant(crop), tf.constant(region), preparation).numpy()
    encoded = tf.constant(png(crop)), tf.constant(png(region))
    traced = tf.function(lambda c, r: decode_and_prepare(c, r, preparation))(*encoded).numpy()
    dataset = tf.data.Dataset.from_tensors(encoded).map(lambda c, r: decode_and_prepare(c, r, preparation))
    np.testing.assert_array_equal(traced, eager)
    np.testing.assert_array_equal(next(dataset.as_numpy_iterator()), eager)


def test_refuses_other_types_and_sizes():
    with pytest.raises(TypeError, match="found float32; expected uint8 or uint16"):
        prepare(tf.zeros((4, 4, 4)), tf.zeros((4, 4), tf.uint8), Crop())
    with pytest.raises(ValueError, match="size 0"):
        Crop(size=0)


def test_parser_reads_every_field_of_the_table(tmp_path):
    table = write_dataset(tmp_path, np.stack([one_hot(3, 7)] * 2), num_folds=1, num_shards=1)
    path = str(tmp_path / table["shard"][0])
    serialized = next(iter(tf.data.TFRecordDataset(path)))  # plain TensorFlow reads our shards
    parsed, expected = parse_cell(serialized), records.decode(serialized.numpy())
    assert parsed.keys() == expected.keys() - {"schema_version"}
    for name, value in parsed.items():
        np.testing.assert_array_equal(value.numpy(), expected[name], err_msg=name)
    assert parse_cell(serialized, ["crop", "cell"]).keys() == {"crop", "cell"}
    with pytest.raises(KeyError, match="picture"):
        feature_specification(names=["picture"])


def test_parser_refuses_another_schema_version():
    fields = [field for field in records.CELL_FIELDS if field.name in ("schema_version", "cell")]
    other = records.encode({"schema_version": records.SCHEMA_VERSION + 1, "cell": 1}, tuple(fields))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"schema version.*build the data again"):
        parse_cell(tf.constant(other), ["cell"])


def test_preparations_differ_where_their_fields_do():
    crop, region = random_cell(np.random.default_rng(5), 30, 44)
    base = Crop(size=20)
    others = [{"surroundings": one} for one in ("background", "all", "nucleus")] + [{"margin": 4}]
    images = [
        prepare(tf.constant(crop), tf.constant(region), dataclasses.replace(base, **fields)).numpy()
        for fields in [{}, *others]
    ]
    for i, one in enumerate(images):
        assert all(np.abs(one - other).max() > 1e-3 for other in images[:i])


def test_resize_agrees_with_opencv_on_a_whole_crop():
    crop = np.random.default_rng(6).integers(0, 256, (96, 96, 4), dtype=np.uint8)
    prepared = prepare(tf.constant(crop), tf.ones((96, 96), tf.uint8), Crop(size=64)).numpy()
    expected = cv2.resize(crop.astype(np.float32) / 255, (64, 64), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(prepared, expected, atol=1e-5)

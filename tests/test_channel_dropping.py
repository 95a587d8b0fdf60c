"""Channels that are black in some training examples, against the same definition in NumPy."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from shards import write_dataset

from hpa_tf.classes import CHANNELS
from hpa_tf.errors import InputError
from hpa_tf.pipeline import NO_AUGMENTATION, Augmentation, SemiBalanced, read_examples, training_batches
from hpa_tf.pipeline.dropping import KEY, drop_channels
from hpa_tf.recipes import Recipe
from hpa_tf.views import Bag, Crop

DROP = dataclasses.replace(NO_AUGMENTATION, drop_red=0.25, drop_yellow=0.5)


def scramble(bits: np.ndarray) -> np.ndarray:
    """Mix uint32 as Chris Wellons' lowbias32 does."""
    bits = bits ^ (bits >> np.uint32(16))
    bits = (bits * np.uint32(0x7FEB352D)).astype(np.uint32)
    bits = bits ^ (bits >> np.uint32(15))
    bits = (bits * np.uint32(0x846CA68B)).astype(np.uint32)
    return bits ^ (bits >> np.uint32(16))


def black(seeds: np.ndarray, probabilities: dict[str, float]) -> np.ndarray:
    """Return which of the four channels are black, bool [B, 4]: the definition."""
    seeds = seeds.astype(np.int64).astype(np.uint32)
    example = scramble(scramble(seeds[:, 0] ^ np.uint32(KEY)) ^ seeds[:, 1])
    place = scramble(np.arange(1, 5, dtype=np.uint32))
    numbers = (scramble(example[:, None] ^ place[None, :]) >> np.uint32(8)) / 2**24
    return numbers < np.array([probabilities.get(channel, 0) for channel in CHANNELS])


@pytest.mark.parametrize("channels", [CHANNELS, ("yellow", "green", "red"), ("red", "green", "blue", "yellow", "cell")])
@pytest.mark.parametrize("shape", [(), (3,)], ids=["pictures", "bags"])
def test_numbers_are_those_of_the_definition(channels, shape):
    rng = np.random.default_rng(0)
    seeds = rng.integers(-(2**31), 2**31, (2000, 2), np.int32)
    images = rng.uniform(0.1, 1, (2000, *shape, 2, 2, len(channels))).astype(np.float32)
    probabilities = {"red": 0.25, "yellow": 0.5}
    expected = black(seeds, probabilities)
    gone = np.stack([expected[:, CHANNELS.index(c)] if c in CHANNELS else np.zeros(2000, bool) for c in channels], -1)
    found = drop_channels(tf.constant(images), tf.constant(seeds), channels, probabilities).numpy()
    gone = gone.reshape(2000, *[1] * (images.ndim - 2), len(channels))
    np.testing.assert_array_equal(found, np.where(gone, 0, images))
    shares = expected.mean(axis=0)  # of 2,000: 5 standard errors
    assert abs(shares[0] - 0.25) < 0.05 and abs(shares[3] - 0.5) < 0.056 and shares[1] == shares[2] == 0
    assert abs((expected[:, 0] & expected[:, 3]).mean() - 0.125) < 0.037  # drawn on their own


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, (np.random.default_rng(0).random((24, 19)) < 0.2).astype(np.float32), dtypes=(np.uint8,))
    return read_examples(folder)


def batches(examples, view, augmentation, **how):
    how = {"batch_size": 8, "seed": 5, "epoch": 1, **how}
    found = training_batches(examples, view, augmentation, SemiBalanced(num_cells=32), **how)
    return list(found.as_numpy_iterator())


@pytest.mark.parametrize("view", [Crop(16), Bag(num_cells=2, cell=Crop(16))], ids=["crops", "bags"])
def test_batches_lose_the_channels_of_their_seeds_and_nothing_else(examples, view):
    plain, dropped = (batches(examples, view, augmentation) for augmentation in (NO_AUGMENTATION, DROP))
    seen = set()
    for one, other in zip(plain, dropped, strict=True):
        gone = black(one.seed, {"red": 0.25, "yellow": 0.5})
        seen |= {tuple(row) for row in gone}
        image = one.inputs["image"]
        expected = np.where(gone.reshape(len(gone), *[1] * (image.ndim - 2), 4), 0, image)
        np.testing.assert_array_equal(other.inputs["image"], expected)
        np.testing.assert_array_equal(one.cell_labels, other.cell_labels)
    assert len(seen) > 2  # images with and without: one network sees several sets


def test_a_resumed_epoch_and_two_workers_drop_the_same(examples):
    whole = batches(examples, Crop(16), DROP)
    resumed = batches(examples, Crop(16), DROP, first_step=2)
    for one, other in zip(whole[2:], resumed, strict=True):
        np.testing.assert_array_equal(one.inputs["image"], other.inputs["image"])
    parts = [batches(examples, Crop(16), DROP, shard=(worker, 2)) for worker in range(2)]
    for one, *both in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(one.inputs["image"], np.concatenate([part.inputs["image"] for part in both]))


def test_what_a_network_does_not_see_cannot_be_dropped():
    with pytest.raises(InputError, match="drop_yellow"):
        Recipe("x", view=Crop(16, channels=("red", "green", "blue")), augmentation=DROP)
    with pytest.raises(ValueError, match="drop_red"):
        Augmentation(drop_red=1.5)

"""Losses: hand-computed values, Keras as reference, gradients at the edges, unknown labels."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from hpa_tf.losses import PerCell, focal
from hpa_tf.models.noise import example_seeds


def test_focal_by_hand():
    """p = 1/2 and label 1: BCE = log 2, pt = 1/2, loss = (1/2)^2 log 2; a soft label of 1/2 has the same BCE."""
    np.testing.assert_allclose(
        focal(tf.constant([1.0, 0.5]), tf.constant([0.0, 0.0]), 2.0), [np.log(2) / 4] * 2, rtol=1e-6
    )


def test_gamma_0_is_binary_cross_entropy():
    rng = np.random.default_rng(0)
    labels, logits = rng.random((50, 18)).astype("f4"), rng.normal(0, 5, (50, 18)).astype("f4")
    expected = keras.ops.binary_crossentropy(labels, logits, from_logits=True)
    np.testing.assert_allclose(focal(tf.constant(labels), tf.constant(logits), 0), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_formula_in_float64(gamma):
    rng = np.random.default_rng(1)
    labels, logits = rng.random(200), rng.normal(0, 4, 200)
    p = 1 / (1 + np.exp(-logits))
    bce = -labels * np.log(p) - (1 - labels) * np.log1p(-p)
    expected = (1 - np.exp(-bce)) ** gamma * bce
    found = focal(tf.constant(labels, tf.float32), tf.constant(logits, tf.float32), gamma)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2])
@pytest.mark.parametrize("logit", [-1e4, -90.0, 0.0, 90.0, 1e4])
@pytest.mark.parametrize("label", [0.0, 0.5, 1.0])
def test_value_and_gradient_are_finite_everywhere(gamma, logit, label):
    x = tf.Variable(logit)
    with tf.GradientTape() as tape:
        loss = focal(tf.constant(label), x, gamma)
    assert np.isfinite(loss.numpy()) and np.isfinite(tape.gradient(loss, x).numpy())


class Constant(keras.Model):
    """Returns the logits it was made with."""

    def __init__(self, logits):
        super().__init__()
        self.logits = tf.constant(logits, tf.float32)

    def call(self, inputs, training=False):
        return self.logits


def test_unknown_labels_add_nothing():
    labels = np.ones((2, 19), np.float32)
    known = np.ones((2, 19), np.float32)
    known[1, 3:] = 0
    batch = {"image": tf.zeros((2, 4, 4, 4)), "labels": tf.constant(labels), "known": tf.constant(known)}
    loss = PerCell(focal_gamma=0)(Constant(np.zeros((2, 18))), batch).numpy()
    np.testing.assert_allclose(loss, [np.log(2), 3 / 18 * np.log(2)], rtol=1e-6)


def test_negative_is_not_trained():
    batch = {"image": tf.zeros((1, 4, 4, 4)), "known": tf.ones((1, 19))}
    network = Constant(np.zeros((1, 18)))
    labels = np.zeros((2, 1, 19), np.float32)
    labels[1, 0, 18] = 1
    first, second = (PerCell()(network, {**batch, "labels": tf.constant(one)}).numpy() for one in labels)
    np.testing.assert_array_equal(first, second)


def test_training_mode_is_on():
    """Dropout asks for seeds, so the objective trains."""
    from hpa_tf.models.efficientnet import SmallNetwork

    batch = {"image": tf.zeros((1, 8, 8, 4)), "labels": tf.zeros((1, 19)), "known": tf.ones((1, 19))}
    network = SmallNetwork(widths=(4,)).build(8)
    with pytest.raises(RuntimeError, match="seeds"):
        PerCell()(network, batch)
    with example_seeds(tf.zeros((1, 2), tf.int32)):
        assert PerCell()(network, batch).shape == (1,)

"""Losses: hand-computed values, Keras as reference, gradients at the edges, unknown labels."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from hpa_tf.losses import focal


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

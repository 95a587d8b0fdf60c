"""Validation metrics: brute force, scikit-learn and hand-computed values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from hpa_tf import metrics


def brute_force_ap(labels, scores):
    """METHODS 3, literally, for scores without ties."""

    def precision_sum(order):
        total, result = 0.0, 0.0
        for k, i in enumerate(order, start=1):
            total += labels[i]
            result += total / k
        return result

    by_score = sorted(range(len(labels)), key=lambda i: -scores[i])
    by_label = sorted(range(len(labels)), key=lambda i: -labels[i])
    return precision_sum(by_score) / precision_sum(by_label)


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(0, 10**6))
def test_soft_ap_is_the_formula(count, seed):
    rng = np.random.default_rng(seed)
    labels, scores = (
        rng.choice([0, 0.25, 0.5, 1], (count, 3)),
        rng.permuted(np.linspace(0.01, 0.99, count * 3)).reshape(-1, 3),
    )
    found = metrics.soft_average_precision(labels, scores)
    for k in range(3):
        if labels[:, k].any():
            assert found[k] == pytest.approx(brute_force_ap(labels[:, k], scores[:, k]), rel=1e-12)
        else:
            assert np.isnan(found[k])


def test_soft_ap_by_hand():
    """Labels 1, 0, 1 in the order of the scores: (1 + 1/2 + 2/3) / (1 + 1 + 2/3)."""
    found = metrics.soft_average_precision([[1.0], [0.0], [1.0]], [[0.9], [0.5], [0.1]])
    assert found[0] == pytest.approx((1 + 1 / 2 + 2 / 3) / (1 + 1 + 2 / 3))


def test_soft_ap_of_the_labels_themselves_is_1_and_never_more():
    rng = np.random.default_rng(0)
    labels = rng.random((200, 18))
    np.testing.assert_allclose(metrics.soft_average_precision(labels, labels), 1)
    assert (metrics.soft_average_precision(labels, rng.random((200, 18))) < 1).all()


def test_ties_do_not_depend_on_the_order_of_the_cells():
    rng = np.random.default_rng(1)
    labels, scores = rng.random((100, 4)), rng.integers(0, 4, (100, 4)) / 4
    order = rng.permutation(100)
    for measure in (metrics.soft_average_precision, metrics.area_under_curve, metrics.calibration_error):
        np.testing.assert_allclose(measure(labels, scores), measure(labels[order], scores[order]), rtol=1e-12)


def test_ties_are_the_mean_over_their_orders_when_all_are_tied():
    """All scores equal: precision is the share of positives at every place."""
    labels = np.array([[1.0]] * 2 + [[0.0]] * 6)
    expected = 8 * 0.25 / (1 + 1 + sum(2 / k for k in range(3, 9)))
    assert metrics.soft_average_precision(labels, np.full((8, 1), 0.5))[0] == pytest.approx(expected)


def test_unknown_values_are_left_out():
    rng = np.random.default_rng(2)
    labels, scores, known = rng.random((80, 2)), rng.random((80, 2)), rng.random((80, 2)) > 0.4
    hidden = np.where(known, labels, np.nan)
    for measure in (metrics.soft_average_precision, metrics.area_under_curve, metrics.calibration_error):
        kept = [measure(labels[known[:, [k]][:, 0], k : k + 1], scores[known[:, k], k : k + 1])[0] for k in range(2)]
        np.testing.assert_allclose(measure(hidden, scores, known), kept, rtol=1e-12)


@settings(deadline=None)
@given(st.integers(2, 80), st.integers(0, 10**6))
def test_auc_is_that_of_scikit_learn(count, seed):
    rng = np.random.default_rng(seed)
    labels, scores = rng.random((count, 1)), rng.integers(0, 9, (count, 1)) / 8
    positive = labels[:, 0] >= 0.5
    found = metrics.area_under_curve(labels, scores)[0]
    if positive.all() or not positive.any():
        assert np.isnan(found)
    else:
        assert found == pytest.approx(roc_auc_score(positive, scores[:, 0]), rel=1e-12)


def test_calibration_error_by_hand():
    """Two bins: 0.2 with label mean 1/2, twice; 0.8 with label 1, once: (2 x 0.3 + 1 x 0.2) / 3."""
    found = metrics.calibration_error([[1.0], [0.0], [1.0]], [[0.2], [0.2], [0.8]], num_bins=2)
    assert found[0] == pytest.approx((2 * 0.3 + 0.2) / 3)
    assert metrics.calibration_error([[1.0]], [[1.0]])[0] == 0  # the last bin is closed


def test_perfectly_calibrated_predictions_have_a_small_error():
    rng = np.random.default_rng(3)
    scores = rng.random((200_000, 1))
    assert metrics.calibration_error(rng.random((200_000, 1)) < scores, scores)[0] < 0.01


def test_nothing_to_measure_is_nan():
    assert np.isnan(metrics.mean_over_classes(np.array([np.nan])))
    assert metrics.mean_over_classes(np.array([np.nan, 0.5, 1.0])) == 0.75
    empty = np.zeros((0, 2))
    for measure in (metrics.soft_average_precision, metrics.area_under_curve, metrics.calibration_error):
        assert np.isnan(measure(empty, empty)).all()


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="shapes"):
        metrics.soft_average_precision(np.zeros((3, 2)), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="NaN"):
        metrics.soft_average_precision(np.ones((3, 2)), np.full((3, 2), np.nan))

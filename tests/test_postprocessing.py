"""Post-processing: hand-checked numbers, an independent per-image reference, and properties."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpa_tf.classes import NUM_CLASSES
from hpa_tf.imaging.rules import Factor, SmallNucleusRule
from hpa_tf.postprocessing import (
    FINAL_1,
    FINAL_2,
    PREDICTED_NEGATIVE,
    PostProcessing,
    cell_values,
    further_factors,
    mix_with_image_mean,
    postprocess,
    weighted_mean,
    with_negative,
)

NO_MIXING = PostProcessing(image_mixing=False)


def reference(members, weights, value, image_ids, cell_weights):
    """METHODS 3, cell by cell and class by class."""
    total = sum(weights)
    scores = []
    for n in range(len(value)):
        p = [sum(w * m[n][c] for w, m in zip(weights, members, strict=True)) / total for c in range(18)]
        scores.append([x * value[n] for x in [*p, 1 - max(p)]])
    mixed = [row[:] for row in scores]
    for n in range(len(value)):
        valid = [m for m in range(len(value)) if image_ids[m] == image_ids[n] and value[m] == 1]
        for c in range(19):
            if valid:
                mean = sum(scores[m][c] for m in valid) / len(valid)
                mixed[n][c] = cell_weights[c] * scores[n][c] + (1 - cell_weights[c]) * mean
    return np.array(mixed)


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    num_cells, num_members = draw(st.integers(1, 9)), draw(st.integers(1, 4))
    members = [rng.random((num_cells, 18)) ** 3 for _ in range(num_members)]
    weights = rng.random(num_members) + 0.01
    value = rng.choice([1.0, 1.0, 0.93, 0.001, 0.0], num_cells)
    image_ids = rng.choice(["a", "b", "c"], num_cells)
    return members, weights, value, image_ids


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from([FINAL_1, FINAL_2, NO_MIXING]))
def test_equals_the_formula_written_out(case, options):
    members, weights, value, image_ids = case
    cell_weights = options.cell_weights if options.image_mixing else np.ones(19)
    expected = reference(members, weights, value, image_ids, cell_weights)
    np.testing.assert_allclose(postprocess(*case, options), expected, rtol=1e-12, atol=1e-15)


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from([FINAL_1, FINAL_2]), st.integers(0, 2**32))
def test_bounded_monotone_and_blind_to_the_order_of_cells(case, options, seed):
    members, weights, value, image_ids = case
    rng = np.random.default_rng(seed)
    scores = postprocess(*case, options)
    assert scores.min() >= 0
    assert scores.max() <= 1

    order = rng.permutation(len(value))
    permuted = postprocess([m[order] for m in members], weights, value[order], image_ids[order], options)
    np.testing.assert_allclose(permuted, scores[order], rtol=1e-12, atol=1e-15)

    raised = [member.copy() for member in members]
    raised[0][rng.integers(len(value)), rng.integers(18)] = 1.0  # one probability up: no located class goes down
    higher = postprocess(raised, weights, value, image_ids, options)
    assert (higher[:, :18] >= scores[:, :18] - 1e-12).all()
    assert (higher[:, 18] <= scores[:, 18] + 1e-12).all()


def test_one_cell_is_its_own_image_mean():
    member = np.linspace(0, 0.9, 18)[None]
    np.testing.assert_allclose(postprocess([member], None, [1.0], ["a"]), with_negative(member), rtol=1e-15)


def test_no_valid_cell_means_no_mixing():
    member = np.random.default_rng(0).random((3, 18))
    scores = postprocess([member], None, [0.5, 0.001, 0.0], ["a", "a", "a"])
    np.testing.assert_array_equal(scores, with_negative(member) * np.array([[0.5], [0.001], [0.0]]))


def test_invalid_cells_receive_the_mean_but_do_not_enter_it():
    member = np.zeros((3, 18))
    member[:, 2] = [0.8, 0.4, 1.0]
    scores = postprocess([member], None, [1.0, 1.0, 0.5], ["a"] * 3)
    np.testing.assert_allclose(scores[:, 2], [0.7 * 0.8 + 0.3 * 0.6, 0.7 * 0.4 + 0.3 * 0.6, 0.7 * 0.5 + 0.3 * 0.6])
    np.testing.assert_allclose(scores[:, 18], [0.2, 0.6, 0.0], atol=1e-15)  # Negative is not mixed


def test_images_do_not_touch_each_other():
    rng = np.random.default_rng(1)
    member, value = rng.random((6, 18)), np.ones(6)
    images = np.array(list("aabbbb"))
    both = postprocess([member], None, value, images)
    alone = [
        postprocess([member[images == image]], None, value[images == image], images[images == image]) for image in "ab"
    ]
    np.testing.assert_array_equal(both, np.concatenate(alone))


def test_no_cells():
    assert postprocess([np.zeros((0, 18))], None, [], []).shape == (0, NUM_CLASSES)


def test_weights_of_the_two_finals():
    expected_1 = {0: 1, 1: 0.75, 11: 1, 13: 0.6, 14: 0.75, 16: 1, 18: 1}
    expected_2 = {11: 1, 18: 1}
    assert FINAL_1.cell_weights == tuple(expected_1.get(c, 0.65) for c in range(19))
    assert FINAL_2.cell_weights == tuple(expected_2.get(c, 0.7) for c in range(19))


def test_switches_of_the_rules():
    border, outlier = np.array([1.0, 0.5]), np.array([0.001, 1.0])
    for border_rule, outlier_rule, expected in [
        (True, True, [0.001, 0.5]),
        (True, False, [1.0, 0.5]),
        (False, True, [0.001, 1.0]),
        (False, False, [1.0, 1.0]),
    ]:
        options = PostProcessing(border_rule=border_rule, outlier_rule=outlier_rule)
        np.testing.assert_array_equal(cell_values(border, outlier, options), expected)


def test_a_nineteenth_column_is_not_read():
    member = np.random.default_rng(2).random((4, 18))
    with_column = np.column_stack([member, np.full(4, np.nan)])
    rest = (None, np.ones(4), list("abab"))
    np.testing.assert_array_equal(postprocess([with_column], *rest), postprocess([member], *rest))


def test_weighted_mean_scale_does_not_matter_and_stays_in_range():
    ones = [np.ones((1, 18))] * 3
    assert weighted_mean(ones, [0.2, 0.4, 0.4]).max() == 1
    a, b = np.full((1, 18), 0.25), np.full((1, 18), 0.75)
    np.testing.assert_allclose(weighted_mean([a, b], [3, 1]), 0.375)


def test_mixing_weights_of_one_change_nothing():
    scores = np.random.default_rng(3).random((4, 19))
    np.testing.assert_array_equal(mix_with_image_mean(scores, np.ones(4, bool), list("aabb"), np.ones(19)), scores)


@pytest.mark.parametrize(
    "change",
    [
        {"members": [np.full((2, 18), 1.5)]},
        {"members": [np.full((2, 18), np.nan)]},
        {"members": []},
        {"members": [np.zeros((2, 17))]},
        {"members": [np.zeros((2, 18)), np.zeros((3, 18))]},
        {"weights": [-1.0]},
        {"weights": [0.0]},
        {"weights": [0.5, 0.5]},
        {"value": [1.0]},
        {"value": [1.0, np.nan]},
        {"image_ids": ["a"]},
    ],
)
def test_wrong_arrays_are_refused(change):
    arguments = {"members": [np.zeros((2, 18))], "weights": None, "value": [1.0, 1.0], "image_ids": ["a", "a"]}
    with pytest.raises(ValueError, match="expected"):
        postprocess(**{**arguments, **change})


@pytest.mark.parametrize("weights", [(0.5,) * 18, (1.5,) * 19, (float("nan"),) * 19])
def test_wrong_cell_weights_are_refused(weights):
    with pytest.raises(ValueError, match="cell_weights"):
        dataclasses.replace(FINAL_2, cell_weights=weights)


def test_negative_as_the_networks_predict_it():
    rng = np.random.default_rng(5)
    members = rng.random((2, 3, 19))
    found = postprocess(members, [1, 3], np.ones(3), ["a", "a", "b"], PREDICTED_NEGATIVE)
    np.testing.assert_allclose(found, (members[0] + 3 * members[1]) / 4, rtol=1e-12)
    # a member that says nothing of Negative gives 1 - the largest of its own others
    for silent in (members[1, :, :18], np.column_stack([members[1, :, :18], np.full(3, np.nan)])):
        found = postprocess([members[0], silent], [1, 3], np.ones(3), ["a", "a", "b"], PREDICTED_NEGATIVE)
        np.testing.assert_allclose(found[:, :18], (members[0] + 3 * members[1])[:, :18] / 4, rtol=1e-12)
        expected = (members[0][:, 18] + 3 * (1 - members[1, :, :18].max(axis=1))) / 4
        np.testing.assert_allclose(found[:, 18], expected, rtol=1e-12)
    derived = postprocess(
        members, [1, 3], np.ones(3), ["a", "a", "b"], dataclasses.replace(PREDICTED_NEGATIVE, negative="derived")
    )
    np.testing.assert_allclose(derived[:, 18], 1 - derived[:, :18].max(axis=1), rtol=1e-12)


def test_further_rules_multiply_the_value():
    box = {"top": [0, 5], "left": [5, 5], "bottom": [9, 9], "right": [9, 9], "height": 20, "width": 20}
    table = pd.DataFrame({"image_id": "a", "nucleus_area": [10, 100], **box, "completeness": [0.1, 0.1]})
    np.testing.assert_array_equal(further_factors(table, FINAL_2), [1, 1])
    options = PostProcessing(small_nucleus=SmallNucleusRule(removed_value=0.5), factors=(Factor(),))
    np.testing.assert_allclose(further_factors(table, options), [0.15, 0.3])

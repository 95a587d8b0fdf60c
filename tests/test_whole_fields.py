"""Agreement of field scores with image labels, against cases that can be worked out by hand."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from hpa_tf.classes import NUM_CLASSES
from hpa_tf.errors import InputError
from hpa_tf.evaluation.whole_fields import agreement, counted_classes, interval, labelled_fields, resampled


def case() -> tuple[np.ndarray, np.ndarray]:
    """Six fields: class 0 is ranked perfectly, class 1 the wrong way round, class 2 has one positive field only."""
    truth, scores = np.zeros((6, NUM_CLASSES), bool), np.zeros((6, NUM_CLASSES))
    truth[:3, 0], truth[:2, 1], truth[0, 2] = True, True, True
    scores[:, 0] = [0.9, 0.8, 0.7, 0.3, 0.2, 0.1]
    scores[:, 1] = [0.0, 0.01, 0.02, 0.03, 0.04, 0.05]
    return truth, scores


def test_by_hand():
    truth, scores = case()
    assert counted_classes(truth).tolist() == [0, 1]
    found = agreement(truth, scores)
    assert found.auc == pytest.approx((1 + 0) / 2)
    assert found.ap == pytest.approx((1 + (1 / 5 + 2 / 6) / 2) / 2)
    assert found.chance_ap == pytest.approx((3 / 6 + 2 / 6) / 2)
    assert found.first == pytest.approx(3 / 6)
    assert found.num_classes == 2


def test_no_class_counts():
    truth = np.zeros((3, NUM_CLASSES), bool)
    truth[:, 0] = True  # every field has it: nothing to tell apart
    found = agreement(truth, np.eye(3, NUM_CLASSES))
    assert np.isnan(found.auc) and found.num_classes == 0 and found.first == pytest.approx(1 / 3)
    drawn = resampled(truth, np.eye(3, NUM_CLASSES), 50)
    assert np.isnan(drawn[:, :2]).all() and 0 < drawn[:, 2].mean() < 1


def test_a_field_without_cells_has_no_first_class():
    truth, scores = np.zeros((4, NUM_CLASSES), bool), np.zeros((4, NUM_CLASSES))
    truth[:, 0], scores[:2, 0] = True, 0.5  # nucleoplasm, the first of the classes, which an argmax of zeros gives
    assert agreement(truth, scores).first == 0.5
    assert resampled(truth, scores, 200)[:, 2].mean() == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(
    ("rows", "message"), [("a,19", "label 19 of a"), ("a,-1", "label -1 of a"), ("a,x", "no such")]
)
def test_labels_that_cannot_be_are_refused(tmp_path, rows, message):
    table = tmp_path / "labels.csv"
    table.write_text(f"ID,label_2021\n{rows}\n")
    with pytest.raises(InputError, match=message):
        labelled_fields(str(tmp_path), str(table), 0.32, "all")


def test_resamples_are_paired_and_centred():
    rng = np.random.default_rng(0)
    truth = rng.random((60, NUM_CLASSES)) < 0.3
    scores = rng.random((60, NUM_CLASSES)) + 0.3 * truth
    one, other = resampled(truth, scores, 100), resampled(truth, 3 * scores + 1, 100)
    assert np.array_equal(one, other)  # the same fields are drawn, and ranks alone count
    low, high = interval(one[:, 0])
    assert low < agreement(truth, scores).auc < high < 1
    assert not np.array_equal(one, resampled(truth, scores, 100, seed=1))


def test_resamples_are_those_of_scikit_learn():
    """Each resample scored by itself, with equal scores and with a class that some resamples lack."""
    rng = np.random.default_rng(3)
    truth = rng.random((25, NUM_CLASSES)) < 0.2
    truth[:, 4] = np.arange(25) < 2
    scores = np.round(rng.random((25, NUM_CLASSES)) + 0.2 * truth, 1)
    drawn, expected = np.random.default_rng(7), []
    for _ in range(60):
        rows = drawn.integers(25, size=25)
        kept = [c for c in counted_classes(truth) if 0 < truth[rows, c].sum() < 25]
        auc = np.mean([roc_auc_score(truth[rows, c], scores[rows, c]) for c in kept])
        ap = np.mean([average_precision_score(truth[rows, c], scores[rows, c]) for c in kept])
        expected.append((auc, ap, truth[rows, scores[rows, :18].argmax(1)].mean()))
    assert resampled(truth, scores, 60, seed=7) == pytest.approx(np.array(expected))

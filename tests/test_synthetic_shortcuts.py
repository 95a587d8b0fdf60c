"""The bench has no short cut: means and histograms of the channels do not give the classes away."""

import numpy as np
import pytest

from hpa_tf.classes import GREEN
from hpa_tf.synthetic import shortcuts
from hpa_tf.synthetic.config import SyntheticConfig
from hpa_tf.synthetic.generator import make


@pytest.fixture(scope="module")
def measured():
    config = SyntheticConfig(seed=11, balance=1.0, cells=(5, 20))
    found = [shortcuts.channel_features(make(config, index)) for index in range(45)]
    return [tuple(np.concatenate(values) for values in zip(*part, strict=True)) for part in (found[:35], found[35:])]


@pytest.mark.slow
def test_channel_means_and_histograms_do_not_give_the_classes_away(measured):
    """Macro AP far below a network's (benchmarks/shortcut.py), yet above chance: brightness says a little."""
    train, (features, truth) = measured
    found = shortcuts.macro_average_precision(truth, shortcuts.logistic_scores(train, features))
    chance = truth[:, truth.any(0)].mean()
    assert chance < found < 0.6


@pytest.mark.slow
def test_the_check_would_find_a_leak(measured):
    """A constant that depends on the class, in one pixel's worth of brightness, is found at once."""
    (known, known_truth), (features, truth) = measured
    leaking = [np.hstack([part, 3.0 * labels]) for part, labels in ((known, known_truth), (features, truth))]
    scores = shortcuts.logistic_scores((leaking[0], known_truth), leaking[1])
    learnable = known_truth.sum(0) >= 5
    assert shortcuts.macro_average_precision(truth[:, learnable], scores[:, learnable]) > 0.85


def test_features_are_those_of_the_cell():
    made = make(SyntheticConfig(seed=11), 0)
    features, truth = shortcuts.channel_features(made)
    kept = made.truth[(made.truth["artefact"] == "") & ~made.truth["cut"]]
    inside = made.masks.cell == kept["cell"].iloc[0]
    assert features[0, GREEN] == pytest.approx(made.field.pixels[inside][:, GREEN].mean())
    assert features[:, 8:].sum(1) == pytest.approx(np.full(len(kept), 4.0))
    assert len(truth) == len(kept)

"""Terms of an objective: hand-computed values, padding, unknown labels, classes, sums."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import tensorflow as tf

from hpa_tf.errors import InputError
from hpa_tf.losses import CrossEntropy, Focal
from hpa_tf.margin_losses import HardNegatives
from hpa_tf.models.network import LOCATED, all_classes
from hpa_tf.models.small_cnn import SmallCnn
from hpa_tf.objectives import Alike, AnyLoss, Labels, check_outputs, total
from hpa_tf.recipes import recipe_named
from hpa_tf.training.strategy import make_strategy
from hpa_tf.training.trainee import Trainee
from hpa_tf.views import Batch


def batch(cells: np.ndarray, rows: np.ndarray, image: np.ndarray | None = None) -> Batch:
    """Return a batch with cell labels [B, K, 19] (NaN = not known), rows [B, K] and image labels [B, 19]."""
    image = np.zeros((len(cells), 19)) if image is None else image
    cells = np.where((rows >= 0)[..., None], cells, np.nan)
    labels = [np.nan_to_num(cells), ~np.isnan(cells), np.nan_to_num(image), ~np.isnan(image)]
    tensors = [tf.constant(one, tf.float32) for one in labels]
    return Batch({}, tf.constant(rows), *tensors, tf.ones(len(cells)), tf.zeros((len(cells), 2), tf.int32))


@pytest.fixture
def bag():
    """Return 2 examples of 3 cells, the last cell of the first one padding, and cell logits [2, 3, 19]."""
    rng = np.random.default_rng(0)
    cells, rows = rng.random((2, 3, 19)), np.array([[0, 1, -1], [2, 3, 4]])
    return batch(cells, rows, rng.random((2, 19))), rng.normal(0, 3, (2, 3, 19)).astype(np.float32)


def cross_entropy(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, logits.astype(np.float64)) - labels * logits


def test_cell_labels_are_averaged_over_the_real_cells(bag):
    made, logits = bag
    found = Labels("cell_logits", "cell", CrossEntropy())({"cell_logits": tf.constant(logits)}, made)
    each = cross_entropy(made.cell_labels.numpy(), logits).mean(axis=-1)
    np.testing.assert_allclose(found, [each[0, :2].mean(), each[1].mean()], rtol=1e-5)
    other = logits.copy()
    other[0, 2] = 99  # padding
    again = Labels("cell_logits", "cell", CrossEntropy())({"cell_logits": tf.constant(other)}, made)
    np.testing.assert_array_equal(found, again)


def test_a_loss_of_the_whole_batch_counts_once_where_cells_are_missing(bag):
    """Its one number stands in every row, in those of padding, too: an example's loss is that number all the same."""
    made, logits = bag
    for of in ("cell", "image"):
        found = Labels("cell_logits", of, HardNegatives())({"cell_logits": tf.constant(logits)}, made).numpy()
        assert found[0] == pytest.approx(found[1], rel=1e-6) and found[0] > 0


@pytest.mark.parametrize("loss", get_args(AnyLoss))
def test_every_loss_takes_one_output_for_the_labels_of_all_cells(bag, loss):
    made, logits = bag
    found = Labels("logits", "cell", loss())({"logits": tf.constant(logits[:, 0])}, made)
    of_each = Labels("logits", "cell", loss())({"logits": tf.constant(logits[:, :1].repeat(3, axis=1))}, made)
    np.testing.assert_array_equal(found, of_each)


def test_image_labels_of_the_whole_and_of_every_cell(bag):
    made, logits = bag
    image = made.image_labels.numpy()
    whole = Labels("image_logits", "image", CrossEntropy(), weight=3.0)(
        {"image_logits": tf.constant(logits[:, 0])}, made
    )
    np.testing.assert_allclose(whole, 3 * cross_entropy(image, logits[:, 0]).mean(axis=-1), rtol=1e-5)
    every = Labels("cell_logits", "image", CrossEntropy())({"cell_logits": tf.constant(logits)}, made)
    each = cross_entropy(image[:, None], logits).mean(axis=-1)
    np.testing.assert_allclose(every, [each[0, :2].mean(), each[1].mean()], rtol=1e-5)


def test_one_output_for_all_cells_of_an_example(bag):
    made, logits = bag
    found = Labels("logits", "cell", CrossEntropy())({"logits": tf.constant(logits[:, 0])}, made)
    each = cross_entropy(made.cell_labels.numpy(), logits[:, :1]).mean(axis=-1)
    np.testing.assert_allclose(found, [each[0, :2].mean(), each[1].mean()], rtol=1e-5)


def test_unknown_labels_add_nothing_and_class_weights_multiply():
    cells = np.full((1, 1, 19), np.nan)
    cells[0, 0, 3], cells[0, 0, 5] = 1.0, 0.0
    made, logits = batch(cells, np.array([[0]])), np.linspace(-2, 2, 19, dtype=np.float32)[None]
    weights = tuple(10.0 if c == 5 else 1.0 for c in range(19))
    found = Labels("logits", loss=CrossEntropy(), class_weights=weights)({"logits": tf.constant(logits)}, made)
    each = cross_entropy(np.nan_to_num(cells[0, 0]), logits[0])
    np.testing.assert_allclose(found, [(each[3] + 10 * each[5]) / 19], rtol=1e-5)


def test_the_labels_are_those_of_the_classes_that_the_network_answers(bag):
    made, logits = bag
    for classes in (LOCATED, (11,)):
        chosen = made.of_classes(classes)
        np.testing.assert_array_equal(chosen.cell_labels, made.cell_labels.numpy()[..., list(classes)])
        np.testing.assert_array_equal(chosen.image_known, made.image_known.numpy()[..., list(classes)])
        found = Labels("cell_logits")({"cell_logits": tf.constant(logits[..., list(classes)])}, chosen)
        assert found.shape == (2,)


def test_positive_weight_by_hand():
    """Logit 1: -.1 log p = .031326 where the label is 1, -log(1 - p) = 1.313262 where it is 0."""
    loss = CrossEntropy(positive_weight=0.1)
    found = loss(tf.constant([[[1.0]], [[0.0]]]), tf.ones((2, 1, 1)), tf.ones((2, 1, 1)))
    np.testing.assert_allclose(found, [[0.031326], [1.313262]], atol=1e-6)
    np.testing.assert_allclose(
        CrossEntropy(1 + 1e-7)(*[tf.ones((1, 1, 1))] * 3), CrossEntropy()(*[tf.ones((1, 1, 1))] * 3)
    )


def test_outputs_that_the_network_has_not_or_that_differ_in_shape_are_named():
    terms = recipe_named("cpu_puzzle_cam").objective
    outputs = {"logits": np.zeros((2, 19)), "merged_logits": np.zeros((2, 19)), "cam": np.zeros((2, 4, 4, 19))}
    with pytest.raises(InputError, match=r"Alike of 'merged_cam'; expected an output of the network .cam, logits"):
        check_outputs(terms, outputs, 19)
    with pytest.raises(InputError, match=r"Labels of 'logit'"):
        check_outputs((Labels("logit"),), outputs, 19)
    with pytest.raises(InputError, match=r"cam of shape \(4, 4, 19\) and merged_cam of shape \(6, 6, 19\)"):
        check_outputs(terms, outputs | {"merged_cam": np.zeros((2, 6, 6, 19))}, 19)
    check_outputs(terms, outputs | {"merged_cam": np.zeros((2, 4, 4, 19))}, 19)
    with pytest.raises(InputError, match=r"Labels of cam, of shape \(4, 4, 19\); expected logits of 19 classes"):
        check_outputs((Labels("cam"),), outputs, 19)
    with pytest.raises(InputError, match="logits of 18 classes"):
        check_outputs((Labels("logits"),), outputs, 18)
    with pytest.raises(InputError, match=r"class_weights of 2 classes.*give 19 numbers"):
        check_outputs((Labels(class_weights=(1.0, 2.0)),), outputs, 19)


def test_tiles_whose_maps_do_not_fit_are_refused_before_a_step():
    """48 px: a map of 3 x 3 places, and tiles with maps of 2 x 2 each."""
    recipe = recipe_named("cpu_puzzle_cam")
    body = SmallCnn((4, 4, 4, 4))
    recipe = replace(recipe, weights="none", network=replace(recipe.network, backbone=body, neck=0))
    for size, found in ((48, "outputs of one shape"), (49, "a multiple of 2, the tiles a side")):
        small = replace(recipe, view=replace(recipe.view, size=size, whole=0), asked=None)
        with pytest.raises(InputError, match=found):
            Trainee(small, make_strategy("one"), "float32")


@pytest.mark.parametrize("power, expected", [(1, [1.0, 0.5]), (2, [1.0, 0.25])])
def test_alike_is_the_mean_over_all_elements(power, expected):
    one, other = np.ones((2, 2, 2, 3), np.float16), np.zeros((2, 2, 2, 3), np.float16)
    other[1] = 0.5
    outputs = {"features": tf.constant(one), "merged_features": tf.constant(other)}
    term = Alike("features", "merged_features", power)
    np.testing.assert_allclose(term(outputs, None), expected)
    weighted = total(
        (term, Alike("features", "features"), Alike("features", "merged_features", power, 0.5)), outputs, None
    )
    np.testing.assert_allclose(weighted, 1.5 * np.array(expected))


class Answers:
    """A network of some classes that answers what it is given."""

    def __init__(self, classes):
        self.classes = classes

    def probabilities(self, outputs, inputs):
        return outputs["answer"]


def test_everybody_is_handed_19_classes():
    rng = np.random.default_rng(1)
    full, located, single = (rng.random((2, 3, count), np.float32) for count in (19, 18, 1))
    given = [(tuple(range(19)), full), (LOCATED, located), ((11,), single)]
    found = [all_classes(Answers(classes), {"answer": tf.constant(one)}, {}).numpy() for classes, one in given]
    np.testing.assert_array_equal(found[0], full)
    np.testing.assert_array_equal(found[1][..., :18], located)
    np.testing.assert_array_equal(found[1][..., 18], 1 - located.max(axis=-1))
    np.testing.assert_array_equal(found[2][..., 11], single[..., 0])
    assert np.isnan(np.delete(found[2], 11, axis=-1)).all()
    assert Focal() == Focal(2.0)

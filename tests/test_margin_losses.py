"""Team 1's losses: published check values, NumPy as reference, unknown values, gradients."""

import numpy as np
import pytest
import tensorflow as tf

from hpa_tf.losses import FocalSum, SquaredError
from hpa_tf.margin_losses import HardNegatives, SymmetricLovasz, arc_face

LOGITS = np.array([[2, -1, 0.5], [0, 1, -2], [-0.5, 0.2, 3], [1, -3, -0.1], [0.3, 0.4, -1], [-2, 2, 0.7]], np.float32)
LABELS = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0], [0, 1, 1]], np.float32)
TERMS = {FocalSum(): 0.241126, SymmetricLovasz(): 0.544444, HardNegatives(): 0.395129}


def rows(*arrays: np.ndarray) -> list[tf.Tensor]:
    """Return [B, classes] as [B, 1, classes]."""
    return [tf.constant(array, tf.float32)[:, None] for array in arrays]


def value(loss, labels: np.ndarray, logits: np.ndarray, weights: np.ndarray | None = None) -> float:
    weights = np.ones_like(labels) if weights is None else weights
    return float(tf.reduce_mean(loss(*rows(labels, logits, weights))))


@pytest.mark.parametrize("loss", TERMS, ids=lambda loss: type(loss).__name__)
def test_check_values(loss):
    assert value(loss, LABELS, LOGITS) == pytest.approx(TERMS[loss], abs=1e-6)


def test_the_sum_of_team_1():
    total = sum(0.5 * value(loss, LABELS, LOGITS) for loss in TERMS)
    assert total == pytest.approx(0.590350, abs=1e-6)


def test_focal_on_soft_labels():
    labels, logits = np.array([[1, 0.25, 0.75]]), np.full((1, 3), 0.5)
    assert value(FocalSum(), labels, logits) == pytest.approx(0.450755, abs=1e-6)


def test_squared_error_by_hand():
    assert value(SquaredError(), np.array([[1.0, 0.25]]), np.zeros((1, 2))) == pytest.approx((0.25 + 0.0625) / 2)


def lovasz_of_a_row(labels: np.ndarray, logits: np.ndarray) -> float:
    """Return the hinge of one row from the definition of the Jaccard loss of a set of wrong classes."""

    def hinge(y, z):
        errors = 1 - z * (2 * y - 1)
        order, before, total = np.argsort(-errors), 0.0, 0.0
        for k in range(1, len(y) + 1):
            wrong = order[:k]
            still = y.sum() - y[wrong].sum()
            loss = 1 - still / (y.sum() + (1 - y[wrong]).sum())
            total += max(errors[order[k - 1]], 0) * (loss - before)
            before = loss
        return total

    return (hinge(labels, logits) + hinge(1 - labels, -logits)) / 2


@pytest.mark.parametrize("loss", TERMS, ids=lambda loss: type(loss).__name__)
def test_gradients_have_static_shapes(loss):
    """What TPUs need."""

    @tf.function(autograph=False)
    def gradient(labels, logits, weights):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            total = tf.reduce_sum(loss(labels, logits, weights))
        return tape.gradient(total, logits)

    graph = gradient.get_concrete_function(*[tf.TensorSpec((4, 1, 19))] * 3).graph
    outputs = [output for operation in graph.get_operations() for output in operation.outputs]
    assert [output.name for output in outputs if not output.shape.is_fully_defined()] == []


def test_lovasz_is_its_definition_and_leaves_unknown_classes_out():
    rng = np.random.default_rng(0)
    labels, logits = (rng.random((20, 9)) < 0.3).astype(float), rng.normal(0, 2, (20, 9))
    known = (rng.random((20, 9)) < 0.6).astype(float)
    known[:, 0] = 1
    found = SymmetricLovasz()(*rows(labels, logits, known))[:, 0]
    expected = [lovasz_of_a_row(y[k > 0], z[k > 0]) for y, z, k in zip(labels, logits, known, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(SymmetricLovasz()(*rows(labels, logits, 0 * known)), np.zeros((20, 1)))


@pytest.mark.parametrize("shape", [(37, 5), (4, 40)])
def test_hard_negatives_are_their_definition(shape):
    """A batch of four is that of `cpu_fcan`: beside three negatives or fewer the least of two of them decides."""
    rng = np.random.default_rng(1)
    labels, logits = (rng.random(shape) < 0.3) * rng.choice([0.25, 1.0], shape), rng.normal(0, 2, shape)
    labels[:, 3], labels[:, 4] = 0, 1  # no positives, no negatives
    known = rng.random(shape) < 0.7
    known[0] = True
    expected = []
    for y, z, k in zip(labels.T, logits.T, known.T, strict=True):
        entropy = np.logaddexp(0, z) - y * z
        negatives = sorted(np.flatnonzero(k & (y == 0)), key=lambda i, z=z: -z[i])
        positives, n = np.flatnonzero(k & (y > 0)), len(negatives)
        count = min(n, len(positives) + max(2, n // 2), int(0.7 * n) + 2)
        expected.append(entropy[[*positives, *negatives[:count]]].mean())
    assert value(HardNegatives(), labels, logits, known) == pytest.approx(np.mean(expected), rel=1e-5)


def test_arc_face():
    cosines = tf.constant([[0.6, 0.2, -0.3], [0.6, 0.2, -0.3], [-0.95, 0.2, 0.1]])
    found = arc_face(cosines, tf.constant([0, -1, 0])).numpy()
    assert found[0] == pytest.approx(1.303444, abs=1e-6) and found[1] == 0
    moved = -0.95 - 0.5 * np.sin(np.pi - 0.5)  # cos(.5 + arccos(-.95)) would rise again
    scores = [np.array([moved, 0.2, 0.1]) * 30, np.array([-0.95, 0.2, 0.1])]
    expected = np.mean([np.log(np.exp(one).sum()) - one[0] for one in scores])
    assert found[2] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", [*TERMS, SquaredError()], ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("height", [0.0, 90.0, 1e4])
def test_values_and_gradients_are_finite(loss, height):
    logits = tf.Variable(rows(LOGITS * height)[0])
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(loss(*rows(LABELS), logits, *rows(np.ones_like(LABELS))))
    gradient = tape.gradient(total, logits)
    assert np.isfinite(total.numpy()) and np.isfinite(gradient.numpy()).all()


def test_arc_face_has_finite_gradients_at_the_ends():
    cosines = tf.Variable([[1.0, -1.0], [-1.0, 1.0]])
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(arc_face(cosines, tf.constant([0, 0])))
    assert np.isfinite(tape.gradient(total, cosines).numpy()).all()

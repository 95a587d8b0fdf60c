"""Packed weights, the starter network, and prediction in memory."""

import numpy as np
import pytest

from hpa_tf.errors import InputError
from hpa_tf.models import packed
from hpa_tf.models.classifier import Classifier
from hpa_tf.models.small_cnn import SmallCnn
from hpa_tf.views import Crop


@pytest.fixture(scope="module")
def networks():
    spec = Classifier(SmallCnn(widths=(4, 8)))
    first, second = (spec.build(Crop(size=16).specs()) for _ in range(2))
    for layer in packed.layers_with_weights(first):  # moving statistics that float16 cannot hold
        if layer.name.endswith("_bn"):
            layer.set_weights([array + (1e6 if i == 3 else 0.1) for i, array in enumerate(layer.get_weights())])
    return first, second


def test_packed_weights_answer_alike(networks, tmp_path):
    first, second = networks
    packed.pack(first, tmp_path / "weights.npz")
    packed.unpack(second, tmp_path / "weights.npz")
    pixels = np.random.default_rng(0).random((4, 16, 16, 4), np.float32)
    one, two = (network({"image": pixels})["logits"].numpy() for network in networks)
    assert np.abs(one - two).max() < 0.01
    assert np.abs(one).max() > 0.1
    for layer, other in zip(*(list(packed.layers_with_weights(n)) for n in networks), strict=True):
        for array, restored in zip(layer.get_weights(), other.get_weights(), strict=True):
            assert restored == pytest.approx(array, rel=2e-3, abs=1e-4)


def test_packed_weights_are_half_the_size(networks, tmp_path):
    first, _ = networks
    packed.pack(first, tmp_path / "weights.npz")
    with np.load(tmp_path / "weights.npz", allow_pickle=False) as stored:
        assert stored["stage1_conv/0"].dtype == np.float16
        assert stored["stage1_bn/3"].dtype == np.float32  # 1e6 is above float16's largest number


@pytest.mark.parametrize("damage", ["missing", "cut", "other", "pickle"])
def test_bad_files_are_refused(networks, tmp_path, damage):
    path = tmp_path / "weights.npz"
    packed.pack(networks[0], path)
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "other":
        packed.pack(Classifier(SmallCnn(widths=(4,))).build(Crop(size=16).specs()), path)
    else:
        np.savez(path, **{"stage0_conv/0": np.array([{"run": "me"}], object)})
    before = networks[0].get_weights()
    with pytest.raises(InputError, match=r"weights\.npz"):
        packed.unpack(networks[0], path)
    assert all(np.array_equal(a, b) for a, b in zip(before, networks[0].get_weights(), strict=True))

"""Weights in the names under which teams 1 and 3 published theirs, as `--weights FILE` reads them."""

import keras
import numpy as np
import pytest
import torch_file_writer as write

from hpa_tf.errors import InputError
from hpa_tf.models import published, weights
from hpa_tf.models.classifier import Classifier
from hpa_tf.models.fcan import CbamClassifier
from hpa_tf.models.network import Spec
from hpa_tf.models.puzzle_cam import PuzzleCam
from hpa_tf.models.resnet import ResNet

SPECS = {"image": Spec((32, 32, 4))}
BACKBONE = ResNet(depths=(1, 1, 1, 1))
HEADS = ("att_module", "fc_layers", "logit", "mclassifier")
TEAMS = {
    "team 1": (CbamClassifier(BACKBONE, hidden=8), "module.", "backbone."),
    "team 3": (PuzzleCam(BACKBONE), "cnn1.", "mfeatures."),
}


def state_of(network: keras.Model, around: str, body: str) -> dict[str, np.ndarray]:
    """Return a network's weights as the team's state dict has them."""
    state = {}
    for name, layer in published._layers(network):
        arrays = [np.transpose(one, {4: (3, 2, 0, 1), 2: (1, 0)}.get(one.ndim)) for one in layer.get_weights()]
        if name.startswith("att_module.fc"):  # the channel gate is made of 1x1 convolutions
            arrays[0] = arrays[0][..., None, None]
        parts = ("weight", "bias", "running_mean", "running_var")[: len(arrays)]
        prefix = around + ("" if name.startswith(HEADS) else body)
        state |= {f"{prefix}{name}.{part}": array for part, array in zip(parts, arrays, strict=True)}
    return state


@pytest.fixture(params=TEAMS)
def team(request, tmp_path):
    spec, around, body = TEAMS[request.param]
    network = spec.build(SPECS)
    path = tmp_path / "model_best.pt"
    path.write_bytes(write.state_dict(state_of(network, around, body)))
    return spec, network, str(path)


def test_body_and_head_are_read(team):
    spec, network, path = team
    other = spec.build(SPECS)
    weights.initialize(other, spec, path)
    for found, expected in zip(other.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_another_network_or_other_channels_are_refused(team):
    spec, network, path = team
    plain = Classifier(BACKBONE)
    with pytest.raises(InputError, match=r"model_best\.pt: .*do not fit.*backbone and head of that file"):
        weights.initialize(plain.build(SPECS), plain, path)
    with pytest.raises(InputError, match=r"yellow, green, blue, red.*red, green, blue, yellow"):
        weights.initialize(network, spec, path, ("yellow", "green", "blue", "red"))


def test_a_file_of_imagenet_weights_is_no_team_s(tmp_path):
    body = BACKBONE.build((32, 32, 3))
    (tmp_path / "timm.pth").write_bytes(write.state_dict(state_of(body, "", "")))
    spec = TEAMS["team 3"][0]
    network = spec.build(SPECS)
    head = network.get_layer("head_mclassifier").get_weights()
    weights.initialize(network, spec, str(tmp_path / "timm.pth"))
    stem = [one.get_layer(BACKBONE.stem_layer).get_weights()[0] for one in (network, body)]
    np.testing.assert_array_equal(stem[0][:, :, :3], stem[1])
    np.testing.assert_array_equal(network.get_layer("head_mclassifier").get_weights(), head)

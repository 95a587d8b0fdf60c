"""Networks of teams 1 to 3: merged maps, tiles, bags, pooled masks and readouts, by hand and by property; gradients."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from hpa_tf.errors import InputError
from hpa_tf.losses import CrossEntropy, FocalSum
from hpa_tf.margin_losses import HardNegatives, SymmetricLovasz
from hpa_tf.models import weights
from hpa_tf.models.bags import AttentionBag, DuoBranch, FoldCrops
from hpa_tf.models.cam_readout import cell_scores, without_class
from hpa_tf.models.classifier import Classifier
from hpa_tf.models.fcan import CbamClassifier, Fcan
from hpa_tf.models.heads import Cbam, GeneralizedMean, MeanMaxHead
from hpa_tf.models.mask_pooled import MaskPooled
from hpa_tf.models.network import Network, Spec, all_classes
from hpa_tf.models.noise import example_seeds
from hpa_tf.models.normalization import moving_statistics
from hpa_tf.models.pixels import Standardized
from hpa_tf.models.puzzle_cam import PuzzleCam
from hpa_tf.models.regions import CellMasks, CellMeans, JoinTiles, MergeByMask, Pieces, Tiles, overlap
from hpa_tf.models.small_cnn import SmallCnn
from hpa_tf.objectives import Alike, Antibodies, Labels, total
from hpa_tf.views import Batch, CellInField

BODY = SmallCnn(widths=(8, 16))
SIZE, CELLS, CROPS = 32, 3, 4
FIELD = {"image": Spec((SIZE, SIZE, 4)), "masks": Spec((SIZE, SIZE), "int32"), "present": Spec((CELLS,))}
CROP = {"image": Spec((SIZE, SIZE, 4))}
BAG = {"image": Spec((CROPS, SIZE, SIZE, 4)), "present": Spec((CROPS,))}
TEAM_1 = (FocalSum(), SymmetricLovasz(), HardNegatives())


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def field_inputs(batch: int = 2) -> dict[str, np.ndarray]:
    """Return fields with 3 cells; in the last field the third is missing."""
    masks = np.zeros((batch, SIZE, SIZE), np.int32)
    masks[:, 2:14, 3:12], masks[:, 16:30, 4:20], masks[:, 5:12, 20:31] = 1, 2, 3
    masks[-1][masks[-1] == 3] = 0
    present = np.ones((batch, CELLS), np.float32)
    present[-1, 2] = 0
    return {"image": rng().random((batch, SIZE, SIZE, 4), np.float32), "masks": masks, "present": present}


def bag_inputs() -> dict[str, np.ndarray]:
    """Return bags of 4 and of 2 crops."""
    present = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], np.float32)
    image = rng().random((2, CROPS, SIZE, SIZE, 4), np.float32) * present[:, :, None, None, None]
    return {"image": image, "present": present}


NETWORKS = {
    "fcan": (Fcan(BODY, hidden=16, neck=12, antibodies=5), FIELD, field_inputs, CELLS),
    "puzzle": (PuzzleCam(BODY), FIELD, field_inputs, CELLS),
    "mask_pooled": (MaskPooled(BODY, hidden=8), FIELD, field_inputs, CELLS),
    "duo_branch": (DuoBranch(BODY), BAG, bag_inputs, CROPS),
    "attention": (AttentionBag(BODY, hidden=8), BAG, bag_inputs, CROPS),
    "cbam": (CbamClassifier(BODY, hidden=16, antibodies=5), CROP, lambda: {"image": field_inputs()["image"]}, 1),
}
OBJECTIVES = {
    "fcan": (
        *(Labels(output, "image", loss, 0.5) for output in ("logits", "merged_logits") for loss in TEAM_1),
        Alike("features", "merged_features"),
        *(Antibodies(output, 0.5) for output in ("antibody_cosines", "merged_antibody_cosines")),
    ),
    "puzzle": (
        Labels("logits", "image", CrossEntropy()),
        Labels("merged_logits", "image", CrossEntropy()),
        Alike("cam", "merged_cam", 1, 0.5),
    ),
    "mask_pooled": (Labels("image_logits", "image", CrossEntropy()),),
    "duo_branch": (
        Labels("cell_logits", "image", CrossEntropy(0.1), 0.1),
        Labels("image_logits", "image", CrossEntropy()),
    ),
    "attention": (Labels("image_logits", "image", CrossEntropy()),),
    "cbam": (Labels("logits", "cell", FocalSum()), Antibodies()),
}


@pytest.fixture(scope="module")
def built() -> dict[str, keras.Model]:
    keras.utils.set_random_seed(0)
    models = {name: spec.build(specs) for name, (spec, specs, _, _) in NETWORKS.items()}
    for model in models.values():
        for layer in [layer for layer in keras_layers(model) if layer.name == "head_att_module"]:
            layer.parts["fc1"].bias.assign(np.full(layer.parts["fc1"].bias.shape, 0.5))  # one unit: it must not be off
    return models


def keras_layers(model: keras.Model):
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from keras_layers(layer)
        else:
            yield layer


def batch_of(inputs: dict[str, np.ndarray], num_cells: int) -> Batch:
    count = len(inputs["image"])
    rows = np.arange(count * num_cells).reshape(count, num_cells)
    rows = np.where(inputs.get("present", np.ones((count, num_cells))) > 0, rows, -1)
    labels = (rng().random((count, 19)) < 0.3).astype(np.float32)
    cells = np.repeat(labels[:, None], num_cells, axis=1)
    known = np.ones_like(cells) * (rows >= 0)[..., None]
    values = [rows, cells, known, labels, np.ones_like(labels), np.ones(count)]
    tensors = [tf.constant(one, tf.float32 if one.dtype != np.int64 else tf.int64) for one in values]
    return Batch(inputs, *tensors, tf.reshape(tf.range(2 * count), (count, 2)), 3 * tf.range(count))


# -- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_a_gradient_reaches_every_weight(name, built):
    inputs, model = NETWORKS[name][2](), built[name]
    batch = batch_of(inputs, NETWORKS[name][3])

    @tf.function
    def gradients():
        with tf.GradientTape() as tape, example_seeds(batch.seed):
            loss = tf.reduce_sum(total(OBJECTIVES[name], model(inputs, training=True), batch))
        return loss, tape.gradient(loss, [weight.value for weight in model.trainable_weights])

    loss, found = gradients()
    still = [
        weight.path
        for weight, gradient in zip(model.trainable_weights, found, strict=True)
        if gradient is None or not np.any(gradient)
    ]
    assert np.isfinite(loss) and not still


@pytest.mark.parametrize("name", NETWORKS)
def test_probabilities_of_cells(name, built):
    spec, _, make, num_cells = NETWORKS[name]
    assert isinstance(spec, Network)
    inputs = make()
    outputs = built[name](inputs, training=False)
    found = all_classes(spec, outputs, inputs).numpy()
    assert found.shape == (2, num_cells, 19) and found.dtype == np.float32
    assert (found >= 0).all() and (found <= 1).all()
    other = all_classes(spec, built[name]({k: v[:1] for k, v in inputs.items()}), {k: v[:1] for k, v in inputs.items()})
    np.testing.assert_allclose(other, found[:1], atol=1e-6)  # what an image is batched with does not matter


@pytest.mark.parametrize("name", ["fcan", "puzzle", "duo_branch"])
def test_mixed_precision_keeps_logits_float32(name):
    spec, specs, make, _ = NETWORKS[name]
    outputs = spec.build(specs, "mixed_bfloat16")(make())
    assert all(one.dtype == tf.float32 for key, one in outputs.items() if "logits" in key)
    assert all(np.isfinite(tf.cast(one, tf.float32)).all() for one in outputs.values())


@pytest.mark.parametrize("name", ["fcan", "puzzle", "mask_pooled", "cbam"])
def test_batch_norm_of_the_head_is_synchronized_with_that_of_the_backbone(name):
    """Then no replica moves statistics by its own examples."""
    spec, specs, *_ = NETWORKS[name]
    for synchronized in (False, True):
        backbone = replace(BODY, synchronized=synchronized)
        model = replace(spec, backbone=backbone, neck=4).build(specs)
        assert bool(moving_statistics(model)) == (not synchronized)


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_any_number_of_channels(channels):
    specs = {"image": Spec((SIZE, SIZE, channels))}
    for spec in (Classifier(BODY), CbamClassifier(BODY, hidden=8)):
        assert spec.build(specs)({"image": np.zeros((1, SIZE, SIZE, channels))})["logits"].shape[0] == 1


# -- FCAN -------------------------------------------------------------------------------------------------------------


def test_pieces_are_cells_at_their_place_and_all_the_rest():
    inputs = field_inputs()
    masks = CellMasks(CELLS, rest=True)(inputs["masks"])
    np.testing.assert_array_equal(tf.reduce_sum(masks, axis=1), np.ones((2, SIZE, SIZE)))
    pieces = Pieces()(inputs["image"], masks).numpy().reshape(2, CELLS + 1, SIZE, SIZE, 4)
    for b in range(2):
        for k in range(CELLS):
            expected = inputs["image"][b] * (inputs["masks"][b] == k + 1)[..., None]
            np.testing.assert_array_equal(pieces[b, k], expected)
        np.testing.assert_array_equal(pieces[b, CELLS], inputs["image"][b] * (inputs["masks"][b] == 0)[..., None])
    assert not pieces[1, 2].any()  # the missing cell's


def test_merged_map_of_a_partition_by_hand():
    """4x4 px, a 2x2 map: the left half is cell 1, the lower right pixel cell 2, the rest the third piece."""
    numbers = np.zeros((1, 4, 4), np.int32)
    numbers[0, :, :2], numbers[0, 3, 3] = 1, 2
    masks = CellMasks(2, rest=True)(numbers)
    features = np.array([10.0, 200.0, 3000.0]).reshape(3, 1, 1, 1) * np.ones((3, 2, 2, 1), np.float32)
    merged = MergeByMask()(features, masks)[0, :, :, 0]
    np.testing.assert_allclose(merged, [[10, 3000], [10, 200 / 4 + 3000 * 3 / 4]])
    owned = MergeByMask(hard=True)(features, masks)[0, :, :, 0]
    np.testing.assert_allclose(owned, [[10, 3000], [10, 3000]])


def test_shares_of_a_grid_that_does_not_divide_the_image():
    """128 px on 14 places, as in team 1's InceptionV3: shares of every partition sum to 1, areas are kept."""
    shares = overlap(14, 128)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(shares.sum(axis=0), 14 / 128, rtol=1e-5)
    np.testing.assert_allclose(overlap(2, 3), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]], rtol=1e-6)
    numbers = rng().integers(0, 4, (1, 128, 128)).astype(np.int32)
    masks = CellMasks(3, rest=True)(numbers)
    same = np.repeat(rng().random((1, 14, 14, 5), np.float32), 4, axis=0)
    np.testing.assert_allclose(MergeByMask()(same, masks), same[:1], rtol=1e-5)


def test_one_piece_is_the_plain_network():
    """Without cells the only piece is the whole field: both branches agree, and agree with the plain network."""
    spec = Fcan(BODY, hidden=16)
    specs = {**FIELD, "present": Spec((1,))}
    with_pieces, plain = spec.build(specs), spec.build(CROP)
    plain.set_weights(with_pieces.get_weights())
    image = field_inputs()["image"]
    inputs = {"image": image, "masks": np.zeros((2, SIZE, SIZE), np.int32), "present": np.zeros((2, 1), np.float32)}
    outputs, expected = with_pieces(inputs), plain({"image": image})
    for name in ("logits", "features"):
        np.testing.assert_allclose(outputs[name], expected[name], atol=1e-6)
        np.testing.assert_allclose(outputs[f"merged_{name}"], expected[name], atol=1e-6)
    cbam = CbamClassifier(BODY, hidden=16).build(CROP)
    cbam.set_weights(plain.get_weights())
    np.testing.assert_allclose(cbam({"image": image})["logits"], expected["logits"], atol=1e-6)


def test_a_cell_is_asked_alone_on_the_field(built):
    """The cell's logits are those of the field with all else black; the score is the product with the field's."""
    spec, inputs = NETWORKS["fcan"][0], field_inputs(1)
    inputs["present"][:] = 1
    outputs = built["fcan"](inputs)
    plain = spec.build(CROP)
    plain.set_weights(built["fcan"].get_weights())
    alone = inputs["image"] * (inputs["masks"] == 2)[..., None]
    seen = [plain({"image": one}) for one in (alone, inputs["image"])]
    cell, field = (one["logits"].numpy()[0] for one in seen)
    np.testing.assert_allclose(outputs["cell_logits"][0, 1], cell, atol=1e-5)
    np.testing.assert_allclose(outputs["embedding"][0, 1], seen[0]["embedding"][0], atol=1e-5)
    p_cell, p_field = (1 / (1 + np.exp(-z)) for z in (cell, field))
    for readout, expected in (("product", p_cell * p_field), ("cell", p_cell), ("mean", (p_cell + p_field) / 2)):
        found = replace(spec, readout=readout).probabilities(outputs, inputs)
        np.testing.assert_allclose(found[0, 1], expected, atol=1e-5)
    found = replace(spec, readout="field").probabilities(outputs, inputs)
    np.testing.assert_allclose(found, p_field[None, None], atol=1e-5)


def test_cells_alone_move_no_statistics_of_the_head(built):
    """Training has no use for the logits of single cells, so its batch norms must not see them."""
    spec, inputs = Fcan(BODY, hidden=16, dropout=0.0), field_inputs()
    model = spec.build(FIELD)
    head = model.get_layer("head_mean_max")
    before = head.parts["fc_layers.0"].moving_mean.numpy()
    with example_seeds(tf.zeros((2, 2), tf.int32)):
        outputs = model(inputs, training=True)
    pooled = []
    for features in (outputs["features"].numpy(), outputs["merged_features"].numpy()):
        pooled.append(np.concatenate([features.mean((1, 2)), features.max((1, 2))], axis=1).mean(axis=0))
    found = head.parts["fc_layers.0"].moving_mean.numpy()
    either = [0.9 * (0.9 * before + 0.1 * one) + 0.1 * other for one, other in (pooled, pooled[::-1])]
    assert any(np.allclose(found, expected, rtol=1e-4, atol=1e-6) for expected in either)


# -- Puzzle-CAM -------------------------------------------------------------------------------------------------------


def test_a_marker_pixel_lands_in_its_tile_and_comes_back():
    image = np.zeros((2, 6, 8, 1), np.float32)
    image[1, 4, 1] = 7
    tiles = Tiles(2)(image).numpy()
    assert tiles.shape == (8, 3, 4, 1)
    assert [tuple(int(i) for i in place) for place in np.argwhere(tiles[..., 0])] == [(4 + 2, 1, 1)]
    np.testing.assert_array_equal(JoinTiles(2)(tiles), image)


def test_tiles_are_the_network_on_quarters(built):
    spec, inputs = NETWORKS["puzzle"][0], field_inputs()
    image, outputs = inputs["image"], built["puzzle"](inputs)
    quarter = spec.build({"image": Spec((SIZE // 2, SIZE // 2, 4))})
    quarter.set_weights(built["puzzle"].get_weights())
    half, side = SIZE // 2, outputs["cam"].shape[1] // 2
    for top in (0, 1):
        for left in (0, 1):
            tile = image[:, top * half :, left * half :][:, :half, :half]
            found = outputs["merged_cam"][:, top * side :, left * side :][:, :side, :side]
            np.testing.assert_allclose(found, quarter({"image": tile})["cam"], atol=1e-5)
    np.testing.assert_allclose(outputs["logits"], outputs["cam"].numpy().mean(axis=(1, 2)), atol=1e-5)
    assert sum(weight.path.startswith("head_mclassifier") for weight in built["puzzle"].weights) == 1


def test_puzzle_cam_without_negative_is_refused():
    with pytest.raises(InputError, match="18 classes without Negative"):
        PuzzleCam(BODY, classes=tuple(range(18))).build(FIELD)


CAM = np.array([[-1, 0, 1], [2, 4, 1], [0, 1, 3]], np.float32).reshape(1, 3, 3, 1)
CORNER = np.array([[[0, 0, 1], [0, 0, 1], [0, 1, 1]]], np.int32)


def test_cam_readout_check_value():
    found = cell_scores(tf.constant(CAM), tf.constant([[0.8]]), tf.constant(CORNER), 2)
    np.testing.assert_allclose(found, [[[0.6], [0.0]]], atol=5e-5)  # the second cell is not there


def logits_of(probabilities) -> tf.Tensor:
    p = np.array(probabilities, np.float32)
    return tf.constant(np.log(p / (1 - p)))


CELLS_3X3 = {"masks": tf.constant(CORNER), "present": tf.constant([[1.0, 0.0]])}
READOUTS = {
    "cell x field": (Fcan(readout="product"), {"logits": [[0.5]], "cell_logits": [[[0.8], [0.2]]]}, [[0.4], [0.1]]),
    "cell alone": (Fcan(readout="cell"), {"logits": [[0.5]], "cell_logits": [[[0.8], [0.2]]]}, [[0.8], [0.2]]),
    "their mean": (Fcan(readout="mean"), {"logits": [[0.5]], "cell_logits": [[[0.8], [0.2]]]}, [[0.65], [0.35]]),
    "field, copied": (Fcan(readout="field"), {"logits": [[0.5]], "cell_logits": [[[0.8], [0.2]]]}, [[0.5]]),
    "crop x bag": (DuoBranch(), {"image_logits": [[0.5]], "cell_logits": [[[0.8], [0.2]]]}, [[0.4], [0.1]]),
    "attention": (AttentionBag(), {"image_logits": [[0.5]], "cell_logits": [[[0.8], [0.2]]]}, [[0.8], [0.2]]),
    "mask-pooled": (MaskPooled(), {"image_logits": [[0.5]], "cell_logits": [[[0.8], [0.2]]]}, [[0.8], [0.2]]),
    "image, copied": (Classifier(), {"logits": [[0.5]]}, [[0.5]]),
    "crop with CBAM": (CbamClassifier(), {"logits": [[0.5]]}, [[0.5]]),
}


@pytest.mark.parametrize("name", READOUTS)
def test_readouts_by_hand(name):
    """Two cells of a field of 3x3 px, one class; where the answer is one for all cells, there is one row."""
    spec, probabilities, expected = READOUTS[name]
    outputs = {output: logits_of(values) for output, values in probabilities.items()}
    np.testing.assert_allclose(spec.probabilities(outputs, CELLS_3X3), [expected], atol=1e-6)


def test_readout_of_puzzle_cam_by_hand():
    """The cell in the corner gets as much of the field's .8 as the map shows there; a masked crop gets its own."""
    spec = PuzzleCam(classes=(0, 18))
    outputs = {"logits": logits_of([[0.8, 0.1]]), "cam": tf.constant(np.concatenate([CAM, 0 * CAM], axis=3))}
    np.testing.assert_allclose(spec.probabilities(outputs, CELLS_3X3)[:, 0], [[0.6, 0.0]], atol=5e-5)
    np.testing.assert_allclose(spec.probabilities(outputs, {"image": None}), [[[0.8, 0.1]]], atol=1e-6)


def test_masked_crop_by_hand():
    """A field of 3x3 px of which the network sees the cell in the corner alone, or with what is no cell."""
    pixels = np.arange(1, 10, dtype=np.uint8).reshape(3, 3, 1) * np.ones(4, np.uint8)
    masks = np.array([[2, 0, 1], [2, 0, 1], [0, 1, 1]], np.uint16)
    stored = {"image": tf.constant(pixels), "masks": tf.constant(masks), "numbers": tf.constant([1])}
    for surroundings, expected in (
        ("none", [[0, 0, 3], [0, 0, 6], [0, 8, 9]]),
        ("background", [[0, 2, 3], [0, 5, 6], [7, 8, 9]]),
        ("all", pixels[..., 0]),
    ):
        found = CellInField(3, surroundings=surroundings).prepare(stored)["image"]
        np.testing.assert_allclose(found[..., 1] * 255, expected, atol=1e-5)


def test_cam_readout_is_numpy_s_quantile():
    cam = rng().normal(0, 2, (3, 4, 4, 5)).astype(np.float32)
    masks = rng().integers(0, 4, (3, 24, 24)).astype(np.int32)
    p = rng().random((3, 5), np.float32)
    found = cell_scores(tf.constant(cam), tf.constant(p), tf.constant(masks), 3).numpy()
    positive = np.maximum(cam, 0)
    scaled = np.maximum(positive - 1e-5, 0) / (positive.max(axis=(1, 2), keepdims=True) + 1e-5)
    resized = tf.image.resize(scaled, (24, 24), "bilinear").numpy()
    for b in range(3):
        for k in range(3):
            inside, everywhere = resized[b][masks[b] == k + 1], resized[b].reshape(-1, 5)
            expected = np.quantile(inside, 0.99, axis=0) * p[b] / np.quantile(everywhere, 0.99, axis=0)
            np.testing.assert_allclose(found[b, k], np.clip(expected, 0, p[b]), rtol=1e-4, atol=1e-5)


def test_negative_fill_of_team_3():
    """3 classes, the last one Negative; two cells, the third row is padding."""
    present = tf.constant([[1.0, 1.0, 0.0]])

    def fill(scores, p):
        return without_class(tf.constant([scores]), tf.constant([p]), present, 2, 0.01, 0.02).numpy()[0]

    # the first cell has class 0; the second one reaches 1 % of p only: Negative with the field's probability of it
    found = fill([[0.4, 0.0, 0.0], [0.005, 0.0, 0.0], [0.0] * 3], [0.5, 0.005, 0.005])
    np.testing.assert_allclose(found[:2], [[0.4, 0, 0], [0, 0, 0.005]], atol=1e-6)
    # no class in the field: all cells are Negative with 1 - the largest probability
    found = fill([[0.004, 0.0, 0.0], [0.0, 0.004, 0.0], [0.0] * 3], [0.005, 0.004, 0.001])
    np.testing.assert_allclose(found[:2], [[0, 0, 0.995], [0, 0, 0.995]], atol=1e-6)
    # a class in the field, and no cell has it: all cells are Negative with the largest probability
    found = fill([[0.005, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0] * 3], [0.6, 0.005, 0.005])
    np.testing.assert_allclose(found[:2], [[0, 0, 0.6], [0, 0, 0.6]], atol=1e-6)


def test_asked_with_a_crop_puzzle_cam_answers_with_its_probability(built):
    inputs = field_inputs()
    outputs = built["puzzle"](inputs)
    found = NETWORKS["puzzle"][0].probabilities(outputs, {"image": inputs["image"]})
    np.testing.assert_allclose(found[:, 0], 1 / (1 + np.exp(-outputs["logits"].numpy())), atol=1e-6)


# -- team 1's attention and head --------------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def drawn(layer) -> list[np.ndarray]:
    """Give a built layer drawn weights, and return them in their order; variances stay positive."""
    values = [rng().normal(0.3, 0.5, weight.shape) for weight in layer.weights]
    values = [np.abs(v) + 0.1 if "variance" in w.path else v for v, w in zip(values, layer.weights, strict=True)]
    layer.set_weights(values)
    return values


def test_cbam_is_its_formula():
    """Channels by one network of two layers on their means and on their maxima; then places by 3 x 3 px of both."""
    features, layer = rng().normal(size=(2, 4, 5, 64)).astype(np.float32), Cbam()
    layer.build(features.shape)
    first, first_bias, second, second_bias, kernel, bias = drawn(layer)
    assert first.shape == (64, 2) and kernel.shape == (3, 3, 2, 1)
    pooled = [features.mean(axis=(1, 2)), features.max(axis=(1, 2))]
    gates = sum(np.maximum(x @ first + first_bias, 0) @ second + second_bias for x in pooled)
    gated = features * sigmoid(gates)[:, None, None]
    places = np.pad(np.stack([gated.mean(axis=3), gated.max(axis=3)], axis=3), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(places, (3, 3), axis=(1, 2))  # [B, h, w, 2, 3, 3]
    places = np.einsum("bhwcij,ijc->bhw", windows, kernel[..., 0]) + bias
    np.testing.assert_allclose(layer(features), gated * sigmoid(places)[..., None], atol=2e-5)


def test_the_head_of_team_1_is_its_formula():
    """Mean and maximum of the map, batch norm, a hidden layer with ReLU, batch norm, logits; nothing dropped."""
    features, layer = rng().normal(size=(3, 4, 4, 6)).astype(np.float32), MeanMaxHead(5, 7, 0.5)
    layer.build(features.shape)
    by_name = dict(zip((weight.path for weight in layer.weights), drawn(layer), strict=True))

    def part(number: str, name: str) -> np.ndarray:
        return next(v for path, v in by_name.items() if f"{number}/" in f"{path}/" and path.endswith(name))

    def normalized(x, number):
        scale = part(number, "gamma") / np.sqrt(part(number, "moving_variance") + 1e-5)
        return (x - part(number, "moving_mean")) * scale + part(number, "beta")

    x = normalized(np.concatenate([features.mean(axis=(1, 2)), features.max(axis=(1, 2))], axis=1), "fc_layers.0")
    x = np.maximum(x @ part("fc_layers.2", "kernel") + part("fc_layers.2", "bias"), 0)
    x = normalized(x, "fc_layers.4")
    logits, seen = layer(features, training=False)
    np.testing.assert_allclose(seen, x, atol=2e-5)
    np.testing.assert_allclose(logits, x @ part("logit", "kernel") + part("logit", "bias"), atol=5e-5)


# -- bags -------------------------------------------------------------------------------------------------------------


def test_generalized_mean_check_value():
    pooled = GeneralizedMean()(np.array([0, 1, 2, 3], np.float32).reshape(1, 2, 2, 1))
    np.testing.assert_allclose(pooled, [[2.080084]], atol=1e-5)


@pytest.mark.parametrize("name", ["duo_branch", "attention"])
def test_missing_crops_are_ignored_when_masked(name):
    spec = replace(NETWORKS[name][0], mask_missing=True)
    model, inputs = spec.build(BAG), bag_inputs()
    other = {**inputs, "image": inputs["image"].copy()}
    other["image"][1, 2:] = 99
    found, expected = model(other), model(inputs)
    np.testing.assert_allclose(found["image_logits"], expected["image_logits"], atol=1e-5)
    np.testing.assert_allclose(found["cell_logits"][1, :2], expected["cell_logits"][1, :2], atol=1e-5)
    two = spec.build({"image": Spec((2, SIZE, SIZE, 4)), "present": Spec((2,))})
    two.set_weights(model.get_weights())
    small = two({"image": inputs["image"][1:, :2], "present": inputs["present"][1:, :2]})
    np.testing.assert_allclose(small["image_logits"], model(inputs)["image_logits"][1:], atol=1e-5)


@pytest.mark.parametrize("name", ["duo_branch", "attention"])
def test_missing_crops_do_not_enter_batch_norm_when_masked(name):
    """While training, what stands at their places changes neither the answer nor the moving statistics."""
    spec = replace(NETWORKS[name][0], mask_missing=True, **({"dropout": 0.0} if name == "duo_branch" else {}))
    models, inputs = [spec.build(BAG) for _ in range(2)], bag_inputs()
    models[1].set_weights(models[0].get_weights())
    other = {**inputs, "image": inputs["image"].copy()}
    other["image"][1, 2:] = 99
    found, expected = (model(one, training=True) for model, one in zip(models, (other, inputs), strict=True))
    for output in ("image_logits", "cell_logits"):
        np.testing.assert_allclose(found[output], expected[output], atol=1e-5)
    for one, same in zip(*(model.non_trainable_weights for model in models), strict=True):
        np.testing.assert_allclose(one.numpy(), same.numpy(), atol=1e-6)


def test_crops_of_the_bag_stand_in_for_missing_ones_in_turn():
    present = np.array([[0, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]], np.float32)
    crops = (np.arange(20).reshape(4, 5, 1, 1, 1) * np.ones((2, 2, 1))).astype(np.float32)
    found = FoldCrops((0.0,), mask_missing=True)(crops, present, training=True).numpy().reshape(4, 5, 4)[..., 0]
    np.testing.assert_array_equal(found[:3], [[1, 1, 2, 2, 1], [5, 6, 7, 8, 9], [13] * 5])
    assert np.isin(found[3], crops[3]).all()  # a bag without cells, which weighs nothing, is no error


def test_duo_branch_takes_the_product_of_cell_and_strongest_of_the_bag(built):
    spec, model, inputs = NETWORKS["duo_branch"][0], built["duo_branch"], bag_inputs()
    outputs = model(inputs)
    features = outputs["embedding"].numpy()
    strongest = np.stack([features[0].max(axis=0), features[1, :2].max(axis=0)])
    image = model.get_layer("head_image")(strongest).numpy()
    cell = model.get_layer("head_cell")(features).numpy()
    sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    np.testing.assert_allclose(spec.probabilities(outputs, inputs), sigmoid(cell) * sigmoid(image)[:, None], atol=1e-5)


def test_missing_crops_are_in_the_maximum_while_training_alone():
    """Asked, all N cells of the image are there alone, however many a view fills up. Source: SYSTEMS 2a, g."""
    spec, inputs = DuoBranch(BODY, dropout=0), bag_inputs()
    model, two = spec.build(BAG), spec.build({"image": Spec((2, SIZE, SIZE, 4)), "present": Spec((2,))})
    trained = [model(inputs, training=True) for _ in range(20)][-1]  # moves batch norm: a grey crop is no zero any more
    strongest = trained["embedding"].numpy().max(axis=1)
    np.testing.assert_allclose(trained["image_logits"], model.get_layer("head_image")(strongest), atol=1e-5)
    two.set_weights(model.get_weights())
    asked = model(inputs, training=False)
    cells, missing = np.split(asked["embedding"][1].numpy(), 2)
    assert (missing > cells.max(axis=0)).any()
    small = two({name: values[1:, :2] for name, values in inputs.items()}, training=False)
    np.testing.assert_allclose(asked["image_logits"][1:], small["image_logits"], atol=1e-5)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_duo_branch_drops_before_both_heads(rate):
    """Source: SYSTEMS 2b. While training, logits depend on the examples' seeds, unless nothing is dropped."""
    model, inputs = DuoBranch(BODY, dropout=rate).build(BAG), bag_inputs()
    found = []
    for seed in (1, 2):
        with example_seeds(tf.fill((2, 2), seed)):
            found.append(model(inputs, training=True))
    for name in ("cell_logits", "image_logits"):
        assert np.array_equal(found[0][name], found[1][name]) == (rate == 0)


def test_a_missing_crop_is_zero_behind_the_scaling():
    """Grey, not black: the mean of the channels. Source: SYSTEMS 2a."""
    from hpa_tf.models.resnet import ResNet

    body = ResNet(depths=(1, 1, 1, 1), stride=4, pixels=Standardized())
    model, inputs = DuoBranch(body).build(BAG), bag_inputs()
    zero = keras.Model(model.get_layer("resnet").input, model.get_layer("resnet").get_layer("pixel_scaling").output)
    crops = model.get_layer("head_crops")(inputs["image"], inputs["present"])
    scaled = zero(crops).numpy().reshape(2, CROPS, SIZE, SIZE, 4)
    assert np.abs(scaled[1, 2:]).max() < 1e-6 and np.abs(scaled[1, :2]).max() > 1


def test_attention_over_a_bag_by_hand(built):
    model, inputs = built["attention"], bag_inputs()
    outputs = model(inputs)
    v = outputs["embedding"].numpy()
    hidden = np.maximum(model.get_layer("head_attention1")(v).numpy(), 0)
    scores = model.get_layer("head_attention2")(hidden).numpy()[..., 0]
    share = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    kernel, bias = model.get_layer("head_logits").get_weights()
    np.testing.assert_allclose(outputs["image_logits"], (share[..., None] * v).sum(1) @ kernel + bias, atol=1e-5)


# -- masks on maps ----------------------------------------------------------------------------------------------------


def test_means_inside_cells_by_hand():
    """6x6 px on a 3x3 map: cell 1 owns the left column, cell 2 one pixel that is at no centre, cell 3 is not there."""
    masks = np.zeros((1, 6, 6), np.int32)
    masks[0, :, :2], masks[0, 2, 4] = 1, 2
    features = np.arange(9, dtype=np.float32).reshape(1, 3, 3, 1)
    means = CellMeans(3)(features, masks)[0, :, 0]
    np.testing.assert_allclose(means, [(0 + 3 + 6) / 3, features[0, 1, 2, 0], 0])


def test_three_hundred_cells_and_none():
    masks = np.zeros((2, 64, 64), np.int32)
    masks[0, ::3, ::4] = np.arange(1, 353).reshape(22, 16)
    means = CellMeans(300)(rng().random((2, 4, 4, 2), np.float32), masks).numpy()
    assert (means[0] > 0).all() and not means[1].any()


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_are_written_and_read(name, built, tmp_path):
    """Also those of a backbone that is called twice, and of parts inside a head."""
    spec, specs, make, _ = NETWORKS[name]
    weights.save(built[name], tmp_path / "a.weights.h5")
    other, inputs = spec.build(specs), make()
    weights.load(other, tmp_path / "a.weights.h5")
    for output, expected in built[name](inputs).items():
        np.testing.assert_allclose(other(inputs)[output], expected, atol=1e-6)

"""Heat maps of networks that see fields and bags: each cell's is that of the cell by itself, at its place."""

import keras
import numpy as np
import pandas as pd
import prediction_cases as cases
import pytest
import tensorflow as tf
from test_heat_maps import field

from hpa_tf import cell_table, heat_map_files, serving
from hpa_tf.errors import InputError
from hpa_tf.imaging.fields import find_fields
from hpa_tf.imaging.image_cells import Reading
from hpa_tf.imaging.segmentation.masks_on_disk import MasksOnDisk
from hpa_tf.models.bags import AttentionBag, DuoBranch
from hpa_tf.models.fcan import CbamClassifier, Fcan
from hpa_tf.models.mask_pooled import MaskPooled
from hpa_tf.models.network import Spec
from hpa_tf.models.puzzle_cam import PuzzleCam
from hpa_tf.models.small_cnn import SmallCnn
from hpa_tf.prediction.heat import heat_writer
from hpa_tf.prediction.inference import predict_fields
from hpa_tf.prediction.members import Network, needs_of
from hpa_tf.prediction.options import Options
from hpa_tf.prediction.predict import predict
from hpa_tf.prediction.runtimes import tensorflow_run
from hpa_tf.prediction.sources import ImageReader
from hpa_tf.recipes import Recipe
from hpa_tf.serving import heat_maps
from hpa_tf.views import Bag, Crop, Field

SIZE, CELLS, CLASS = 64, 3, 5
BODY = SmallCnn((4, 6, 8, 8))  # strides 2, 4, 8 and 16
FIELD, GREEN = Field(SIZE, num_cells=CELLS), Field(2 * SIZE, num_cells=CELLS)
ALONE = {"image": Spec((SIZE, SIZE, 4))}
PLACE = np.array([[0, 7, 3], [12, 3, 1]], np.int32)


def inputs() -> dict[str, tf.Tensor]:
    masks = np.zeros((2, SIZE, SIZE), np.int32)
    masks[:, 3:30, 5:28], masks[:, 34:60, 8:40], masks[:, 10:33, 35:62] = 1, 2, 3
    image = np.random.default_rng(0).random((2, SIZE, SIZE, 4), np.float32)
    found = {"image": image, "masks": masks, "present": np.ones((2, CELLS), np.float32)}
    return {name: tf.constant(value) for name, value in found.items()}


def spread(network: keras.Model) -> keras.Model:
    """Give a network weights whose maps differ from place to place and class to class."""
    rng = np.random.default_rng(2)
    network.set_weights([rng.uniform(0.2, 1, w.shape) * rng.choice([-1, 1, 1], w.shape) for w in network.get_weights()])
    for layer in network._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_variance.assign(np.abs(layer.moving_variance))
    return network


def test_a_cells_map_on_the_field_is_that_of_the_cell_alone():
    """Of each cell, for a class of its own, from one gradient; the whole field and the rest have no part in it."""
    spec, given = Fcan(BODY, hidden=16, neck=12, dropout=0), inputs()
    network = spread(spec.build(FIELD.specs()))
    found = heat_maps.drawer(network, CELLS)(given, tf.constant(PLACE)).numpy()
    plain = spec.build(ALONE)
    plain.set_weights(network.get_weights())
    draw = heat_maps.drawer(plain, 1)
    assert found.shape == (2, CELLS, 8, 8) and len(np.unique(found.round(3))) > 100
    for k in range(CELLS):
        alone = given["image"] * tf.cast(given["masks"] == k + 1, tf.float32)[..., None]
        np.testing.assert_allclose(found[:, [k]], draw({"image": alone}, PLACE[:, [k]]), atol=2e-4)
    assert [one.shape[1] for one in heat_maps.with_maps(plain).output["maps"]] == [8, 4]


@pytest.mark.parametrize("spec", [DuoBranch(BODY, dropout=0), AttentionBag(BODY, hidden=8)])
def test_a_crops_map_in_a_bag_is_that_of_the_crop_alone(spec):
    image = np.random.default_rng(1).random((2, CELLS, SIZE, SIZE, 4), np.float32)
    one, several = (
        spec.build({"image": Spec((count, SIZE, SIZE, 4)), "present": Spec((count,))}) for count in (1, CELLS)
    )
    one.set_weights(spread(several).get_weights())
    present = np.ones((2, CELLS), np.float32)
    given = {"image": tf.constant(image), "present": tf.constant(present)}
    found = heat_maps.drawer(several, CELLS)(given, tf.constant(PLACE)).numpy()
    assert found.shape == (2, CELLS, 8, 8) and len(np.unique(found.round(3))) > 100
    for k in range(CELLS):
        alone = {name: value[:, k : k + 1] for name, value in given.items()}
        expected = heat_maps.drawer(one, 1)(alone, tf.constant(PLACE[:, [k]]))
        np.testing.assert_allclose(found[:, [k]], expected, atol=2e-4)


def test_where_cells_share_a_map_it_is_the_class_activation_map():
    """Puzzle-CAM: the map that the score is read off. Mask pooling: what each place in the cell adds to the logit."""
    given = inputs()
    puzzle = spread(PuzzleCam(BODY).build(FIELD.specs()))
    found = heat_maps.drawer(puzzle, CELLS)(given, tf.constant(PLACE)).numpy()
    cam = np.maximum(puzzle(given, training=False)["cam"].numpy(), 0)
    pooled = spread(MaskPooled(BODY, hidden=8).build(FIELD.specs()))
    inside = heat_maps.drawer(pooled, CELLS)(given, tf.constant(PLACE)).numpy()
    features = pooled(given, training=False)["features"].numpy()
    kernel = pooled.get_layer("head_logits").get_weights()[0]
    small = given["masks"].numpy()[:, 8::16, 8::16]  # at the centre of each place
    for i, k in np.ndindex(2, CELLS):
        own = cam[i, ..., PLACE[i, k]]
        np.testing.assert_allclose(found[i, k], own / own.max(), atol=1e-5)
        own = np.maximum(features[i] @ kernel[:, PLACE[i, k]], 0)[small[i] == k + 1]
        np.testing.assert_allclose(
            inside[i, k][small[i] == k + 1] * own.max(), own * inside[i, k][small[i] == k + 1].max(), rtol=1e-3
        )


def test_a_bag_shows_each_cell_as_it_is_seen_alone(tmp_path):
    """Through bags of 3 and of 1, whose cells answer for themselves: the same classes, maps and pictures."""
    cases.write_field(tmp_path, "a", 5, 1)
    spec, found = AttentionBag(BODY, hidden=8), []
    for count in (3, 1):
        view = Bag(count, Crop(SIZE))
        network = spread(spec.build(view.specs()))
        one = Network("one", 1.0, serving.from_network(network, Recipe("bag", view, spec), cases.MANIFEST, "a"), "", "")
        reader = ImageReader(Reading(MasksOnDisk(str(tmp_path))), needs=needs_of([one], pictures=True))
        fields = map(reader, find_fields(tmp_path))
        found += predict_fields(fields, [one], [tensorflow_run(one)], 6, with_cards=lambda image_id: True)
    bag, alone = (one.cards for one in found)
    assert bag.heat.shape == (5, 8, 8) and len(np.unique(bag.heat.round(3))) > 50
    np.testing.assert_array_equal(bag.heat_class, alone.heat_class)
    np.testing.assert_allclose(bag.heat, alone.heat, atol=1e-3)
    np.testing.assert_array_equal(bag.thumbnails, alone.thumbnails)
    assert (bag.thumbnails[..., 1].max(axis=(1, 2)) > 0).all() and len(np.unique(bag.thumbnails.mean((1, 2, 3)))) == 5


def sees_green() -> tuple[keras.Model, Recipe]:
    """Return an FCAN whose logit of one class rises with green, at whatever place, and all others are far below."""
    spec = Fcan(SmallCnn((2, 2, 2)), hidden=4, dropout=0)
    network = spec.build(GREEN.specs())
    for layer in network._flatten_layers():
        if isinstance(layer, keras.layers.Conv2D) and layer.name.startswith("stage"):
            kernel = np.zeros(layer.kernel.shape, np.float32)
            kernel[:, :, 1 if layer.name == "stage0_conv" else 0, 0] = 1 / 3
            layer.kernel.assign(kernel)
    for weight in network.get_layer(f"cbam_{spec.backbone.build((8, 8, 4)).name}").get_layer("head_att_module").weights:
        weight.assign(tf.zeros_like(weight))  # gates of 1/2
    head = network.get_layer("head_mean_max").parts
    head["fc_layers.2"].kernel.assign(np.ones(head["fc_layers.2"].kernel.shape))
    logit = np.zeros(head["logit"].kernel.shape)
    logit[:, CLASS] = 1
    head["logit"].kernel.assign(logit)
    head["logit"].bias.assign(np.where(np.arange(19) == CLASS, 0, -9))
    return network, Recipe("green", GREEN, spec)


SPOTS = {1: (40, 30), 2: (20, 150), 5: (104, 60), 9: (90, 170)}
"""Middle of the bright spot of each cell, row and column, px."""


def write_image(folder) -> np.ndarray:
    """Write a field of 160 x 200 px with four cells, each with a bright spot, and brighter ones outside of all."""
    mask = np.zeros((160, 200), np.int32)
    mask[10:70, 15:80], mask[5:60, 110:180], mask[80:125, 20:90], mask[75:150, 105:190] = 1, 2, 5, 9
    green = np.where(mask > 0, 40, 0)
    for row, column in SPOTS.values():
        green[row - 6 : row + 6, column - 6 : column + 6] = 180
    green[130:155, 30:90] = green[:50, 85:105] = green[62:72, 120:160] = 255
    field(folder, "a", green, mask)
    return mask


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """A SavedModel of that network, and what `predict.py` makes of it: the folder, the cells, the network."""
    root = tmp_path_factory.mktemp("fcan")
    mask = write_image(root / "images")
    network, recipe = sees_green()
    serving.export(root / "run", network, recipe, cases.MANIFEST)
    folder = str(root / "images")
    options = {"run": (str(root / "run"),), "images": folder, "masks": folder, "workers": 1, "heat_maps": True}
    predict(Options(str(root / "out"), **options, report_images=1))
    return root, mask, network, recipe


def test_the_map_is_hottest_where_the_spot_that_decides_lies(predicted):
    root, mask, _, _ = predicted
    maps, table = heat_map_files.read(root / "out", "a"), cell_table.read(root / "out/cells.parquet")
    assert maps.cell.tolist() == table["cell"].tolist() == list(SPOTS) and (maps.class_id == CLASS).all()
    for index, (number, (row, column)) in enumerate(SPOTS.items()):
        heat = maps.in_box(index, (0, 0, *mask.shape))
        inside = np.where(mask == number, heat, 0)
        peak = np.argwhere(inside >= 0.95 * inside.max()).mean(axis=0)
        place = max(mask.shape) / 16  # of the network's map, px of the image: smaller than the spot's 12 px + 1
        assert np.abs(peak - (row, column)).max() < place, "its middle is less than a place away"
        assert inside.max() > 0.9, "scaled for each cell"
        top, left, bottom, right = maps.square[index]
        own = table[table["cell"] == number].iloc[0]
        assert bottom - top == right - left == max(own["bottom"] - own["top"], own["right"] - own["left"])
        assert top <= own["top"] and bottom >= own["bottom"] and left <= own["left"] and right >= own["right"]
    assert "map of" in (root / "out/report.html").read_text()


def test_the_savedmodel_draws_what_the_network_draws(predicted):
    root, _, network, recipe = predicted
    given = {"image": (2, 128, 128, 4), "masks": (2, 128, 128), "present": (2, CELLS)}
    given = {
        name: tf.constant(
            np.kron(one, np.ones([n // m for n, m in zip(given[name], one.shape, strict=True)])), one.dtype
        )
        for name, one in inputs().items()
    }
    loaded, wrapped = serving.load(root / "run"), serving.from_network(network, recipe, cases.MANIFEST, "here")
    first, second = (one.signatures["activation_maps"](**given) for one in (loaded, wrapped))
    assert first["heat"].shape == (2, CELLS, 16, 16) and first["class_id"].shape == (2, CELLS)
    assert first["probabilities"].shape == (2, CELLS, 19)
    for name in first:
        np.testing.assert_allclose(first[name], second[name], atol=1e-5)
    assert (first["class_id"].numpy() == CLASS).all() and first["heat"].numpy().max(axis=(2, 3)).min() == 1


def test_a_cut_is_the_map_at_the_cells_place():
    """A map that is linear in the image's rows and columns stays so; the shorter side of an image is not stretched."""
    table = pd.DataFrame({"top": [10, 0, 50], "left": [20, 0, 130], "bottom": [50, 9, 70], "right": [40, 4, 180]})
    table = table.assign(height=100, width=200)
    middle = (np.arange(25) + 0.5) * 8
    heat = np.repeat((middle[:, None] + 3 * middle)[None], 3, axis=0).astype(np.float32)
    found, squares = heat_map_files.cut_from_fields(heat, table), heat_map_files.TIGHT.of(table)
    at = (np.arange(heat_map_files.CUT) + 0.5) / heat_map_files.CUT
    for one, (top, left, bottom, right) in zip(found, squares, strict=True):
        rows, columns = (np.clip(a + at * (b - a), 4, 196) for a, b in ((top, bottom), (left, right)))
        expected = rows[:, None] + 3 * columns
        np.testing.assert_allclose(one, expected / expected.max(), rtol=1e-4)
    assert heat_map_files.cut_from_fields(np.zeros((3, 25, 25), np.float32), table).max() == 0
    assert heat_map_files.cut_from_fields(np.zeros((0, 25, 25), np.float32), table[:0]).shape[0] == 0


def test_a_network_without_maps_says_so(tmp_path):
    view, spec = Crop(32), CbamClassifier(SmallCnn((4,)), hidden=4)  # a map of stride 2 alone
    served = serving.from_network(spec.build(view.specs()), Recipe("plain", view, spec), cases.MANIFEST, "plain")
    assert not served.has_maps
    with pytest.raises(InputError, match="--heat-maps: found plain, a network without maps"):
        heat_writer(str(tmp_path), [Network("plain", 1.0, served, "", "")], None)
    assert not any(tmp_path.iterdir())

"""Heat maps: the formula, the place in the image that they stand for, and how well they lie on a protein."""

from dataclasses import replace
from itertools import product

import cv2
import keras
import numpy as np
import pandas as pd
import prediction_cases as cases
import pytest
import tensorflow as tf
import tifffile

from hpa_tf import cell_table, heat_map_files, serving
from hpa_tf.classes import CHANNELS, CLASSES
from hpa_tf.errors import InputError
from hpa_tf.evaluation import heat
from hpa_tf.heat_map_files import HeatMaps, SeenSquare
from hpa_tf.imaging.cells import cut_cells
from hpa_tf.imaging.fields import FieldOfView, find_fields, read_field
from hpa_tf.imaging.segmentation import Masks
from hpa_tf.models.classifier import Classifier
from hpa_tf.models.efficientnet import EfficientNet
from hpa_tf.models.fcan import CbamClassifier
from hpa_tf.models.inception import InceptionV3
from hpa_tf.models.network import Spec
from hpa_tf.models.resnet import ResNet
from hpa_tf.models.small_cnn import SmallCnn
from hpa_tf.prediction.heat import heat_writer
from hpa_tf.prediction.members import Network, needs_of
from hpa_tf.prediction.options import Options
from hpa_tf.prediction.predict import predict
from hpa_tf.recipes import recipe_named
from hpa_tf.serving import heat_maps
from hpa_tf.views import Crop
from hpa_tf.views.crop import prepare


def test_a_map_is_gradient_times_features_and_on_the_last_map_that_is_the_class_activation_map():
    keras.utils.set_random_seed(1)
    network = Classifier(SmallCnn((8, 12, 16, 20))).build({"image": Spec((64, 64, 4))})
    fine, last = heat_maps.maps_of(network)
    assert (fine.shape[1], last.shape[1]) == (8, 4)
    image = tf.random.uniform((3, 64, 64, 4), seed=2)
    place = tf.constant([0, 7, 17])
    found = heat_maps.drawer(network, 1)({"image": image}, place[:, None]).numpy()[:, 0]
    outputs = keras.Model(network.input, {"fine": fine, "cam": network.output["cam"]})({"image": image}, training=False)
    cam = np.maximum(tf.gather(outputs["cam"], place, axis=3, batch_dims=1).numpy(), 0)
    after = keras.Model(fine, network.output["logits"])  # the rest of the network, by itself
    features = outputs["fine"].numpy()
    expected = np.zeros((3, 8, 8))
    for i, c in enumerate(place.numpy()):
        with tf.GradientTape() as tape:
            start = tf.constant(features[i : i + 1])
            tape.watch(start)
            logit = after(start, training=False)[0, c]
        own = np.maximum((tape.gradient(logit, start).numpy()[0] * features[i]).sum(-1), 0)
        coarse = tf.image.resize(cam[i][..., None], (8, 8)).numpy()[..., 0]
        expected[i] = own / max(own.max(), 1e-30) + coarse / max(cam[i].max(), 1e-30)
        expected[i] /= max(expected[i].max(), 1e-30)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_network_without_such_maps_has_none():
    network = cases.network()
    assert heat_maps.maps_of(network) == [] and heat_maps.with_maps(network) is None


@pytest.mark.parametrize(("square", "margin", "stored"), product(["pad", "grow"], [0, 7], [0, 5, 12]))
def test_the_square_is_the_one_that_the_network_sees(square, margin, stored):
    """Pixels hold their own row and column: what the view shows must be what the square says."""
    height, width, size = 90, 120, 32
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows + 1, columns + 1, rows, columns], axis=-1).astype(np.uint16)
    mask = np.zeros((height, width), np.int32)
    mask[3:40, 2:20], mask[50:65, 60:118], mask[70:90, 30:44] = 1, 2, 5
    view = Crop(size, surroundings="all", square=square, margin=margin)
    cells = list(cut_cells(FieldOfView("a", pixels, 0.08), Masks(mask, mask), stored))
    box = pd.DataFrame([cell.box for cell in cells], columns=["top", "left", "bottom", "right"])
    squares = SeenSquare(square == "grow", margin, stored).of(box.assign(height=height, width=width))
    for cell, (top, left, bottom, right) in zip(cells, squares, strict=True):
        assert bottom - top == right - left
        seen = prepare(tf.constant(cell.crop), tf.constant(cell.region), view).numpy() * 65535
        place = (np.arange(size) + 0.5) * (bottom - top) / size - 0.5
        shown = (seen[..., 0] > 0.99) & (seen[..., 1] > 0.99)
        inner = (
            cv2.erode(shown.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=0) > 0
        )  # no mixing with padding
        assert inner.any()
        grid = np.meshgrid(place + top + 1, place + left + 1, indexing="ij")
        for channel in (0, 1):
            np.testing.assert_allclose(seen[..., channel][inner], grid[channel][inner], atol=0.02)


def test_a_map_lies_where_its_square_is():
    square = np.array([[-4, 2, 12, 18]], np.int32)
    values = np.zeros((1, 4, 4), np.uint8)
    values[0, 3, 0] = 255  # rows 8 to 12, columns 2 to 6 of the image
    maps = HeatMaps(np.array([1]), np.array([0]), values, square)
    found = maps.in_box(0, (0, 0, 20, 20))
    assert np.unravel_index(found.argmax(), found.shape)[0] in range(9, 12) and found[:, :2].max() == 0
    assert found[12:].max() == 0 and found[9:12, 2:5].min() > 0.5 and found[:6].max() == 0
    np.testing.assert_array_equal(maps.in_box(0, (5, 3, 15, 9)), found[5:15, 3:9])


def test_the_square_ends_where_the_crops_of_the_images_end(tmp_path):
    """Or before, where the network was trained on less: they are cut as wide as the networks need that look there."""
    recipes = (cases.recipe(square="grow"), cases.recipe(square="pad"), cases.recipe(margin=50))
    served = [
        serving.Served("", {"activation_maps": None}, recipe, {**vars(cases.MANIFEST), "margin": margin}, 32, None)
        for recipe, margin in zip(recipes, (4, 60, 30), strict=True)
    ]
    networks = [Network(str(i), 1.0, one, "", "") for i, one in enumerate(served)]
    assert needs_of(networks).margin == 30
    for margin, seen in ((None, 4), (30, 4), (3, 3)):
        square = heat_writer(str(tmp_path), networks, margin).square
        assert square == SeenSquare(grows=True, margin=0, stored=seen)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no", "pickle", "shapes"])
def test_damaged_files_are_named(tmp_path, damage):
    good = {"cell": np.ones(2, np.int32), "class_id": np.ones(2, np.int32), "heat": np.ones((2, 3, 3), np.uint8)}
    good["square"] = np.ones((2, 4), np.int32)
    (tmp_path / "heat_maps").mkdir()
    path = tmp_path / "heat_maps/a.npz"
    if damage == "pickle":
        np.savez(path, **{**good, "cell": np.array([print, 1], object)})
    elif damage == "shapes":
        np.savez(path, **{**good, "heat": np.ones((1, 3, 3), np.uint8)})
    else:
        path.write_bytes(damage)
    with pytest.raises(InputError, match="heat maps"):
        heat_map_files.read(tmp_path, "a")
    with pytest.raises(InputError, match="no such file"):
        heat_map_files.read(tmp_path, "b")


def field(folder, image_id: str, green: np.ndarray, mask: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for channel in CHANNELS:
        plane = green if channel == "green" else np.full(mask.shape, 9)
        cv2.imwrite(str(folder / f"{image_id}_{channel}.png"), plane.astype(np.uint8))
    cv2.imwrite(str(folder / f"{image_id}_cellmask.png"), mask.astype(np.uint16))


def cells(folder, numbers, area: int = 1600) -> None:
    """Write what predict.py writes of cells of an image, without scores."""
    table = cell_table.from_values(["a"] * len(numbers), numbers, np.zeros((len(numbers), 19)))
    cell_table.write(table.assign(cell_area=area), folder / "cells.parquet", "predictions")


@pytest.fixture
def known(tmp_path):
    """Cells of 40 x 40 px whose green is bright in one quarter, and maps that are right, wrong or of even cells."""
    mask, green = np.zeros((40, 160), np.int32), np.full((40, 160), 20)
    for number in range(4):
        mask[:, 40 * number : 40 * number + 40] = number + 1
        green[:20, 40 * number : 40 * number + 20] = 200
    green[:, 120:] = 50  # the fourth cell is even
    field(tmp_path / "images", "a", green, mask)
    hot = np.zeros((4, 40, 40), np.uint8)
    hot[0, :20, :20], hot[1, 20:, 20:], hot[2, :20] = 255, 255, 255  # right, wrong, twice too large
    square = np.array([[0, 40 * i, 40, 40 * i + 40] for i in range(4)], np.int32)
    (tmp_path / "predictions/heat_maps").mkdir(parents=True)
    maps = HeatMaps(np.arange(1, 5, dtype=np.int32), np.array([3, 3, 4, 4], np.int32), hot, square)
    heat_map_files.write(tmp_path / "predictions", "a", maps)
    cells(tmp_path / "predictions", range(1, 5))
    truth = np.zeros((4, 19))
    truth[:, 3] = 1
    cell_table.write(cell_table.from_values(["a"] * 4, range(1, 5), truth), tmp_path / "truth.parquet", "truth")
    folders = {name: str(tmp_path / name) for name in ("predictions", "images", "out")}
    return heat.Heat(**{**folders, "predictions": (folders["predictions"],)}, masks=folders["images"])


def test_known_overlaps(known):
    cells, examples = heat.measure(known)
    cells = cells.set_index("cell")
    assert cells["iou"][1] == 1 and cells["iou"][2] == 0 and cells["iou"][3] == 0.5 and np.isnan(cells["iou"][4])
    assert cells["chance"][1] == pytest.approx(1 / 7) and cells["chance"][3] == pytest.approx(0.125 / 0.625)
    assert cells["another"][2] == 1, "the map of cell 1, moved to cell 2, is right"
    assert cells["brightness"][1] == 1, "only green varies here"
    assert heat.sheet(examples, known.predictions).ndim == 3


def test_the_table_is_by_class_and_the_command_writes_it(known, tmp_path, capsys):
    heat.run(known)
    table = pd.read_csv(tmp_path / "out/heat.csv").set_index("class")
    assert table.loc[CLASSES[3], "iou"] == 0.5 and table.loc[CLASSES[3], "cells"] == 2
    assert table.loc[CLASSES[4], "cells"] == 1, "the even cell is left out"
    assert table.loc["mean over the classes", "iou"] == 0.5
    assert (tmp_path / "out/heat.png").read_bytes().startswith(b"\x89PNG") and CLASSES[3] in capsys.readouterr().out


def test_the_scale_of_the_images_does_not_matter(known, tmp_path):
    """`predict.py --um-per-px` took files that say a wrong one."""
    usual, _ = heat.measure(known)
    for path in (tmp_path / "images").glob("a_*.png"):
        if "mask" not in path.name:
            plane = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            tifffile.imwrite(path.with_suffix(".tif"), plane, imagej=True, resolution=(1, 1), metadata={"unit": "mm"})
            path.unlink()
    with pytest.raises(InputError, match="--um-per-px"):
        read_field(find_fields(tmp_path / "images")[0])
    pd.testing.assert_frame_equal(heat.measure(known)[0], usual)


def test_with_a_truth_only_maps_of_true_classes_count(known, tmp_path):
    cells, _ = heat.measure(heat.Heat(**{**vars(known), "truth_labels": str(tmp_path / "truth.parquet")}))
    assert cells["cell"].tolist() == [1, 2]


def test_a_truth_of_other_masks_is_refused(known, tmp_path):
    """Its numbers are those of other cells; so where one folder of several is of other masks."""
    truth = cell_table.read(tmp_path / "truth.parquet")
    cell_table.write(truth.assign(cell_area=[1600, 1600, 1600, 7]), tmp_path / "truth.parquet", "truth")
    with pytest.raises(InputError, match=r"truth.parquet: found image a cell 4 with 'cell_area' 7 "):
        heat.measure(heat.Heat(**{**vars(known), "truth_labels": str(tmp_path / "truth.parquet")}))


def test_several_folders_are_compared_on_the_cells_where_all_show_the_same_class(known, tmp_path, capsys):
    hot = np.zeros((3, 40, 40), np.uint8)
    hot[0, :20, :10], hot[1, :20, :20], hot[2, :20, :20] = 255, 255, 255  # half of it, right, of another class
    numbers, classes = np.array([1, 2, 3], np.int32), np.array([3, 3, 7], np.int32)
    square = np.array([[0, 40 * i, 40, 40 * i + 40] for i in range(3)], np.int32)
    (tmp_path / "other/heat_maps").mkdir(parents=True)
    heat_map_files.write(tmp_path / "other", "a", HeatMaps(numbers, classes, hot, square))
    cells(tmp_path / "other", numbers)
    both = (*known.predictions, str(tmp_path / "other"))
    heat.run(heat.Heat(**{**vars(known), "predictions": both}))
    table = pd.read_csv(tmp_path / "out/heat.csv").set_index(["predictions", "class"])
    apart = f"{both[1]} - {both[0]}"
    assert {one: table.loc[(one, CLASSES[3]), "iou"] for one in (*both, apart)} == {
        both[0]: 0.5,
        both[1]: 0.75,
        apart: 0.25,
    }
    assert set(table["cells"]) == {2} and table.loc[(apart, CLASSES[3]), "brightness"] == 0
    assert "mean over the classes" in capsys.readouterr().out
    for folders, found in ((known.predictions * 2, "twice"), ((), "--predictions: found no folder")):
        with pytest.raises(InputError, match=found):
            heat.run(heat.Heat(**{**vars(known), "predictions": folders}))


def test_masks_of_other_cells_are_refused(known, tmp_path):
    cells(tmp_path / "predictions", range(1, 5), area=1599)
    with pytest.raises(InputError, match=r"a_cellmask.png: found 1600 px of cell 1; expected its 1599 px"):
        heat.measure(known)


def test_without_maps_the_command_says_so(known, tmp_path):
    (tmp_path / "predictions/heat_maps/a.npz").unlink()
    with pytest.raises(InputError, match="--heat-maps"):
        heat.measure(known)


def test_predict_writes_the_maps_of_every_image(tmp_path):
    images = tmp_path / "images"
    for seed, (name, cells) in enumerate({"a": 4, "b": 0, "c": 2}.items()):
        cases.write_field(images, name, cells, seed)
    run, out = cases.write_run(tmp_path / "run"), tmp_path / "out"
    asked = Options(str(out), run=(str(run),), images=str(images), masks=str(images), heat_maps=True, workers=1)
    predict(Options(**{**vars(asked), "report_images": 0, "overlays": False}))
    table = cell_table.read(out / "cells.parquet")
    for name in "abc":
        maps, own = heat_map_files.read(out, name), table[table["image_id"] == name]
        assert maps.cell.tolist() == own["cell"].tolist() and maps.heat.dtype == np.uint8
        assert (maps.square[:, 2] - maps.square[:, 0] == maps.square[:, 3] - maps.square[:, 1]).all()
        if len(own):
            first = own[[f"raw: {c}" for c in CLASSES[:18]]].to_numpy().argmax(axis=1)
            np.testing.assert_array_equal(maps.class_id, first)
            assert (maps.square[:, :2] <= own[["top", "left"]].to_numpy()).all()


@pytest.mark.parametrize(
    ("network", "size", "sides"),
    [
        (CbamClassifier(InceptionV3(pools=False), hidden=8), 128, [14]),
        (Classifier(InceptionV3()), 299, [35, 17]),
        (Classifier(ResNet(depths=(2, 2, 2, 2), bottleneck=False)), 64, [8, 4]),
        (Classifier(EfficientNet("Lite0")), 100, [13, 7]),
    ],
    ids=["inception_without_pools", "inception", "resnet", "efficientnet"],
)
def test_the_rest_of_the_network_needs_no_more_than_the_map(network, size, sides):
    """InceptionV3 does not pad: no side is the input's / 8 or 16; that of a branch's padding, or of none, may be."""
    built = network.build({"image": Spec((size, size, 4))})
    maps = heat_maps.maps_of(built)
    assert [one.shape[1] for one in maps] == sides
    for one in maps:
        keras.Model(one, built.output["logits"])  # raises where a path leads around it


@pytest.mark.slow
def test_inception_draws_maps_through_predict_and_evaluation_reads_them(tmp_path):
    cases.write_field(tmp_path / "images", "a", 4, 0, size=(256, 300))
    recipe = recipe_named("bestfitting_inception")
    keras.utils.set_random_seed(1)
    network = recipe.network.build(recipe.view.specs())
    serving.export(tmp_path / "run", network, recipe, replace(cases.MANIFEST, margin=80))
    images, out = str(tmp_path / "images"), str(tmp_path / "out")
    quiet = {"report_images": 1, "overlays": False, "workers": 1}
    predict(Options(out, run=(str(tmp_path / "run"),), images=images, masks=images, heat_maps=True, **quiet))
    maps = heat_map_files.read(out, "a")
    assert maps.heat.shape == (4, 14, 14) and (maps.heat.reshape(4, -1).max(axis=1) == 255).all()
    heat.run(heat.Heat((out,), images, images, str(tmp_path / "heat"), bootstrap=0))
    assert len(pd.read_csv(tmp_path / "heat/heat_cells.csv")) == 4

"""The server answers about the cells of a whole image what `predict.py` answers, and refuses what it cannot use."""

import base64
import re
import struct
import warnings
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import prediction_cases as cases
import pytest
import toy_networks

from hpa_tf import serving
from hpa_tf.classes import CHANNELS
from hpa_tf.encoding import encode_picture
from hpa_tf.errors import HpaWarning
from hpa_tf.imaging.fields import find_fields, read_field
from hpa_tf.imaging.image_cells import Reading
from hpa_tf.imaging.segmentation.masks_on_disk import MasksOnDisk
from hpa_tf.prediction.inference import predict_fields
from hpa_tf.prediction.members import Network, needs_of
from hpa_tf.prediction.predict import _tell_of_alike_embeddings
from hpa_tf.prediction.runtimes import Device, tensorflow_run
from hpa_tf.prediction.sources import ImageReader
from hpa_tf.serving import server
from hpa_tf.serving.request import instances
from hpa_tf.views import Bag, CellInField, Crop

TOYS = {recipe.name: recipe for recipe in toy_networks.TOYS}
TOYS["cell alone"] = replace(TOYS["toy_fcan"], name="cell_alone", asked=CellInField(32, surroundings="none"))


@pytest.fixture(scope="module", params=TOYS)
def served(request) -> serving.Served:
    """Return a toy of each kind with random weights, as a SavedModel would answer."""
    recipe = TOYS[request.param]
    keras.utils.set_random_seed(1)
    network = recipe.network.build(recipe.asked_view.specs())
    return serving.from_network(network, recipe, cases.MANIFEST, recipe.name)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Write an image of 8 bits, one of 16, and one without cells."""
    folder = tmp_path_factory.mktemp("images")
    cases.write_field(folder, "a", 5, 1)
    cases.write_field(folder, "b", 4, 2, np.uint16, (90, 70))
    cases.write_field(folder, "c", 0, 3)
    return folder


def b64(pixels: np.ndarray) -> dict[str, str]:
    return {"b64": base64.b64encode(encode_picture(pixels, "png")).decode()}


def instance(served: serving.Served, cells, field, masks) -> dict:
    if served.recipe.asked_view.reads == "fields":
        return {"image": b64(field.pixels), "masks": b64(masks.cell.astype(np.uint16))}
    return {"crop": [b64(crop) for crop in cells.crops], "region": [b64(region) for region in cells.regions]}


def test_it_answers_what_predict_py_answers(served, images):
    network = Network("one", 1.0, served, "", "one")
    segmenter = MasksOnDisk(str(images))
    files = find_fields(images)
    reader = ImageReader(Reading(segmenter), needs=needs_of([network]))
    cells = [reader(one) for one in files]
    expected = list(predict_fields(cells, [network], [tensorflow_run(network)], 4))
    fields = [read_field(one) for one in files]
    asked = [instance(served, *three) for three in zip(cells, fields, map(segmenter, fields), strict=True)]
    found = server.predict(served, {"instances": asked})["predictions"]
    assert [len(one["probabilities"]) for one in found] == [5, 4, 0]
    for one, own, field in zip(found[:2], expected, cells, strict=False):
        np.testing.assert_allclose(np.array(one["probabilities"])[:, :18], own.probabilities[0, :, :18], atol=1e-6)
        if "cells" in one:
            assert one["cells"] == field.table["cell"].tolist()


GREY, COLOUR = np.ones((8, 8), np.uint8), np.ones((8, 8, 4), np.uint8)
TEXT, NO_BASE64 = {"b64": "aGFsbG8="}, {"b64": "%"}


def npy(pixels: np.ndarray) -> dict[str, str]:
    return {"b64": base64.b64encode(encode_picture(pixels, "npy")).decode()}


def field(image=None, masks=None, name="masks") -> dict:
    return {"instances": [{"image": image or b64(COLOUR), name: masks or b64(GREY)}]}


def bag(crop=None, region=None, **more) -> dict:
    return {"instances": [{"crop": [crop or b64(COLOUR)], "region": [region or b64(GREY)], **more}]}


FIELD, BAG = "toy_fcan", "toy_duo"
EXPECTED_INSTANCES = 'expected {"instances": [1 to 256 images]}'
ONE_CHANNEL, FOUR_CHANNELS = "found 1 channels; expected a PNG of 4", "found 4 channels; expected a grey PNG"
BAD = {
    "no instances": (FIELD, {"instances": []}, EXPECTED_INSTANCES),
    "columns": (FIELD, {"inputs": field()["instances"][0]}, "found 'inputs'"),
    "another input": (FIELD, field(name="mask"), """found ['image', 'mask']; expected "image" and "masks\""""),
    "image: no base64": (FIELD, field(NO_BASE64), "instances: expected"),
    "masks: no base64": (FIELD, field(masks=NO_BASE64), "instances: expected"),
    "image: text": (FIELD, field(TEXT), "instance 0, image: no PNG"),
    "masks: text": (FIELD, field(masks=TEXT), "instance 0, masks: no PNG"),
    "image: npy": (FIELD, field(npy(COLOUR)), "instance 0, image: no PNG"),
    "masks: npy": (FIELD, field(masks=npy(GREY)), "instance 0, masks: no PNG"),
    "image: grey": (FIELD, field(b64(GREY)), f"instance 0, image: {ONE_CHANNEL}"),
    "masks: colour": (FIELD, field(masks=b64(COLOUR)), f"instance 0, masks: {FOUR_CHANNELS}"),
    "masks: size": (FIELD, field(masks=b64(GREY[:4])), "an image of (8, 8) px and masks of (4, 8) px"),
    "bag: no instances": (BAG, {"instances": []}, EXPECTED_INSTANCES),
    "bag: columns": (BAG, {"inputs": bag()["instances"][0]}, "found 'inputs'"),
    "bag: another input": (BAG, bag(masks=[b64(GREY)]), "instance 0: expected lists of PNGs as"),
    "crop: no base64": (BAG, bag(NO_BASE64), "instances: expected"),
    "crop: text": (BAG, bag(TEXT), "instance 0, crop 0: no PNG"),
    "region: text": (BAG, bag(region=TEXT), "instance 0, region 0: no PNG"),
    "crop: npy": (BAG, bag(npy(COLOUR)), "instance 0, crop 0: no PNG"),
    "region: npy": (BAG, bag(region=npy(GREY)), "instance 0, region 0: no PNG"),
    "crop: grey": (BAG, bag(b64(GREY)), f"instance 0, crop 0: {ONE_CHANNEL}"),
    "region: colour": (BAG, bag(region=b64(COLOUR)), f"instance 0, region 0: {FOUR_CHANNELS}"),
    "region: size": (BAG, bag(region=b64(GREY[:4])), "instance 0: a crop and its region differ in size"),
    "region: number": (BAG, {"instances": [{"crop": [b64(COLOUR)] * 2, "region": [b64(GREY)]}]}, "as many regions"),
}


def test_embeddings_of_whole_images_are_told(served):
    """Of these toys, those whose features before the last layer are those of the field: all cells would be alike."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", HpaWarning)
        _tell_of_alike_embeddings(Network("one", 1.0, served, "", "one"))
    assert bool(told) == (served.recipe.name in {"toy_field", "toy_puzzle"})


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_refused(name):
    kind, payload, said = BAD[name]
    served = serving.Served(kind, {}, TOYS[kind], vars(cases.MANIFEST), 16, None)
    with pytest.raises(ValueError, match=re.escape(said)):
        server.predict(served, payload)


def test_a_mask_that_is_no_label_image_is_refused():
    """One number for three far cells would be one cell with the whole field as its box."""
    served = serving.Served("toy", {}, TOYS["toy_fcan"], vars(cases.MANIFEST), 32, None)
    masks = np.zeros((200, 200), np.uint8)
    for top, left in ((5, 5), (5, 150), (150, 80)):
        masks[top : top + 40, left : left + 40] = 255
    payload = {"instances": [{"image": b64(np.ones((200, 200, 4), np.uint8)), "masks": b64(masks)}]}
    with pytest.raises(ValueError, match=r"instance 0, masks.*label image"):
        server.predict(served, payload)


def test_a_bag_that_needs_regions_is_refused_without():
    view = Bag(cell=Crop(16, channels=(*CHANNELS, "cell")))
    recipe = replace(TOYS["toy_duo"], view=view, asked=None)
    served = serving.Served("toy", {}, recipe, vars(cases.MANIFEST), 32, None)
    with pytest.raises(ValueError, match=r'instance 0: crops without regions; .*send a "region"'):
        server.predict(served, {"instances": [{"crop": [b64(COLOUR)]}]})


def test_more_cells_than_a_request_may_have_are_refused():
    served = serving.Served("toy", {}, TOYS["toy_puzzle"], vars(cases.MANIFEST), 32, None)
    masks = np.kron(np.arange(1, 1601, dtype=np.uint16).reshape(40, 40), np.ones((6, 6), np.uint16))
    payload = {"instances": [{"image": b64(np.ones((240, 240, 4), np.uint8)), "masks": b64(masks)}]}
    with pytest.raises(ValueError, match="1600 cells"):
        server.predict(served, payload)


@pytest.mark.parametrize("kind", ["toy_fcan", "toy_duo"])
def test_pictures_too_large_together_are_refused_before_any_is_decoded(kind):
    """Of larger pictures than the SavedModel of crops decodes, too: OpenCV decodes them."""
    served = serving.Served(kind, {}, TOYS[kind], vars(cases.MANIFEST), 32, None)
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 10_000, 10_000)
    large = {"b64": base64.b64encode(header).decode()}
    one = {"image": large, "masks": large} if served.recipe.asked_view.reads == "fields" else {"crop": [large] * 2}
    with pytest.raises(ValueError, match="200000000 pixels together"):
        server.predict(served, {"instances": [one]})


@pytest.mark.parametrize("name", ["signature_name", "inputs"])
def test_what_networks_of_single_cells_take_besides_is_refused_by_its_name(name):
    payload = {"instances": [{"crop": [b64(COLOUR)]}], name: "serving_default"}
    with pytest.raises(ValueError, match=f"found '{name}'; networks of bags and of fields take instances alone"):
        instances(payload)


def test_more_crops_than_a_request_may_have_are_refused_before_any_is_decoded():
    served = serving.Served("toy_duo", {}, TOYS["toy_duo"], vars(cases.MANIFEST), 32, None)
    payload = {"instances": [{"crop": [{"b64": ""}] * 700}, {"crop": [{"b64": ""}] * 325}]}
    with pytest.raises(ValueError, match="1025 cells"):
        server.predict(served, payload)


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_other_runtimes_have_the_same_numbers(served, runtime):
    """Of bags and fields, too: every input by its name, batches of any size, with and without padding."""
    for package in ("tf2onnx", {"onnx": "onnxruntime", "openvino": "openvino"}[runtime]):
        pytest.importorskip(package, reason=f"needs the extra [{runtime}]")
    network, rng = Network("one", 1.0, served, "", "one"), np.random.default_rng(3)
    run, specs = Device(runtime).run_of(network), served.recipe.asked_view.specs()
    for batch_size in (1, 3):
        inputs = {name: rng.random((batch_size, *one.shape)).astype(one.dtype) for name, one in specs.items()}
        for name in inputs.keys() & {"masks", "present"}:
            inputs[name] = rng.integers(0, 2, inputs[name].shape).astype(specs[name].dtype)
        if "present" in inputs:
            inputs["present"][:, 0] = 1
        found, expected = run(inputs), tensorflow_run(network)(inputs)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert found[name].shape == values.shape
            np.testing.assert_allclose(found[name], values, atol=1e-4)

"""Prediction of images as they come: the numbers of four plain files; other channels than trained are refused."""

import dataclasses
import re
import warnings

import cv2
import numpy as np
import pandas as pd
import prediction_cases as cases
import pytest
from channel_layouts import CASES

import hpa_tf
from hpa_tf import cell_table, serving
from hpa_tf.classes import CHANNELS
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.imaging.fields import find_fields, read_field
from hpa_tf.imaging.layout_options import LayoutOptions
from hpa_tf.pipeline import Augmentation
from hpa_tf.prediction.options import Options
from hpa_tf.prediction.predict import predict
from hpa_tf.prediction.results import request_of
from hpa_tf.prediction.trained_on import check_channels, check_scale, trained_without


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return a folder with images in four files (`plain`), in one (`stacks`), masks and a run of all channels."""
    root = tmp_path_factory.mktemp("channels")
    cases.write_field(root / "plain", "a", 4, 1)
    cases.write_field(root / "plain", "b", 2, 2)
    (root / "stacks").mkdir()
    (root / "masks").mkdir()
    for image_id in "ab":
        (root / "plain" / f"{image_id}_cellmask.png").rename(root / "masks" / f"{image_id}_cellmask.png")
        (root / "plain" / f"{image_id}_nucleusmask.png").rename(root / "masks" / f"{image_id}_nucleusmask.png")
        planes = [cv2.imread(str(root / "plain" / f"{image_id}_{channel}.png"), -1) for channel in CHANNELS]
        CASES["ome"].write(root / "stacks", image_id, np.stack(planes))
    cases.write_run(root / "run")
    return root


def options(world, out, images="plain", **more) -> Options:
    quiet = {"report_images": 0, "overlays": False, "masks": str(world / "masks")}
    return Options(str(out), run=(str(world / "run"),), images=str(world / images), **{**quiet, **more})


def run_of(folder, without=((),), **dropped) -> str:
    """Export a run that was trained on data without channels, and with channels dropped at random."""
    manifest = dataclasses.replace(cases.MANIFEST, without=without)
    recipe = dataclasses.replace(cases.recipe(), augmentation=Augmentation(**dropped))
    serving.export(folder, cases.network(), recipe, manifest)
    return str(folder)


def test_stacks_give_the_numbers_of_plain_files_and_their_own_scale(world, pool, tmp_path):
    predict(options(world, tmp_path / "plain", um_per_px=0.1), pool)
    with pytest.warns(HpaWarning, match=r"images of 0.1 um per px, .*trained at 0.08"):
        predict(options(world, tmp_path / "stacks", "stacks"), pool)
    found = [cell_table.read(tmp_path / name / "cells.parquet") for name in ("plain", "stacks")]
    pd.testing.assert_frame_equal(*found)
    assert set(found[1]["um_per_px"]) == {0.1}
    with warnings.catch_warnings():
        warnings.simplefilter("error", HpaWarning)
        predict(options(world, tmp_path / "told", "stacks", um_per_px=0.08), pool)


@pytest.mark.parametrize(
    ("um_per_px", "is_said", "told"),
    [
        (0.08, True, r"images of 0\.08 um per px, but starter was trained at 0\.32: right for full-size images"),
        (0.08, False, r"taken to have 0\.08 um per px, but starter was trained at 0\.32: say --um-per-px 0\.08 if"),
        (0.32, True, None),
        (0.34, True, None),
        (0.64, True, "images of 0.64 um per px, but starter was trained at 0.32: they show less of a cell"),
        (0.05, True, "so much finer ones were not tried"),
    ],
)
def test_other_scales_are_told_once(um_per_px, is_said, told):
    trained = (("unknown", ()), ("starter", (0.32,)), ("other", (0.32,)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_scale(um_per_px, trained, is_said)
    assert len(caught) == (told is not None)
    assert told is None or re.search(told, str(caught[0].message))
    assert not any("other" in str(one.message).split(":")[0] for one in caught)


def test_a_scale_that_nobody_said_is_told_with_the_option_that_says_it(world, pool, tmp_path):
    manifest = dataclasses.replace(cases.MANIFEST, um_per_px=(0.32,))
    serving.export(tmp_path / "run", cases.network(), cases.recipe(), manifest)
    asked = dataclasses.replace(options(world, tmp_path / "out"), run=(str(tmp_path / "run"),))
    with pytest.warns(HpaWarning, match=r"run was trained at 0.32: say --um-per-px 0.08 if"):
        predict(asked, pool)
    with pytest.warns(HpaWarning, match=r"say --um-per-px 0.08 if they have \(Python: um_per_px\)"):
        predictor, field = hpa_tf.Predictor(str(tmp_path / "run")), read_field(find_fields(world / "plain")[0])
        predictor.predict(field.pixels)
    with pytest.warns(HpaWarning, match="images of 0.08 um per px, but run was trained at 0.32: right for full-size"):
        predict(dataclasses.replace(asked, out=str(tmp_path / "told"), um_per_px=0.08), pool)
    with pytest.warns(HpaWarning, match="if these are others, check --um-per-px"):
        predictor.predict(field.pixels, um_per_px=0.08)


def test_predictor_takes_a_file_of_all_channels(world):
    predictor = hpa_tf.Predictor(str(world / "run"))
    mask = cv2.imread(str(world / "masks" / "a_cellmask.png"), -1).astype(np.int32)
    field = read_field(find_fields(world / "plain")[0])
    expected = predictor.predict(field.pixels, mask, um_per_px=0.08).drop(columns="image_id")
    found = predictor.predict(world / "stacks" / "a.ome.tif", mask, um_per_px=0.08)
    assert set(found["image_id"]) == {"a"}
    pd.testing.assert_frame_equal(found.drop(columns="image_id"), expected)
    with pytest.raises(InputError, match="images without yellow; expected images with all four channels"):
        predictor.predict(field, mask, without="yellow")
    with pytest.warns(HpaWarning, match="expect worse scores"):
        black = predictor.predict(field, mask, without="yellow", allow_other_channels=True)
    blackened = field.pixels * np.array([1, 1, 1, 0], np.uint8)
    pd.testing.assert_frame_equal(black, predictor.predict(dataclasses.replace(field, pixels=blackened), mask))
    assert not np.allclose(black["Nucleoli"], expected["Nucleoli"])
    with pytest.raises(InputError, match="the path of a file"):
        predictor.predict(field, mask, channels=["er=1"])


def test_images_without_a_channel_need_a_network_that_knows_it(world, pool, tmp_path):
    without_red = {"layout": LayoutOptions(without="red")}
    with pytest.raises(InputError, match=r"images without red; expected images with all four channels, as run was"):
        predict(options(world, tmp_path / "refused", **without_red), pool)
    assert not (tmp_path / "refused" / "predictions.json").exists()
    dropping = run_of(tmp_path / "dropping", drop_red=0.5)
    predict(dataclasses.replace(options(world, tmp_path / "out", **without_red), run=(dropping,)), pool)
    asked = request_of(str(tmp_path / "out"))["options"]  # as in folders of earlier versions
    assert asked["without"] == "red" and not {"layout", "pattern", "channels", "project"} & asked.keys()
    table = cell_table.read(tmp_path / "out" / "cells.parquet")
    assert (table["sum_red"] == 0).all() and (table["sum_yellow"] > 0).all()


class Trained:
    """What `check_channels` asks of a network."""

    def __init__(self, without, **dropped):
        self.name, self.served = "net", self
        self.dataset = {} if without is None else {"without": without}
        self.recipe = dataclasses.replace(cases.recipe(), augmentation=Augmentation(**dropped))


ALL, NO_YELLOW, NO_RED, NEITHER = (frozenset(names) for names in ((), ("yellow",), ("red",), ("red", "yellow")))


@pytest.mark.parametrize(
    ("network", "known"),
    [
        (Trained(None), {ALL}),  # an earlier manifest
        (Trained([[]]), {ALL}),
        (Trained([["yellow"]]), {NO_YELLOW}),
        (Trained([[], ["yellow"]]), {ALL, NO_YELLOW}),
        (Trained([[]], drop_yellow=0.1), {ALL, NO_YELLOW}),
        (Trained([[]], drop_yellow=0.1, drop_red=0.1), {ALL, NO_YELLOW, NO_RED, NEITHER}),
        (Trained([["yellow"]], drop_red=0.1), {NO_YELLOW, NEITHER}),
    ],
)
def test_sets_of_channels_that_a_network_knows(network, known):
    assert trained_without(network) == known
    for asked in (ALL, NO_YELLOW, NO_RED, NEITHER):
        if asked in known:
            check_channels([sorted(asked)], [network])
        else:
            with pytest.raises(InputError, match=re.escape("--allow-other-channels")):
                check_channels([(), sorted(asked)] if ALL in known else [sorted(asked)], [network])
            with pytest.warns(HpaWarning, match="expect worse scores"):
                check_channels([sorted(asked)], [network], allowed=True)

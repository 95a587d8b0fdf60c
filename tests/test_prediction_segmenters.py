"""Prediction and what finds the cells: a default that is said is no other request; cells of another segmenter warn."""

import importlib.util
import json
import re
import shutil
import sys
import warnings
from dataclasses import replace
from unittest import mock

import cv2
import numpy as np
import prediction_cases as cases
import pytest

import hpa_tf
from hpa_tf import files, serving
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.imaging.fields import find_fields, read_field
from hpa_tf.imaging.segmentation.classical import ClassicalSegmenter
from hpa_tf.imaging.segmentation.masks_on_disk import ABOUT
from hpa_tf.imaging.segmentation.small import WEIGHTS
from hpa_tf.prediction import merging
from hpa_tf.prediction.options import Options
from hpa_tf.prediction.predict import predict
from hpa_tf.prediction.trained_on import check_segmenter

ON_DISK = "masks_on_disk(/small/hpa, cell=None, nucleus=None)"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Images, their masks apart, and a run whose shards were built with the classical segmenter."""
    root = tmp_path_factory.mktemp("segmenters")
    (root / "masks").mkdir()
    for seed, image_id in enumerate("abc"):
        cases.write_field(root / "images", image_id, 4, seed)
        for kind in ("cell", "nucleus"):
            (root / f"images/{image_id}_{kind}mask.png").rename(root / f"masks/{image_id}_{kind}mask.png")
    manifest = replace(cases.MANIFEST, segmenter=ClassicalSegmenter().name)
    serving.export(root / "run", cases.network(), cases.recipe(), manifest)
    quiet = {"report_images": 0, "overlays": False}
    return root, Options(run=(str(root / "run"),), images=str(root / "images"), **quiet)


@pytest.fixture
def no_warning():
    """Let a test fail that gives a warning of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", HpaWarning)
        yield


@pytest.mark.filterwarnings("ignore:cells are found by")
def test_a_default_that_is_said_is_the_same_request(world, pool, tmp_path):
    """Also in folders of versions that wrote down what was said, and for a copy of the weights."""
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(WEIGHTS.read_bytes())
    silent = replace(world[1], out=str(tmp_path / "0"), shard="0/2")
    said = replace(world[1], out=str(tmp_path / "1"), shard="1/2", segmenter="small", segmenter_weights=str(copy))
    assert predict(silent, pool).num_predicted + predict(said, pool).num_predicted == 3
    manifest = tmp_path / "0/predictions.json"
    written = json.loads(manifest.read_text())
    for before in (None, "small"):
        written["request"]["options"] |= {"segmenter": before, "segmenter_weights": None}
        manifest.write_text(json.dumps(written))
        assert predict(replace(said, out=silent.out, shard="0/2"), pool).num_predicted == 0
    assert predict(replace(silent, out=said.out, shard="1/2"), pool).num_predicted == 0
    manifest.write_text(json.dumps(written))
    assert merging.merge(merging.MergeOptions((silent.out, said.out), str(tmp_path / "whole"))) == 3
    other = tmp_path / "other.onnx"
    other.write_bytes(WEIGHTS.read_bytes() + b"\x12\x01x")  # another name of who made it
    for change in ({"segmenter_weights": str(other)}, {"segmenter": "classical"}, {"masks": str(world[0] / "masks")}):
        with pytest.raises(InputError, match=r"another prediction \((options.masks.*; )?segmenter: 'small-3"):
            predict(replace(silent, **change), pool)


@pytest.mark.filterwarnings("ignore:cells are found by")
def test_masks_that_a_network_wrote_are_named_by_what_decides_them(world, pool, tmp_path, monkeypatch):
    """Not by their folder, which lies in that of each part: parts merge, and another spelling goes on."""
    weights = {"cells": "aa"}

    def write_masks(request):
        """Stand for the child process, whose weights and packages are not here."""
        shutil.copytree(world[0] / "masks", request.out, dirs_exist_ok=True)
        files.write_json(files.join(request.out, ABOUT), {"segmenter": request.segmenter, "weights": weights})
        return request.out

    monkeypatch.setattr(sys.modules["hpa_tf.prediction.predict"], "write_masks", write_masks)
    outs = [str(tmp_path / f"p{i}") for i in range(2)]
    parts = [replace(world[1], out=out, shard=f"{i}/2", segmenter="hpa") for i, out in enumerate(outs)]
    assert sum(predict(part, pool).num_predicted for part in parts) == 3
    assert predict(replace(parts[0], out=f"{tmp_path}/./p0"), pool).num_predicted == 0
    assert merging.merge(merging.MergeOptions(tuple(outs), str(tmp_path / "whole"))) == 3
    weights["cells"] = "bb"
    with pytest.raises(InputError, match=r"another prediction \(segmenter.weights.cells: 'aa' -> 'bb'\)"):
        predict(parts[0], pool)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"run": ("nothing",)}, "nothing: found no such folder"),
        ({"out": "before"}, r"another prediction \(segmenter: 'small-3.*' -> 'hpa'\)"),
        ({"out": "by hpa", "batch_size": 8}, r"another prediction \(options.batch_size: 16 -> 8\)"),
        ({"out": "a run"}, "recipe.json"),
        ({"anndata": True}, "anndata is not installed"),
    ],
)
@pytest.mark.filterwarnings("ignore:cells are found by")
def test_what_would_be_refused_after_hours_of_segmenting_is_refused_before(
    world, pool, tmp_path, monkeypatch, change, said
):
    out = tmp_path / change.get("out", "new")
    if out.name in ("before", "by hpa"):
        predict(replace(world[1], out=str(out)), pool)
    if out.name == "by hpa":
        manifest = json.loads((out / "predictions.json").read_text())
        manifest["request"]["segmenter"] = {"segmenter": "hpa", "weights": {}}
        (out / "predictions.json").write_text(json.dumps(manifest))
    if out.name == "a run":
        cases.write_run(out)
        (out / "recipe.json").write_text("{}")
    if "anndata" in change:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys.modules["hpa_tf.prediction.predict"], "write_masks", mock.Mock(side_effect=AssertionError))
    with pytest.raises(InputError, match=said):
        predict(replace(world[1], **{**change, "out": str(out)}, segmenter="hpa"), pool)


def test_cells_of_another_segmenter_are_one_warning(world, pool, tmp_path):
    expected = r"found by small-3 \(.*\), but run was trained on those of classical-4: find them with --segmenter class"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", HpaWarning)
        predict(replace(world[1], out=str(tmp_path / "out")), pool)
    (told,) = [str(one.message) for one in caught if "found by" in str(one.message)]
    assert re.search(expected, told)


@pytest.mark.parametrize("given", ["segmenter", "masks"])
def test_the_same_segmenter_and_masks_that_are_given_are_none(world, pool, tmp_path, no_warning, given):
    how = {"segmenter": "classical"} if given == "segmenter" else {"masks": str(world[0] / "masks")}
    predict(replace(world[1], out=str(tmp_path / "out"), **how), pool)


def test_the_predictor_warns_too(world):
    field = read_field(find_fields(world[0] / "images")[0])
    predictor = hpa_tf.Predictor(world[0] / "run")
    with pytest.warns(HpaWarning, match="trained on those of classical-4"):
        predictor.predict(field)
    mask = cv2.imread(str(world[0] / "masks/a_cellmask.png"), cv2.IMREAD_UNCHANGED).astype(np.int32)
    with warnings.catch_warnings():
        warnings.simplefilter("error", HpaWarning)
        predictor.predict(field, mask)
        hpa_tf.Predictor(world[0] / "run", segmenter="classical").predict(field)
    with pytest.raises(InputError, match="segmenter: found 'hpa'; expected small or classical"):
        hpa_tf.Predictor(world[0] / "run", segmenter="hpa")


class Trained:
    """What `check_segmenter` asks of a network."""

    def __init__(self, segmenter):
        self.name, self.served, self.dataset = "net", self, {} if segmenter is None else {"segmenter": segmenter}


@pytest.mark.parametrize(
    ("found_by", "trained", "told"),
    [
        ("classical-3", "classical-3", None),
        ("small-1 (aa, classical-3)", "small-1 (aa, classical-3)", None),
        ("small-1 (aa, classical-3)", "small-1 (bb, classical-3)", "two versions of one segmenter"),
        ("classical-4", "classical-3", "two versions of one segmenter"),
        ("small-1 (aa, classical-3)", "classical-3", "find them with --segmenter classical, or"),
        ("hpa", "small-1 (aa, classical-3)", "find them with --segmenter small, or"),
        ("hpa", "small-1 (aa, classical-3) + classical-3", "find them with --segmenter small or classical, or"),
        ("classical-3", "small-1 (aa, classical-3) + classical-3", None),
        ("classical-3", ON_DISK, None),  # masks, whoever made them
        ("classical-3", f"small-1 (aa, classical-3) + {ON_DISK}", None),
        ("classical-3", "masks", None),
        ("classical-3", None, None),  # an earlier run
        (None, "classical-3", None),
    ],
)
def test_what_is_another_segmenter(found_by, trained, told):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_segmenter(found_by, [Trained(trained), Trained(trained)])
    assert len(caught) == (told is not None)
    assert told is None or told in str(caught[0].message)

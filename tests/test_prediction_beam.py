"""Prediction on Apache Beam's workers: the same files as on this machine, nothing lost unnoticed."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import prediction_cases as cases
import pytest

from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.prediction.command import main
from hpa_tf.prediction.options import Options
from hpa_tf.prediction.predict import predict
from hpa_tf.prediction.stages import GROUP

pytest.importorskip("apache_beam", reason="needs the extra [beam]")

NUM_IMAGES = GROUP + 5
FINAL = ("submission.csv", "cells.parquet", "embeddings.parquet", "report.html", "predictions.json", "raw/run.parquet")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Images of two groups, a run, and what this machine predicts."""
    root = tmp_path_factory.mktemp("beam")
    for i in range(NUM_IMAGES):
        cases.write_field(root / "images", f"image{i:02d}", i % 4, i, (np.uint8, np.uint16)[i % 2], (48, 64))
    cases.write_run(root / "run")
    options = Options(
        out=str(root / "out"), run=(str(root / "run"),), images=str(root / "images"), masks=str(root / "images"),
        workers=1, report_images=GROUP + 2, embeddings=True, batch_size=7,
    )  # fmt: skip
    predict(options)
    return root, options


def assert_same_files(out, root):
    for name in FINAL:
        found, expected = (out / name).read_bytes(), (root / "out" / name).read_bytes()
        if name == "predictions.json":
            found, expected = json.loads(found), json.loads(expected)
        assert found == expected, name
    assert sorted(path.name for path in (out / "parts").iterdir()) == sorted(
        path.name for path in (root / "out/parts").iterdir()
    )


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_beam_writes_the_same_files(world, tmp_path, workers):
    root, options = world
    out = tmp_path / "out"
    outcome = predict(replace(options, out=str(out), runner="DirectRunner", workers=workers))
    num_cells = sum(i % 4 for i in range(NUM_IMAGES))
    assert (outcome.num_images, outcome.num_predicted, outcome.num_cells) == (NUM_IMAGES, NUM_IMAGES, num_cells)
    assert_same_files(out, root)


def test_beam_continues_a_local_run_and_the_other_way_round(world, tmp_path):
    root, options = world
    out = tmp_path / "out"
    predict(replace(options, out=str(out), runner="DirectRunner"))
    for runner, lost in (("local", "image03"), ("DirectRunner", f"image{GROUP + 1}")):
        (out / "parts" / f"{lost}.parquet").unlink()
        assert predict(replace(options, out=str(out), runner=runner)).num_predicted == 1
        assert_same_files(out, root)
    assert predict(replace(options, out=str(out), runner="DirectRunner")).num_predicted == 0


def test_failures_and_counts_come_back_from_the_workers(world, tmp_path):
    _, options = world
    images = tmp_path / "images"
    for i in range(3):
        mask = cases.write_field(images, f"image{i}", 2, i, size=(48, 64))
        cv2.imwrite(str(images / f"image{i}_nucleusmask.png"), np.zeros_like(mask))  # so every cell is lowered
    bad = images / "image1_green.png"
    bad.write_bytes(bad.read_bytes()[:100])
    own = replace(options, images=str(images), masks=str(images), runner="DirectRunner", report_images=0)
    with pytest.raises(InputError, match="image1_green"):
        predict(replace(own, out=str(tmp_path / "fail")))
    out = tmp_path / "skip"
    with pytest.warns(HpaWarning, match="100% of the cells have a value below 1"):
        outcome = predict(replace(own, out=str(out), on_error="skip"))
    assert outcome.num_images == 2 and [image_id for image_id, _ in outcome.failures] == ["image1"]
    failures = pd.read_csv(out / "failures.csv")
    assert failures["image_id"].tolist() == ["image1"] and "image1_green.png" in failures["error"][0]


def test_an_image_that_the_runner_lost_is_noticed(world, tmp_path, monkeypatch):
    from hpa_tf.prediction import beam_runner

    _, options = world
    out = tmp_path / "out"

    def lose_one(function, items, shared, *rest):
        for item in items:
            function(item, *shared)
        (out / "parts/image09.parquet").unlink()

    monkeypatch.setattr(beam_runner.beam, "run_each", lose_one)
    with pytest.raises(InputError, match=r"1 images without result.*image09"):
        predict(replace(options, out=str(out), runner="DirectRunner"))
    assert not (out / "submission.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--runner", "DirectRunner", "--beam-options=--direct_running_mode=multi_threading"], "loses no records"),
        (["--runner", "DirectRunner", "--strategy", "mirrored"], "--strategy"),
        (["--beam-options=--direct_num_workers=2"], "--beam-options"),
        (["--runner", "NoSuchRunner"], "NoSuchRunner"),
    ],
)
def test_wrong_beam_options_end_with_one_line(world, tmp_path, capsys, arguments, named):
    root, _ = world
    command = ["--run", str(root / "run"), "--images", str(root / "images"), "--masks", str(root / "images")]
    assert main([*command, "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("predict.py: ") and named in error

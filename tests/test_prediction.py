"""Prediction end to end on images with known cells, against an independent computation of every step."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pandas as pd
import prediction_cases as cases
import psutil
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from hpa_tf import cell_table, folder_lock, serving, submission
from hpa_tf.classes import CLASSES
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.evaluation.raw_predictions import read_raw_predictions
from hpa_tf.imaging import run_length
from hpa_tf.imaging.brightness import brightness, brightness_range
from hpa_tf.imaging.fields import FieldOfView, find_fields, read_field
from hpa_tf.imaging.segmentation import Masks
from hpa_tf.parts import is_in_part
from hpa_tf.postprocessing import PREDICTED_NEGATIVE, PostProcessing
from hpa_tf.prediction import beam_runner, cards, command, inference, members, merging, result_files, results, stages
from hpa_tf.prediction.command import main, summary
from hpa_tf.prediction.options import Options
from hpa_tf.prediction.predict import predict
from hpa_tf.prediction.stages import How
from hpa_tf.prediction.workers import Workers
from hpa_tf.recipes import system_named

ROOT = Path(__file__).parents[1]
FINAL = ("submission.csv", "cells.parquet", "report.html", "predictions.json", "raw/run.parquet")


@pytest.fixture(scope="module")
def world(tmp_path_factory, pool):
    """A run, images and masks, and one finished prediction of them."""
    root = tmp_path_factory.mktemp("prediction")
    masks = cases.write_images(root / "images")
    cases.write_run(root / "run")
    options = Options(
        out=str(root / "out"), run=(str(root / "run"),), images=str(root / "images"), masks=str(root / "images"),
        workers=1, report_images=3, embeddings=True,
    )  # fmt: skip
    predict(options, pool)
    return root, masks, options


def test_one_command_at_a_time_writes_to_a_folder(world, pool, tmp_path, monkeypatch):
    """Also while the final files are written; one that is refused leaves the other's open files alone."""
    out, held = str(tmp_path / "out"), []
    shutil.copytree(world[2].out, out)
    asked = replace(world[2], out=out)
    merge = merging.MergeOptions((world[2].out,), str(tmp_path / "whole"))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    open_file = tmp_path / f"out/parts/.z.parquet.{dead.pid}.tmp"
    open_file.write_bytes(b"half")
    monkeypatch.setattr(merging, "_common_request", lambda folders, requests: requests[0])
    (tmp_path / "whole").mkdir()
    with folder_lock.locked(out), folder_lock.locked(merge.out):
        for command in (lambda: predict(asked, pool), lambda: merging.merge(merge)):
            with pytest.raises(InputError, match=f"process {os.getpid()} on .*one command at a time"):
                command()
    assert open_file.exists() and not list(Path(merge.out).glob("*.json"))
    for module in (sys.modules["hpa_tf.prediction.predict"], merging):
        write_final = module.write_final
        seen = lambda *what, end=write_final: held.append(folder_lock.read(what[0])) or end(*what)  # noqa: E731
        monkeypatch.setattr(module, "write_final", seen)
    predict(asked, pool)
    merging.merge(merge)
    assert [owner.pid for owner in held] == [os.getpid()] * 2
    assert not open_file.exists() and folder_lock.read(out) is folder_lock.read(merge.out) is None


def test_probabilities_are_those_of_the_network_on_the_prepared_cells(world, pool):
    root, masks, _ = world
    raw = cell_table.read(root / "out/raw/run.parquet").set_index(["image_id", "cell"])
    assert cell_table.kind(root / "out/raw/run.parquet") == "predictions"
    network = cases.network()
    fields = {field.image_id: field for field in find_fields(root / "images")}
    count = 0
    for image_id in ("a1", "c3", "e5"):
        field = read_field(fields[image_id])
        for cell in np.unique(masks[image_id])[1:]:
            inside = masks[image_id] == cell
            rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
            box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            image = cases.prepared(field.pixels[box], inside[box])[None]
            logits = network({"image": image}, training=False)["logits"].numpy()[0]
            expected = 1 / (1 + np.exp(-logits.astype(float)))
            found = raw.loc[(image_id, cell), list(CLASSES[:18])].to_numpy(float)
            np.testing.assert_allclose(found, expected, atol=2e-5)
            count += 1
    assert count == 17 and raw["Negative"].isna().all()
    spread = raw[list(CLASSES[:18])].to_numpy(float)
    assert spread.std(axis=0).min() > 0.01, "a network whose answers do not depend on the cell tests nothing"


def mixed(raw: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return the scores of one image's cells by METHODS 3: probabilities [N, 19] x values [N], mixed by Final 2."""
    weighted = raw * value[:, None]
    mean = weighted[value == 1].mean(axis=0) if (value == 1).any() else weighted
    scores = 0.7 * weighted + 0.3 * mean
    scores[:, [11, 18]] = weighted[:, [11, 18]]
    return scores


def test_scores_follow_the_rules_of_post_processing(world, pool):
    root, _, _ = world
    table = cell_table.read(root / "out/cells.parquet")
    raw = table[[f"raw: {name}" for name in CLASSES]].to_numpy(float)
    np.testing.assert_allclose(raw[:, 18], 1 - raw[:, :18].max(axis=1), atol=1e-12)
    for image_id, rows in table.groupby("image_id"):
        expected = mixed(raw[rows.index], rows["value"].to_numpy())
        np.testing.assert_allclose(cell_table.values(rows), expected, atol=1e-9, err_msg=image_id)


def test_cells_that_the_frame_cuts_and_dark_ones_have_low_scores_and_enter_no_mean(world, pool, tmp_path):
    """Of 3 x 3 cells the frame cuts the upper three, one of which is dark, and so is one of the others."""
    images, cut, dark = tmp_path / "images", 11, (4, 16)
    mask = cases.write_field(images, "g7", 9, 10)[cut:]
    for path in images.iterdir():
        picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[cut:]
        if path.stem.endswith("red"):
            picture[np.isin(mask, dark)] //= 50
        cv2.imwrite(str(path), picture)
    out = tmp_path / "out"
    predict(replace(world[2], out=str(out), images=str(images), masks=str(images), embeddings=False), pool)
    table = cell_table.read(out / "cells.parquet")
    assert table["rule"].tolist() == ["border", "border + outlier", "border", "", "", "outlier", "", "", ""]

    nucleus = cv2.imread(str(images / "g7_nucleusmask.png"), cv2.IMREAD_UNCHANGED)
    sides = [(nucleus[0] == number).sum() / (nucleus == number).any(axis=0).sum() for number in (1, 4, 7)]
    border = np.array([*((3.33 * (1 - side)) ** 0.1 for side in sides), 1, 1, 1, 1, 1, 1])
    assert (border[:3] > 0.9).all() and (border[:3] < 1).all()
    np.testing.assert_allclose(table["border_value"], border, atol=1e-12)
    np.testing.assert_array_equal(table["outlier_factor"], np.where(np.isin(table["cell"], dark), 0.001, 1))
    value = border * np.array([1, 0.001, 1, 1, 1, 0.001, 1, 1, 1])
    np.testing.assert_allclose(table["value"], value, atol=1e-12)
    raw = table[[f"raw: {name}" for name in CLASSES]].to_numpy(float)
    np.testing.assert_allclose(cell_table.values(table), mixed(raw, value), atol=1e-9)


def test_submission_has_every_image_and_every_mask(world, pool):
    root, masks, _ = world
    rows = {row.image_id: row for row in submission.read(root / "out/submission.csv")}
    assert list(rows) == sorted(masks)
    table = cell_table.read(root / "out/cells.parquet")
    for image_id, mask in masks.items():
        row = rows[image_id]
        assert (row.height, row.width) == mask.shape
        numbers = np.unique(mask)[1:]
        if not numbers.size:
            line = (root / "out/submission.csv").read_text().splitlines()[1 + sorted(masks).index(image_id)]
            assert line.split(",", 3)[3].startswith("0 1 ")
            continue
        decoded = [run_length.decode(rle) for rle in row.decode_masks("test")]
        assert len(decoded) == len(numbers)
        for number, found in zip(numbers, decoded, strict=True):
            np.testing.assert_array_equal(found, mask == number)
        own = table[table["image_id"] == image_id]
        np.testing.assert_allclose(row.confidences.reshape(-1, 19), cell_table.values(own), rtol=1e-8)
    assert len(np.unique(masks["d4"])) > 256


def test_measurements_and_boxes_are_of_the_mask(world, pool):
    root, masks, _ = world
    table = cell_table.read(root / "out/cells.parquet")
    for row in table[table["image_id"] == "c3"].itertuples():
        inside = masks["c3"] == row.cell
        assert row.cell_area == inside.sum() and row.bits == 16
        assert not inside[: row.top].any() and inside[row.top].any() and inside[:, row.right - 1].any()


def test_overlays_show_every_image(world, pool):
    root, masks, _ = world
    for image_id, mask in masks.items():
        picture = cv2.imread(str(root / f"out/overlays/{image_id}.png"))
        assert picture.shape[0] * mask.shape[1] == picture.shape[1] * mask.shape[0], "proportions are kept"
        assert 512 < max(picture.shape) <= 1024 and picture.std() > 5


@pytest.mark.parametrize(
    "batch_size", [7, pytest.param(1, marks=pytest.mark.slow), pytest.param(400, marks=pytest.mark.slow)]
)
def test_batch_size_and_workers_do_not_change_the_numbers(world, pool, tmp_path, batch_size):
    root, _, options = world
    predict(replace(options, out=str(tmp_path / "out"), batch_size=batch_size, workers=2, overlays=False), pool)
    first, second = (cell_table.read(folder / "cells.parquet") for folder in (root / "out", tmp_path / "out"))
    pd.testing.assert_frame_equal(first, second, atol=1e-5, rtol=0)


def test_a_second_call_predicts_nothing_and_changes_nothing(world, pool):
    root, _, options = world
    before = {name: (root / "out" / name).read_bytes() for name in FINAL}
    assert predict(options, pool).num_predicted == 0
    assert before == {name: (root / "out" / name).read_bytes() for name in FINAL}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tta": "2"}, "options.tta: 'none' -> '2'"),
        ({"batch_size": 5}, "options.batch_size"),
        ({"postprocessing": PostProcessing(border_rule=False)}, "postprocessing.border_rule: True -> False"),
        ({"masks": None}, "segmenter"),
    ],
)
def test_going_on_under_other_options_is_refused(world, pool, change, named):
    _, _, options = world
    with pytest.raises(InputError) as error:
        predict(replace(options, **change), pool)
    assert named in str(error.value)


def test_options_of_post_processing_tell_what_else_they_replace(small, pool, tmp_path, monkeypatch):
    monkeypatch.setattr(members, "usual_postprocessing", lambda networks: PREDICTED_NEGATIVE)
    asked = PostProcessing(image_mixing=False, border_rule=False, cell_weights=PREDICTED_NEGATIVE.cell_weights)
    with pytest.warns(HpaWarning) as caught:
        predict(replace(small[1], out=str(tmp_path / "out"), postprocessing=asked), pool)
    (said,) = [str(one.message) for one in caught if "--postprocessing" in str(one.message)]
    assert "so also outlier_rule: False -> True; negative: 'predicted' -> 'derived': give" in said


def test_another_spelling_of_the_same_folders_is_the_same_request(small, pool, tmp_path, monkeypatch):
    root, options = small[0], replace(small[1], out=str(tmp_path / "0"), shard="0/2")
    predict(options, pool)
    with monkeypatch.context() as there:
        there.chdir(root)
        relative = {"images": "images", "masks": "./masks/", "run": (os.path.relpath(options.run[0]),)}
        assert predict(replace(options, **relative), pool).num_predicted == 0
    (tmp_path / "link").symlink_to(root)
    linked = {"images": str(tmp_path / "link/images"), "masks": f"{root}/./masks/", "run": (f"{options.run[0]}/",)}
    predict(replace(options, **linked, out=str(tmp_path / "1"), shard="1/2"), pool)
    assert merging.merge(merging.MergeOptions((str(tmp_path / "0"), str(tmp_path / "1")), str(tmp_path / "2"))) == 3
    shutil.copytree(root / "masks", tmp_path / "masks")
    with pytest.raises(InputError, match=r"another prediction \(options.masks: '\S+/masks' -> '\S+/masks'\)"):
        predict(replace(options, masks=str(tmp_path / "masks")), pool)


def test_another_limit_of_pixels_is_the_same_request(small, pool, tmp_path):
    """Also in folders of versions that wrote it down."""
    options, manifest = replace(small[1], out=str(tmp_path / "out")), tmp_path / "out/predictions.json"
    predict(options, pool)
    assert predict(replace(options, max_pixels=10**6), pool).num_predicted == 0
    written = json.loads(manifest.read_text())
    written["request"]["options"]["max_pixels"] = 100_000_000
    manifest.write_text(json.dumps(written))
    assert predict(replace(options, max_pixels=10**6), pool).num_predicted == 0


def test_going_on_with_other_weights_is_refused(world, pool, tmp_path):
    root, _, options = world
    shutil.copytree(root / "out", tmp_path / "out")
    other = cases.write_run(tmp_path / "run", seed=1)
    with pytest.raises(InputError, match="sha256"):
        predict(replace(options, out=str(tmp_path / "out"), run=(str(other),)), pool)


@pytest.mark.slow
def test_a_killed_prediction_goes_on_and_ends_with_the_same_bytes(world, pool, tmp_path):
    root, _, options = world
    out = tmp_path / "out"
    command = [
        *(sys.executable, str(ROOT / "predict.py"), "--run", str(root / "run"), "--images", str(root / "images")),
        *("--masks", str(root / "images"), "--out", str(out), "--workers", "1", "--report-images", "3", "--embeddings"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(out.glob("parts/*.parquet")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    num_done = len(list(out.glob("parts/*.parquet")))
    assert 0 < num_done < 6 and not (out / "submission.csv").exists()
    outcome = predict(replace(options, out=str(out)), pool)
    assert outcome.num_predicted == 6 - num_done
    for name in FINAL:
        found, expected = (out / name).read_bytes(), (root / "out" / name).read_bytes()
        if name == "predictions.json":  # run and images are the same, so the requests are
            assert json.loads(found) == json.loads(expected)
        else:
            assert found == expected, name


@pytest.mark.slow
@pytest.mark.parametrize("change", ["network", "none"])
def test_results_whose_request_was_removed_are_predicted_again(small, pool, tmp_path, change):
    """Nothing says which network and options they are of."""
    options = replace(small[1], out=str(tmp_path / "out"))
    predict(options, pool)
    (tmp_path / "out/predictions.json").unlink()
    if change == "network":
        options = replace(options, run=(str(cases.write_run(tmp_path / "other", seed=1)),))
    assert predict(options, pool).num_predicted == 3
    assert predict(options, pool).num_predicted == 0
    fresh = replace(options, out=str(tmp_path / "fresh"))
    predict(fresh, pool)
    name = f"raw/{Path(*options.run).name}.parquet"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()


@pytest.mark.slow
def test_an_object_store_holds_what_a_local_folder_does(world, pool, tmp_path, monkeypatch):
    """Files behind a URL, whose folders are there once they hold a file."""
    root, _, options = world
    monkeypatch.setenv("FSSPEC_FILE", '{"auto_mkdir": true}')
    store = f"file://{tmp_path}/store/out"
    command = [
        *(sys.executable, str(ROOT / "predict.py"), "--run", str(root / "run"), "--images", str(root / "images")),
        *("--masks", str(root / "images"), "--out", store, "--workers", "1", "--report-images", "3", "--embeddings"),
    ]
    subprocess.run(command, check=True)
    assert predict(replace(options, out=store), pool).num_predicted == 0
    found, expected = (
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "store/out", root / "out")
    )
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


def test_parts_merge_to_the_whole(world, pool, tmp_path):
    root, _, options = world
    folders = [str(tmp_path / f"part{i}") for i in range(3)]
    for i, folder in enumerate(folders):
        predict(replace(options, out=folder, shard=f"{i}/3"), pool)
    folders[1] = f"file://{folders[1]}"
    merging.merge(merging.MergeOptions(tuple(folders), str(tmp_path / "whole")))
    first, second = (cell_table.read(folder / "cells.parquet") for folder in (root / "out", tmp_path / "whole"))
    pd.testing.assert_frame_equal(first, second, atol=1e-5, rtol=0)  # not the same bytes: the batches differ
    rows = [list(submission.read(folder / "submission.csv")) for folder in (root / "out", tmp_path / "whole")]
    assert [(row.image_id, row.mask_texts) for row in rows[0]] == [(row.image_id, row.mask_texts) for row in rows[1]]
    assert (tmp_path / "whole/report.html").exists()
    with pytest.raises(InputError, match=r"predict also with --shard 1/\d+"):
        merging.merge(merging.MergeOptions((folders[0], folders[2]), str(tmp_path / "less")))


def test_parts_merge_though_machines_mount_the_folders_at_other_places(world, pool, tmp_path):
    root, _, options = world
    images = str(shutil.copytree(root / "images", tmp_path / "elsewhere/images"))
    run = str(shutil.copytree(root / "run", tmp_path / "elsewhere/run"))
    folders = [str(tmp_path / f"part{i}") for i in range(2)]
    moved = replace(options, out=folders[1], shard="1/2", images=images, masks=images, run=(run,))
    predict(replace(options, out=folders[0], shard="0/2"), pool)
    predict(moved, pool)
    merge = merging.MergeOptions(tuple(folders), str(tmp_path / "whole"))
    with pytest.warns(HpaWarning, match=rf"part1: predicted from other places.*options\.images: .*{images}"):
        merging.merge(merge)
    first, second = (cell_table.read(folder / "cells.parquet") for folder in (root / "out", tmp_path / "whole"))
    pd.testing.assert_frame_equal(first, second, atol=1e-5, rtol=0)
    manifest = Path(folders[1], "predictions.json")
    written = json.loads(manifest.read_text())
    for change in (lambda one: one["options"].update(masks=None), lambda one: one["networks"][0].update(sha256="aa")):
        request = json.loads(json.dumps(written["request"]))
        change(request)
        manifest.write_text(json.dumps({**written, "request": request}))
        with pytest.raises(InputError, match="other options than"):
            merging.merge(merge)


def test_merging_lists_the_images_that_parts_skipped(small, pool, tmp_path, capsys):
    shutil.copytree(small[0] / "images", tmp_path / "images")
    red = tmp_path / "images/a1_red.png"
    red.write_bytes(red.read_bytes()[:50])
    options = replace(small[1], images=str(tmp_path / "images"), on_error="skip")
    folders = [str(tmp_path / f"part{i}") for i in range(2)]
    for i, folder in enumerate(folders):
        predict(replace(options, out=folder, shard=f"{i}/2"), pool)
    assert merging.main([*folders, "--out", str(tmp_path / "whole")]) == 1
    assert f"1 image skipped: {tmp_path}/whole/failures.csv" in capsys.readouterr().out
    failures = pd.read_csv(tmp_path / "whole/failures.csv")
    assert failures["image_id"].tolist() == ["a1"] and "a1_red.png" in failures["error"][0]
    assert [row.image_id for row in submission.read(tmp_path / "whole/submission.csv")] == ["a", "b.2"]
    (table,) = tmp_path.glob("part?/failures.csv")
    written = table.read_bytes()
    told = "run the part's command again: it writes the table anew"
    for damage in (None, b"image_id;error\r\na1;x\r\n", "image_id,error\na1,gestört\n".encode("cp1252"), b""):
        table.unlink() if damage is None else table.write_bytes(damage)
        assert merging.main([*folders, "--out", str(tmp_path / "none")]) == 2
        assert told in capsys.readouterr().err and not (tmp_path / "none").exists()
    table.write_bytes(written)
    assert merging.main([*folders, "--out", str(tmp_path / os.fsdecode(b"merged/\xf6"))]) == 1
    assert capsys.readouterr().out.count(rf"{tmp_path}/merged/\xf6") == 2
    shutil.copy(small[0] / "images/a1_red.png", red)  # mended: neither the parts nor the whole name it any more
    for i, folder in enumerate(folders):
        predict(replace(options, out=folder, shard=f"{i}/2"), pool)
    assert merging.main([*folders, "--out", str(tmp_path / "whole")]) == 0
    assert not list(tmp_path.glob("*/failures.csv"))


def test_merging_nothing_is_refused(tmp_path, capsys):
    assert merging.main(["--out", str(tmp_path / "whole")]) == 2
    assert "PART: found no folder" in capsys.readouterr().err


def test_merging_finds_a_table_of_labels_that_lies_elsewhere_now(small, world, pool, tmp_path):
    labels, moved, whole = tmp_path / "labels.csv", tmp_path / "moved.csv", tmp_path / "whole"
    labels.write_text("ID,Label\na1,3\n")
    part = replace(small[1], out=str(tmp_path / "part"), shard="0/1", image_labels=str(labels), report_images=0)
    predict(part, pool)
    labels.rename(moved)
    merge = merging.MergeOptions((part.out,), str(whole))
    with pytest.raises(InputError, match=r"labels\.csv: found no such file.*--image-labels TABLE"):
        merging.merge(merge)
    with pytest.raises(InputError, match=r"--image-labels: found .*beside parts that were predicted without it"):
        merging.merge(replace(merge, parts=(world[2].out,), image_labels=str(moved)))
    assert not whole.exists()
    assert merging.merge(replace(merge, image_labels=str(moved))) == 3
    images = pd.read_csv(whole / "heterogeneity.csv", keep_default_na=False).set_index("image_id")
    assert images["image_label"].to_dict() == {"a": "", "a1": CLASSES[3], "b.2": ""}
    assert results.request_of(whole)["options"]["image_labels"] == str(moved)


def test_the_failures_of_an_earlier_run_are_not_kept(tmp_path):
    path = tmp_path / "failures.csv"
    stages.report(stages.Outcome(failures=[("a", "damaged")]), str(path))
    assert pd.read_csv(path)["image_id"].tolist() == ["a"]
    stages.report(stages.Outcome(), str(path))
    assert not path.exists()


def test_merging_leaves_out_images_that_were_taken_away(small, pool, tmp_path):
    """The result of such an image stays beside its part; a part that was begun again is not whole."""
    shutil.copytree(small[0] / "images", tmp_path / "images")
    part, whole = str(tmp_path / "part"), str(tmp_path / "whole")
    options = replace(small[1], images=str(tmp_path / "images"), out=part, shard="0/1")
    assert predict(options, pool).num_predicted == 3
    for path in (tmp_path / "images").glob("a1_*"):
        path.unlink()
    assert predict(options, pool).num_images == 2
    assert (tmp_path / "part/parts/a1.parquet").exists()
    assert merging.merge(merging.MergeOptions((part,), whole)) == 2
    assert [row.image_id for row in submission.read(tmp_path / "whole/submission.csv")] == ["a", "b.2"]
    (tmp_path / "part/parts/a.parquet").unlink()
    with pytest.raises(InputError, match=r"no result of 1 of its 2 images, such as a\b.*it continues"):
        merging.merge(merging.MergeOptions((part,), whole))


def test_a_finished_prediction_that_is_stopped_at_new_images_is_not_finished(small, pool, tmp_path):
    shutil.copytree(small[0] / "images", tmp_path / "images")
    shutil.copytree(small[0] / "masks", tmp_path / "masks")
    options = replace(
        small[1], out=str(tmp_path / "out"), images=str(tmp_path / "images"), masks=str(tmp_path / "masks"), shard="0/1"
    )
    merge = merging.MergeOptions((options.out,), str(tmp_path / "whole"))
    predict(options, pool)
    assert merging.merge(merge) == 3 and len(read_raw_predictions(merge.out).cells)
    cases.write_field(tmp_path / "images", "c", 2, 3, size=(48, 64))
    with pytest.raises(InputError, match=r"\bc\b"):
        predict(options, pool)  # it has no masks
    for refused in (lambda: merging.merge(merge), lambda: read_raw_predictions(options.out)):
        with pytest.raises(InputError, match="finished"):
            refused()
    for kind, name in (("cell", "mask-c-v2"), ("nucleus", "c_nuclei")):
        os.renames(tmp_path / f"images/c_{kind}mask.png", tmp_path / f"masks/{name}.png")
    assert predict(options, pool).num_predicted == 1
    with pytest.MonkeyPatch.context() as patch, pytest.raises(TypeError):
        patch.setattr(merging, "_copy", None)  # it ends at the first image
        merging.merge(merge)
    with pytest.raises(InputError, match="finished"):
        read_raw_predictions(merge.out)
    assert merging.merge(merge) == 4 and len(read_raw_predictions(merge.out).cells)


@pytest.fixture(scope="module")
def small(tmp_path_factory, world):
    """Three images whose masks have a name of their own, with a prediction of them."""
    root = tmp_path_factory.mktemp("small")
    for seed, image_id in enumerate(("a", "a1", "b.2")):
        cases.write_field(root / "images", image_id, 2, seed, size=(48, 64))
        os.renames(root / f"images/{image_id}_cellmask.png", root / f"masks/mask-{image_id}-v2.png")
        os.renames(root / f"images/{image_id}_nucleusmask.png", root / f"masks/{image_id}_nuclei.png")
    options = replace(
        world[2], out=str(root / "out"), images=str(root / "images"), masks=str(root / "masks"),
        cell_pattern="mask-{ID}-v2", report_images=1, embeddings=False,
    )  # fmt: skip
    return root, options


def brighten(path: Path) -> None:
    cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED) // 2)


def shave(path: Path) -> None:
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    mask[:20] = 0
    cv2.imwrite(str(path), mask)


def clear(path: Path) -> None:
    cv2.imwrite(str(path), 0 * cv2.imread(str(path), cv2.IMREAD_UNCHANGED))


@pytest.mark.parametrize(
    ("changes", "num_changed"),
    [
        ({"images/a1_green.png": brighten}, 1),
        ({"masks/mask-a-v2.png": shave, "masks/a1_nuclei.png": os.remove, "masks/mask-b.2-v2.png": clear}, 3),
    ],
)
def test_images_and_masks_that_changed_are_predicted_again(small, pool, tmp_path, capsys, changes, num_changed):
    shutil.copytree(small[0], tmp_path / "small")
    options = replace(small[1], **{name: str(tmp_path / "small" / name) for name in ("images", "masks", "out")})
    predict(options, pool)
    for name, change in changes.items():
        change(tmp_path / "small" / name)
    outcome = predict(options, pool)
    assert (outcome.num_changed, outcome.num_predicted, outcome.num_images) == (num_changed, num_changed, 3)
    assert f"{num_changed} image" in summary(options, outcome).splitlines()[1]
    predict(replace(options, out=str(tmp_path / "fresh")), pool)
    for name in ("cells.parquet", "submission.csv", "report.html", "overlays/a1.png"):
        assert (tmp_path / "small/out" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes(), name
    assert predict(options, pool).num_predicted == 0


def test_a_changed_image_that_cannot_be_used_leaves_nothing_old(small, pool, tmp_path):
    shutil.copytree(small[0], tmp_path / "small")
    options = replace(small[1], **{name: str(tmp_path / "small" / name) for name in ("images", "masks", "out")})
    predict(replace(options, on_error="skip"), pool)
    (tmp_path / "small/images/a_red.png").write_bytes(b"no picture")
    outcome = predict(replace(options, on_error="skip"), pool)
    assert [image_id for image_id, _ in outcome.failures] == ["a"] and outcome.num_predicted == 0
    assert sorted(path.name for path in (tmp_path / "small/out/overlays").iterdir()) == ["a1.png", "b.2.png"]
    assert set(cell_table.read(tmp_path / "small/out/cells.parquet")["image_id"]) == {"a1", "b.2"}


def test_a_damaged_record_of_the_inputs_is_named(small, pool, tmp_path):
    options = replace(small[1], out=str(tmp_path / "out"))
    predict(options, pool)
    for damage in ("[1]", "{"):
        (tmp_path / "out/inputs.json").write_text(damage)
        with pytest.raises(InputError, match=r"inputs\.json.*remove it"):
            predict(options, pool)


def test_every_image_is_in_one_part():
    ids = [f"image {i}" for i in range(2000)]
    counts = [sum(is_in_part(image_id, part, 7) for image_id in ids) for part in range(7)]
    assert sum(counts) == 2000 and min(counts) > 200


@pytest.mark.slow
def test_several_runs_and_weights_are_averaged(world, pool, tmp_path):
    root, _, options = world
    second = cases.write_run(tmp_path / "second", seed=1, surroundings="all")
    predict(replace(options, out=str(tmp_path / "out"), run=(str(root / "run"), str(second))), pool)
    first, other = (
        cell_table.values(cell_table.read(tmp_path / f"out/raw/{name}.parquet"))[:, :18] for name in ("run", "second")
    )
    mean = cell_table.read(tmp_path / "out/cells.parquet")[[f"raw: {name}" for name in CLASSES[:18]]].to_numpy()
    np.testing.assert_allclose(mean, (first + other) / 2, atol=1e-12)
    assert np.abs(first - other).max() > 0.1
    np.testing.assert_array_equal(first, cell_table.values(cell_table.read(root / "out/raw/run.parquet"))[:, :18])


def test_views_are_the_eight_of_the_square_and_their_shrunk_versions():
    images = np.random.default_rng(0).random((2, 16, 16, 4), np.float32)
    views = [view["image"] for view in inference.augmented({"image": images}, "16")]
    assert len(views) == 16 and len({view.tobytes() for view in views}) == 16
    eight = {view.tobytes() for view in views[:8]}
    for view in views[:8]:
        assert np.ascontiguousarray(np.rot90(view, axes=(1, 2))).tobytes() in eight
        assert np.ascontiguousarray(view[:, ::-1]).tobytes() in eight
    np.testing.assert_array_equal(views[0], images)
    assert [len(list(inference.augmented({"image": images}, tta))) for tta in ("none", "2", "8")] == [1, 2, 8]
    shrunk = views[8]
    assert not shrunk[:, 0].any() and not shrunk[:, -1].any() and shrunk[:, 1:15, 1:15].all()


@pytest.mark.parametrize(("tta", "num_views"), [("none", 1), ("2", 2), ("8", 8), ("16", 16)])
def test_probabilities_are_the_mean_over_all_views(tta, num_views):
    """A network that answers with one corner's pixel: the mean over flips and turns is that over the four corners."""
    images = np.random.default_rng(1).random((3, 16, 16, 4), np.float32)
    asked = []

    def corner(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        view = inputs["image"]
        asked.append(view.copy())
        return {"probabilities": np.repeat(view[:, 0, 0, :1], 19, axis=1), "embedding": view[:, 0, 0]}

    probabilities, embedding = inference._answer({"image": images}, corner, tta)
    assert len(asked) == num_views and probabilities.shape == (3, 1, 19) and embedding.shape == (3, 1, 4)
    expected = {
        "none": images[:, 0, 0, 0],
        "2": images[:, 0, [0, -1], 0].mean(axis=1),
        "8": images[:, [0, 0, -1, -1], [0, -1, 0, -1], 0].mean(axis=1),
        "16": images[:, [0, 0, -1, -1], [0, -1, 0, -1], 0].mean(axis=1) / 2,  # black corners of the shrunk views
    }[tta]
    np.testing.assert_allclose(probabilities[:, 0], np.repeat(expected[:, None], 19, axis=1), atol=1e-6)
    np.testing.assert_array_equal(embedding[:, 0], images[:, 0, 0])


@pytest.mark.slow
def test_views_make_probabilities_independent_of_orientation(world, pool, tmp_path):
    """The mean over 8 views of an image and of its mirror image must agree; without views they do not."""
    root, _, options = world
    for name in os.listdir(root / "images"):
        if name.startswith(("a1", "f6")):
            (tmp_path / "mirrored").mkdir(exist_ok=True)
            picture = cv2.imread(str(root / "images" / name), cv2.IMREAD_UNCHANGED)
            cv2.imwrite(str(tmp_path / "mirrored" / name), picture[:, ::-1])
    found = {}
    for tta in ("none", "8"):
        for folder in (root / "images", tmp_path / "mirrored"):
            out = tmp_path / f"{tta}_{folder.name}"
            predict(replace(options, out=str(out), images=str(folder), masks=str(folder), tta=tta), pool)
            table = cell_table.read(out / "raw/run.parquet")
            found[tta, folder.name] = cell_table.values(table[table["image_id"].isin(["a1", "f6"])])[:, :18]
    assert np.abs(found["none", "images"] - found["none", "mirrored"]).max() > 1e-3
    np.testing.assert_allclose(found["8", "images"], found["8", "mirrored"], atol=1e-5)


def test_workers_run_without_tensorflow():
    with Workers(1) as workers:
        for module in ("finishing", "sources", "stages", "report", "outputs"):
            workers.submit(exec, f"import hpa_tf.prediction.{module}").result()
        modules = set(workers.submit(eval, "list(__import__('sys').modules)").result())
    assert "hpa_tf.prediction.finishing" in modules
    assert not {"tensorflow", "keras"} & modules


def test_workers_end_when_the_main_process_is_killed():
    code = (
        "import time; from hpa_tf.prediction.workers import Workers; workers = Workers(1);"
        "print(workers.submit(os.getpid).result(), flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", "import os;" + code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    process.kill()
    process.wait()
    for _ in range(600):
        if not Path(f"/proc/{worker}").exists():
            return
        time.sleep(0.1)
    raise AssertionError("the worker outlived the main process by a minute")


# -- bad input --------------------------------------------------------------------------------------------------------


def test_a_damaged_image_fails_or_is_skipped(world, pool, tmp_path, capsys):
    root, _, _ = world
    shutil.copytree(root / "images", tmp_path / "images")
    bad = tmp_path / "images" / "c3_green.png"
    bad.write_bytes(bad.read_bytes()[:200])
    arguments = [
        *("--run", str(root / "run"), "--images", str(tmp_path / "images"), "--masks", str(tmp_path / "images")),
        *("--workers", "1", "--report-images", "0"),
    ]
    assert main([*arguments, "--out", str(tmp_path / "fail")]) == 2
    assert "c3_green.png" in capsys.readouterr().err
    assert not (tmp_path / "fail/submission.csv").exists()
    assert main([*arguments, "--out", str(tmp_path / "skip"), "--on-error", "skip"]) == 1
    failures = pd.read_csv(tmp_path / "skip/failures.csv")
    assert failures["image_id"].tolist() == ["c3"] and "c3_green.png" in failures["error"][0]
    assert [row.image_id for row in submission.read(tmp_path / "skip/submission.csv")] == ["a1", "b2", "d4", "e5", "f6"]
    shutil.copy(root / "images" / "c3_green.png", bad)  # mended: the next call predicts this image alone
    assert main([*arguments, "--out", str(tmp_path / "skip"), "--on-error", "skip"]) == 0
    assert "1 predicted now" in capsys.readouterr().out
    whole = cell_table.read(tmp_path / "skip/cells.parquet")
    pd.testing.assert_frame_equal(whole, cell_table.read(root / "out/cells.parquet"), atol=1e-5)


def test_a_folder_without_cells_at_all(world, pool, tmp_path):
    _, _, options = world
    images = str(tmp_path / "images")
    cases.write_field(tmp_path / "images", "only", 0, 1)
    predict(replace(options, out=str(tmp_path / "out"), images=images, masks=images), pool)
    assert len(cell_table.read(tmp_path / "out/cells.parquet")) == 0
    assert [row.image_id for row in submission.read(tmp_path / "out/submission.csv")] == ["only"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--images"),
        (["--run", "r"], "--images"),
        (["--run", "r", "--images", "x", "--data", "y"], "--images"),
        (["--run", "r", "--data", "y", "--masks", "m"], "--masks"),
        (["--run", "r", "--data", "y", "--segmenter", "classical"], "--segmenter"),
        (["--run", "r", "--data", "y", "--segmenter-weights", "w"], "--segmenter-weights"),
        (["--run", "r", "--images", "x", "--masks", "m", "--segmenter-weights", "w"], "--segmenter-weights"),
        (
            ["--run", "r", "--images", "x", "--segmenter", "classical", "--segmenter-weights", "w"],
            "--segmenter-weights",
        ),
        (["--run", "r", "--images", "x", "--segmenter-weights", "nowhere.onnx"], "nowhere.onnx"),
        (["--run", "r", "--data", "y", "--um-per-px", "0.32"], "--um-per-px"),
        (["--run", "r", "--data", "y", "--full-scale", "4095"], "--full-scale"),
        (["--run", "r", "--data", "y", "--max-pixels", "9"], "--max-pixels"),
        (["--run", "r", "--images", "x", "--max-pixels", "0"], "--max-pixels"),
        (["--run", "r", "--images", "x", "--max-pixels", "1073741825"], "--max-pixels"),
        (["--run", "r", "--images", "x", "--cell-pattern", "{ID}_c"], "--cell-pattern"),
        (["--run", "r", "--images", "x", "--nucleus-pattern", "{ID}_n"], "--nucleus-pattern"),
        (["--run", "r", "--images", "x", "--runs", "y"], "--runs"),
        (["--run", "r", "--images", "x", "--allow-failures"], "--allow-failures"),
        (["--run", "r", "--images", "x", "--no-overlays", "--report-images", "0", "--top-k", "3"], "--top-k"),
        (["--run", "r", "--images", "x", "--um-per-px", "0"], "--um-per-px"),
        (["--run", "r", "--images", "x", "--um-per-px", "-0.08"], "--um-per-px"),
        (["--run", "r", "--images", "x", "--um-per-px", "nan"], "--um-per-px"),
        (["--run", "r", "--images", "x", "--um-per-px", "320"], "--um-per-px"),
        (["--run", "r", "--images", "x", "--um-per-px", "80"], "--um-per-px"),
        (["--run", "r", "--images", "x", "--full-scale", "0"], "--full-scale"),
        (["--run", "r", "--images", "x", "--full-scale", "65536"], "--full-scale"),
        (["--run", "r", "--images", "x", "--fold", "0"], "--fold"),
        (["--run", "r", "--images", "x", "--shard", "3/3"], "--shard"),
        (["--run", "r", "--images", "x", "--shard", "-1/3"], "--shard"),
        (["--run", "r", "--images", "x", "--batch-size", "0"], "--batch-size"),
        (["--run", "r", "--system", "cpu_pair", "--images", "x"], "--run"),
        (["--system", "no_such_system", "--images", "x"], "--system"),
        (["--run", "nowhere", "--images", "x"], "nowhere"),
        (["--run", "r", "--images", "x", "--strategy", "mirrored", "--runtime", "onnx"], "--strategy"),
    ],
)
def test_wrong_options_end_with_one_line(tmp_path, capsys, arguments, named):
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"predict.py: {named}") and "Fix:" in error


OUT_OF_MEMORY = (
    MemoryError(),
    tf.errors.ResourceExhaustedError(None, None, "OOM in\nSub"),
    Exception("[ONNXRuntimeError] : 1 : FAIL : Conv node. bfc_arena.cc:360 Failed to allocate memory for requested\n"),
    RuntimeError("Exception from infer_request.cpp:224:\nFailed to allocate 2147483648 bytes of memory\n\n"),
)
"""As Python, TensorFlow, onnxruntime and OpenVINO say it."""
SAID = (
    r"not enough memory \((OOM in|MemoryError|Failed to allocate (memory for requested|2147483648 bytes of memory))\)"
)


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_too_little_memory_for_a_batch_leaves_a_folder_without_results_free(small, pool, tmp_path, monkeypatch, error):
    predict_fields = inference.predict_fields

    def of_small_memory(fields, networks, runs, batch_size, *arguments, **options):
        if batch_size > 4:
            raise error
        return predict_fields(fields, networks, runs, batch_size, *arguments, **options)

    monkeypatch.setattr(inference, "predict_fields", of_small_memory)
    options = replace(small[1], out=str(tmp_path / "out"))
    with pytest.raises(InputError, match=f"{SAID}.*a smaller --batch-size"):
        predict(options, pool)
    assert predict(replace(options, batch_size=4), pool).num_predicted == 3


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_a_worker_of_beam_says_that_its_memory_is_too_small(monkeypatch, error):
    """What comes back from there is a text alone."""
    monkeypatch.setattr(beam_runner.Stages, "run", mock.Mock(side_effect=error))
    monkeypatch.setattr(beam_runner, "_open_networks", lambda request: (None, []))
    work = beam_runner.Work("out", None, How(4, None, False, False, 0, False), None, None)
    with pytest.raises(InputError, match=f"{SAID}.*a smaller --batch-size"):
        beam_runner.predict_group(beam_runner.Group(0, ("a",), (None,), frozenset(), 0), work)


def test_other_errors_are_not_said_to_be_of_memory(small, pool, tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "predict_fields", mock.Mock(side_effect=RuntimeError("an allocation table")))
    with pytest.raises(RuntimeError, match="an allocation table"):
        predict(replace(small[1], out=str(tmp_path / "out")), pool)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"request": 3}', '{"request": {"options": {}, "networks": [3]}}'])
def test_a_damaged_manifest_of_a_prediction_is_named(small, pool, tmp_path, damage):
    shutil.copytree(small[0], tmp_path / "small")
    (tmp_path / "small/out/parts").mkdir(parents=True)
    (tmp_path / "small/out/predictions.json").write_text(damage)
    with pytest.raises(InputError, match=r"predictions\.json.*predicts all images anew"):
        predict(replace(small[1], out=str(tmp_path / "small/out")), pool)
    with pytest.raises(InputError, match=r"predictions\.json"):
        merging.merge(merging.MergeOptions((str(tmp_path / "small/out"),), str(tmp_path / "whole")))


@pytest.mark.parametrize("name", ["../../outside", "ABSOLUTE", "a..b", None])
def test_networks_named_like_a_way_out_of_the_folder_are_refused(small, pool, tmp_path, name):
    """A part may come from anybody; of one's own runs it is said before anything is predicted."""
    options = replace(small[1], out=str(tmp_path / "part/part"), shard="0/1")
    predict(options, pool)
    name = str(tmp_path / "outside") if name == "ABSOLUTE" else name
    manifest = json.loads((tmp_path / "part/part/predictions.json").read_text())
    manifest["request"]["networks"][0]["name"] = name
    (tmp_path / "part/part/predictions.json").write_text(json.dumps(manifest))
    before = sorted(tmp_path.rglob("*"))
    for refused in (
        lambda: merging.merge(merging.MergeOptions((options.out,), str(tmp_path / "whole/whole"))),
        lambda: read_raw_predictions(options.out),
        lambda: results.start(str(tmp_path / "new"), manifest["request"]),
    ):
        with pytest.raises(InputError, match="found a network named"):
            refused()
    assert sorted(tmp_path.rglob("*")) == before


def test_damaged_results_are_named(world, tmp_path):
    """Cut short, empty, any bit flipped, or of another program: each is seen, or changes no value."""
    root, _, _ = world
    (tmp_path / "parts").mkdir()
    path = tmp_path / "parts/c3.parquet"
    data = (root / "out/parts/c3.parquet").read_bytes()
    path.write_bytes(data)
    intact = result_files.read_part(str(tmp_path), "c3")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    for content in [b"", data[:-9], data[: len(data) // 2], (tmp_path / "other.parquet").read_bytes()]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"c3\.parquet.*remove it"):
            result_files.read_part(str(tmp_path), "c3")
    silent = 0
    for position in [*range(0, len(data), 37), *range(len(data) - 200, len(data))]:
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            found = result_files.read_part(str(tmp_path), "c3")
        except InputError as error:
            assert "c3.parquet" in str(error) and "remove it" in error.fix
            continue
        silent += 1  # the word before the checksum itself
        pd.testing.assert_frame_equal(found.table, intact.table)
        np.testing.assert_array_equal(found.probabilities, intact.probabilities)
        assert found.mask_texts == intact.mask_texts
    assert silent <= 4
    table = pq.read_table(io.BytesIO(data))  # a file of an earlier version has no checksum
    kept = {key: value for key, value in table.schema.metadata.items() if key != b"hpa_tf.checksum"}
    pq.write_table(table.replace_schema_metadata(kept), path)
    pd.testing.assert_frame_equal(result_files.read_part(str(tmp_path), "c3").table, intact.table)


def test_damaged_pictures_of_the_report_are_named(tmp_path):
    """Cut short, or a bit flipped: each is seen with what to remove, or changes no picture."""
    (tmp_path / "parts").mkdir()
    rng = np.random.default_rng(0)
    shown = cards.Cards(rng.integers(1, 256, (2, 8, 8, 4), dtype=np.uint8))
    cards.write_cards(str(tmp_path), "c3", np.zeros((8, 8, 3), np.uint8), pd.DataFrame({"cell": [1, 2]}), shown)
    path = tmp_path / "parts/c3.cards.npz"
    data, intact = path.read_bytes(), cards.read_cards(str(tmp_path), "c3")
    directory = data.index(b"PK\1\2")  # of the archive: flags, method, sizes, name of the first array
    positions = [*range(0, len(data), 53), *range(directory, directory + 54)]
    flips = [data[:i] + bytes([data[i] ^ 1 << bit]) + data[i + 1 :] for i in positions for bit in range(8)]
    cuts = [data[:length] for length in range(0, len(data), 101)]
    fix = f"remove it and {tmp_path}/parts/c3.parquet, and run the same prediction again"
    seen = set()
    for content in flips + cuts:
        path.write_bytes(content)
        try:
            found = cards.read_cards(str(tmp_path), "c3")
        except InputError as error:
            assert error.where == str(path) and error.fix == fix
            seen.add(type(error.__cause__).__name__)
        else:
            assert (found.overlay, found.strips) == (intact.overlay, intact.strips)
    assert {"BadZipFile", "EOFError", "NotImplementedError", "RuntimeError", "KeyError"} <= seen


@pytest.mark.parametrize("name", [b"gr\xf6n_red.png", b"\xff\xfe_green.png"])
def test_names_that_are_no_utf8_are_skipped_where_errors_are(small, pool, tmp_path, name):
    shutil.copytree(small[0], tmp_path / "small")
    images = tmp_path / "small/images"
    shutil.copy(images / "a_red.png", os.path.join(os.fsencode(images), name))
    (images / "A1_red.png").touch()  # beside it: an image with one channel, which is read, and fails
    options = replace(small[1], **{what: str(tmp_path / "small" / what) for what in ("images", "masks", "out")})
    with pytest.raises(InputError, match="image id"):
        predict(options, pool)
    outcome = predict(replace(options, on_error="skip"), pool)
    failed = pd.read_csv(tmp_path / "small/out/failures.csv")["image_id"].tolist()
    assert outcome.num_images == 3 and len(failed) == 2 == len(outcome.failures) and "A1" in failed
    assert any("\\x" in image_id for image_id in failed)


@pytest.mark.parametrize(("marker", "what"), [("dataset.json", "a data folder"), ("recipe.json", "a run")])
def test_nothing_is_predicted_into_a_folder_of_another_kind(small, pool, tmp_path, marker, what):
    (tmp_path / marker).write_text("{}")
    with pytest.raises(InputError, match=rf"found {what} \({marker}\); expected a prediction"):
        predict(replace(small[1], out=str(tmp_path)), pool)
    assert [path.name for path in tmp_path.iterdir()] == [marker]


def test_folders_whose_names_are_no_utf8_are_printed_all_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "predict", lambda options: stages.Outcome(num_images=1))
    assert main(["--images", "images", "--out", str(tmp_path / os.fsdecode(b"\xf6"))]) == 0
    assert rf"{tmp_path}/\xf6/submission.csv" in capsys.readouterr().out


def test_a_prediction_of_nothing_names_no_file_that_is_not_there(tmp_path):
    failures = [("x", "damaged")]
    options = Options(str(tmp_path), run=("r",), images="i", on_error="skip")
    text = summary(options, stages.Outcome(num_images=0, failures=failures))
    assert "no image could be predicted" in text and "1 image skipped" in text and "cells.parquet" not in text
    assert "cells.parquet" in summary(options, stages.Outcome(num_images=2, failures=failures))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_image_without_permission_is_skipped_where_errors_are(small, pool, tmp_path):
    shutil.copytree(small[0], tmp_path / "small")
    (tmp_path / "small/images/a_red.png").chmod(0)
    options = replace(small[1], **{name: str(tmp_path / "small" / name) for name in ("images", "masks", "out")})
    with pytest.raises(InputError, match="a_red"):
        predict(options, pool)
    outcome = predict(replace(options, on_error="skip"), pool)
    assert [image_id for image_id, _ in outcome.failures] == ["a"]


def test_an_image_that_kills_its_worker_at_the_end_fails_or_is_skipped(small, pool, tmp_path, monkeypatch):
    submit = pool.submit

    def deadly(*call, name="", **more):
        return submit(os._exit, 3, name=name) if name == "image a1" else submit(*call, name=name, **more)

    monkeypatch.setattr(pool, "submit", deadly)
    with pytest.raises(InputError, match="image a1: found its worker died: exit code 3"):
        predict(replace(small[1], out=str(tmp_path / "fail")), pool)
    outcome = predict(replace(small[1], out=str(tmp_path / "skip"), on_error="skip"), pool)
    assert [image_id for image_id, _ in outcome.failures] == ["a1"] and outcome.num_predicted == 2
    assert [row.image_id for row in submission.read(tmp_path / "skip/submission.csv")] == ["a", "b.2"]


def test_answers_that_are_no_numbers_name_network_and_image(small, world, pool, tmp_path, monkeypatch):
    import hpa_tf

    take = inference._Collector.take

    def overflown(self, network, rows, probabilities):
        take(self, network, rows, probabilities * (np.nan if self._field.image_id == "a1" else 1))

    monkeypatch.setattr(inference._Collector, "take", overflown)
    told = r"image a1: found answers of run that are not a number.*--precision float32"
    with pytest.raises(InputError, match=told):
        predict(replace(small[1], out=str(tmp_path / "fail")), pool)
    outcome = predict(replace(small[1], out=str(tmp_path / "skip"), on_error="skip"), pool)
    assert [image_id for image_id, _ in outcome.failures] == ["a1"] and outcome.num_predicted == 2
    pixels, mask = np.full((32, 32, 4), 200, np.uint8), np.pad(np.ones((20, 20), np.int32), 6)
    with pytest.raises(InputError, match=told):
        hpa_tf.Predictor(world[0] / "run").predict(FieldOfView("a1", pixels), mask)


def broken(task):
    raise PermissionError(13, "Permission denied", "x_red.png") if task == 0 else RecursionError("deep")


@pytest.mark.parametrize("task", [0, 1])
def test_any_error_of_an_image_is_its_own(pool, task):
    failed = pool.submit(stages.load, (broken, task, "x")).result()
    assert failed.image_id == "x" and isinstance(failed.error, InputError)
    assert ("Permission denied" in str(failed.error)) == (task == 0)


# -- brightness -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lit(tmp_path_factory, pool):
    """Images in 8 bit, a run that knows how bright its training data were, and what it says of them."""
    root = tmp_path_factory.mktemp("lit")
    shares = []
    for seed in range(4):
        cases.write_field(root / "images", f"i{seed}", 2, seed, size=(48, 64))
    for found in find_fields(root / "images"):
        shares.append(brightness(read_field(found).pixels))
    manifest = replace(cases.MANIFEST, brightness=brightness_range(np.array(shares)))
    serving.export(root / "run", cases.network(), cases.recipe(), manifest)
    return root, Options(
        str(root / "out"), run=(str(root / "run"),), images=str(root / "images"), masks=str(root / "images"),
        report_images=0, overlays=False,
    )  # fmt: skip


def rescaled(source: Path, target: Path, change) -> str:
    """Copy images with their counts changed; masks as they are."""
    target.mkdir()
    for path in source.iterdir():
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(target / path.name), pixels if "mask" in path.name else change(pixels, path.name))
    return str(target)


def to_12_bit(pixels, name):
    return np.round(pixels / 255 * 4095).astype(np.uint16)


CHANGES = {
    "as it was": (lambda pixels, name: pixels, None),
    "16 bit": (lambda pixels, name: pixels.astype(np.uint16) * 257, None),
    "12 bits in 16": (to_12_bit, "darker"),
    "an eighth": (lambda pixels, name: pixels // 8, "darker"),
    "one channel": (lambda pixels, name: pixels // 8 if "green" in name else pixels, "green darker"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_images_much_darker_than_the_training_data_are_a_warning(lit, pool, tmp_path, change):
    function, word = CHANGES[change]
    images = rescaled(lit[0] / "images", tmp_path / "images", function)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        predict(replace(lit[1], images=images, out=str(tmp_path / "out")), pool)
    told = [str(w.message) for w in caught if "brightness range" in str(w.message)]
    assert len(told) == (word is not None), told
    if word:
        assert word in told[0] and "--full-scale 4095" in told[0]
        assert ("red" in told[0]) == (change != "one channel")


def test_prediction_in_memory_tells_an_image_that_is_much_darker(lit):
    import hpa_tf

    field = read_field(find_fields(lit[0] / "images")[0])
    predictor, mask = hpa_tf.Predictor(lit[0] / "run"), np.zeros(field.pixels.shape[:2], np.int32)
    mask[5:20, 5:20] = 1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", HpaWarning)
        predictor.predict(field, mask)
    assert not [w for w in caught if "brightness" in str(w.message)]
    with pytest.warns(HpaWarning, match="1 image: another brightness range than run.*--full-scale 4095"):
        predictor.predict(to_12_bit(field.pixels, ""), mask)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", HpaWarning)
        predictor.predict(to_12_bit(field.pixels, ""), mask, full_scale=4095)
    assert not [w for w in caught if "brightness" in str(w.message)]


def test_full_scale_makes_12_bits_what_8_bits_are(lit, pool, tmp_path):
    images = rescaled(lit[0] / "images", tmp_path / "images", to_12_bit)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        predict(replace(lit[1], images=images, out=str(tmp_path / "out"), full_scale=4095), pool)
        assert not [w for w in caught if "no image has 16 bits" in str(w.message)]
        predict(replace(lit[1], out=str(tmp_path / "eight"), full_scale=4095), pool)
    assert not [w for w in caught if "brightness" in str(w.message)]
    assert len([w for w in caught if "--full-scale: no image has 16 bits" in str(w.message)]) == 1
    first, second = (cell_table.read(tmp_path / out / "raw/run.parquet") for out in ("out", "eight"))
    np.testing.assert_allclose(cell_table.values(first)[:, :18], cell_table.values(second)[:, :18], atol=2e-3)


# -- stopping ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("moment", ["at once", "imports", "predicting", "writing"])
def test_a_stop_at_any_moment_is_one_line(small, tmp_path, number, code, moment):
    for seed in range(24):
        cases.write_field(tmp_path / "images", f"i{seed:02d}", 60, seed, size=(400, 500))
    out = tmp_path / "out"
    command = [
        *(sys.executable, str(ROOT / "predict.py"), "--run", small[1].run[0], "--images", str(tmp_path / "images")),
        *("--masks", str(tmp_path / "images"), "--out", str(out), "--workers", "2", "--report-images", "24"),
    ]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    signs = {
        "at once": lambda: True,
        "imports": lambda: True,
        "predicting": lambda: len(list(out.glob("parts/*.parquet"))) > 2,
    }
    signs["writing"] = lambda: list(out.glob(".submission.csv*")) or list(out.glob(".cells.parquet*"))
    time.sleep({"at once": 0.3, "imports": 2}.get(moment, 0))
    deadline = time.monotonic() + 180
    while not signs[moment]() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    assert process.poll() is None, "it ended before the signal"
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    lines = [line for line in errors.replace("\r", "\n").splitlines() if "image" not in line or "stopped" in line]
    assert process.returncode == code and "Traceback" not in errors, errors
    assert [line for line in lines if line.strip()][-1].startswith("predict.py: stopped by"), errors
    assert ("the same command continues" in errors) == (moment in ("predicting", "writing"))
    assert not psutil.wait_procs(children, timeout=10)[1], "a child is left"
    assert not list(out.rglob("*.tmp"))


def test_missing_members_are_named_with_the_command_that_trains_them(tmp_path):
    with pytest.raises(InputError) as error:
        members.load_members(system_named("milimed_final_2"), str(tmp_path))
    assert "milimed_b0_flips, milimed_b0_resizer, milimed_b0_pad (3 of 3 members)" in str(error.value)
    assert f"python train.py --strategy mirrored --data DIR --system milimed_final_2 --out {tmp_path}" in str(
        error.value
    )


@pytest.mark.slow
def test_a_full_disk_is_a_clear_error_and_the_run_goes_on_later(world, pool, tmp_path):
    """A limit on the size of a file stands in for a full disk: the system refuses the write in the same way."""
    root, _, options = world
    out = tmp_path / "out"
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY));"
        "from hpa_tf.prediction.command import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = [
        *("--run", str(root / "run"), "--images", str(root / "images"), "--masks", str(root / "images")),
        *("--out", str(out), "--workers", "1", "--report-images", "3", "--embeddings"),
    ]
    process = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 2, process.stderr[-2000:]
    assert "File too large" in process.stderr and "run the same command" in process.stderr
    assert "Traceback" not in process.stderr and not (out / "submission.csv").exists()
    assert not list(out.rglob("*.tmp"))
    predict(replace(options, out=str(out)), pool)
    assert (out / "submission.csv").read_bytes() == (root / "out/submission.csv").read_bytes()


def test_many_lowered_cells_are_a_warning(world, pool, tmp_path):
    _, _, options = world
    images = tmp_path / "images"
    mask = cases.write_field(images, "g7", 6, 7)
    for name, nuclei in (("whole", None), ("none", np.zeros_like(mask))):
        if nuclei is not None:
            cv2.imwrite(str(images / "g7_nucleusmask.png"), nuclei)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            predict(replace(options, out=str(tmp_path / name), images=str(images), masks=str(images)), pool)
        warned = any(issubclass(w.category, HpaWarning) and "value below 1" in str(w.message) for w in caught)
        assert warned == (name == "none")


def test_images_at_another_scale_than_the_training_are_a_warning(world, pool, tmp_path):
    _, _, options = world
    images = str(tmp_path / "images")
    cases.write_field(tmp_path / "images", "h8", 2, 8)
    own = replace(options, images=images, masks=images, report_images=0)
    for um_per_px in (0.08, 0.32):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            predict(replace(own, out=str(tmp_path / f"{um_per_px}"), um_per_px=um_per_px), pool)
        warned = any("trained at 0.08" in str(w.message) for w in caught if issubclass(w.category, HpaWarning))
        assert warned == (um_per_px == 0.32)


@pytest.mark.slow
def test_gpu_strategy_splits_batches_over_devices(world, pool, tmp_path):
    """Two logical CPUs stand in for two GPUs; a batch of 7 does not divide by 2."""
    root, _, _ = world
    code = (
        "import sys, tensorflow as tf;"
        "cpu = tf.config.list_physical_devices('CPU')[0];"
        "tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2);"
        "from hpa_tf.prediction.command import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = [
        *("--run", str(root / "run"), "--images", str(root / "images"), "--masks", str(root / "images")),
        *("--out", str(tmp_path / "out"), "--workers", "1", "--strategy", "mirrored", "--batch-size", "7"),
    ]
    process = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 0, process.stderr[-3000:]
    assert json.loads((tmp_path / "out/predictions.json").read_text())["request"]["device"]["replicas"] == 2
    first, second = (cell_table.read(folder / "cells.parquet") for folder in (root / "out", tmp_path / "out"))
    pd.testing.assert_frame_equal(first, second, atol=1e-5, rtol=0)


def test_tensorflow_is_here_once():
    assert len(tf.config.list_logical_devices("CPU")) == 1


def test_prediction_in_memory_gives_the_same_table(world):
    import hpa_tf

    root, _, _ = world
    predictor = hpa_tf.Predictor(root / "run")
    expected = cell_table.read(root / "out/cells.parquet")
    features = pd.read_parquet(root / "out/embeddings.parquet").set_index(["image_id", "cell"])
    for found in find_fields(root / "images"):
        field = read_field(found)
        masks = [cv2.imread(str(root / "images" / f"{found.image_id}_{k}mask.png"), -1) for k in ("nucleus", "cell")]
        given = Masks(*(mask.astype(np.int32) for mask in masks))
        table = predictor.predict(field, given, embeddings=True, heat_maps=True)
        own = expected[expected["image_id"] == found.image_id].reset_index(drop=True)
        pd.testing.assert_frame_equal(table[own.columns], own, check_exact=False, rtol=1e-4, atol=2e-5)
        assert [f"heat_{what}" in table.columns for what in ("map", "class")] == [True, True]
        for row in table.itertuples():
            assert row.heat_map.ndim == 2 and 0 <= row.heat_map.min() <= row.heat_map.max() <= 1
            stored = features.loc[(found.image_id, row.cell)].to_numpy(float)
            np.testing.assert_allclose(row.embedding, stored, rtol=1e-3, atol=1e-3)
    columns = [np.asfortranarray(mask) for mask in (given.nucleus, given.cell)]  # as MATLAB and R store them
    pd.testing.assert_frame_equal(predictor.predict(field, Masks(*columns)), predictor.predict(field, given))
    ring = np.zeros((40, 40), np.uint8)
    ring[5:35, 5:35], ring[8:32, 8:32], ring[0, :4] = 1, 0, 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        part = [predictor.predict(field.pixels[:40, :40], how(ring)) for how in (np.array, np.asfortranarray)]
    pd.testing.assert_frame_equal(*part)
    with pytest.warns(HpaWarning, match="the yellow channel is blank; .*without='yellow'"):
        predictor.predict(field.pixels * np.array([1, 1, 1, 0], field.pixels.dtype), given.cell)
    for wrong in ({"tta": 8}, {"tta": "4"}):
        with pytest.raises(InputError, match=r"--tta: found .* expected 'none', '2', '8' or '16'"):
            hpa_tf.Predictor(root / "run", **wrong)
    with pytest.raises(InputError, match="--project: found 'mean'; expected max"):
        predictor.predict("z.ome.tif", project="mean")
    alone = predictor.predict(field.pixels, given.cell, um_per_px=field.um_per_px)
    assert alone["cell"].tolist() == table["cell"].tolist()
    others = np.random.default_rng(0).permutation(given.nucleus.max() + 1) + 1000  # nuclei with numbers of their own
    numbered = Masks(np.where(given.nucleus > 0, others[given.nucleus], 0), given.cell.astype(np.uint16))
    pd.testing.assert_frame_equal(predictor.predict(field, numbered, embeddings=False), table[own.columns])


@pytest.mark.parametrize(
    ("image", "masks", "message"),
    [
        (np.zeros((8, 8, 3), np.uint8), None, r"image: found uint8 \[8, 8, 3\]"),
        (np.zeros((8, 8, 4), np.float32), None, r"image: found float32.*astype\(np.uint8\)"),
        (np.zeros((4, 8, 8), np.uint8), None, r"image: found uint8 \[4, 8, 8\].*np.moveaxis"),
        (np.zeros((0, 8, 4), np.uint8), None, r"image: found uint8 \[0, 8, 4\]"),
        (np.zeros((8, 8), np.uint8), None, r"image: found uint8 \[8, 8\]"),
        ("x.png", None, r"x.png: found a file whose name does not end in .tif"),
        (".", None, r"found a folder.*find_fields"),
        (np.zeros((8, 8, 4), np.uint8), np.zeros((8, 9), int), "masks: found"),
        (np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8)), "masks: found float64"),
        (np.zeros((8, 8, 4), np.uint8), np.full((8, 8), -1), "masks: found"),
        (np.zeros((8, 8, 4), np.uint8), np.full((8, 8), 2**31), "masks: found the number 2147483648"),
        (np.zeros((64, 64, 4), np.uint8), np.kron([1, 0, 0, 1], np.ones((64, 16))) > 0, "one number, 1, in"),
        (
            np.zeros((8, 8, 4), np.uint8),
            Masks(np.zeros((8, 9), int), np.ones((8, 8), int)),
            r"masks.nucleus: .*\[8, 9\]",
        ),
        (np.zeros((8, 8, 4), np.uint8), Masks(None, np.ones((8, 8), int)), "masks.nucleus: found object"),
        (FieldOfView("a", np.zeros((8, 8, 4), np.float32)), None, "image: found float32"),
        (FieldOfView("a", np.zeros((8, 8, 4), np.uint8), float("nan")), None, "um_per_px: found nan"),
        (FieldOfView("a", np.zeros((8, 8, 4), np.uint8), None), None, "um_per_px: found None"),
    ],
)
def test_prediction_in_memory_refuses_what_is_no_image(world, image, masks, message):
    import hpa_tf

    with pytest.raises(InputError, match=message):
        hpa_tf.Predictor(world[0] / "run").predict(image, masks)


@pytest.mark.parametrize(("overlays", "report_images"), [(True, 0), (False, 1)])
def test_pictures_that_wait_for_their_overlay_are_gone_in_the_end(
    world, pool, tmp_path, monkeypatch, overlays, report_images
):
    """They wait on the disk, not in the main process; also those that nobody takes."""
    root, _, options = world
    waiting = tmp_path / "temporary"
    waiting.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(waiting))
    sizes = []

    def as_many_as_are_under_way(self, one):
        sizes.append(len(list(waiting.rglob("*.npz"))))
        return start_finishing(self, one)

    start_finishing = stages.Stages._start_finishing
    monkeypatch.setattr(stages.Stages, "_start_finishing", as_many_as_are_under_way)
    predict(replace(options, out=str(tmp_path / "out"), overlays=overlays, report_images=int(not overlays)), pool)
    assert max(sizes) > 0 and not list(waiting.iterdir())
    if overlays:
        for path in (root / "out/overlays").iterdir():
            assert (tmp_path / "out/overlays" / path.name).read_bytes() == path.read_bytes()

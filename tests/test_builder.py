"""The build end to end: contents against the inputs, determinism, change detection, unusable images, the lock."""

import filecmp
import importlib.util
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import tyro
from builder_inputs import Inputs, content, draw_masks, write_inputs

from hpa_tf import cell_table, files, folder_lock, framing, records
from hpa_tf.classes import CHANNELS
from hpa_tf.encoding import decode_picture
from hpa_tf.errors import HpaWarning
from hpa_tf.segmenting.options import Options as SegmentingOptions
from tfrecords_builder import build, options, plan
from tfrecords_builder.__main__ import main
from tfrecords_builder.table import count_cells


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Inputs:
    return write_inputs(tmp_path_factory.mktemp("inputs"), 12)


@pytest.fixture(scope="module")
def built(inputs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("built") / "data"
    assert main([*inputs.arguments(out), "--workers", "2", "--fields", "32"]) == 0
    return out


def read_all(folder: Path, kind: str = "cells") -> list[dict]:
    fields = records.CELL_FIELDS if kind == "cells" else records.IMAGE_FIELDS
    found = []
    for shard in records.read_manifest(folder).shards_of(kind):
        with open(folder / shard.name, "rb") as stream:
            found += [records.decode(data, fields) for data in framing.read_frames(stream, shard.name)]
    return found


def test_every_cell_is_stored_once_as_it_is_in_the_images(inputs, built):
    found = read_all(built)
    assert len(found) == 12 * 4 == records.read_manifest(built).num_cells
    assert len({(record["image_id"], record["cell"]) for record in found}) == 48
    classes = pd.read_csv(inputs.labels, index_col="ID")["Label"]
    for record in found:
        image_id = record["image_id"].decode()
        planes = [cv2.imread(str(inputs.images / f"{image_id}_{c}.png"), cv2.IMREAD_UNCHANGED) for c in CHANNELS]
        mask = cv2.imread(str(inputs.masks / f"{image_id}_cellmask.png"), cv2.IMREAD_UNCHANGED)
        top, left, bottom, right = record["crop_box"]
        np.testing.assert_array_equal(decode_picture(record["crop"]), np.dstack(planes)[top:bottom, left:right])
        inside = np.isin(decode_picture(record["region"]), [1, 2])
        np.testing.assert_array_equal(inside, mask[top:bottom, left:right] == record["cell"])
        assert inside.any(axis=1)[[0, -1]].all() and inside.any(axis=0)[[0, -1]].all()  # the box is tight
        expected = {int(part) for part in classes[image_id].split("|")}
        assert set(np.flatnonzero(record["labels"])) == expected


def test_cell_table_says_what_the_records_say(built):
    table = cell_table.read(built / records.CELL_TABLE_NAME)
    assert cell_table.kind(built / records.CELL_TABLE_NAME) == "labels"
    for row, record in zip(table.to_dict("records"), read_all(built), strict=True):
        assert (row["image_id"].encode(), row["cell"], row["fold"]) == (
            *(record[k] for k in ("image_id", "cell", "fold")),
        )
        assert [row[name] for name in ("top", "left", "bottom", "right")] == record["box"].tolist()
        assert [row[f"sum_{name}"] for name in CHANNELS] == record["channel_sums"].tolist()
        assert (row["cell_area"], row["nucleus_area"]) == (record["cell_area"], record["nucleus_area"])
        assert (row["height"], row["width"], row["bits"], row["um_per_px"]) == (64, 64, 8, 0.08)
    shards = {shard.name: shard.num_records for shard in records.read_manifest(built).shards_of("cells")}
    for name, rows in table.groupby("shard"):
        assert rows["record"].tolist() == list(range(shards[name]))
    assert (table["cleaning_value"] == 1).all(), "whole cells, equally bright"


def test_cleaning_values_are_those_of_cut_and_dark_cells(tmp_path):
    """Nuclei whose longest side leaves .15, .25 and .5 of their box free, and a cell of a fiftieth of the red."""
    inputs = write_inputs(tmp_path / "inputs", 1, size=64, grid=2)
    cell, nucleus = draw_masks(64, 2)[0], np.zeros((64, 64), np.uint16)
    for number, flat in enumerate((17, 15, 10, 10), start=1):
        top, left = np.argwhere(cell == number).mean(axis=0).astype(int) - 9
        nucleus[top : top + 20, left + 1 : left + 1 + flat] = number
        nucleus[top + 10, left : left + 20] = number
    cv2.imwrite(str(inputs.masks / "image_0000_nucleusmask.png"), nucleus)
    red = cv2.imread(str(inputs.images / "image_0000_red.png"), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(inputs.images / "image_0000_red.png"), np.where(cell == 4, red // 50, red).astype(np.uint8))
    assert main([*inputs.arguments(tmp_path / "data"), "--num-folds", "1", "--workers", "1"]) == 0
    table = cell_table.read(tmp_path / "data" / records.CELL_TABLE_NAME)
    np.testing.assert_allclose(table["border_ud"], [0.15, 0.25, 0.5, 0.5])
    assert (table["border_lr"] > 0.9).all()
    assert table["cleaning_value"].tolist() == [0.001, 1, 1, 0.001]
    assert count_cells(table) == {"found": 4, "border": 1, "outlier": 1, "rejected": 2}


def test_image_records_hold_the_cells_in_table_order(inputs, built):
    table = cell_table.read(built / records.CELL_TABLE_NAME)
    found = read_all(built, "fields")
    assert len(found) == 12
    for record in found:
        image_id = record["image_id"].decode()
        assert decode_picture(record["image"]).shape == (32, 32, 4)
        masks = decode_picture(record["masks"])
        numbers = table.loc[table["image_id"] == image_id, "cell"].to_numpy()
        truth = cv2.imread(str(inputs.masks / f"{image_id}_cellmask.png"), cv2.IMREAD_UNCHANGED)
        for order, number in enumerate(numbers, start=1):
            rows, columns = np.nonzero(masks == order)
            assert truth[int(rows.mean() * 2), int(columns.mean() * 2)] == number
        assert record["um_per_px"] == pytest.approx(0.16)


def test_no_image_is_in_two_folds_and_every_fold_has_some(built):
    table = cell_table.read(built / records.CELL_TABLE_NAME)
    assert (table.groupby("image_id")["fold"].nunique() == 1).all()
    assert set(table["fold"]) == set(range(5))


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_no_byte(inputs, built, tmp_path, workers):
    assert main([*inputs.arguments(tmp_path / "data"), "--workers", str(workers), "--fields", "32"]) == 0
    assert content(tmp_path / "data") == content(built)


def test_the_progress_line_says_how_many_cells_a_second(tmp_path, capsys, monkeypatch):
    """By a clock on which every image is ready half a second after the one before it."""
    clock = itertools.count(100, 0.5)
    monkeypatch.setattr(build, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    inputs = write_inputs(tmp_path, 6, size=32)  # of 4 cells each
    assert main([*inputs.arguments(tmp_path / "data"), "--num-folds", "2", "--workers", "1"]) == 0
    last = [line for line in capsys.readouterr().err.splitlines() if line.startswith("build: ")][-1]
    assert last.startswith("build: 6 of 6 image") and last.endswith(", 8 cells/s")


def test_a_finished_build_is_left_as_it_is(inputs, built):
    before = {path: path.stat().st_mtime_ns for path in built.iterdir() if path.is_file()}
    assert main([*inputs.arguments(built), "--fields", "32"]) == 0
    assert {path: path.stat().st_mtime_ns for path in built.iterdir() if path.is_file()} == before


def test_a_large_cell_table_is_written_and_counted_in_parts(inputs, tmp_path, monkeypatch, capsys):
    assert main([*inputs.arguments(tmp_path / "whole"), "--fields", "32"]) == 0
    *told, last = capsys.readouterr().out.splitlines()
    assert "train.py" in last and "whole" in last
    monkeypatch.setattr(build, "_ROWS_A_PART", 5)
    assert main([*inputs.arguments(tmp_path / "parts"), "--fields", "32"]) == 0
    assert capsys.readouterr().out.splitlines()[:-1] == told
    parts, whole = (tmp_path / name / records.CELL_TABLE_NAME for name in ("parts", "whole"))
    assert pq.ParquetFile(parts).num_row_groups > 3 == 3 * pq.ParquetFile(whole).num_row_groups
    pd.testing.assert_frame_equal(cell_table.read(parts), cell_table.read(whole))
    assert cell_table.kind(parts) == "labels"
    assert main(["verify", str(tmp_path / "parts")]) == 0
    few = list(cell_table.read_parts(whole, ["cell", "fold"], 7))
    assert [len(part) for part in few[:-1]] == [7] * (len(few) - 1)
    pd.testing.assert_frame_equal(pd.concat(few, ignore_index=True), cell_table.read(whole)[["cell", "fold"]])


def test_builds_run_without_tensorflow(inputs, tmp_path):
    code = (
        "import sys\n"
        "from tfrecords_builder import pool, build, verify, inspect, repair\n"
        "from tfrecords_builder.__main__ import main\n"
        f"assert main({inputs.arguments(tmp_path / 'data')!r}) == 0\n"
        "sys.exit(any(name.split('.')[0] in ('tensorflow', 'keras') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert records.read_manifest(tmp_path / "data").num_cells == 48


# -- changes ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[Inputs, Path]:
    """A finished build."""
    folder = tmp_path_factory.mktemp("small")
    inputs = write_inputs(folder / "inputs", 6, size=32, grid=1)
    assert main([*inputs.arguments(folder / "data"), "--num-folds", "2"]) == 0
    return inputs, folder


@pytest.fixture
def folder(small, tmp_path) -> tuple[Inputs, Path]:
    """The same, in a place where its inputs may be changed."""
    inputs, original = small
    shutil.copytree(original, tmp_path / "copy")
    moved = {
        name: tmp_path / "copy" / getattr(inputs, name).relative_to(original) for name in ("images", "masks", "labels")
    }
    return Inputs(**moved, ids=inputs.ids), tmp_path / "copy" / "data"


def change_image(inputs: Inputs) -> None:
    cv2.imwrite(
        str(inputs.images / f"{inputs.ids[2]}_green.png"), np.full((32, 32), 9, np.uint8) + np.eye(32, dtype="u1")
    )


def change_mask(inputs: Inputs) -> None:
    cv2.imwrite(str(inputs.masks / f"{inputs.ids[2]}_cellmask.png"), draw_masks(32, 2)[0].astype(np.uint16))


def change_label(inputs: Inputs) -> None:
    inputs.labels.write_text(inputs.labels.read_text().replace(f"{inputs.ids[2]},2|5", f"{inputs.ids[2]},2|6"))


def add_image(inputs: Inputs) -> None:
    for folder, kinds in ((inputs.images, CHANNELS), (inputs.masks, ("cellmask", "nucleusmask"))):
        for kind in kinds:
            shutil.copy(folder / f"{inputs.ids[0]}_{kind}.png", folder / f"added_{kind}.png")
    inputs.labels.write_text(f"{inputs.labels.read_text()}added,1\n")


def remove_row_and_image(inputs: Inputs) -> None:
    inputs.labels.write_text("\n".join(inputs.labels.read_text().splitlines()[:-1]))
    for channel in CHANNELS:
        (inputs.images / f"{inputs.ids[-1]}_{channel}.png").unlink()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (change_image, "image or mask files changed (size or time): image_0002"),
        (change_mask, "image or mask files changed (size or time): image_0002"),
        (change_label, "row of the label table changed: image_0002"),
        (remove_row_and_image, "image removed: image_0005"),
    ],
)
def test_changed_inputs_are_named_and_rebuilt_when_asked(folder, tmp_path, capsys, change, named):
    inputs, out = folder
    change(inputs)
    arguments = [*inputs.arguments(out), "--num-folds", "2"]
    before = content(out)
    assert main(arguments) == 2
    assert named in capsys.readouterr().err
    assert content(out) == before  # nothing was touched
    assert main([*arguments, "--on-change", "rebuild"]) == 0
    assert main([*inputs.arguments(tmp_path / "fresh"), "--num-folds", "2"]) == 0
    assert content(out) == content(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("option", "named"),
    [
        (["--margin", "3"], "option margin: was 0, is 3"),
        (["--seed", "1"], "option seed: was 0, is 1"),
        (["--um-per-px", "0.1"], "option um_per_px: was [0.08], is [0.1]"),
        (["--drop-unclean"], "option drop_unclean: was False, is True"),
    ],
)
def test_changed_options_are_named(folder, capsys, option, named):
    inputs, out = folder
    assert main([*inputs.arguments(out), "--num-folds", "2", *option]) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    ("about", "expected"),
    [('{"segmenter": "hpa", "labels_at": "field"}', "hpa"), ('{"segmenter": 3}', None), ("[]", None), (None, None)],
)
def test_the_manifest_names_what_made_the_masks(about, expected, tmp_path):
    """Where the folder of masks says so; whatever else a file of that name may be."""
    inputs = write_inputs(tmp_path / "inputs", 1)
    if about:
        (inputs.masks / "segmenting.json").write_text(about)
    arguments = [*inputs.arguments(tmp_path / "data"), "--num-folds", "1", "--workers", "1"]
    assert main(arguments) == 0
    named = records.read_manifest(tmp_path / "data").segmenter
    assert named == expected if expected else named.startswith(f"masks_on_disk({inputs.masks}")


def test_changed_segmenter_and_schema_are_named(folder, capsys, monkeypatch):
    inputs, out = folder
    arguments = [*inputs.arguments(out), "--num-folds", "2"]
    where = arguments.index("--masks")
    assert main([*arguments[:where], *arguments[where + 2 :], "--segmenter", "classical"]) == 2
    assert "option segmenter: was 'masks'" in capsys.readouterr().err
    monkeypatch.setattr(records, "SCHEMA_VERSION", 2)
    assert main(arguments) == 2
    assert "option schema_version: was 1, is 2" in capsys.readouterr().err


def test_a_build_of_another_version_of_the_code_does_not_go_on(folder, monkeypatch, capsys):
    inputs, out = folder
    monkeypatch.setattr(options, "CODE_VERSION", options.CODE_VERSION + 1)
    assert main([*inputs.arguments(out), "--num-folds", "2"]) == 2
    found = f"was {options.CODE_VERSION - 1}, is {options.CODE_VERSION}"
    assert f"version of the code that reads, segments, cuts and encodes: {found}" in capsys.readouterr().err


def test_fewer_shards_leave_no_old_ones_behind(folder):
    inputs, out = folder
    arguments = [*inputs.arguments(out), "--num-folds", "2", "--images-per-shard", "3", "--on-change", "rebuild"]
    assert main(arguments) == 0
    named = {shard.name for shard in records.read_manifest(out).shards}
    assert {path.name for path in out.glob("*.tfrecord*")} == named


def test_a_folder_with_shards_of_another_program_is_not_touched(tmp_path, capsys):
    inputs = write_inputs(tmp_path / "inputs", 5, size=16, grid=1)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "other.tfrecord-00000-of-00001").write_bytes(b"precious")
    assert main(inputs.arguments(tmp_path / "data")) == 2
    assert "no record of a build" in capsys.readouterr().err
    assert (tmp_path / "data" / "other.tfrecord-00000-of-00001").read_bytes() == b"precious"


def test_a_folder_of_another_build_on_an_object_store_is_not_touched(tmp_path, capsys):
    """It was copied there without its record of the build, which a shell's * leaves out."""
    inputs = write_inputs(tmp_path / "inputs", 5, size=16, grid=1)
    out = f"memory://{tmp_path.name}/data"
    files.write_bytes(f"{out}/other.tfrecord-00000-of-00001", b"precious")
    assert main(inputs.arguments(out)) == 2
    assert "no record of a build" in capsys.readouterr().err
    assert files.read_bytes(f"{out}/other.tfrecord-00000-of-00001") == b"precious"


def test_inputs_are_checked_before_masks_are_made(tmp_path, monkeypatch, capsys):
    inputs = write_inputs(tmp_path / "inputs", 2, size=16, grid=1)
    monkeypatch.setattr("tfrecords_builder.options.write_masks", lambda request: pytest.fail("masks were made"))
    words = ["build", "--images", str(inputs.images), "--out", str(tmp_path / "data"), "--segmenter", "hpa"]
    for wrong, said in ((["--labels", "nowhere.csv"], "nowhere.csv"), (
        ["--labels", str(inputs.labels), "--folds-from", "folds.csv"], "folds.csv"
    ), (["--labels", str(inputs.labels), "--group-by", "plate"], "plate")):  # fmt: skip
        assert main([*words, *wrong]) == 2
        assert said in capsys.readouterr().err
    rows = pd.read_csv(inputs.labels).assign(antibody="one")
    rows.to_csv(inputs.labels, index=False)
    assert main([*words, "--labels", str(inputs.labels), "--group-by", "antibody", "--num-folds", "2"]) == 2
    assert "--num-folds" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("more, said", [((), "fail"), (("--on-change", "rebuild"), "rebuild")])
def test_masks_of_a_network_are_rebuilt_with_the_rest(tmp_path, monkeypatch, more, said):
    inputs = write_inputs(tmp_path / "inputs", 2, size=16, grid=1)
    asked = []

    def write_masks(request):
        asked.append(tyro.cli(SegmentingOptions, args=request.arguments()).on_change)
        shutil.copytree(inputs.masks, request.out)

    monkeypatch.setattr("tfrecords_builder.options.write_masks", write_masks)
    words = ["build", "--images", str(inputs.images), "--labels", str(inputs.labels), "--num-folds", "1"]
    assert main([*words, "--out", str(tmp_path / "data"), "--segmenter", "hpa", *more]) == 0
    assert asked == [said]


@pytest.mark.parametrize("change", [change_image, add_image])
def test_changes_are_named_before_a_network_makes_masks_anew(tmp_path, monkeypatch, capsys, change):
    """Masks made anew could not be undone, and those of added images would take hours before the build stops."""
    inputs, calls = write_inputs(tmp_path / "inputs", 3, size=32, grid=1), []

    def write_masks(request):
        calls.append(request)
        shutil.copytree(inputs.masks, request.out, dirs_exist_ok=True)

    monkeypatch.setattr("tfrecords_builder.options.write_masks", write_masks)
    words = ["build", "--images", str(inputs.images), "--labels", str(inputs.labels), "--num-folds", "1"]
    words += ["--out", str(tmp_path / "data"), "--segmenter", "hpa", "--workers", "1"]
    assert main(words) == 0 and main(words) == 0 and len(calls) == 2
    change(inputs)
    assert main(words) == 2 and len(calls) == 2
    assert "changes since it was begun" in capsys.readouterr().err


def test_inputs_are_found_once_though_a_network_makes_masks_in_between(tmp_path, monkeypatch):
    inputs = write_inputs(tmp_path / "inputs", 4, size=16, grid=1)
    calls, find_images = [], plan.find_images
    monkeypatch.setattr(plan, "find_images", lambda sources: calls.append(sources) or find_images(sources))
    monkeypatch.setattr(
        "tfrecords_builder.options.write_masks", lambda request: shutil.copytree(inputs.masks, request.out)
    )
    words = ["build", "--images", str(inputs.images), "--labels", str(inputs.labels), "--num-folds", "2"]
    assert main([*words, "--out", str(tmp_path / "data"), "--segmenter", "hpa"]) == 0
    assert len(calls) == 1
    assert main([*words, "--out", str(tmp_path / "same"), "--masks", str(inputs.masks)]) == 0
    shards = sorted(path.name for path in (tmp_path / "same").glob("*.tfrecord-*"))
    assert shards and all(filecmp.cmp(tmp_path / "data" / name, tmp_path / "same" / name, False) for name in shards)


def test_pictures_that_cannot_be_written_are_known_before_the_work(tmp_path, capsys):
    inputs = write_inputs(tmp_path / "inputs", 4, size=16, grid=1)
    assert main([*inputs.arguments(tmp_path / "data"), "--num-folds", "2"]) == 0
    (tmp_path / "data" / "contact_sheet.png").mkdir()
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "data")]) == 2
    said = capsys.readouterr()
    assert "--sheet: found the folder" in said.err and not said.out
    after = tmp_path / "after.parquet"
    assert main(["label", "--rule", "soften", "--data", str(tmp_path / "data"), "--out", str(after)]) == 0
    (tmp_path / "after.parquet.changes.html").mkdir()
    capsys.readouterr()
    assert main(["diff", str(tmp_path / "data"), str(after), "--data", str(tmp_path / "data")]) == 2
    said = capsys.readouterr()
    assert "--page: found the folder" in said.err and not said.out
    assert main(["inspect", str(tmp_path / "nowhere")]) == 2
    data = str(tmp_path / "data")
    assert main(["diff", data, str(tmp_path / "new/a.parquet"), "--data", data]) == 2
    assert not (tmp_path / "nowhere").exists() and not (tmp_path / "new").exists()


def test_the_summary_counts_the_images_that_were_built(tmp_path, capsys):
    inputs = write_inputs(tmp_path / "inputs", 4, size=16, grid=1)
    rows = pd.read_csv(inputs.labels).assign(Label="0")
    rows.to_csv(inputs.labels, index=False)
    next(inputs.images.glob("*_green*")).write_bytes(b"damaged")
    words = [*inputs.arguments(tmp_path / "data"), "--num-folds", "2", "--on-error", "skip"]
    main([*words, "--allow-failures"])
    said = capsys.readouterr().out
    assert re.search(r"^0 Nucleoplasm +3 ", said, re.M), said


def test_the_second_build_in_a_folder_says_so(folder, capsys):
    inputs, out = folder
    with folder_lock.locked(out):
        assert main([*inputs.arguments(out), "--num-folds", "2"]) == 2
    assert f"process {os.getpid()} on" in capsys.readouterr().err
    assert main([*inputs.arguments(out), "--num-folds", "2"]) == 0


# -- unusable inputs --------------------------------------------------------------------------------------------------


def truncate(inputs: Inputs) -> None:
    path = inputs.images / f"{inputs.ids[1]}_red.png"
    path.write_bytes(path.read_bytes()[:200])


def lose_channel(inputs: Inputs) -> None:
    (inputs.images / f"{inputs.ids[1]}_blue.png").unlink()


def lose_mask(inputs: Inputs) -> None:
    (inputs.masks / f"{inputs.ids[1]}_cellmask.png").unlink()


def lose_row(inputs: Inputs) -> None:
    inputs.labels.write_text(inputs.labels.read_text().replace(f"{inputs.ids[1]},1|4\n", ""))


def lose_image(inputs: Inputs) -> None:
    for channel in CHANNELS:
        (inputs.images / f"{inputs.ids[1]}_{channel}.png").unlink()


def class_19(inputs: Inputs) -> None:
    inputs.labels.write_text(inputs.labels.read_text().replace("1|4", "1|19", 1))


def class_a(inputs: Inputs) -> None:
    inputs.labels.write_text(inputs.labels.read_text().replace("1|4", "a", 1))


def repeat_row(inputs: Inputs) -> None:
    inputs.labels.write_text(inputs.labels.read_text() + f"{inputs.ids[1]},3\n")


@pytest.mark.parametrize(
    "spoil", [truncate, lose_channel, lose_mask, lose_row, lose_image, class_19, class_a, repeat_row]
)
def test_one_unusable_image_stops_the_build_or_is_listed(tmp_path, capsys, spoil):
    inputs = write_inputs(tmp_path / "inputs", 6, size=32, grid=1)
    spoil(inputs)
    arguments = [*inputs.arguments(tmp_path / "data"), "--num-folds", "2"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert inputs.ids[1] in error or "line 3" in error
    assert "Fix:" in error and "Traceback" not in error
    assert not (tmp_path / "data" / records.MANIFEST_NAME).exists()

    assert main([*arguments, "--on-error", "skip"]) == 1
    failures = pd.read_csv(tmp_path / "data" / "failures.csv")
    assert set(failures["image_id"]) == {inputs.ids[1]}
    assert records.read_manifest(tmp_path / "data").num_images == 5
    assert main([*arguments, "--on-error", "skip", "--allow-failures"]) == 0


def test_failures_are_those_of_the_present_label_table(tmp_path, capsys):
    inputs = write_inputs(tmp_path / "inputs", 6, size=32, grid=1)
    arguments = [*inputs.arguments(tmp_path / "data"), "--num-folds", "2", "--on-error", "skip", "--workers", "1"]
    failures, rows = tmp_path / "data" / "failures.csv", inputs.labels.read_text()
    assert main(arguments) == 0
    whole = content(tmp_path / "data")
    for extra in ("nobody", "somebody"):
        inputs.labels.write_text(f"{rows}{extra},3\n")
        capsys.readouterr()
        assert main(arguments) == 1
        assert "1 images or rows left out: failures.csv" in capsys.readouterr().out
        assert pd.read_csv(failures)["image_id"].tolist() == [extra]
        assert main(["verify", str(tmp_path / "data"), "--workers", "1"]) == 0
    inputs.labels.write_text(rows)
    assert main(arguments) == 0
    assert content(tmp_path / "data") == whole


def test_spreadsheets_read_the_failures_and_those_of_an_earlier_version_stay(tmp_path):
    """It wrote them without a byte order mark; another manifest would be that of other data to its runs."""
    inputs = write_inputs(tmp_path / "inputs", 4, size=32, grid=1)
    inputs.labels.write_text(f"{inputs.labels.read_text()}nobody,3\n")
    out = tmp_path / "data"
    arguments = [*inputs.arguments(out), "--num-folds", "2", "--on-error", "skip", "--workers", "1"]
    assert main(arguments) == 1
    marked = (out / "failures.csv").read_bytes()
    assert marked.startswith(b"\xef\xbb\xbf") and marked.decode("utf-8-sig").startswith('"image_id"')
    (out / "failures.csv").write_bytes(marked[3:])
    manifest = records.read_manifest(out)
    sums = {**manifest.checksums, "failures.csv": files.sha256(out / "failures.csv")}
    records.write_manifest(out, replace(manifest, checksums=sums))
    before = content(out)
    assert main(["verify", str(out), "--workers", "1"]) == 0
    assert main(arguments) == 1
    assert content(out) == before
    assert main(["verify", str(out), "--workers", "1"]) == 0


def test_a_mended_image_joins_the_next_build(tmp_path):
    inputs = write_inputs(tmp_path / "inputs", 6, size=32, grid=1)
    path = inputs.images / f"{inputs.ids[1]}_red.png"
    whole = path.read_bytes()
    truncate(inputs)
    arguments = [*inputs.arguments(tmp_path / "data"), "--num-folds", "2", "--on-error", "skip"]
    assert main(arguments) == 1
    path.write_bytes(whole)
    assert main(arguments) == 0
    assert not (tmp_path / "data" / "failures.csv").exists()
    assert main([*inputs.arguments(tmp_path / "fresh"), "--num-folds", "2", "--on-error", "skip"]) == 0
    assert content(tmp_path / "data") == content(tmp_path / "fresh")


def test_a_finished_folder_stays_so_where_an_extra_is_missing(tmp_path, monkeypatch, capsys):
    inputs = write_inputs(tmp_path / "inputs", 1, size=16, grid=1)
    arguments = [*inputs.arguments(tmp_path / "data"), "--num-folds", "1", "--workers", "1"]
    assert main(arguments) == 0
    manifest = (tmp_path / "data" / records.MANIFEST_NAME).read_bytes()
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorflow_datasets" else find_spec(name)
    )
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert main([*arguments, "--tfds"]) == 2
    assert "no tensorflow_datasets; expected the extra [tfds]" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.setitem(sys.modules, "apache_beam.options.pipeline_options", None)
    next((tmp_path / "data").glob("cells-*")).unlink()  # so that there is work, for which the manifest goes
    assert main([*arguments, "--runner", "DirectRunner"]) == 2
    assert "no apache_beam; expected the extra [beam]" in capsys.readouterr().err
    assert (tmp_path / "data" / records.MANIFEST_NAME).read_bytes() == manifest


@pytest.mark.parametrize(("marker", "what"), [("predictions.json", "a prediction"), ("recipe.json", "a run")])
def test_a_folder_of_another_kind_is_left_alone(inputs, tmp_path, capsys, marker, what):
    (tmp_path / marker).write_text("{}")
    (tmp_path / "cells.parquet").write_text("of others")
    (tmp_path / "dataset.json").write_text("{}")  # a run has one, too
    assert main([*inputs.arguments(tmp_path), "--num-folds", "2"]) == 2
    assert f"found {what} ({marker}); expected a data folder" in capsys.readouterr().err
    assert (tmp_path / "cells.parquet").read_text() == "of others"


def test_repeated_label_counts_once_and_one_fold_names_the_training_that_it_allows(tmp_path, capsys):
    inputs = write_inputs(tmp_path / "inputs", 2, size=32, grid=1, labels=["13|13", "2"])
    assert main([*inputs.arguments(tmp_path / "a folder"), "--num-folds", "1"]) == 0
    _, following = capsys.readouterr().out.splitlines()[-1].split(". Next: ")
    assert shlex.split(following)[-3:] == [str(tmp_path / "a folder"), "--recipe.validation-fold", "-1"]
    (tmp_path / "a folder").rename(tmp_path / "data")
    table = cell_table.read(tmp_path / "data" / records.CELL_TABLE_NAME).set_index("image_id")
    assert cell_table.values(table)[:, [13, 2]].sum() == 2


@pytest.mark.parametrize("spoil", ["empty", "missing", "no table", "file as out"])
def test_folders_that_cannot_be_used(tmp_path, capsys, spoil):
    inputs = write_inputs(tmp_path / "inputs", 2, size=32, grid=1)
    out = tmp_path / "data"
    if spoil == "empty":
        for path in inputs.images.iterdir():
            path.unlink()
    elif spoil == "missing":
        inputs = Inputs(tmp_path / "nowhere", inputs.masks, inputs.labels, inputs.ids)
    elif spoil == "no table":
        inputs.labels.unlink()
    else:
        out.write_text("a file")
    assert main(inputs.arguments(out)) == 2
    error = capsys.readouterr().err
    assert "Fix:" in error and "Traceback" not in error


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_output(tmp_path, capsys):
    inputs = write_inputs(tmp_path / "inputs", 2, size=32, grid=1)
    (tmp_path / "data").mkdir(mode=0o500)
    assert main(inputs.arguments(tmp_path / "data")) == 2
    assert "write permission" in capsys.readouterr().err


def test_images_without_any_cell_are_valid(tmp_path):
    inputs = write_inputs(tmp_path / "inputs", 4, size=32, grid=0)
    with pytest.warns(HpaWarning, match="no image holds any cell"):
        assert main([*inputs.arguments(tmp_path / "data"), "--num-folds", "2", "--fields", "16"]) == 0
    manifest = records.read_manifest(tmp_path / "data")
    assert (manifest.num_images, manifest.num_cells, sum(s.num_records for s in manifest.shards_of("fields"))) == (
        4,
        0,
        4,
    )
    assert main(["verify", "--deep", str(tmp_path / "data")]) == 0
    assert main(["inspect", str(tmp_path / "data")]) == 0


def test_300_cells_in_one_image(tmp_path):
    inputs = write_inputs(tmp_path / "inputs", 2, size=360, grid=18)
    assert main([*inputs.arguments(tmp_path / "data"), "--num-folds", "2", "--fields", "360"]) == 0
    table = cell_table.read(tmp_path / "data" / records.CELL_TABLE_NAME)
    assert sorted(table["cell"])[-1] == 324 and len(table) == 648
    assert max(decode_picture(record["masks"]).max() for record in read_all(tmp_path / "data", "fields")) == 324


def test_most_cells_cut_is_a_warning(tmp_path):
    inputs = write_inputs(tmp_path / "inputs", 2, size=32, grid=1)
    for image_id in inputs.ids:
        cv2.imwrite(str(inputs.masks / f"{image_id}_nucleusmask.png"), np.zeros((32, 32), np.uint16))
    with pytest.warns(HpaWarning, match="100% of the cells have a border value < 1"):
        assert main([*inputs.arguments(tmp_path / "data"), "--num-folds", "2"]) == 0


def test_unclean_cells_are_left_out_when_asked_but_not_of_mitotic_images(tmp_path, capsys):
    inputs = write_inputs(tmp_path / "inputs", 2, size=64, grid=2, labels=["3", "11"])
    for image_id in inputs.ids:
        nucleus = draw_masks(64, 2)[1]
        nucleus[nucleus == 3] = 0
        cv2.imwrite(str(inputs.masks / f"{image_id}_nucleusmask.png"), nucleus.astype(np.uint16))
    out = tmp_path / "data"
    assert main([*inputs.arguments(out), "--num-folds", "2", "--drop-unclean", "--fields", "64"]) == 0
    assert "rejected by cleaning: 12.5%" in capsys.readouterr().out
    table = cell_table.read(out / records.CELL_TABLE_NAME)
    assert table.groupby("image_id")["cell"].agg(list).to_dict() == {
        "image_0000": [1, 2, 4],
        "image_0001": [1, 2, 3, 4],
    }
    assert main(["verify", "--deep", str(out)]) == 0


def test_sources_of_both_depths_and_scales_in_one_build(tmp_path):
    first = write_inputs(tmp_path / "a", 3, size=32, grid=1)
    second = write_inputs(tmp_path / "b", 3, size=64, grid=2, bits=16, seed=1)
    for path in [*second.images.iterdir(), *second.masks.iterdir()]:
        path.rename(path.with_name(path.name.replace("image_", "field_")))
    rows = pd.read_csv(second.labels)
    rows.assign(ID=rows["ID"].str.replace("image_", "field_"), cell_line="HeLa").to_csv(second.labels, index=False)
    rows = pd.read_csv(first.labels)
    rows.assign(cell_line=["A", "A", ""]).to_csv(first.labels, index=False)
    arguments = ["build", "--images", str(first.images), str(second.images), "--labels", str(first.labels)]
    arguments += [str(second.labels), "--masks", str(first.masks), str(second.masks), "--um-per-px", "0.08", "0.16"]
    arguments += ["--out", str(tmp_path / "data"), "--group-by", "cell_line", "--num-folds", "2"]
    assert main(arguments) == 0
    manifest = records.read_manifest(tmp_path / "data")
    assert (manifest.bits, manifest.um_per_px, manifest.num_cells) == ((8, 16), (0.08, 0.16), 3 + 12)
    table = cell_table.read(tmp_path / "data" / records.CELL_TABLE_NAME)
    assert set(table.loc[table["image_id"].str.startswith("field"), "bits"]) == {16}
    named = table[table["cell_line"] != ""]
    assert (named.groupby("cell_line")["fold"].nunique() == 1).all()
    assert main(["verify", "--deep", str(tmp_path / "data")]) == 0


def test_the_same_id_in_two_sources_is_an_error(tmp_path, capsys):
    first = write_inputs(tmp_path / "a", 3, size=32, grid=1)
    second = write_inputs(tmp_path / "b", 3, size=32, grid=1)
    arguments = ["build", "--images", str(first.images), str(second.images), "--labels", str(first.labels)]
    assert main([*arguments, "--masks", str(first.masks), "--out", str(tmp_path / "data")]) == 2
    assert "a second time" in capsys.readouterr().err

"""Damage of any file of a data folder, by chance or by a stranger: named with its fix, no traceback, nothing wrong."""

import io
import json
import os
import random
import shlex
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builder_inputs import Inputs, content, write_inputs

from hpa_tf import cell_table, files, framing, records
from hpa_tf.data_folder import check_shards, index_of, read_cells, repair_of
from hpa_tf.encoding import decode_picture, encode_picture
from hpa_tf.errors import InputError
from hpa_tf.imaging.cells import check_region
from hpa_tf.pipeline import read_examples
from hpa_tf.pipeline.damage import _bad_shard
from hpa_tf.prediction.shards import shard_source
from tfrecords_builder.__main__ import main
from tfrecords_builder.repair import repair
from tfrecords_builder.state import load_plan
from tfrecords_builder.verify import verify


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Inputs:
    return write_inputs(tmp_path_factory.mktemp("inputs"), 6, size=48, grid=2)


@pytest.fixture(scope="module")
def reference(inputs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "data"
    argv = [*inputs.arguments(out), "--fields", "32", "--num-folds", "2", "--images-per-shard", "2", "--workers", "1"]
    assert main(argv) == 0
    return out


@pytest.fixture
def folder(reference, tmp_path) -> Path:
    return shutil.copytree(reference, tmp_path / "data")


def names_of(folder: Path) -> list[str]:
    """Return all files of a data folder but the lock, which says nothing."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != "lock")


def flip(path: Path, position: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def read_by_training_and_prediction(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """Read what train.py and predict.py --data read of a folder before the first shard."""
    check_shards(folder, records.read_manifest(folder).shards)
    return read_examples(folder).table, list(shard_source(str(folder), None, (0, 1)).image_ids)


@pytest.mark.parametrize("tries", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_flipped_bits_in_any_file_are_named(folder, reference, tries):
    """Positions drawn by a stated seed: what cannot be told from intact must have the same values."""
    chance = random.Random(13)
    table, ids = read_by_training_and_prediction(reference)
    manifest = records.read_manifest(reference)
    assert {"cells.parquet", "dataset.json", ".build/plan.json"} < set(names_of(folder))
    for name in names_of(folder):
        path = folder / name
        intact, silent = path.read_bytes(), 0
        for _ in range(tries if ".tfrecord" not in name or "fold0.tfrecord-00000" in name else 1):
            flip(path, chance.randrange(len(intact)), chance.randrange(8))
            try:
                faults = verify(folder)
                found = records.read_manifest(folder)
            except InputError as error:
                assert name in str(error) and error.fix
            else:
                silent += not faults
                assert faults == [] or any(fault.shard in (name, name.removeprefix(".build/")) for fault in faults)
                assert faults or found == manifest
            try:
                again, ids_again = read_by_training_and_prediction(folder)
            except InputError as error:
                assert name in str(error) and "repair" in error.fix
            else:  # damage inside a shard shows when its record is read, that of the builder's state at the next build
                assert ids_again == ids and again.equals(table)
            path.write_bytes(intact)
        assert silent <= (tries // 4 if name.endswith(".json") else 0)  # a space between two values is none of them


@pytest.mark.parametrize(
    "names",
    [
        ["dataset.json"],
        ["cells.parquet"],
        [".build/plan.json"],
        ["dataset.json", "cells.parquet"],
        ["dataset.json", "a shard"],
        [".build/plan.json", "a shard", "cells.parquet"],
        ["a sidecar", "cells.parquet"],
    ],
    ids="+".join,
)
def test_damage_is_repaired_to_the_same_bytes(folder, reference, names):
    shard = sorted(folder.glob("cells-*"))[1].name
    real = {"a shard": shard, "a sidecar": f".build/{shard}.sidecar"}
    for name in names:
        path = folder / real.get(name, name)
        flip(path, path.stat().st_size // 2, 3)
    repair(str(folder), workers=1)
    assert verify(folder) == []
    assert content(folder) == content(reference)


@pytest.mark.parametrize("name", ["data", "my data", "mind's"])
def test_commands_that_mend_a_folder_can_be_pasted(tmp_path, name):
    folder = tmp_path / name
    (folder / ".build").mkdir(parents=True)
    said = [repair_of(folder), index_of(folder), _bad_shard(str(folder), "a", "b").fix]
    for path, read in (
        (folder / "none", records.read_manifest),
        (folder / records.MANIFEST_NAME, records.read_manifest),
        (folder / ".build" / "plan.json", load_plan),
    ):
        if path.name != "none":
            path.write_text("damaged")
        with pytest.raises(InputError) as raised:
            read(str(folder))
        said.append(raised.value.fix)
    for fix in said:
        assert str(folder) in shlex.split(fix.split(", or ")[0]), fix


def test_repair_works_from_another_folder(inputs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(inputs.images.parent)
    named = ["--images", "images", "--masks", "masks", "--labels", "train.csv", "--num-folds", "2", "--workers", "1"]
    assert main(["build", *named, "--out", str(tmp_path / "data")]) == 0
    before = content(tmp_path / "data")
    sorted((tmp_path / "data").glob("cells-*"))[0].unlink()
    monkeypatch.chdir(tmp_path)
    assert main(["repair", "data", "--workers", "1"]) == 0
    assert content(tmp_path / "data") == before
    assert "rebuilt: cells-fold0" in capsys.readouterr().out


def test_home_is_expanded_in_values(inputs, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(inputs.images.parent))
    named = ["--images=~/images", "--masks=~/masks", "--labels=~/train.csv", "--num-folds", "1", "--workers", "1"]
    assert main(["build", *named, "--out", str(tmp_path / "data")]) == 0
    assert main(["verify", str(tmp_path / "data")]) == 0


def test_version_1_folders_stay_readable(folder, reference):
    """Without checksums and brightness nothing is known of them, and everything else is checked as before."""
    path = folder / records.MANIFEST_NAME
    old = records.manifest_json(replace(records.read_manifest(folder), manifest_version=1))
    path.write_text(json.dumps(old))
    assert not {"brightness", "checksums", "sha256"} & json.loads(path.read_text()).keys()
    assert verify(folder) == []
    table, _ = read_by_training_and_prediction(folder)
    assert table.equals(read_by_training_and_prediction(reference)[0])


@pytest.mark.parametrize("damage", ["truncate", "lengthen", "unlink", "swap"])
def test_shards_of_another_size_are_named_before_training(folder, damage):
    first, second = sorted(folder.glob("cells-*"))[:2]
    data = first.read_bytes()
    {
        "truncate": lambda: first.write_bytes(data[:-1]),
        "lengthen": lambda: first.write_bytes(data + b"\0"),
        "unlink": first.unlink,
        "swap": lambda: first.write_bytes(second.read_bytes() + b"x"),
    }[damage]()
    with pytest.raises(InputError, match=rf"{first.name}.*verify") as error:
        read_by_training_and_prediction(folder)
    assert "repair" in error.value.fix


@pytest.mark.parametrize(
    ("change", "said"),
    [("gone", "found no such file"), ("swapped", "as in the cell table"), ("fields", "field cell: found 0 values")],
)
def test_pictures_of_cells_are_those_of_the_table(folder, tmp_path, capsys, change, said):
    """Intact records of another build would be shown under the captions of these cells."""
    shard = next(one for one in records.read_manifest(folder).shards_of("cells") if one.num_records > 1)
    path = folder / shard.name
    frames = list(framing.read_frames(io.BytesIO(path.read_bytes()), shard.name))
    other = (folder / shard.name.replace("cells-", "fields-", 1)).read_bytes()
    path.unlink()
    if change == "swapped":
        path.write_bytes(b"".join(framing.frame(data) for data in reversed(frames)))
    elif change == "fields":
        data = next(framing.read_frames(io.BytesIO(other), shard.name))
        path.write_bytes(framing.frame(data) * len(frames))
        with open(path, "ab") as stream:
            stream.truncate(shard.num_bytes)
    labels = tmp_path / "labels.parquet"
    rule = ["label", "--rule", "soften", "--share", ".2", "--data", str(folder), "--out", str(labels)]
    assert main(rule) == 0
    for command in (["inspect", str(folder)], ["diff", str(folder), str(labels), "--data", str(folder)]):
        capsys.readouterr()
        assert main(command) == 2
        error = capsys.readouterr().err
        assert str(path) in error and said in error and f"verify {folder}" in error


def test_hidden_files_of_the_system_are_no_damage(folder):
    for place in (folder, folder / ".build"):
        for name in [".DS_Store", *(f"._{path.name}" for path in place.iterdir() if path.is_file())]:
            (place / name).write_bytes(b"\x00\x05\x16\x07")
    assert verify(folder) == []


# -- files of a stranger ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../VICTIM", "x/../../VICTIM", "ROOT/VICTIM", "..", "x/cells"])
def test_no_command_follows_a_name_out_of_the_folder(folder, reference, tmp_path, name, capsys):
    victim = tmp_path / "victim.tfrecord-00000-of-00001"
    victim.write_bytes(b"keep me")
    value = json.loads((folder / records.MANIFEST_NAME).read_text())
    value["shards"][0]["name"] = name.replace("VICTIM", victim.name).replace("ROOT", str(tmp_path))
    (folder / "x").mkdir()
    value = {key: item for key, item in value.items() if key not in ("sha256", "manifest_version")}
    value = {key: item for key, item in value.items() if key not in ("brightness", "checksums", "without")}
    (folder / records.MANIFEST_NAME).write_text(json.dumps(value))
    for command in ("verify", "inspect"):
        assert main([command, str(folder)]) == 2
        assert "the file name" in capsys.readouterr().err
    with pytest.raises(InputError, match="the file name"):
        read_by_training_and_prediction(folder)
    assert main(["repair", str(folder), "--workers", "1"]) == 0
    assert verify(folder) == [] and content(folder) == content(reference)
    assert victim.read_bytes() == b"keep me"


@pytest.mark.parametrize("name", ["../outside.tfrecord-00000-of-00001", "/etc/passwd", "cells-fold9.tfrecord"])
def test_shard_names_of_the_cell_table_are_those_of_the_manifest(folder, name):
    change_table(folder, lambda table: table.assign(shard=np.where(np.arange(len(table)) == 3, name, table["shard"])))
    for read in (read_cells, read_by_training_and_prediction):
        with pytest.raises(InputError, match="found the shard"):
            read(folder)
    assert any("the shard" in fault.found for fault in verify(folder))


def change_table(folder: Path, change) -> None:
    """Change the cell table as somebody does who makes the manifest fit."""
    path = folder / records.CELL_TABLE_NAME
    cell_table.write(change(cell_table.read(path)), path, "labels")
    manifest = records.read_manifest(folder)
    checksums = {**manifest.checksums, records.CELL_TABLE_NAME: files.sha256(path)}
    records.write_manifest(folder, replace(manifest, checksums=checksums))


@pytest.mark.parametrize("class_id", [0, 7, 18])
def test_verify_compares_the_labels_of_the_table_with_those_of_the_records(folder, class_id):
    name = cell_table.VALUES[class_id]

    def other(table: pd.DataFrame) -> pd.DataFrame:
        values = table[name].to_numpy().copy()
        values[5] = 1 - values[5]
        return table.assign(**{name: values})

    change_table(folder, other)
    assert [(fault.kind, fault.record) for fault in verify(folder)] == [
        ("labels of the cell table", cell_table.read(folder / records.CELL_TABLE_NAME)["record"][5])
    ]


@pytest.mark.parametrize("cut", [1, 100])
def test_a_shard_of_another_size_is_not_taken_for_done(inputs, folder, reference, cut):
    shard = sorted(folder.glob("cells-*"))[1]
    shard.write_bytes(shard.read_bytes()[:-cut])
    (folder / records.MANIFEST_NAME).unlink()
    argv = [*inputs.arguments(folder), "--fields", "32", "--num-folds", "2", "--images-per-shard", "2"]
    assert main([*argv, "--workers", "1"]) == 0
    assert content(folder) == content(reference)


# -- allocations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1 << 40, (1 << 63) + 5, 1 << 31, (1 << 64) - 1])
@pytest.mark.parametrize("chosen", [False, True])
def test_record_lengths_of_a_stranger_are_refused_before_they_are_memory(length, chosen):
    head = struct.pack("<Q", length)
    data = framing.frame(b"one") + head + struct.pack("<I", framing._masked_crc(head)) + bytes(100)
    stream = io.BytesIO(data)
    with pytest.raises(InputError, match="shard, record 1"):
        list(framing.read_chosen_frames(stream, "shard", [2]) if chosen else framing.read_frames(stream, "shard"))


def test_pictures_of_a_stranger_are_refused_by_their_size():
    png = bytearray(encode_picture(np.zeros((4, 4, 4), np.uint8)))
    png[16:24] = struct.pack(">II", 20_000, 20_000)
    with pytest.raises(ValueError, match="20000 x 20000 px"):
        decode_picture(bytes(png))


def test_json_nested_a_thousand_deep_is_no_json(folder):
    for name, read in ((records.MANIFEST_NAME, records.read_manifest), (".build/plan.json", verify)):
        intact = (folder / name).read_bytes()
        (folder / name).write_text("[" * 100_000)
        try:
            assert any(name in fault.shard for fault in read(folder))
        except InputError as error:
            assert name in str(error)
        (folder / name).write_bytes(intact)


@pytest.mark.parametrize("value", [255, 4, -1, 128])
def test_region_maps_with_other_values_are_refused(value):
    region = np.zeros((5, 5), np.int32)
    region[2, 2:4] = 1, 2
    assert check_region(region, "region") is region
    region[0, 0] = value
    with pytest.raises(InputError, match=rf"the value {value} in a region map"):
        check_region(region, "region")
    with pytest.raises(InputError, match="without a pixel of this cell"):
        check_region(np.full((5, 5), 3, np.uint8), "region")


def test_a_cell_table_of_another_kind_is_refused(folder, tmp_path):
    table = cell_table.read(folder / records.CELL_TABLE_NAME)
    for column in ("Cytosol", "cell"):
        path = tmp_path / f"{column}.parquet"
        table.assign(**{column: ["many"] * len(table)}).to_parquet(path)
        with pytest.raises(InputError, match=path.name):
            cell_table.read(path)
    os.mkdir(tmp_path / "folder.parquet")
    with pytest.raises(InputError, match=r"folder\.parquet"):
        cell_table.read(tmp_path / "folder.parquet")

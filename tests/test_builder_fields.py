"""Whole fields of view: the table of where they are, adding them to a finished folder, and what of them is changed."""

import dataclasses
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from builder_inputs import Inputs, write_inputs

from hpa_tf import cell_table, framing, image_table, records
from hpa_tf.encoding import decode_picture
from hpa_tf.errors import InputError
from hpa_tf.imaging.squares import to_square
from hpa_tf.manifest import manifest_json
from hpa_tf.training import claim
from tfrecords_builder.__main__ import main

TWO_FOLDS = ("--num-folds", "2", "--workers", "1")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Inputs:
    return write_inputs(tmp_path_factory.mktemp("inputs"), 6)


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory) -> Path:
    """Return a folder that was built with fields at once."""
    out = tmp_path_factory.mktemp("whole") / "data"
    assert main([*inputs.arguments(out), *TWO_FOLDS, "--fields", "32"]) == 0
    return out


@pytest.fixture
def cells_only(inputs, tmp_path) -> Path:
    assert main([*inputs.arguments(tmp_path / "data"), *TWO_FOLDS]) == 0
    return tmp_path / "data"


def digests(folder: Path, pattern: str = "*") -> dict[str, str]:
    found = sorted(path for path in folder.glob(pattern) if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_the_table_says_where_each_field_is(inputs, whole):
    table = image_table.read(whole)
    cells = cell_table.read(whole / records.CELL_TABLE_NAME)
    assert sorted(table["image_id"]) == sorted(inputs.ids)
    for row in table.itertuples():
        with open(whole / row.shard, "rb") as stream:
            stream.seek(row.offset)
            record = records.decode(next(framing.read_frames(stream, row.shard)), records.IMAGE_FIELDS)
        assert (record["image_id"].decode(), record["fold"]) == (row.image_id, row.fold)
        assert row.cells == (cells["image_id"] == row.image_id).sum() == decode_picture(record["masks"]).max()
    stored = table[[*cell_table.VALUES]].to_numpy()
    labels = cells.groupby("image_id", sort=False)[[*cell_table.VALUES]].max().loc[table["image_id"]].to_numpy()
    np.testing.assert_array_equal(stored, labels)


def test_fields_are_added_to_a_finished_folder_and_its_cells_stay(inputs, whole, cells_only):
    before = digests(cells_only, "cells-*")
    fingerprint = records.read_manifest(cells_only).fingerprint
    times = {path: path.stat().st_mtime_ns for path in cells_only.glob("cells-*")}
    assert not (cells_only / image_table.NAME).exists()
    assert main([*inputs.arguments(cells_only), *TWO_FOLDS, "--fields", "32"]) == 0
    assert digests(cells_only, "cells-*") == before
    assert {path: path.stat().st_mtime_ns for path in cells_only.glob("cells-*")} == times
    assert digests(cells_only) == digests(whole)  # the manifest too
    assert records.read_manifest(cells_only).fingerprint == fingerprint, "grades and networks of its cells stay good"
    again = {path: path.stat().st_mtime_ns for path in cells_only.iterdir() if path.is_file()}
    assert main([*inputs.arguments(cells_only), *TWO_FOLDS, "--fields", "32"]) == 0
    assert {path: path.stat().st_mtime_ns for path in cells_only.iterdir() if path.is_file()} == again


def test_a_run_on_cells_goes_on_after_fields_were_added(inputs, cells_only, tmp_path):
    """One on fields of view does not: it saw others, or none; and other cells are another run's for both."""
    before = records.read_manifest(cells_only)
    assert main([*inputs.arguments(cells_only), *TWO_FOLDS, "--fields", "32"]) == 0
    after = records.read_manifest(cells_only)
    (tmp_path / "run").mkdir()
    records.write_manifest(tmp_path / "run", before)
    claim.check_same_run(str(tmp_path / "run"), {"dataset.json": manifest_json(after)}, of_cells=True)
    with pytest.raises(InputError, match=r"another run .*options.fields: None -> 32"):
        claim.check_same_run(str(tmp_path / "run"), {"dataset.json": manifest_json(after)})
    other = dataclasses.replace(after, num_cells=after.num_cells + 1)
    with pytest.raises(InputError, match=r"another run \(num_cells: "):
        claim.check_same_run(str(tmp_path / "run"), {"dataset.json": manifest_json(other)}, of_cells=True)


class Killed(Exception):
    """The build ends here."""


def test_adding_fields_goes_on_after_it_was_stopped(inputs, whole, cells_only, monkeypatch):
    from tfrecords_builder import build, field_shards

    written, real = [], field_shards.add_fields

    def two_then_dead(*arguments):
        if len(written) == 2:
            raise Killed
        written.append(arguments[0].name)
        return real(*arguments)

    def here(units, settings, num_workers, progress):
        for unit in units:
            yield unit, field_shards.run_unit(unit, settings, lambda *_: None)

    monkeypatch.setattr(field_shards, "add_fields", two_then_dead)
    monkeypatch.setattr(build, "_runner", lambda options: here)
    command = [*inputs.arguments(cells_only), *TWO_FOLDS, "--fields", "32"]
    with pytest.raises(Killed):
        main(command)
    assert not (cells_only / records.MANIFEST_NAME).exists() and len(list(cells_only.glob("fields-*"))) == 2
    kept = {path: path.stat().st_mtime_ns for path in cells_only.glob("*.tfrecord*")}
    monkeypatch.setattr(field_shards, "add_fields", real)
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert digests(cells_only) == digests(whole)


def test_other_sizes_are_a_change_that_is_named(inputs, whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "data")
    cells = digests(tmp_path / "data", "cells-*")
    for size, now in (([], "None"), (["--fields", "16"], "16")):
        assert main([*inputs.arguments(tmp_path / "data"), *TWO_FOLDS, *size]) == 2
        assert f"option fields: was 32, is {now}" in capsys.readouterr().err
    assert main([*inputs.arguments(tmp_path / "data"), *TWO_FOLDS, "--fields", "16", "--on-change", "rebuild"]) == 0
    assert digests(tmp_path / "data", "cells-*") == cells
    assert len(image_table.read(tmp_path / "data")) == 6
    assert main([*inputs.arguments(tmp_path / "data"), *TWO_FOLDS, "--on-change", "rebuild"]) == 0
    assert digests(tmp_path / "data", "cells-*") == cells
    assert not list((tmp_path / "data").glob("fields-*")) and not (tmp_path / "data" / image_table.NAME).exists()


def test_index_writes_the_table_that_the_build_writes(whole, tmp_path, capsys, inputs):
    shutil.copytree(whole, tmp_path / "data")
    (tmp_path / "data" / image_table.NAME).unlink()
    assert main(["index", str(tmp_path / "data")]) == 0
    assert digests(tmp_path / "data") == digests(whole)
    assert main([*inputs.arguments(tmp_path / "cells"), *TWO_FOLDS]) == 0
    assert main(["index", str(tmp_path / "cells")]) == 2
    assert "no shards of whole fields of view" in capsys.readouterr().err


def test_verify_and_repair_look_after_the_table(whole, tmp_path, capsys):
    folder = tmp_path / "data"
    shutil.copytree(whole, folder)
    assert main(["verify", str(folder), "--workers", "1"]) == 0
    table = image_table.read(folder)
    changes = {
        "places in": table[1:],
        "numbers of cells": table.assign(cells=table["cells"] + 1),
        "checksum": table.assign(Aggresome=np.float32(0.5)),
    }
    for problem, changed in changes.items():
        image_table.write(changed, folder)
        capsys.readouterr()
        assert main(["verify", str(folder), "--workers", "1"]) == 1
        assert problem in capsys.readouterr().out
    assert main(["repair", str(folder), "--workers", "1"]) == 0
    assert digests(folder) == digests(whole)
    manifest = records.read_manifest(folder)
    records.write_manifest(folder, dataclasses.replace(manifest, checksums=None, brightness=None, manifest_version=1))
    (folder / image_table.NAME).unlink()
    assert main(["index", str(folder)]) == 0  # a manifest of the version before
    assert records.read_manifest(folder).checksums is None and len(image_table.read(folder)) == 6


def test_damaged_and_foreign_tables_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"images\.parquet: found no such file.*tfrecords_builder index"):
        image_table.read(tmp_path)
    (tmp_path / image_table.NAME).write_bytes(b"PAR1nothing")
    with pytest.raises(InputError, match="damaged"):
        image_table.read(tmp_path)
    table = image_table.make(["a"], [0], ["s"], [0], np.zeros((1, 19)), [3])
    table.drop(columns="offset").to_parquet(tmp_path / image_table.NAME)
    with pytest.raises(InputError, match=r"no column .'offset'"):
        image_table.read(tmp_path)


@pytest.mark.parametrize("size", [8, 20, 64])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_square_of_constant_cells_keeps_their_values_and_places(size, dtype):
    """Cells on a grid of 8 px: shrunk by a whole factor nothing mixes; enlarged, the middle of each stays."""
    mask = np.zeros((24, 40), np.int32)
    for number, (row, column) in enumerate([(0, 0), (1, 3), (2, 4)], start=5):
        mask[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = number * 100
    pixels = np.repeat(mask[..., None], 4, axis=2).astype(dtype)
    shrunk, masks, scale = to_square(pixels, mask, [700, 500], size)  # 600 has no record
    assert shrunk.shape == (size, size, 4) and shrunk.dtype == dtype and masks.dtype == np.uint16
    assert scale == size / 40
    for number, place, (row, column) in ((500, 2, (0, 0)), (700, 1, (2, 4)), (600, 0, (1, 3))):
        y, x = int((row * 8 + 4) * scale), int((column * 8 + 4) * scale)
        assert masks[y, x] == place and (shrunk[y, x] == np.array(number).astype(dtype)).all()
    assert not masks[round(24 * scale) :].any() and not shrunk[round(24 * scale) :].any()


def test_more_cells_than_a_mask_of_16_bits_can_number():
    mask = np.arange(1, 300 * 300 + 1, dtype=np.int32).reshape(300, 300)
    pixels = np.zeros((300, 300, 4), np.uint8)
    with pytest.raises(InputError, match="90000 cells; expected at most 65535"):
        to_square(pixels, mask, range(1, 90_001), 300)
    _, masks, _ = to_square(pixels, mask, range(1, 65_536), 300)
    assert (masks.ravel()[:65_535] == np.arange(1, 65_536)).all() and not masks.ravel()[65_535:].any()

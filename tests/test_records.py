"""The records: against TensorFlow's own reader and parser, damaged files, and the frozen schema."""

import dataclasses
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpa_tf import framing, records
from hpa_tf.classes import CHANNELS, CLASSES
from hpa_tf.errors import InputError
from hpa_tf.records import CELL_FIELDS, IMAGE_FIELDS, Manifest, Shard

# name, type, size of every field of schema version 1: a change here needs a new SCHEMA_VERSION
CELLS_V1 = """schema_version int64 1, image_id bytes 1, cell int64 1, fold int64 1, image_size int64 2,
um_per_px float 1, bits int64 1, box int64 4, crop_box int64 4, crop bytes 1, region bytes 1, labels float 19,
cell_area int64 1, nucleus_area int64 1, nucleus_blue int64 1, border_ratios float 2, channel_sums int64 4"""
IMAGES_V1 = """schema_version int64 1, image_id bytes 1, fold int64 1, image_size int64 2, um_per_px float 1,
bits int64 1, image bytes 1, masks bytes 1, labels float 19"""


def one_record(**changes) -> dict:
    labels = np.zeros(19, np.float32)
    labels[3] = np.nan
    record = {
        "image_id": "β-1".encode(),
        "cell": 300,
        "fold": 4,
        "image_size": (2048, 1728),
        "um_per_px": 0.08,
        "bits": 16,
        "box": (0, 1, 20, 30),
        "crop_box": (0, 0, 21, 31),
        "crop": b"\x00png",
        "region": b"",
        "labels": labels,
        "cell_area": 2**40,
        "nucleus_area": 0,
        "nucleus_blue": 7,
        "border_ratios": (0.25, 1.0),
        "channel_sums": (1, 2, 3, 2**45),
    }
    return {**record, **changes}


def test_schema_is_that_of_its_version():
    assert records.SCHEMA_VERSION == 1
    for text, fields in ((CELLS_V1, CELL_FIELDS), (IMAGES_V1, IMAGE_FIELDS)):
        expected = [part.split() for part in text.replace("\n", " ").split(", ")]
        assert [[field.name, field.type, str(field.size)] for field in fields] == expected


def test_record_comes_back():
    found = records.decode(records.encode(one_record()))
    for name, value in one_record().items():
        np.testing.assert_array_equal(found[name], np.float32(value) if name == "um_per_px" else value, err_msg=name)


@pytest.mark.parametrize(
    "change", [{"labels": np.zeros(18)}, {"box": (1, 2, 3)}, {"unknown": 1}, {"cell": (1, 2)}], ids=str
)
def test_wrong_fields_are_refused(change):
    with pytest.raises(ValueError):
        records.encode(one_record(**change))


def test_other_schema_version_is_refused(monkeypatch):
    monkeypatch.setattr(records, "SCHEMA_VERSION", 2)
    data = records.encode(one_record())
    monkeypatch.undo()
    with pytest.raises(ValueError, match="schema_version"):
        records.decode(data)


def test_tensorflow_reads_what_we_write(tmp_path):
    tf = pytest.importorskip("tensorflow")
    written = [records.encode(one_record(cell=number, crop=bytes(number * 100))) for number in range(1, 9)]
    path = tmp_path / "shard"
    path.write_bytes(b"".join(map(framing.frame, written)))
    assert [item.numpy() for item in tf.data.TFRecordDataset(str(path))] == written
    types = {"bytes": tf.string, "int64": tf.int64, "float": tf.float32}
    shapes = {f.name: tf.io.FixedLenFeature([] if f.size == 1 else [f.size], types[f.type]) for f in CELL_FIELDS}
    parsed = tf.io.parse_single_example(written[4], shapes)
    for name, value in one_record(cell=5, crop=bytes(500), schema_version=1).items():
        np.testing.assert_array_equal(parsed[name].numpy(), np.float32(value) if name == "um_per_px" else value)


def test_tensorflow_writes_what_we_read(tmp_path):
    tf = pytest.importorskip("tensorflow")
    path = str(tmp_path / "shard")
    with tf.io.TFRecordWriter(path) as writer:
        for data in (b"", b"a", bytes(100_000)):
            writer.write(data)
    with open(path, "rb") as stream:
        assert list(framing.read_frames(stream, path)) == [b"", b"a", bytes(100_000)]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=6))
def test_frames_come_back(payloads):
    stream = io.BytesIO(b"".join(map(framing.frame, payloads)))
    assert list(framing.read_frames(stream, "shard")) == payloads


PAYLOADS = [b"first", b"", bytes(range(64)), b"last"]
FRAMED = b"".join(map(framing.frame, PAYLOADS))
ENDS = np.cumsum([len(framing.frame(payload)) for payload in PAYLOADS])


@pytest.mark.parametrize("position", range(len(FRAMED)))
def test_every_flipped_byte_is_found_and_its_record_named(position):
    damaged = bytearray(FRAMED)
    damaged[position] ^= 0x10
    record = int(np.searchsorted(ENDS, position, side="right"))
    found = []
    with pytest.raises(InputError, match=f"record {record}:"):
        for data in framing.read_frames(io.BytesIO(bytes(damaged)), "shard"):
            found.append(data)
    assert found == PAYLOADS[:record]


@pytest.mark.parametrize("length", [n for n in range(1, len(FRAMED)) if n not in ENDS])
def test_every_truncation_is_found(length):
    with pytest.raises(InputError, match=f"record {int(np.searchsorted(ENDS, length, side='right'))}:"):
        list(framing.read_frames(io.BytesIO(FRAMED[:length]), "shard"))


@settings(deadline=None)
@given(st.sets(st.integers(0, 3)))
def test_chosen_frames_are_those_of_their_ordinals(chosen):
    found = list(framing.read_chosen_frames(io.BytesIO(FRAMED), "shard", sorted(chosen)))
    assert found == [(ordinal, PAYLOADS[ordinal]) for ordinal in sorted(chosen)]


def test_ordinal_behind_the_end_is_an_error():
    with pytest.raises(InputError, match="end of the file"):
        list(framing.read_chosen_frames(io.BytesIO(FRAMED), "shard", [4]))


# -- manifest ---------------------------------------------------------------------------------------------------------


def a_manifest() -> Manifest:
    shards = (
        Shard("cells-fold0.tfrecord-00000-of-00001", "cells", 0, 3, 100, "00"),
        Shard("cells-fold1.tfrecord-00000-of-00001", "cells", 1, 2, 80, "11"),
        Shard("fields-fold1.tfrecord-00000-of-00001", "fields", 1, 1, 50, "22"),
    )
    return Manifest(
        schema_version=1,
        classes=CLASSES,
        channels=CHANNELS,
        encoding="png",
        um_per_px=(0.08,),
        bits=(8, 16),
        margin=0,
        segmenter="classical",
        num_folds=2,
        num_images=2,
        num_cells=5,
        shards=shards,
        options={"seed": 0},
        fingerprint="ff",
    )


def old_manifest() -> dict:
    """Return a manifest as version 1 wrote it: without brightness, checksums and a checksum of itself."""
    new = ("brightness", "checksums", "manifest_version", "without")
    return {name: value for name, value in dataclasses.asdict(a_manifest()).items() if name not in new}


def test_manifest_comes_back(tmp_path):
    records.write_manifest(tmp_path, a_manifest())
    assert records.read_manifest(tmp_path) == a_manifest()
    known = dataclasses.replace(
        a_manifest(), brightness={"red": (0.1, 0.2, 0.3), "green": None}, checksums={"cells.parquet": "ab"}
    )
    records.write_manifest(tmp_path, known)
    assert records.read_manifest(tmp_path) == known


def test_manifest_of_version_1_is_read_and_what_it_does_not_say_is_not_known(tmp_path):
    (tmp_path / records.MANIFEST_NAME).write_text(json.dumps(old_manifest()))
    found = records.read_manifest(tmp_path)
    assert found == dataclasses.replace(a_manifest(), manifest_version=1)
    assert found.brightness is found.checksums is None
    assert records.manifest_json(found) == json.loads(json.dumps(old_manifest()))  # a run's copy stays as it was


def test_manifest_of_version_2_speaks_of_no_missing_channel(tmp_path):
    version_2 = dataclasses.replace(a_manifest(), manifest_version=2)
    records.write_manifest(tmp_path, version_2)
    assert "without" not in json.loads((tmp_path / records.MANIFEST_NAME).read_text())
    assert records.read_manifest(tmp_path) == version_2 and version_2.without == ((),)


@pytest.mark.parametrize("without", [(("yellow",),), ((), ("red", "yellow"))])
def test_black_channels_come_back(tmp_path, without):
    known = dataclasses.replace(a_manifest(), without=without)
    records.write_manifest(tmp_path, known)
    assert records.read_manifest(tmp_path) == known


def test_manifest_with_any_flipped_bit_is_refused_and_named(tmp_path):
    known = dataclasses.replace(a_manifest(), brightness={"red": (0.1, 0.2, 0.3)}, checksums={"cells.parquet": "ab"})
    records.write_manifest(tmp_path, known)
    path = tmp_path / records.MANIFEST_NAME
    intact = path.read_bytes()
    assert len(intact) > 1000
    for position in range(len(intact)):
        changed = bytearray(intact)
        changed[position] ^= 1 << position * 5 % 8
        path.write_bytes(changed)
        try:
            assert records.read_manifest(tmp_path) == known  # such as a changed space between two values
        except InputError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize("name", ["../../important", "a/b", "a\\b", "..", "", "/etc/passwd", "C:x", "a\0b", 7])
def test_names_in_a_manifest_do_not_lead_out_of_its_folder(tmp_path, name):
    value = old_manifest()
    value["shards"] = [{**dataclasses.asdict(a_manifest().shards[0]), "name": name}]
    (tmp_path / records.MANIFEST_NAME).write_text(json.dumps(value))
    with pytest.raises(InputError, match="the file name"):
        records.read_manifest(tmp_path)
    records.write_manifest(tmp_path, dataclasses.replace(a_manifest(), checksums={name: "ab"}))
    if isinstance(name, str):
        with pytest.raises(InputError, match="the file name"):
            records.read_manifest(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"num_folds": "2"},
        {"num_cells": -1},
        {"shards": 3},
        {"shards": [7]},
        {"bits": None},
        {"um_per_px": ["0.08"]},
        {"options": None},
        {"shards": [{"name": "x", "kind": "cells", "fold": 0.5, "num_records": 1, "num_bytes": 1, "sha256": ""}]},
    ],
)
def test_values_of_another_kind_are_refused(tmp_path, change):
    (tmp_path / records.MANIFEST_NAME).write_text(json.dumps({**old_manifest(), **change}))
    with pytest.raises(InputError, match=records.MANIFEST_NAME):
        records.read_manifest(tmp_path)


def test_shards_are_chosen_by_kind_and_fold():
    manifest = a_manifest()
    assert [s.fold for s in manifest.shards_of()] == [0, 1]
    assert [s.sha256 for s in manifest.shards_of("cells", [1])] == ["11"]
    assert [s.sha256 for s in manifest.shards_of("fields")] == ["22"]


def test_folder_without_manifest_is_not_a_data_folder(tmp_path):
    with pytest.raises(InputError, match="tfrecords_builder build"):
        records.read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"schema_version": 2}, "schema version 2"),
        ({"schema_version": None}, "schema version None"),
        ({"new_field": 1}, "new_field"),
        ({"classes": [*CLASSES[1:], CLASSES[0]]}, "classes"),
        ({"channels": ["green", "red", "blue", "yellow"]}, "channels"),
        ({"shards": [{"name": "x"}]}, "Shard"),
    ],
)
def test_manifest_of_another_build_is_refused(tmp_path, change, named):
    value = {**old_manifest(), **change}
    (tmp_path / records.MANIFEST_NAME).write_text(json.dumps(value))
    with pytest.raises(InputError, match=named):
        records.read_manifest(tmp_path)


def test_missing_field_of_the_manifest_is_named(tmp_path):
    value = old_manifest()
    del value["fingerprint"]
    (tmp_path / records.MANIFEST_NAME).write_text(json.dumps(value))
    with pytest.raises(InputError, match="fingerprint"):
        records.read_manifest(tmp_path)


def test_broken_manifest_is_no_json(tmp_path):
    (tmp_path / records.MANIFEST_NAME).write_text("{")
    with pytest.raises(InputError, match="no JSON"):
        records.read_manifest(tmp_path)

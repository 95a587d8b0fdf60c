"""The bytes of the shards, by version of the code that makes them: none changes without the other."""

import hashlib

import pytest
from builder_inputs import write_inputs

from tfrecords_builder.__main__ import main
from tfrecords_builder.options import CODE_VERSION

MADE = {
    "masks, 16 bit, with fields": (16, 256, ["--margin", "3", "--fields", "32", "--encoding", "npy"]),
    "classical": (8, 640, ["--segmenter", "classical", "--encoding", "png-stored"]),
}
GOLDEN = {
    1: {
        "masks, 16 bit, with fields": "3d3cdc70b5853e3ba085019666579daf886226b81952d8dbecf1c0777e52e747",
        "classical": "a7505c13d9427b9ce23886736d5e10b640c4e13ded91943d1ae91d2cc9de2a42",
    },
    2: {
        "masks, 16 bit, with fields": "3d3cdc70b5853e3ba085019666579daf886226b81952d8dbecf1c0777e52e747",
        "classical": "fea0694c4962cdc810a7071c5c509f3d9ea8687b5f7b39f54daacf4a638d68c4",
    },
    3: {
        "masks, 16 bit, with fields": "3d3cdc70b5853e3ba085019666579daf886226b81952d8dbecf1c0777e52e747",
        "classical": "fea0694c4962cdc810a7071c5c509f3d9ea8687b5f7b39f54daacf4a638d68c4",
    },
}
"""SHA-256 of all shards, in the order of their names. A new version gets a new entry, made by a run of this test."""


@pytest.mark.parametrize("name", MADE)
def test_bytes_change_with_the_version_and_only_then(name, tmp_path):
    bits, size, options = MADE[name]
    inputs = write_inputs(tmp_path / "inputs", 2, size=size, grid=2, bits=bits, seed=3)
    arguments = inputs.arguments(tmp_path / "data")
    if "--segmenter" in options:
        where = arguments.index("--masks")
        del arguments[where : where + 2]
    assert main([*arguments, *options, "--num-folds", "1", "--workers", "1"]) == 0
    shards = sorted(path for path in (tmp_path / "data").iterdir() if ".tfrecord-" in path.name)
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in shards)).hexdigest()
    assert digest == GOLDEN[CODE_VERSION][name], "other bytes: raise CODE_VERSION in tfrecords_builder/options.py"

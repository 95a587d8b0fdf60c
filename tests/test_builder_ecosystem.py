"""The builder with what is optional: Apache Beam, TensorFlow Datasets, an object store. Skipped where it is missing."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from builder_inputs import Inputs, content, write_inputs

from hpa_tf import cell_table, framing, records
from hpa_tf.encoding import decode_picture
from tfrecords_builder.__main__ import main


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Inputs:
    return write_inputs(tmp_path_factory.mktemp("inputs"), 12, size=48)


@pytest.fixture(scope="module")
def reference(inputs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "data"
    assert main([*inputs.arguments(out), "--fields", "32"]) == 0
    return out


# -- Apache Beam ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_beam_writes_the_same_bytes(inputs, reference, tmp_path, workers):
    pytest.importorskip("apache_beam")
    out = tmp_path / "data"
    arguments = [*inputs.arguments(out), "--fields", "32", "--runner", "DirectRunner", "--workers", str(workers)]
    assert main(arguments) == 0
    assert content(out) == content(reference)


def test_beam_continues_a_build(inputs, reference, tmp_path):
    pytest.importorskip("apache_beam")
    out = tmp_path / "data"
    assert main([*inputs.arguments(out), "--fields", "32"]) == 0
    (out / records.MANIFEST_NAME).unlink()
    kept = sorted(out.glob("cells-*"))[1:]
    times = [path.stat().st_mtime_ns for path in kept]
    sorted(out.glob("cells-*"))[0].unlink()
    assert main([*inputs.arguments(out), "--fields", "32", "--runner", "DirectRunner", "--workers", "1"]) == 0
    assert [path.stat().st_mtime_ns for path in kept] == times
    assert content(out) == content(reference)


def test_a_unit_that_the_runner_lost_is_noticed(inputs, tmp_path, capsys, monkeypatch):
    pytest.importorskip("apache_beam")
    from tfrecords_builder import beam_runner

    build_unit, calls = beam_runner.build_unit, []

    def lose_the_third(unit, settings, report):
        calls.append(unit.name)
        return None if len(calls) == 3 else build_unit(unit, settings, report)

    monkeypatch.setattr(beam_runner, "build_unit", lose_the_third)
    arguments = [*inputs.arguments(tmp_path / "data"), "--runner", "DirectRunner", "--workers", "1"]
    assert main(arguments) == 2
    assert f"{calls[2]} was not written" in capsys.readouterr().err
    assert not (tmp_path / "data" / records.MANIFEST_NAME).exists()


def test_an_unusable_image_is_named_by_beam_too(tmp_path, capsys):
    pytest.importorskip("apache_beam")
    own = write_inputs(tmp_path / "inputs", 4, size=32, grid=1)
    (own.masks / f"{own.ids[2]}_cellmask.png").unlink()
    arguments = [*own.arguments(tmp_path / "data"), "--num-folds", "2", "--runner", "DirectRunner", "--workers", "1"]
    assert main(arguments) == 2
    assert f"no cell mask of image {own.ids[2]}" in capsys.readouterr().err
    assert main([*arguments, "--on-error", "skip"]) == 1


def test_the_mode_that_loses_records_is_refused(inputs, tmp_path, capsys):
    option = "--beam-options=--direct_running_mode=multi_threading"
    arguments = [*inputs.arguments(tmp_path / "data"), "--runner", "DirectRunner", option]
    assert main(arguments) == 2
    assert "loses no records" in capsys.readouterr().err


# -- TensorFlow Datasets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 16])
def test_tensorflow_datasets_reads_the_folder(tmp_path, bits):
    tfds = pytest.importorskip("tensorflow_datasets")
    own = write_inputs(tmp_path / "inputs", 4, size=32, grid=2, bits=bits)
    out = tmp_path / "data"
    assert main([*own.arguments(out), "--num-folds", "2", "--fields", "32", "--tfds"]) == 0
    builder = tfds.builder_from_directory(str(out))
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"fold0": 8, "fold1": 8}
    written = []
    for shard in records.read_manifest(out).shards_of("cells", [1]):
        with open(out / shard.name, "rb") as stream:
            written += [records.decode(data) for data in framing.read_frames(stream, shard.name)]
    read = list(tfds.as_numpy(builder.as_dataset(split="fold1", shuffle_files=False)))
    key = lambda record: (record["image_id"], int(record["cell"]))  # noqa: E731
    for one, other in zip(sorted(read, key=key), sorted(written, key=key), strict=True):
        np.testing.assert_array_equal(one["crop"], decode_picture(other["crop"]))
        np.testing.assert_array_equal(one["region"][..., 0], decode_picture(other["region"]))
        for name in ("image_id", "cell", "fold", "box", "labels", "channel_sums", "border_ratios"):
            np.testing.assert_array_equal(one[name], other[name])


def test_metadata_can_be_added_to_a_finished_build(inputs, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    out = tmp_path / "data"
    assert main(inputs.arguments(out)) == 0
    shards = {path: path.stat().st_mtime_ns for path in out.glob("cells-*")}
    assert main([*inputs.arguments(out), "--tfds"]) == 0
    assert (out / "dataset_info.json").exists()
    assert {path: path.stat().st_mtime_ns for path in shards} == shards


# -- an object store on loopback --------------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch):
    """An S3 bucket in a server of this process."""
    server_module = pytest.importorskip("moto.server")
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("FSSPEC_S3_ENDPOINT_URL", f"http://{host}:{port}")
    filesystem = fsspec.filesystem(
        "s3", endpoint_url=f"http://{host}:{port}", key="test", secret="test", skip_instance_cache=True
    )
    if not filesystem.exists("hpa"):  # the server's buckets live as long as this process
        filesystem.mkdir("hpa")
    yield filesystem
    filesystem.rm("hpa/", recursive=True)
    server.stop()


def run(arguments: list[str]) -> subprocess.CompletedProcess:
    """Run in a process of its own, which reads the store's address from the environment."""
    command = [sys.executable, "-m", "tfrecords_builder", *arguments]
    root = Path(__file__).parents[1]
    return subprocess.run(command, cwd=root, env=dict(os.environ), capture_output=True, text=True, check=False)


def test_images_and_shards_in_an_object_store(inputs, reference, tmp_path, bucket):
    for folder in ("images", "masks"):
        for path in (inputs.images if folder == "images" else inputs.masks).iterdir():
            bucket.put_file(str(path), f"hpa/{folder}/{path.name}")
    bucket.put_file(str(inputs.labels), "hpa/train.csv")
    arguments = ["build", "--images", "s3://hpa/images", "--masks", "s3://hpa/masks", "--labels", "s3://hpa/train.csv"]
    arguments += ["--out", "s3://hpa/data", "--fields", "32", "--workers", "2"]
    done = run(arguments)
    assert done.returncode == 0, done.stderr
    for name, data in content(reference).items():
        if name != records.MANIFEST_NAME:  # it names the folders
            assert bucket.cat_file(f"hpa/data/{name}") == data, name
    assert run(["verify", "s3://hpa/data"]).returncode == 0
    assert "12 images, 48 cells" in run(["inspect", "s3://hpa/data", "--sheet", str(tmp_path / "sheet.png")]).stdout

    shard = next(name for name in content(reference) if name.startswith("cells-fold2"))
    bucket.rm_file(f"hpa/data/{shard}")
    verified = run(["verify", "s3://hpa/data"])
    assert verified.returncode == 1 and f"missing shard: {shard}" in verified.stdout
    repaired = run(["repair", "s3://hpa/data"])
    assert repaired.returncode == 0, repaired.stderr
    assert bucket.cat_file(f"hpa/data/{shard}") == content(reference)[shard]

    bucket.pipe_file("hpa/images/image_0003_red.png", b"changed")
    changed = run(arguments)
    assert changed.returncode == 2 and "image or mask files changed" in changed.stderr


def test_cell_tables_are_read_from_an_object_store(reference, bucket, monkeypatch):
    import fsspec

    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": os.environ["FSSPEC_S3_ENDPOINT_URL"]})
    bucket.put_file(str(reference / records.CELL_TABLE_NAME), f"hpa/data/{records.CELL_TABLE_NAME}")
    bucket.put_file(str(reference / records.MANIFEST_NAME), f"hpa/data/{records.MANIFEST_NAME}")
    assert len(cell_table.read(f"s3://hpa/data/{records.CELL_TABLE_NAME}")) == 48
    assert records.read_manifest("s3://hpa/data") == records.read_manifest(reference)

"""The builder with what is optional: Apache Beam, TensorFlow Datasets, object stores. Skipped where it is missing."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import prediction_cases as cases
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

    run_unit, calls = beam_runner.run_unit, []

    def lose_the_third(unit, settings, report):
        calls.append(unit.name)
        return None if len(calls) == 3 else run_unit(unit, settings, report)

    monkeypatch.setattr(beam_runner, "run_unit", lose_the_third)
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


@pytest.mark.parametrize(("bits", "encoding"), [(8, "png"), (16, "png"), (16, "png-stored")])
def test_tensorflow_datasets_reads_the_folder(tmp_path, bits, encoding):
    tfds = pytest.importorskip("tensorflow_datasets")
    own = write_inputs(tmp_path / "inputs", 4, size=32, grid=2, bits=bits)
    out = tmp_path / "data"
    options = ["--num-folds", "2", "--fields", "32", "--tfds", "--encoding", encoding]
    assert main([*own.arguments(out), *options]) == 0
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


# -- object stores on loopback ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Store:
    """A bucket of an object store: the URL of its root, and its files as fsspec sees them."""

    root: str
    filesystem: Any

    def put(self, folder: Path, name: str) -> None:
        """Upload the files of a folder."""
        for path in folder.iterdir():
            self.filesystem.put_file(str(path), f"hpa/{name}/{path.name}")

    def read(self, name: str) -> bytes:
        """Return the bytes of a file; never from a cache."""
        self.filesystem.invalidate_cache()
        return self.filesystem.cat_file(f"hpa/{name}")


def start_s3(monkeypatch) -> tuple[Any, str]:
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    pytest.importorskip("s3fs")
    server.start()
    for name, value in (("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    return server, "http://{}:{}".format(*server.get_host_and_port())


def start_gs(monkeypatch) -> tuple[Any, str]:
    pytest.importorskip("gcsfs")
    server = pytest.importorskip("gcp_storage_emulator.server").create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    monkeypatch.setenv("FSSPEC_GS_TOKEN", "anon")
    return server, "http://{}:{}".format(*server._api._httpd.server_address)


@pytest.fixture(params=["s3", "gs"])
def store(request, monkeypatch):
    """A bucket in a server of this process; the environment names it to child processes."""
    # gcsfs asks for the kind of a bucket by gRPC, which emulators do not speak; read when it is imported
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    fsspec = pytest.importorskip("fsspec")
    server, url = {"s3": start_s3, "gs": start_gs}[request.param](monkeypatch)
    monkeypatch.setenv(f"FSSPEC_{request.param.upper()}_ENDPOINT_URL", url)
    fsspec.config.set_conf_env(fsspec.config.conf)
    filesystem = fsspec.filesystem(request.param, skip_instance_cache=True)
    if not filesystem.exists("hpa"):  # moto's buckets live as long as this process
        filesystem.mkdir("hpa")
    yield Store(f"{request.param}://hpa", filesystem)
    filesystem.rm("hpa/", recursive=True)
    fsspec.config.conf.pop(request.param)
    server.stop()


def run(arguments: list[str]) -> subprocess.CompletedProcess:
    """Run in a process of its own, which reads the store's address from the environment."""
    command = [sys.executable, "-m", "tfrecords_builder", *arguments]
    root = Path(__file__).parents[1]
    return subprocess.run(command, cwd=root, env=dict(os.environ), capture_output=True, text=True, check=False)


def test_images_and_shards_in_an_object_store(inputs, reference, tmp_path, store):
    store.put(inputs.images, "images")
    store.put(inputs.masks, "masks")
    store.filesystem.put_file(str(inputs.labels), "hpa/train.csv")
    arguments = ["build", "--fields", "32", "--workers", "2"]
    for option, name in (("images", "images"), ("masks", "masks"), ("labels", "train.csv"), ("out", "data")):
        arguments += [f"--{option}", f"{store.root}/{name}"]
    done = run(arguments)
    assert done.returncode == 0, done.stderr
    for name, data in content(reference).items():
        if name != records.MANIFEST_NAME:  # it names the folders
            assert store.read(f"data/{name}") == data, name
    assert run(["verify", f"{store.root}/data"]).returncode == 0
    sheet = str(tmp_path / "sheet.png")
    assert "12 images, 48 cells" in run(["inspect", f"{store.root}/data", "--sheet", sheet]).stdout

    shard = next(name for name in content(reference) if name.startswith("cells-fold2"))
    store.filesystem.rm_file(f"hpa/data/{shard}")
    verified = run(["verify", f"{store.root}/data"])
    assert verified.returncode == 1 and f"missing shard: {shard}" in verified.stdout
    repaired = run(["repair", f"{store.root}/data"])
    assert repaired.returncode == 0, repaired.stderr
    assert store.read(f"data/{shard}") == content(reference)[shard]

    store.filesystem.pipe_file("hpa/images/image_0003_red.png", b"changed")
    changed = run(arguments)
    assert changed.returncode == 2 and "image or mask files changed" in changed.stderr


_BATCH = """
import sys
import tensorflow as tf
from hpa_tf.pipeline import evaluation_batches, read_examples
from hpa_tf.views import Crop
if sys.argv[3] == "without TensorFlow's own reader":
    tf.io.gfile.get_registered_schemes = lambda: ["", "file", "ram"]
batches = evaluation_batches(read_examples(sys.argv[1], clean=False), Crop(size=24), batch_size=48)
tf.io.write_file(sys.argv[2], tf.io.serialize_tensor(next(iter(batches)).inputs["image"]))
"""


def test_batches_are_read_from_an_object_store(reference, store, tmp_path):
    """TensorFlow knows `gs://` itself, but only at Google's address: there the project's reader is made to read."""
    store.put(reference, "data")
    found = []
    for folder in (str(reference), f"{store.root}/data"):
        out = tmp_path / f"batch{len(found)}"
        how = "without TensorFlow's own reader" if folder.startswith("gs://") else ""
        command = [sys.executable, "-c", _BATCH, folder, str(out), how]
        done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found.append(out.read_bytes())
    assert found[0] == found[1]


def test_cell_tables_and_manifests_are_read_from_an_object_store(reference, store):
    store.put(reference, "data")
    assert len(cell_table.read(f"{store.root}/data/{records.CELL_TABLE_NAME}")) == 48
    assert records.read_manifest(f"{store.root}/data") == records.read_manifest(reference)


def test_a_prediction_goes_on_in_an_object_store(store, tmp_path):
    """Parts that another process has written since the folder was listed are found."""
    cases.write_images(tmp_path / "images")
    cases.write_run(tmp_path / "run")
    command = [sys.executable, "predict.py", "--run", str(tmp_path / "run"), "--images", str(tmp_path / "images")]
    command += ["--masks", str(tmp_path / "images"), "--out", f"{store.root}/prediction", "--workers", "1"]
    for predicted in (6, 2, 0):
        done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert f"{predicted} predicted now" in done.stdout
        submission = store.read("prediction/submission.csv")
        if predicted == 6:
            first = submission
            for name in ("a1", "c3"):
                store.filesystem.rm_file(f"hpa/prediction/parts/{name}.parquet")
        assert submission == first


def test_a_store_that_cannot_be_reached_is_said_in_one_line(store, monkeypatch):
    scheme = store.root.partition("://")[0]
    monkeypatch.setenv(f"FSSPEC_{scheme.upper()}_ENDPOINT_URL", "http://127.0.0.1:1")
    done = run(["verify", f"{store.root}/data"])
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {store.root}/data") and "a store that refused" in line

"""What a user can do wrong with train.py ends with one line that names it and its fix, and with exit code 2."""

import json
import random
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from shards import one_hot, write_dataset
from training_process import TINY, start, words, workers_config, write_tiny_dataset

from hpa_tf import cell_table, files, folder_lock
from hpa_tf.errors import InputError
from hpa_tf.models import weights
from hpa_tf.pipeline import damage, read_examples
from hpa_tf.pipeline.damage import damage_explained, find_damage
from hpa_tf.recipes import recipe_named
from hpa_tf.recipes.runs import read_run
from hpa_tf.records import read_manifest, write_manifest
from hpa_tf.training import claim, command, run
from hpa_tf.training.cluster import read_cluster
from hpa_tf.training.site import Data

OPTIONS = TINY + words("--recipe.sampling.num-cells 32 --recipe.optimization.epochs 1 --deterministic off")
SHARD = "cells-fold1.tfrecord-00001-of-00003"


@pytest.fixture(autouse=True)
def no_saved_model(monkeypatch):
    monkeypatch.setattr(run, "export", lambda *arguments: None)


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("faults") / "data")


@pytest.fixture
def data(intact, tmp_path):
    return shutil.copytree(intact, tmp_path / "data")


@pytest.fixture
def refused(capsys, tmp_path):
    """Return a function that calls the command with what must be refused, and returns its line."""

    def call(data: Path, *options: str, out: str = "out") -> str:
        with pytest.MonkeyPatch.context():
            assert command.main(["--data", str(data), "--out", str(tmp_path / out), *OPTIONS, *options]) == 2
        lines = capsys.readouterr().err.splitlines()
        found = [line for line in lines if line.startswith("train.py: ")]
        assert len(found) == 1 and "Traceback" not in "".join(lines)
        return found[0]

    return call


# -- data -------------------------------------------------------------------------------------------------------------


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def swap(path: Path) -> None:
    shutil.copy(path.with_name(SHARD.replace("00001-of", "00002-of")), path)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("harm", [halve, empty, lengthen, swap, Path.unlink, make_folder])
def test_a_shard_of_another_size_is_named_before_anything_is_trained(data, tmp_path, refused, harm):
    harm(data / SHARD)
    message = refused(data)
    assert str(data / SHARD) in message and f"tfrecords_builder verify {data}" in message and "repair" in message
    assert not (tmp_path / "out").exists()


def test_a_flipped_byte_is_named_when_its_record_is_read(data, tmp_path, refused):
    content = bytearray((data / SHARD).read_bytes())
    content[len(content) // 2] ^= 1
    (data / SHARD).write_bytes(content)
    message = refused(data)  # of the training fold
    assert str(data / SHARD) in message and "damaged record" in message and f"repair {data}" in message
    message = refused(data, "--recipe.validation-fold", "1", out="other")
    assert str(data / SHARD) in message


@pytest.mark.parametrize("fold, index", [(0, 0), (1, 2)])
def test_every_flipped_byte_is_found(data, fold, index):
    """Length, its checksum, the data, its checksum: no byte of a record is without one."""
    examples = read_examples(data)
    assert find_damage(examples) is None
    path = data / f"cells-fold{fold}.tfrecord-{index:05d}-of-00003"
    content = path.read_bytes()
    for place in [0, 7, 8, 11, 12, len(content) - 4, len(content) - 1, *range(100, len(content), 977)]:
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        assert path.name in find_damage(examples).where


def test_what_tensorflow_says_is_said_before_all_records_are_read(data, capsys, monkeypatch):
    """That may take an hour, and the error may have nothing to do with the data."""
    error, heard = tf.errors.UnknownError(None, None, "Failed to get convolution algorithm\nmore"), []
    monkeypatch.setattr(damage, "find_damage", lambda examples: heard.append(capsys.readouterr().err))
    with pytest.raises(tf.errors.UnknownError), damage_explained([read_examples(data)]):
        raise error
    assert heard == ["Failed to get convolution algorithm\nlooking for a damaged record\n"]


def test_a_shard_that_disappears_while_it_trains_is_named(data, refused, monkeypatch):
    monkeypatch.setattr(run, "check_shard_sizes", lambda *arguments: None)
    (data / SHARD).unlink()
    assert SHARD in refused(data)


def test_a_shard_that_the_manifest_does_not_know_is_refused(data):
    examples = read_examples(data)
    examples.table["shard"] = "cells-fold0.tfrecord-00009-of-00003"
    with pytest.raises(InputError, match="does not name"):
        run.check_shard_sizes(read_manifest(data), [examples])


def test_a_cell_table_that_was_changed_is_refused(data, refused):
    sums = {"cells.parquet": files.sha256(data / "cells.parquet")}  # as in the manifest of every build
    write_manifest(data, replace(read_manifest(data), checksums=sums))
    content = bytearray((data / "cells.parquet").read_bytes())
    content[len(content) // 3] ^= 4
    (data / "cells.parquet").write_bytes(content)
    assert "cells.parquet" in refused(data)


@pytest.mark.parametrize("harm", [empty, halve, make_folder, lambda path: path.write_text("<html>"), Path.unlink])
@pytest.mark.parametrize("name", ["dataset.json", "cells.parquet"])
def test_unreadable_files_of_the_data_are_named(data, refused, name, harm):
    harm(data / name)
    assert name in refused(data)


@pytest.fixture(scope="module")
def empty_fold(tmp_path_factory):
    """Return data of 4 images in 5 folds: the last fold had an image without cells alone."""
    folder = tmp_path_factory.mktemp("empty_fold") / "data"
    write_dataset(folder, np.stack([one_hot(3)] * 4), num_folds=5, num_shards=1, cells_per_image=1)
    assert read_manifest(folder).folds_with_cells == (0, 1, 2, 3)
    return folder


def test_a_training_fold_without_cells_is_no_fault(empty_fold):
    recipe = replace(recipe_named("cpu_small"), validation_fold=1)
    training, validation = run.split(recipe, Data(str(empty_fold)), read_manifest(empty_fold))
    assert set(training.table["fold"]) == {0, 2, 3} and set(validation.table["fold"]) == {1}
    with pytest.raises(InputError, match=r"no cell of fold \[4\].*folds among \[0, 1, 2, 3\]"):
        read_examples(empty_fold, folds={4})


@pytest.mark.parametrize(
    "options, words_of_message",
    [
        ("--recipe.validation-fold 4", ("fold 4 of 5", "choose fold 0 or 1 or 2 or 3", "--recipe.validation-fold -1")),
        (
            "--recipe.validation-fold 7",
            ("fold 7 of 5; expected fold 0 to 4. Fix: choose fold 0 or 1 or 2 or 3; --rec",),
        ),
        ("--folds 5", ("--folds: found 5, of which fold 4 has no cell", "--folds 4, or build the data with fewer")),
        ("--recipe relabel_small", ("--folds: found 5, of which fold 4 has no cell", "--folds 4, or build")),
        ("--recipe relabel_small --folds 5", ("--folds: found 5, of which fold 4 has no cell",)),
    ],
)
def test_a_fold_without_cells_is_not_measured_or_predicted(empty_fold, tmp_path, refused, options, words_of_message):
    message = refused(empty_fold, *words(options))
    assert all(word in message for word in words_of_message), message
    assert not (tmp_path / "out").exists()


# -- --labels ---------------------------------------------------------------------------------------------------------


def labels_table(data: Path) -> pd.DataFrame:
    return cell_table.read(data / "cells.parquet")[["image_id", "cell", *cell_table.VALUES]]


@pytest.mark.parametrize(
    "change, words_of_message",
    [
        (lambda t: t.assign(image_id=range(len(t))), ("image_id",)),
        (lambda t: t.drop(columns="cell"), ("cell",)),
        (lambda t: t.assign(Cytosol="much"), ("Cytosol",)),
        (lambda t: t.assign(Cytosol=2.0), ("Cytosol", "2.0")),
        (lambda t: t.iloc[1:], ("1 of the dataset's",)),
        (lambda t: pd.concat([t, t.iloc[:1]]), ("repeated",)),
        (lambda t: t.assign(graded="False"), ("graded", "False")),
        (lambda t: t.assign(mitotic_lookalike=0.5), ("mitotic_lookalike", "0.5")),
        (lambda t: t.assign(cell=t["cell"].astype(float).where(t.index > 0)), ("cell",)),
        (lambda t: t.iloc[:0], ("no row of a cell",)),
    ],
)
def test_faults_of_a_labels_table_are_named(intact, tmp_path, refused, change, words_of_message):
    path = tmp_path / "labels.parquet"
    change(labels_table(intact)).to_parquet(path)
    message = refused(intact, "--labels", str(path))
    assert str(path) in message and all(word in message for word in words_of_message), message


@pytest.mark.parametrize("content", [b"", b"<html>", b"PAR1", b"PAR1" + b"\0" * 50 + b"PAR1", b"image_id,cell\na,1\n"])
def test_labels_that_are_no_table_are_named(intact, tmp_path, refused, content):
    path = tmp_path / "labels.parquet"
    path.write_bytes(content)
    assert str(path) in refused(intact, "--labels", str(path))
    assert str(tmp_path) in refused(intact, "--labels", str(tmp_path))


# -- --weights --------------------------------------------------------------------------------------------------------


def hdf5(**groups: np.ndarray) -> bytes:
    import io

    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        for name, array in groups.items():
            file[name] = array
    return stream.getvalue()


@pytest.mark.parametrize(
    "name, content, found",
    [
        ("x.h5", b"<html><body>404", "web page"),
        ("x.weights.h5", b"\n <!DOCTYPE html>", "web page"),
        ("x.weights.h5", b"", "empty"),
        ("x.h5", b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "Git LFS"),
        ("x.weights.h5", b"PK\x03\x04....", "zip"),
        ("x.h5", b"\0" * 100, "no HDF5"),
        ("x.weights.h5", hdf5(a=np.zeros(3))[:400], "do not fit"),
        ("x.weights.h5", hdf5(a=np.zeros(3)), "do not fit"),
        ("x.txt", b"weights", "x.txt"),
        ("x.keras", b"PK\x03\x04....", "x.keras"),
    ],
)
def test_a_file_that_is_no_weights_is_named(intact, tmp_path, refused, name, content, found):
    (tmp_path / name).write_bytes(content)
    message = refused(intact, "--weights", str(tmp_path / name))
    assert str(tmp_path / name) in message and found in message


def test_weights_of_another_network_are_named(intact, tmp_path, refused):
    path = tmp_path / "x.weights.h5"
    trained = recipe_named("cpu_small")
    trained.network.build(trained.view.specs()).save_weights(path)
    assert str(path) in refused(intact, "--weights", str(path))
    assert "no such file" in refused(intact, "--weights", str(intact), out="other")  # a folder that is no run


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ("--system cpu_pair --folds 3", "--folds"),
        ("--system cpu_pair --folds 2 --fine-tune grades", "--fine-tune"),
        (
            "--system cpu_bestfitting --fine-tune grades",
            "found cpu_fcan of cpu_bestfitting, whose loss is of labels",
        ),
        (
            "--system cpu_red_ai",
            "found no fields of view, which cpu_red_ai_field looks at",
        ),  # its first member reads cells
        ("--system cpu_red_ai --folds 2", "found no fields of view, which cpu_red_ai_field looks at"),
        ("--system cpu_pair --recipe cpu_b0", "--recipe cpu_b0"),
        ("--system cpu_pair --out-of-fold x.parquet", "--out-of-fold"),
        ("--system cpu_pair --show-sampling --folds 2", "--folds"),
        ("--folds 2 --recipe.validation-fold 1", "--recipe.validation-fold"),
        ("--folds 2 --show-sampling", "--show-sampling"),
        ("--recipe relabel_small --show-sampling", "--show-sampling: found relabel_small, each of whose"),
        ("--unknown-cells drop", "--labels"),
        ("--weights none --recipe.weights imagenet", "--recipe.weights"),
        ("--xla --steps-per-execution 2", "--steps-per-execution 2"),
        ("--checkpoint-steps 0", "--checkpoint-steps"),
        ("--keep-checkpoints 0", "--keep-checkpoints"),
        ("--log-steps -1", "--log-steps"),
        ("--recipe.optimization.weight-decay -0.1", "weight_decay"),
        ("--recipe.optimization.schedule Plateau --recipe.validation-fold -1", "validation fold"),
        ("--recipe.optimization.early-stopping 2 --recipe.validation-fold -1", "validation fold"),
        ("--recipe.optimization.schedule.epochs 0", "schedule.epochs"),
        ("--recipe.optimization.clip-norm -1", "clip_norm"),
    ],
)
def test_options_without_effect_are_refused(intact, tmp_path, capsys, options, message):
    arguments = ["--data", str(intact), "--out", str(tmp_path / "out"), *OPTIONS, *words(options)]
    if "--system" in options:
        arguments = ["--data", str(intact), "--out", str(tmp_path / "out"), *words(options)]
    try:
        code = command.main(arguments)
    except SystemExit as stop:  # of a value that a field refuses
        code = stop.code
    assert code == 2 and not (tmp_path / "out").exists()
    errors = re.sub(r"[│╭╰─╮╯\s]+", " ", capsys.readouterr().err)
    assert message in errors and "Traceback" not in errors


def test_a_recipe_beside_a_system_is_refused(intact, tmp_path, capsys):
    arguments = ["--data", str(intact), "--out", str(tmp_path / "out"), "--system", "cpu_pair"]
    assert command.main([*arguments, "--recipe", "cpu_small"]) == 2
    assert "--recipe cpu_small" in capsys.readouterr().err


def test_sampling_of_a_system_is_shown_for_each_member(intact, tmp_path, capsys):
    arguments = ["--data", str(intact), "--out", str(tmp_path / "out"), "--system", "cpu_pair", "--show-sampling"]
    assert command.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "cpu_b0" in printed and "3072" in printed and "cpu_small" in printed and "4096" in printed


def test_the_data_folder_is_no_run_folder(data, refused):
    names = sorted(path.name for path in data.iterdir())
    assert "data folder" in refused(data, out="data")
    assert "data folder" in refused(data, out="x/../data/")
    assert sorted(path.name for path in data.iterdir()) == names


def test_a_table_that_cannot_be_written_is_refused_before_the_training(intact, tmp_path, refused):
    assert "--out-of-fold" in refused(intact, "--folds", "2", "--out-of-fold", str(tmp_path))
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refused(intact, "--folds", "2", "--out-of-fold", str(tmp_path / "file/t.parquet"))


# -- the run folder ---------------------------------------------------------------------------------------------------


def test_a_folder_that_another_training_writes_to_is_refused(intact, tmp_path, refused):
    (tmp_path / "out").mkdir()
    with folder_lock.locked(tmp_path / "out") as owner:
        message = refused(intact)
    assert f"process {owner.pid} on {owner.host}" in message and "another --out" in message
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_file()] == []


@pytest.fixture(scope="module")
def trained(intact, tmp_path_factory):
    """Return the folder of a finished training."""
    out = tmp_path_factory.mktemp("faults") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "export", lambda *arguments: None)
        assert command.main(["--data", str(intact), "--out", str(out), *OPTIONS]) == 0
    return out


@pytest.mark.parametrize("name", ["recipe.json", "inputs.json", "dataset.json"])
@pytest.mark.parametrize("harm", [empty, halve, make_folder])
def test_damaged_files_of_the_run_are_named(intact, trained, tmp_path, refused, name, harm):
    out = shutil.copytree(trained, tmp_path / "out")
    harm(out / name)
    assert str(out / name) in refused(intact)


@pytest.mark.parametrize("name", ["recipe.json", "inputs.json", "result.json", "weights/best.weights.h5"])
def test_a_flipped_bit_in_a_run_is_named_or_changes_nothing(intact, trained, tmp_path, refused, name):
    """Positions drawn by a stated seed; the same file without a checksum, of an earlier version, is read."""
    out, draw = shutil.copytree(trained, tmp_path / "out"), random.Random(13)
    path, run = out / name, read_run(out)
    network = run.recipe.network.build(run.recipe.view.specs())
    weights.load(network, out / "weights/best.weights.h5")
    values, data, seen = network.get_weights(), path.read_bytes(), 0
    for _ in range(25):
        flipped = bytearray(data)
        flipped[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        try:
            if name == "inputs.json":
                claim.check_same_run(str(out), {name: json.loads(data)})
            assert read_run(out) == run
            weights.load(network, out / "weights/best.weights.h5")
        except InputError as error:
            seen += 1
            assert str(path) in str(error) and error.fix
        else:
            assert all(map(np.array_equal, network.get_weights(), values))
    assert seen >= 22  # a space between two values is none of them
    plain = {key: value for key, value in json.loads(data).items() if key != "sha256"} if path.suffix == ".json" else {}
    path.write_bytes(json.dumps(plain).encode() if plain else data.replace(b"hpa_tf.sha256", b"of an earlier"))
    assert read_run(out) == run
    weights.load(network, out / "weights/best.weights.h5")
    if plain:
        assert command.main(["--data", str(intact), "--out", str(out), *OPTIONS]) == 0


@pytest.mark.parametrize("harm", [empty, halve, lambda path: path.write_text("<html>")])
def test_a_damaged_checkpoint_is_named(intact, trained, tmp_path, refused, harm):
    out = shutil.copytree(trained, tmp_path / "out")
    (out / "result.json").unlink()
    newest = max((out / "checkpoints").iterdir())
    harm(newest)
    message = refused(intact)
    assert str(newest) in message


# -- TPU --------------------------------------------------------------------------------------------------------------

CONNECT = """
import os, socket, tensorflow as tf
from hpa_tf.errors import InputError
from hpa_tf.training.strategy import make_strategy
with socket.create_server(("127.0.0.1", 0)) as found:
    address = "127.0.0.1:%d" % found.getsockname()[1]
server = tf.distribute.Server({"worker": [address]}, job_name="worker", task_index=0)
os.environ["TPU_NAME"] = "grpc://" + address
try:
    make_strategy("tpu")
except InputError as error:
    print(error, [device.name for device in tf.config.list_logical_devices()], sep="\\n", flush=True)
os._exit(0)
"""


@pytest.mark.slow
def test_tpu_connects_to_the_server_that_tpu_name_says():
    """TensorFlow's own server, as on a TPU's machine; it has no TPU, which is found out once it is connected."""
    result = subprocess.run([sys.executable, "-c", CONNECT], capture_output=True, text=True, timeout=120)
    message, devices = result.stdout.splitlines()
    assert "--strategy tpu: found no TPU" in message and "TPU_SYSTEM:0 unknown device" in message
    assert "/job:worker/replica:0/task:0/device:CPU:0" in devices


# -- TF_CONFIG --------------------------------------------------------------------------------------------------------

WORKERS = {"worker": ["a:2222", "b:2222"]}


@pytest.mark.parametrize(
    "config, found",
    [
        ("", "no TF_CONFIG"),
        ("  ", "no TF_CONFIG"),
        ("{cluster: worker}", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[1]", "no cluster"),
        ("null", "no cluster"),
        ({"task": {"type": "worker", "index": 0}}, "no cluster"),
        ({"cluster": {}, "task": {"type": "worker", "index": 0}}, "no cluster"),
        ({"cluster": {"workers": ["a:1"]}, "task": {"type": "workers", "index": 0}}, "no cluster"),
        ({"cluster": {"worker": "a:2222"}, "task": {"type": "worker", "index": 0}}, "no list"),
        ({"cluster": {"worker": {"0": "a:2222"}}, "task": {"type": "worker", "index": 0}}, "no list"),
        ({"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": 0}}, "HOST:PORT"),
        ({"cluster": {"worker": ["a:99999"]}, "task": {"type": "worker", "index": 0}}, "HOST:PORT"),
        ({"cluster": {"worker": ["grpc://a:1"]}, "task": {"type": "worker", "index": 0}}, "HOST:PORT"),
        ({"cluster": {"worker": [2222]}, "task": {"type": "worker", "index": 0}}, "HOST:PORT"),
        ({"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}, "twice"),
        ({"cluster": {"worker": ["a:1", "A:01"]}, "task": {"type": "worker", "index": 0}}, "twice"),
        ({"cluster": {"worker": ["a:\uff11"]}, "task": {"type": "worker", "index": 0}}, "HOST:PORT"),
        ({"cluster": {"chief": ["a:1", "b:1"]}, "task": {"type": "chief", "index": 0}}, "2 chiefs"),
        ({"cluster": WORKERS}, "no task"),
        ({"cluster": WORKERS, "task": "worker"}, "without type and index"),
        ({"cluster": WORKERS, "task": {"index": 0}}, "without type and index"),
        ({"cluster": WORKERS, "task": {"type": "worker"}}, "without type and index"),
        ({"cluster": WORKERS, "task": {"type": "chief", "index": 0}}, "'chief'"),
        ({"cluster": WORKERS, "task": {"type": "Worker", "index": 0}}, "'Worker'"),
        ({"cluster": WORKERS, "task": {"type": "worker", "index": 2}}, "index 2"),
        ({"cluster": WORKERS, "task": {"type": "worker", "index": -1}}, "index -1"),
        ({"cluster": WORKERS, "task": {"type": "worker", "index": "first"}}, "'first'"),
        ({"cluster": WORKERS, "task": {"type": "worker", "index": True}}, "True"),
        ({"cluster": WORKERS, "task": {"type": "worker", "index": None}}, "None"),
        ({"cluster": WORKERS, "task": {"type": "worker", "index": "\u0661"}}, "no number"),
        ({"cluster": WORKERS, "task": {"type": "worker", "index": 10**400}}, "no number"),
        ({"cluster": {**WORKERS, "evaluator": ["e:1"]}, "task": {"type": "evaluator", "index": 0}}, "'evaluator'"),
        ({"cluster": WORKERS, "task": {"type": ["worker"], "index": 0}}, "['worker']"),
    ],
)
def test_bad_clusters_are_refused_with_an_example(intact, refused, monkeypatch, config, found):
    monkeypatch.setenv("TF_CONFIG", config if isinstance(config, str) else json.dumps(config))
    message = refused(intact, "--strategy", "multiworker")
    assert message.startswith("train.py: TF_CONFIG: found") and found in message and '{"cluster": ' in message


@pytest.mark.parametrize(
    "cluster, task, expected",
    [
        (WORKERS, {"type": "worker", "index": 1}, (["a:2222", "b:2222"], 1)),
        (WORKERS, {"type": "worker", "index": "1"}, (["a:2222", "b:2222"], 1)),
        ({"worker": ["w:1"], "chief": ["c:1"]}, {"type": "chief", "index": 0}, (["c:1", "w:1"], 0)),
        ({"worker": ["w:1", "x:1"], "chief": ["c:1"]}, {"type": "worker", "index": 1}, (["c:1", "w:1", "x:1"], 2)),
        ({"worker": ["[::1]:22", "10.0.0.1:22"]}, {"type": "worker", "index": 0}, (["[::1]:22", "10.0.0.1:22"], 0)),
    ],
)
def test_good_clusters_are_read(monkeypatch, cluster, task, expected):
    """A chief, where a cluster has one, is the first worker."""
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    assert read_cluster() == expected


def test_a_bad_cluster_is_not_looked_at_by_one_device(intact, tmp_path, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{bad")
    monkeypatch.setattr(command, "train", lambda *arguments: None)
    assert command.main(["--data", str(intact), "--out", str(tmp_path / "out"), *OPTIONS]) == 0


@pytest.mark.slow
def test_a_folder_that_the_workers_do_not_share_is_said_by_each(intact, tmp_path, capfd):
    outs = [tmp_path / name for name in ("here", "there")]
    arguments = ["--data", str(intact), *OPTIONS, "--strategy", "multiworker"]
    processes = [
        start([*arguments, "--out", str(out)], tf_config=config)
        for out, config in zip(outs, workers_config(2), strict=True)
    ]
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [2, 2]


def test_tensorflows_own_errors_of_memory_are_explained(intact, refused, monkeypatch):
    def too_large(*arguments):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(command, "train", too_large)
    assert "batch-size" in refused(intact)

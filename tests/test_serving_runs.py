"""Runs on an object store: copied to the user's cache, whole, once, and anew when they changed."""

import os
from pathlib import Path

import fsspec
import numpy as np
import prediction_cases as cases
import pytest
import tensorflow as tf
from fsspec.implementations.memory import MemoryFileSystem

from hpa_tf import recipes, remote_files, run_folder, serving
from hpa_tf.errors import InputError, StoreError
from hpa_tf.prediction import members
from hpa_tf.records import write_manifest
from hpa_tf.serving import runs

CONTENT = {
    "recipe.json": b"{}",
    "dataset.json": b"[]",
    "weights/best.weights.h5": b"w" * 5000,
    "saved_model/1/saved_model.pb": b"graph",
    "saved_model/1/variables/variables.index": b"index",
    "checkpoints/0007.npz": b"not needed",
    "logs/events": b"not needed",
}


@pytest.fixture
def store(monkeypatch, tmp_path):
    """Return the URL of a run in fsspec's memory; the cache is a new folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    filesystem = fsspec.filesystem("memory")
    for name, data in CONTENT.items():
        filesystem.pipe_file(f"/bucket/my run/{name}", data)
    yield "memory://bucket/my run"
    filesystem.rm("/bucket", recursive=True)


def below(folder: str) -> dict[str, bytes]:
    root = Path(folder)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_what_predicts_is_copied_once(store, monkeypatch):
    copy = runs.resolve(store)
    assert copy.endswith("/my run") and below(copy) == {k: v for k, v in CONTENT.items() if v != b"not needed"}
    with monkeypatch.context() as patched:
        patched.setattr(remote_files, "open_file", lambda path: pytest.fail("copied again"))
        assert runs.resolve(store + "/") == copy
    assert sorted(path.name for path in Path(copy).parent.iterdir()) == ["my run", "sha256.json"]


def test_a_run_that_changed_is_copied_anew_and_the_older_copy_stays(store):
    before = runs.resolve(store)
    fsspec.filesystem("memory").pipe_file("/bucket/my run/weights/best.weights.h5", b"better")
    after = runs.resolve(store)
    assert after != before
    assert below(after)["weights/best.weights.h5"] == b"better"
    assert below(before)["weights/best.weights.h5"] == CONTENT["weights/best.weights.h5"]


def cut(copy: Path) -> None:
    (copy / "weights/best.weights.h5").write_bytes(b"w" * 10)


def flip(copy: Path) -> None:
    (copy / "weights/best.weights.h5").write_bytes(b"v" + b"w" * 4999)


def lose(copy: Path) -> None:
    (copy / "saved_model/1/saved_model.pb").unlink()


def lose_checksums(copy: Path) -> None:
    """As in a copy that an earlier version made."""
    (copy.parent / "sha256.json").unlink()


@pytest.mark.parametrize("harm", [cut, flip, lose, lose_checksums])
def test_a_copy_that_was_damaged_is_made_again(store, harm):
    copy = runs.resolve(store)
    before = below(copy)
    harm(Path(copy))
    assert runs.resolve(store) == copy and below(copy) == before
    assert len(list(Path(copy).parents[1].iterdir())) == 1


def test_a_copy_that_breaks_off_leaves_nothing(store, monkeypatch, tmp_path):
    def broken(self, path, *arguments, **more):
        if path.endswith(".pb"):
            raise ConnectionResetError("reset by peer")
        return opened(self, path, *arguments, **more)

    opened = MemoryFileSystem.open
    monkeypatch.setattr(MemoryFileSystem, "open", broken)
    with pytest.raises(StoreError, match="reset by peer"):
        runs.resolve(store)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_cache_that_cannot_be_written_says_which_variable_moves_it(store, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"Not a directory.*XDG_CACHE_HOME"):
        runs.resolve(store)


def test_a_copy_that_is_slower_than_another_one_leaves_that_alone(store, monkeypatch):
    needed, faster = runs._needed(store), []

    def slow(path):
        monkeypatch.undo()
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
        faster.append(runs.resolve(store))
        return opened(path)

    opened, cache = remote_files.open_file, os.environ["XDG_CACHE_HOME"]
    monkeypatch.setattr(remote_files, "open_file", slow)
    assert [runs.resolve(store)] == faster
    assert len(below(faster[0])) == len(needed)
    assert len(list(Path(faster[0]).parents[1].iterdir())) == 1


def test_an_address_without_a_run_is_named():
    with pytest.raises(InputError, match="memory://bucket/nothing"):
        runs.resolve("memory://bucket/nothing")


def test_local_folders_stay_where_they_are(tmp_path):
    assert runs.resolve(str(tmp_path)) == str(tmp_path)


@pytest.mark.slow
def test_a_remote_run_answers_like_the_local_one(store, tmp_path):
    run = cases.write_run(tmp_path / "run")
    recipes.save(cases.recipe(), run / run_folder.RECIPE)
    write_manifest(run, cases.MANIFEST)
    run_folder.write_result(run, {run_folder.BEST_WEIGHTS: 1.0}, {})
    filesystem = fsspec.filesystem("memory")
    filesystem.put(str(tmp_path / "run"), "/bucket/tiny", recursive=True)
    (network,) = members.load_networks(["memory://bucket/tiny"])
    assert network.name == "tiny"
    image = tf.constant(np.random.default_rng(0).random((2, cases.SIZE, cases.SIZE, 4), np.float32))
    expected = serving.load(tmp_path / "run").signatures["prepared"](image=image)["probabilities"]
    found = network.served.signatures["prepared"](image=image)["probabilities"]
    np.testing.assert_array_equal(found, expected)

"""The starter's run folder in the user's cache: whole, made once, mended, and the same network wherever it is made."""

import importlib.metadata
import os
import pwd
import shutil
import uuid
from pathlib import Path

import keras
import numpy as np
import prediction_cases as cases
import pytest
import tensorflow as tf

import hpa_tf
from hpa_tf import files, recipes, run_folder, serving, starter
from hpa_tf.errors import InputError
from hpa_tf.models import packed, weights
from hpa_tf.prediction import members
from hpa_tf.prediction.runtimes import Device
from hpa_tf.records import write_manifest
from hpa_tf.serving import command, onnx
from hpa_tf.serving import starter as serving_starter


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Return a folder like the package's, with a tiny network."""
    folder = tmp_path_factory.mktemp("package")
    recipes.save(cases.recipe(), folder / run_folder.RECIPE)
    write_manifest(folder, cases.MANIFEST)
    packed.pack(cases.network(), folder / starter.WEIGHTS.name)
    return folder


@pytest.fixture
def here(package, monkeypatch, tmp_path):
    """Let the tiny network be the starter, exported once; work in a new folder, with a new cache beside it."""
    monkeypatch.setattr(serving_starter, "export", lambda folder, *_: cases.write_run(Path(folder)))
    monkeypatch.setattr(starter, "FOLDER", package)
    monkeypatch.setattr(starter, "WEIGHTS", package / starter.WEIGHTS.name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def stamps(folder: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*") if path.is_file()}


def test_it_is_the_same_network_in_every_cache(here, monkeypatch):
    """Exports differ in their bytes: a part predicted on another machine would be another prediction's."""

    def export(folder, *_):
        cases.write_run(Path(folder))
        Path(folder, "saved_model/1/random").write_text(uuid.uuid4().hex)

    monkeypatch.setattr(serving_starter, "export", export)
    (one,) = members.load_networks(["starter"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "other"))
    (other,) = members.load_networks(["starter"])
    assert one.run != other.run and members.digest(one.served.folder) != members.digest(other.served.folder)
    assert one.digest == other.digest == serving_starter.digest()
    cases.write_run(here / "mine/starter")
    (mine,) = members.load_networks(["mine/starter"])
    assert mine.digest == members.digest(mine.served.folder)


def test_a_second_use_takes_what_is_there(here):
    before = stamps(serving_starter.prepare())
    assert before and stamps(serving_starter.prepare()) == before


def test_a_process_that_is_slower_takes_what_the_other_one_made(here, monkeypatch):
    make, made = serving_starter._make, []

    def slow(folder):
        monkeypatch.setattr(serving_starter, "_make", make)
        made.append(serving_starter.prepare())  # as another process, from its beginning to its end
        made.append(stamps(made[0]))
        make(folder)

    monkeypatch.setattr(serving_starter, "_make", slow)
    assert serving_starter.prepare() == made[0]
    assert stamps(made[0]) == made[1]
    assert os.listdir(Path(made[0]).parent) == ["starter"]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left"), tf.errors.ResourceExhaustedError(None, None, "No space left")]
)
def test_nobody_sees_half_of_it(here, monkeypatch, error):
    def broken(folder, *rest):
        assert list(Path(folder).iterdir()) and not list((here.parent / "cache/hpa_tf").glob("*/starter"))
        raise error

    monkeypatch.setattr(serving_starter, "export", broken)
    with pytest.raises(InputError, match=r"No space left.*XDG_CACHE_HOME"):
        serving_starter.prepare()
    assert not stamps(here.parent / "cache")


@pytest.mark.parametrize(
    "name", ["saved_model/1/variables/variables.data-00000-of-00001", "weights/best.weights.h5", "recipe.json"]
)
@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_a_damaged_one_is_made_again(here, name, damage):
    path = Path(serving_starter.prepare(), name)
    if damage == "gone":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    (network,) = members.load_networks(["starter"])
    assert weights.load(cases.network(1), Path(network.run, run_folder.BEST_WEIGHTS)) is None
    assert recipes.load(Path(network.run, run_folder.RECIPE)) == cases.recipe()
    assert os.listdir(Path(network.run).parent) == ["starter"]


def test_a_cache_that_cannot_be_written_says_which_variable_moves_it(here, monkeypatch):
    (here / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "file"))
    with pytest.raises(InputError, match=r"Not a directory.*set XDG_CACHE_HOME"):
        serving_starter.prepare()


def test_a_user_without_a_home_is_told(here, monkeypatch):
    def unknown(_):
        raise KeyError("no such user")

    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(InputError, match=r"no home folder.*set XDG_CACHE_HOME"):
        serving_starter.prepare()


def test_tensorflow_may_be_installed_under_another_name(here, monkeypatch):
    expected = Device().facts

    def unknown(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", unknown)
    assert Device().facts == expected and expected["version"].startswith("2.")
    assert len(serving_starter.digest()) == 64


def test_whatever_is_in_a_saved_model_gives_another_folder(here, monkeypatch, tmp_path):
    copy = shutil.copytree(Path(hpa_tf.__file__).parent, tmp_path / "hpa_tf", ignore=shutil.ignore_patterns("starter"))
    found = [serving_starter.digest()]
    monkeypatch.setattr(hpa_tf, "__file__", str(copy / "__init__.py"))
    assert serving_starter.digest() == found[0]
    for name in ("views/crop.py", "serving/png.py", "models/network.py", "imaging/cells.py", "classes.py"):
        with open(copy / name, "a") as stream:
            stream.write("\n# changed\n")
        found.append(serving_starter.digest())
    monkeypatch.setattr(keras, "__version__", "3.0.0")
    found.append(serving_starter.digest())
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("kind", ["file", "folder", "run"])
def test_only_a_run_folder_takes_its_name(here, kind):
    """`--run starter` and `--weights starter` mean the same."""
    if kind == "file":
        Path("starter").write_text("")
    elif kind == "folder":
        Path("starter/images").mkdir(parents=True)
    else:
        Path("starter/weights").mkdir(parents=True)
        recipes.save(cases.recipe(), "starter/recipe.json")
        weights.save(cases.network(1), "starter/" + run_folder.BEST_WEIGHTS)
    network = cases.network(2)
    weights.initialize(network, cases.recipe().network, "starter")
    expected = cases.network(1 if kind == "run" else 0).get_layer("head_logits").get_weights()[0]
    np.testing.assert_allclose(network.get_layer("head_logits").get_weights()[0], expected, rtol=2e-3, atol=1e-4)
    assert (serving.resolve("starter") == "starter") == (kind == "run")


@pytest.mark.parametrize("run", ["starter", "memory://bucket/run"])
def test_onnx_asks_where_to_write_what_has_no_folder_here(here, capsys, run):
    assert command.main(["onnx", "--run", run]) == 2
    assert "--out network.onnx" in capsys.readouterr().err
    assert not os.listdir(here)


def test_onnx_writes_to_the_file_that_is_named(here, monkeypatch, capsys):
    monkeypatch.setattr(onnx, "to_onnx", lambda served: served.recipe.name.encode())
    monkeypatch.setattr(onnx, "check", lambda *_: 0.0)
    assert command.main(["onnx", "--run", "starter", "--out", "below/network.onnx"]) == 0
    assert "below/network.onnx" in capsys.readouterr().out
    assert files.read_bytes("below/network.onnx") == b"tiny" and os.listdir(here) == ["below"]
    assert command.main(["onnx", "--run", "starter", "--out", "below"]) == 2
    assert "the folder" in (said := capsys.readouterr().err) and "give the name of a file in a folder" in said
    cases.write_run(here / "mine")
    assert command.main(["onnx", "--run", "mine"]) == 0
    assert files.read_bytes("mine/onnx/network.onnx") == b"tiny"


def test_hidden_files_of_the_system_change_no_network(tmp_path):
    """Opened in the Finder, or copied over a network disk, it passed for another network."""
    (tmp_path / "variables").mkdir()
    for name in ("saved_model.pb", "variables/variables.index"):
        (tmp_path / name).write_bytes(b"content")
    before = members.digest(tmp_path)
    for name in (".DS_Store", "variables/._variables.index"):
        (tmp_path / name).write_bytes(b"\x00\x05\x16\x07")
    assert members.digest(tmp_path) == before
    (tmp_path / "variables" / "more").write_bytes(b"")
    assert members.digest(tmp_path) != before

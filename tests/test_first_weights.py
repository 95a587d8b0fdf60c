"""A run goes on where its first weights are the same by content; other weights at the same place are another run."""

import shutil

import pytest
from training_process import TINY, words, write_tiny_dataset

from hpa_tf import checksums, files
from hpa_tf.run_folder import BEST_WEIGHTS, INPUTS
from hpa_tf.training import command, run

OPTIONS = TINY + words("--recipe.sampling.num-cells 16 --recipe.optimization.epochs 1 --deterministic off")


@pytest.fixture(scope="module", autouse=True)
def no_saved_model():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "export", lambda *arguments: None)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a folder with data and with the runs a, b (from a) and other (as a, of another seed)."""
    folder = tmp_path_factory.mktemp("first")
    write_tiny_dataset(folder / "data")
    assert call(folder, "a", "none") == 0
    assert call(folder, "b", f"{folder}/a") == 0
    assert call(folder, "other", "none", "--recipe.seed", "1") == 0
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    """Return a copy of it, elsewhere."""
    return shutil.copytree(trained, tmp_path / "copy")


def call(folder, out: str, weights: str, *options: str) -> int:
    given = ["--data", str(folder / "data"), "--out", str(folder / out), *OPTIONS, "--weights", weights]
    return command.main([*given, *options])


@pytest.mark.parametrize("spelling", ["a", "b/../a", "a/weights/best.weights.h5", "renamed"])
def test_a_run_goes_on_from_the_same_weights_however_they_are_spelled(folder, capsys, spelling):
    shutil.copytree(folder / "a", folder / "renamed")
    assert call(folder, "b", f"{folder}/{spelling}") == 0
    assert "is finished" in capsys.readouterr().out


def test_other_weights_at_the_same_place_are_another_run(folder, capsys):
    assert call(folder, "b", f"{folder}/a") == 0
    shutil.copy(folder / "other" / BEST_WEIGHTS, folder / "a" / BEST_WEIGHTS)
    assert call(folder, "b", f"{folder}/a") == 2
    assert "another run (weights_sha256: " in capsys.readouterr().err


def test_a_backbone_alone_is_not_the_whole_network(folder, capsys):
    assert call(folder, "b", f"backbone:{folder}/a") == 2
    assert "another run (weights: " in capsys.readouterr().err


def test_where_the_weights_are_gone_their_place_decides(folder, capsys):
    assert call(folder, "b", f"{folder}/a") == 0
    began_with = files.read_json(folder / "b" / INPUTS)["weights_sha256"]
    assert began_with == files.sha256(folder / "a" / BEST_WEIGHTS)
    shutil.rmtree(folder / "a")
    assert call(folder, "b", f"{folder}/b/../a") == 0
    assert call(folder, "b", f"{folder}/nowhere") == 2
    assert "another run (weights: " in capsys.readouterr().err
    assert files.read_json(folder / "b" / INPUTS)["weights_sha256"] == began_with


def test_a_run_of_an_earlier_version_goes_on_and_its_weights_stay_unknown(folder):
    """What is there now may be another file than the one that it began with."""
    assert call(folder, "b", f"{folder}/a") == 0
    inputs = checksums.read_json(folder / "b" / INPUTS, "none")
    del inputs["weights_sha256"]
    files.write_json(folder / "b" / INPUTS, checksums.sealed_json(inputs))
    for _ in range(2):
        assert call(folder, "b", f"{folder}/b/../a") == 0
        assert files.read_json(folder / "b" / INPUTS)["weights_sha256"] is None

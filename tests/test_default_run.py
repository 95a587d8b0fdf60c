"""`predict.py --images DIR` with nothing else: the newest finished run, or the starter; it says which."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from hpa_tf import files
from hpa_tf.errors import InputError
from hpa_tf.postprocessing import PostProcessing
from hpa_tf.prediction import adapting, merging, requests, results
from hpa_tf.prediction.command import main
from hpa_tf.prediction.options import Options
from hpa_tf.prediction.predict import _with_run


def write_run(folder: Path, ended: int | None, exported: bool = True) -> None:
    """Write what tells a run folder: `ended` is when, in seconds; None = still training."""
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text("{}")
    if exported:
        (folder / "saved_model/1").mkdir(parents=True)
        (folder / "saved_model/1/saved_model.pb").touch()
    if ended is not None:
        (folder / "result.json").write_text("{}")
        os.utime(folder / "result.json", (ended, ended))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def chosen(**options) -> tuple[str, ...]:
    return _with_run(Options(images="images", **options)).run


def test_the_run_that_ended_last_predicts(here, capsys):
    write_run(here / "runs/a", 300)
    write_run(here / "runs/b", 900)
    write_run(here / "runs/c", 500)
    write_run(here / "runs/still_training", None)
    write_run(here / "runs/never_exported", 2000, exported=False)
    (here / "runs/notes.txt").write_text("a file")
    assert chosen() == ("runs/b",)
    assert "runs/b: the newest finished run in runs/" in capsys.readouterr().out


def test_a_run_whose_name_is_no_utf8_is_printed(here, capsys):
    write_run(here / os.fsdecode(b"runs/\xf6"), 300)
    assert chosen() == (os.fsdecode(b"runs/\xf6"),)
    assert r"--run runs/\xf6: the newest" in capsys.readouterr().out


def test_without_a_run_the_starter_predicts(here, capsys):
    assert chosen() == ("starter",)
    write_run(here / "runs/still_training", None)
    assert chosen() == ("starter",)
    assert "comes with hpa_tf" in capsys.readouterr().out


def test_the_folder_of_runs_is_listed_once(here, monkeypatch):
    write_run(here / "runs/a", 300)
    listed, listdir = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(str(path)) or listdir(path))
    assert chosen() == ("runs/a",) and listed.count("runs") == 1


@pytest.mark.parametrize("adapt", [None, "runs/others"])
def test_a_run_of_one_class_is_passed_over(here, capsys, adapt):
    """A specialist predicts beside the members of a system only."""
    write_run(here / "runs/spindle", 900)
    (here / "runs/spindle/recipe.json").write_text('{"network": {"classes": [11]}}')
    assert chosen(adapt=adapt) == ("starter",)
    assert "no finished run of all classes" in capsys.readouterr().out
    write_run(here / "runs/all", 300)
    (here / "runs/all/recipe.json").write_text(f'{{"network": {{"classes": {list(range(18))}}}}}')
    assert chosen(adapt=adapt) == ("runs/all",)
    assert "runs/all: the newest finished run of all classes" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["", "[1]", '{"network": {"classes": 1}}'])
def test_a_run_whose_recipe_is_damaged_stays_and_is_named_later(here, damage):
    write_run(here / "runs/a", 300)
    write_run(here / "runs/b", 900)
    (here / "runs/b/recipe.json").write_text(damage)
    assert chosen() == ("runs/b",)


def test_systems_and_folds_that_are_passed_over_are_named(here, capsys):
    write_run(here / "runs/cpu_final_2/cpu_flips", 900)
    (here / "runs/cpu_final_2/system.json").write_text("{}")
    write_run(here / "runs/folds/fold0", 900)
    assert chosen() == ("starter",)
    said = capsys.readouterr().out
    assert "--system NAME --runs runs/cpu_final_2" in said and "--run runs/folds/fold0" in said


def test_runs_and_systems_that_are_named_stay(here):
    write_run(here / "runs/a", 300)
    assert chosen(run=("starter",)) == ("starter",)
    assert chosen(system="cpu_pair") == ()


def test_a_prediction_that_was_stopped_goes_on_with_its_run(here, capsys):
    write_run(here / "runs/old", 300)
    results.start("predictions", {"options": {"run": ["runs/old"]}, "networks": []})
    write_run(here / "runs/new", 900)
    assert chosen() == ("runs/old",) and "was begun with it" in capsys.readouterr().out
    results.end("predictions", {"num_images": 1, "num_failures": 0})
    assert chosen() == ("runs/new",), "a finished one is another prediction: predict.py says what differs"
    assert files.exists("predictions/predictions.json")


def request(**options) -> dict:
    """Return the request of a prediction as `predict.py` writes it."""
    return requests.make_request(Options(**options), {}, [], SimpleNamespace(load=None), PostProcessing())


def test_places_mean_the_same_in_every_working_folder(here, capsys, monkeypatch):
    """Written in one folder, the same request goes on and merges in another."""
    write_run(here / "runs/old", 300)
    relative = {"run": ("runs/old",), "images": "images", "image_labels": "labels.csv"}
    results.start("0", request(**relative, shard="0/2"))
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    absolute = {"run": (f"{here}/runs/old",), "images": f"{here}/images/", "image_labels": f"{here}/labels.csv"}
    results.start(f"{here}/0", request(**absolute, shard="0/2"))
    results.start("1", request(**absolute, shard="1/2"))
    asked = [results.request_of(folder) for folder in (f"{here}/0", "1")]
    assert merging._common_request(("0", "1"), asked)["options"]["image_labels"] == f"{here}/labels.csv"
    assert chosen(out=f"{here}/0") == (f"{here}/runs/old",)
    with pytest.raises(InputError, match=r"options\.images: '\S+/images' -> '\S+/elsewhere/images'"):
        results.start(f"{here}/0", request(**{**absolute, "images": "images"}, shard="0/2"))


def test_the_starter_and_addresses_are_no_places_of_this_machine(here):
    asked = request(run=("starter", "gs://b/run"), images="gs://b/images")["options"]
    assert (asked["run"], asked["images"]) == (["starter", "gs://b/run"], "gs://b/images")
    write_run(here / "starter", 300)
    assert request(run=("starter",))["options"]["run"] == [f"{here}/starter"]


def test_a_prediction_of_an_earlier_version_goes_on(here):
    """It wrote places as they were said."""
    now = request(run=("starter",), images="images")
    results.start("p", {**now, "options": {**now["options"], "images": "./images/", "runs": "runs"}})
    results.start("p", now)


def write_adapted(folder: Path, ended: int, asked: str) -> None:
    write_run(folder, ended)
    files.write_json(folder / adapting.RECORD, {"run": ["0" * 64], "asked_run": asked})


def test_an_adapted_run_predicts_but_is_not_adapted_again(here, capsys):
    write_adapted(here / "runs/mine", 900, "starter")
    assert chosen() == ("runs/mine",)
    assert chosen(adapt="runs/others") == ("starter",)
    assert "no finished run that is not adapted in runs/" in capsys.readouterr().out
    write_run(here / "runs/trained", 300)
    assert chosen(adapt="runs/others") == ("runs/trained",)
    assert "the newest finished run that is not adapted" in capsys.readouterr().out


@pytest.mark.parametrize("is_done", [False, True])
def test_a_folder_that_is_adapted_goes_on_with_the_run_it_was_adapted_from(here, capsys, is_done):
    write_adapted(here / "runs/mine", 900, "starter")
    results.start("predictions", {"options": {"run": ["runs/mine"]}, "networks": []})
    if is_done:
        results.end("predictions", {"num_images": 1, "num_failures": 0})
    write_run(here / "runs/newer", 1200)
    assert chosen(adapt="runs/mine") == ("starter",)
    assert "starter: runs/mine was adapted from it" in capsys.readouterr().out


def test_a_damaged_record_of_an_adapted_run_is_named(here):
    write_run(here / "runs/mine", 900)
    files.write_json(here / "runs/mine" / adapting.RECORD, [])
    with pytest.raises(InputError, match=r"runs/mine/adapted\.json: found a list"):
        chosen(adapt="runs/mine")


def test_nothing_at_all_names_the_command(here, capsys):
    assert main([]) == 2
    assert "python predict.py --images DIR" in capsys.readouterr().err

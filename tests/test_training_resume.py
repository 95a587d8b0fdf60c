"""Killed at any moment, the same command goes on and ends with the same bits."""

import os
import shutil
import signal
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from training_process import TINY, assert_identical, train, words, write_tiny_dataset

from hpa_tf.models import weights
from hpa_tf.recipes import recipe_named
from hpa_tf.training import checkpoint, run
from hpa_tf.training.command import main
from hpa_tf.training.loop import Loop, Pace, Progress
from hpa_tf.training.preemption import EXIT_CODE, Interrupted, Preemption

OPTIONS = TINY + words(
    "--recipe.sampling.num-cells 80 --recipe.optimization.epochs 3 --recipe.optimization.schedule Plateau "
    "--recipe.optimization.schedule.patience 1 --recipe.ensemble 0.5 0.5 --checkpoint-steps 3"
)
STEPS = 30


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("resume") / "data")


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("resume") / "out"
    assert train(["--data", str(data), "--out", str(out), *OPTIONS]) == 0
    return out


def run_through(data, out, deaths) -> None:
    """Start the same command again and again; it dies each time as `deaths` says, then runs to its end."""
    arguments = ["--data", str(data), "--out", str(out), *OPTIONS]
    for death in deaths:
        codes = {"term": EXIT_CODE, "validate": EXIT_CODE, "trace": 128 + signal.SIGTERM}
        assert train(arguments, die=death) == codes.get(death[0], -signal.SIGKILL)
        assert not (out / "result.json").exists()
    assert train(arguments) == 0


@pytest.mark.slow
def test_killed_in_a_step_and_a_write_and_asked_to_stop_while_it_traces_and_validates(data, undisturbed, tmp_path):
    run_through(data, tmp_path / "out", [("write", 2), ("step", 11), ("trace", 9), ("validate", 1)])
    assert_identical(tmp_path / "out", undisturbed)
    assert not [p for p in (tmp_path / "out" / "checkpoints").iterdir() if p.name.endswith(".tmp")]


def test_stop_on_request_loses_no_step(data, tmp_path):
    out = tmp_path / "out"
    assert train(["--data", str(data), "--out", str(out), *OPTIONS], die=("term", 4)) == EXIT_CODE
    assert (out / "checkpoints" / "step-00000005.npz").exists()  # the step that ran when the signal came was finished


class LastEpoch(Loop):
    """A training to whose process a signal comes while the end of its only epoch is written."""

    def __init__(self, folder):
        recipe = recipe_named("cpu_small")
        self.recipe = replace(recipe, optimization=replace(recipe.optimization, epochs=1))
        self.logs, self.trainee = SimpleNamespace(folder=folder, is_chief=True), mock.Mock()
        self.strategy, self.progress, self.saved = None, Progress(), 0

    def resume(self):
        pass

    def train_epoch(self):
        self.preemption.watch()

    def end_epoch(self, predict_step, times):
        os.kill(os.getpid(), signal.SIGTERM)
        self.progress = Progress(step=5, rows=[{"mAP": None}])

    def save(self):
        self.saved += 1


def test_a_stop_at_the_end_of_the_last_epoch_is_not_forgotten(tmp_path):
    """Otherwise --folds and --system go on with the next network."""
    loop = LastEpoch(tmp_path)
    with Preemption() as preemption, pytest.raises(Interrupted, match="after step 5"):
        loop.run(Pace(), preemption)
    assert loop.saved == 1


class Killed(Exception):
    pass


def dying(function, at: int):
    """Return a function that is killed when it is called for the `at`-th time; and the list of its calls."""
    calls = []

    def call(*arguments):
        calls.append(arguments)
        if len(calls) == at:
            raise Killed
        return function(*arguments)

    return call, calls


def test_weights_that_are_kept_are_of_epochs_that_have_a_checkpoint(data, tmp_path, monkeypatch):
    """Otherwise the epoch is trained again, on a GPU with other results, beside the weights of the first time."""
    arguments = ["--data", str(data), "--out", str(tmp_path / "out"), *TINY, "--recipe.validation-fold", "-1"]
    arguments += words("--recipe.sampling.num-cells 16 --recipe.optimization.epochs 2")
    monkeypatch.setattr(run, "export", lambda *arguments: None)
    save, saved = dying(weights.save, 3)
    monkeypatch.setattr(weights, "save", save)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", dying(checkpoint.write, 2)[0])
        with pytest.raises(Killed):
            main(arguments)
    assert len(saved) == 1, "those of the first epoch"
    with pytest.raises(Killed):
        main(arguments)  # goes on after the first epoch, and is killed with the checkpoint of the second there
    monkeypatch.setattr(Loop, "execute", None)
    assert main(arguments) == 0 and len(saved) == 4


@pytest.mark.slow
def test_killed_ten_times_at_random(data, undisturbed, tmp_path):
    rng = np.random.default_rng(5)
    steps = np.sort(rng.choice(np.arange(1, STEPS), 9, replace=False))
    deaths = [("step", int(step)) for step in steps]
    deaths.insert(4, ("write", 1))
    run_through(data, tmp_path / "out", deaths)
    assert_identical(tmp_path / "out", undisturbed)


def test_finished_run_is_left_alone(data, undisturbed, tmp_path):
    out = shutil.copytree(undisturbed, tmp_path / "out")
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.npz")}
    assert train(["--data", str(data), "--out", str(out), *OPTIONS]) == 0
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.npz")} == before


def test_another_recipe_is_refused(data, undisturbed, tmp_path, capsys):
    out = shutil.copytree(undisturbed, tmp_path / "out")
    arguments = ["--data", str(data), "--out", str(out), *OPTIONS, "--deterministic", "off"]
    assert main([*arguments, "--recipe.optimization.learning-rate", "0.5"]) == 2
    message = capsys.readouterr().err
    assert "optimization.learning_rate: 0.002 -> 0.5" in message and "--out" in message
    assert message.count("\n") == 1

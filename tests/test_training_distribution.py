"""Two replicas, in one process or in two, train like one."""

import shutil
import signal

import numpy as np
import pytest
from training_process import (
    TINY,
    assert_identical,
    final_state,
    losses,
    start,
    train,
    words,
    workers_config,
    write_tiny_dataset,
)

from hpa_tf import cell_table
from hpa_tf.training import preemption
from hpa_tf.training.preemption import AGREE_AFTER, EXIT_CODE

STEPS = 20
TWO_EPOCHS = TINY + words("--recipe.sampling.num-cells 80 --recipe.optimization.epochs 2 --recipe.validation-fold 1")
SYNCHRONIZED = ["--recipe.network.backbone.synchronized", "True"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("distribution") / "data")


@pytest.fixture(scope="module")
def one_device(data, tmp_path_factory):
    """Return the run folder of a training on one device."""
    out = tmp_path_factory.mktemp("distribution") / "one"
    assert train(["--data", str(data), "--out", str(out), *TWO_EPOCHS, *SYNCHRONIZED]) == 0
    return out


def assert_equal_training(out, reference):
    assert len(losses(out)) == STEPS
    np.testing.assert_allclose(losses(out), losses(reference), atol=1e-5)
    state, expected = final_state(out), final_state(reference)
    assert state.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(state[name], expected[name], atol=2e-4, err_msg=name)


def test_mirrored_equals_one(data, one_device, tmp_path):
    arguments = ["--data", str(data), "--out", str(tmp_path / "out"), "--strategy", "mirrored"]
    assert train([*arguments, *TWO_EPOCHS, *SYNCHRONIZED], devices=2) == 0
    assert_equal_training(tmp_path / "out", one_device)


@pytest.mark.slow
def test_mirrored_without_synchronisation_differs_a_little(data, one_device, tmp_path):
    """Batch norm of 4 examples is not that of 8: without this difference the test above would show nothing."""
    arguments = ["--data", str(data), "--out", str(tmp_path / "out"), "--strategy", "mirrored"]
    assert train([*arguments, *TWO_EPOCHS], devices=2) == 0
    difference = np.abs(losses(tmp_path / "out") - losses(one_device))
    assert 1e-4 < difference.max() < 0.2


def train_on_workers(arguments, deaths=(None, None)) -> list[int]:
    """Run a training on two workers; return their exit codes."""
    configs = workers_config(2)
    processes = [start(arguments, tf_config=c, die=d) for c, d in zip(configs, deaths, strict=True)]
    for process in processes:
        process.join(timeout=300)
    return [process.exitcode for process in processes]


@pytest.mark.slow
def test_mirrored_with_its_own_norm_goes_on_with_the_same_bits(data, tmp_path):
    """Each replica's batch norm sees other cells: a checkpoint of one replica must be the state of all."""
    arguments = ["--data", str(data), *TWO_EPOCHS, "--strategy", "mirrored", "--checkpoint-steps", "3"]
    arguments += ["--keep-checkpoints", "99"]
    assert train([*arguments, "--out", str(tmp_path / "reference")], devices=2) == 0
    out = shutil.copytree(tmp_path / "reference", tmp_path / "out")
    (out / "result.json").unlink()
    for later in sorted((out / "checkpoints").iterdir())[3:]:  # as after a kill in step 10
        later.unlink()
    assert train([*arguments, "--out", str(out)], devices=2) == 0
    assert_identical(out, tmp_path / "reference")


@pytest.mark.slow
def test_workers_with_their_own_norm_go_on_with_the_same_bits(data, tmp_path):
    arguments = ["--data", str(data), *TWO_EPOCHS, "--strategy", "multiworker", "--checkpoint-steps", "3"]
    assert train_on_workers([*arguments, "--out", str(tmp_path / "reference")]) == [0, 0]
    arguments += ["--out", str(tmp_path / "out")]
    assert train_on_workers(arguments, (None, ("step", 8))) == [EXIT_CODE, -signal.SIGKILL]
    assert train_on_workers(arguments) == [0, 0]
    assert_identical(tmp_path / "out", tmp_path / "reference")


@pytest.mark.slow
def test_worker_killed_and_all_restarted_equals_one(data, one_device, tmp_path):
    """One worker dies in step 8; the other cannot go on and says so; the same commands end like nothing happened."""
    arguments = ["--data", str(data), "--out", str(tmp_path / "out"), "--strategy", "multiworker"]
    arguments += [*TWO_EPOCHS, *SYNCHRONIZED, "--checkpoint-steps", "3"]
    for deaths, exit_codes in (((None, ("step", 8)), [EXIT_CODE, -signal.SIGKILL]), ((None, None), [0, 0])):
        assert train_on_workers(arguments, deaths) == exit_codes
    assert_equal_training(tmp_path / "out", one_device)


@pytest.mark.slow
def test_a_signal_to_one_worker_stops_all_after_the_same_step(data, one_device, tmp_path):
    arguments = ["--data", str(data), "--out", str(tmp_path / "out"), "--strategy", "multiworker"]
    arguments += [*TWO_EPOCHS, *SYNCHRONIZED]
    assert train_on_workers(arguments, (None, ("term", 3))) == [EXIT_CODE, EXIT_CODE]
    assert (tmp_path / "out" / "checkpoints" / f"step-{AGREE_AFTER:08d}.npz").exists()
    assert train_on_workers(arguments) == [0, 0]
    assert_equal_training(tmp_path / "out", one_device)


def test_workers_agree_to_stop(monkeypatch):
    monkeypatch.setattr(preemption, "worker", lambda strategy: (0, 2))
    monkeypatch.setattr(preemption, "gathered", lambda strategy, values: [values, [1]])
    asked = preemption.Preemption()
    assert [asked.must_stop(None) for _ in range(AGREE_AFTER)] == [False] * (AGREE_AFTER - 1) + [True]
    assert [asked.must_stop(None), asked.must_stop(None, is_last=True)] == [False, True]


@pytest.mark.slow
def test_relabelling_on_workers_equals_one(data, tmp_path):
    arguments = [
        "--data",
        str(data),
        "--recipe",
        "relabel_small",
        "--folds",
        "1",
        *SYNCHRONIZED,
        "--recipe.sampling.num-cells",
        "16",
    ]
    arguments += words("--recipe.network.backbone.widths 8 16 --recipe.view.size 16 --recipe.optimization.batch-size 8")
    assert train([*arguments, "--out", str(tmp_path / "one")]) == 0
    assert train_on_workers([*arguments, "--out", str(tmp_path / "out"), "--strategy", "multiworker"]) == [0, 0]
    one, out = (cell_table.read(tmp_path / name / "out_of_fold.parquet") for name in ("one", "out"))
    np.testing.assert_allclose(out[cell_table.VALUES], one[cell_table.VALUES], atol=1e-4)
    assert out[cell_table.VALUES].notna().any(axis=None)


def test_multiworker_equals_one(data, one_device, tmp_path):
    arguments = ["--data", str(data), "--out", str(tmp_path / "out"), "--strategy", "multiworker"]
    assert train_on_workers([*arguments, *TWO_EPOCHS, *SYNCHRONIZED]) == [0, 0]
    assert_equal_training(tmp_path / "out", one_device)

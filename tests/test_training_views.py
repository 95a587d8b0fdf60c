"""Networks of the other teams' kinds, as toys: they train, go on after a kill, and answer, through the one house."""

import itertools
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import toy_networks
from builder_inputs import write_inputs
from training_process import assert_identical, dynamic_shapes, final_state, losses, start, train, words, workers_config

from hpa_tf import cell_table, recipes, serving
from hpa_tf.classes import CLASSES, NUM_CLASSES
from hpa_tf.models.network import all_classes
from hpa_tf.pipeline import evaluation_batches
from hpa_tf.prediction.options import Options
from hpa_tf.prediction.predict import predict
from hpa_tf.recipes.runs import read_run
from hpa_tf.training import command, run
from tfrecords_builder.__main__ import main as builder

NAMES = [recipe.name for recipe in toy_networks.TOYS]
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Return a folder of 16 images of 4 cells in 2 folds, with fields of 32 px."""
    root = tmp_path_factory.mktemp("views")
    inputs = write_inputs(root / "inputs", 16, size=64, grid=2)
    arguments = [*inputs.arguments(root / "data"), "--num-folds", "2", "--workers", "1", "--fields", "32"]
    assert builder(arguments) == 0
    return root / "data"


def arguments(data: Path, out: Path, name: str, *options: str) -> list[str]:
    return ["--recipe", name, "--data", str(data), "--out", str(out), "--no-clean", "--log-steps", "1", *options]


def test_whole_fields_are_trained_on_and_asked_about_each_cell(data, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "export", lambda *arguments: None)
    assert command.main(arguments(data, tmp_path / "out", "toy_fcan", "--recipe.optimization.epochs", "1")) == 0
    assert np.isfinite(losses(tmp_path / "out")).all() and len(losses(tmp_path / "out")) == 4
    history = pd.read_csv(tmp_path / "out" / "history.csv")
    assert np.isfinite(history["mAP"]).all() and (tmp_path / "out" / "result.json").exists()


def test_a_view_whose_loss_cannot_be_measured_is_refused_before_the_first_epoch(data, tmp_path, capsys, monkeypatch):
    """Maps of 2 x 2 tiles of 18 px are 10 px wide, the map of the whole 9 px."""
    puzzle = recipes.recipe_named("toy_puzzle")
    optimization = replace(puzzle.optimization, measure="loss")
    puzzle = replace(puzzle, name="toy_asked", asked=puzzle.view, optimization=optimization)
    monkeypatch.setattr(recipes, "RECIPES", (*recipes.RECIPES, puzzle))
    assert command.main(arguments(data, tmp_path / "out", "toy_asked", "--recipe.asked.size", "36")) == 2
    assert "Fix: change recipe.asked.size" in capsys.readouterr().err
    assert not (tmp_path / "out" / "history.csv").exists()


@slow
@pytest.mark.parametrize("recipe", toy_networks.TOYS, ids=NAMES)
def test_steps_of_every_view_have_static_shapes(data, recipe):
    """What TPUs need."""
    assert dynamic_shapes(recipe, run.Data(str(data), clean=False).examples(None)) == []


@slow
@pytest.mark.parametrize("name", NAMES)
def test_it_trains_and_its_savedmodel_answers(data, tmp_path, name):
    out = tmp_path / "out"
    assert command.main(arguments(data, out, name, "--recipe.optimization.epochs", "1")) == 0
    assert np.isfinite(losses(out)).all() and len(losses(out)) == 4
    trained = read_run(out)
    recipe, view = trained.recipe, trained.recipe.asked_view
    network = recipe.network.build(view.specs())
    network.load_weights(trained.checkpoints[0][0])
    examples = run.Data(str(data), clean=False).examples({1})
    batch = next(iter(evaluation_batches(examples, view, batch_size=4)))
    outputs = network({key: batch.inputs[key] for key in network.input}, training=False)
    expected = all_classes(recipe.network, outputs, batch.inputs).numpy()
    served = serving.load(out)
    found = served.signatures["prepared"](**batch.inputs)["probabilities"].numpy()
    unnamed = served.signatures["serving_default"](**batch.inputs)["probabilities"]  # as TensorFlow Serving answers
    np.testing.assert_array_equal(unnamed, found)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.shape[0] == 4 and found.shape[1] in (1, batch.rows.shape[1]) and found.shape[2] == NUM_CLASSES
    assert served.recipe == recipe
    if "features" in outputs:
        features = served.signatures["feature_map"](**batch.inputs)["features"].numpy()
        np.testing.assert_allclose(features, outputs["features"].numpy(), atol=1e-5)
    assert_predict_py_answers_like_the_pipeline(data, out, network, tmp_path)


def assert_predict_py_answers_like_the_pipeline(data, run_folder, network, tmp_path):
    """From images and from shards, each cell gets the answer that validation would give it."""
    recipe, examples = read_run(run_folder).recipe, run.Data(str(data), clean=False).examples(None)
    expected = np.full((len(examples), NUM_CLASSES), np.nan)
    for batch in itertools.islice(evaluation_batches(examples, recipe.asked_view, batch_size=4), 64):
        outputs = network({key: batch.inputs[key] for key in network.input}, training=False)
        rows = batch.rows.numpy()
        answers = np.broadcast_to(all_classes(recipe.network, outputs, batch.inputs), (*rows.shape, NUM_CLASSES))
        expected[rows[rows >= 0]] = answers[rows >= 0]
    assert not np.isnan(expected).any()
    inputs = data.parent / "inputs"
    sources = {"shards": {"data": str(data)}, "images": {"images": f"{inputs}/images", "masks": f"{inputs}/masks"}}
    for name, source in sources.items():
        predict(Options(str(tmp_path / name), run=(str(run_folder),), workers=1, report_images=2, tta="none", **source))
        raw = cell_table.read(tmp_path / f"{name}/raw/{run_folder.name}.parquet").set_index(cell_table.KEYS)
        raw = raw.loc[list(zip(examples.table["image_id"], examples.table["cell"], strict=True))]
        np.testing.assert_allclose(raw[list(CLASSES[:18])], expected[:, :18], atol=2e-5, err_msg=name)
        assert (tmp_path / name / "submission.csv").exists() and (tmp_path / name / "report.html").exists()
    first, second = ((tmp_path / name / "submission.csv").read_bytes() for name in sources)
    assert first == second


@slow
@pytest.mark.parametrize("name", NAMES)
def test_killed_in_an_epoch_it_goes_on_with_the_same_bits(data, tmp_path, name):
    often = ("--checkpoint-steps", "2")
    assert train(arguments(data, tmp_path / "whole", name, *often)) == 0
    killed = arguments(data, tmp_path / "killed", name, *often)
    for step in (3, 6):
        assert train(killed, die=("step", step)) == -signal.SIGKILL
    assert train(killed) == 0
    assert_identical(tmp_path / "killed", tmp_path / "whole")


@slow
@pytest.mark.parametrize("name", NAMES)
def test_two_replicas_and_two_workers_train_like_one(data, tmp_path, name):
    synchronized = words("--recipe.network.backbone.synchronized True")
    assert train(arguments(data, tmp_path / "one", name, *synchronized)) == 0
    mirrored = arguments(data, tmp_path / "two", name, *synchronized, "--strategy", "mirrored")
    assert train(mirrored, devices=2) == 0
    shared = arguments(data, tmp_path / "workers", name, *synchronized, "--strategy", "multiworker")
    processes = [start(shared, tf_config=config) for config in workers_config(2)]
    for process in processes:
        process.join(timeout=300)
    assert [process.exitcode for process in processes] == [0, 0]
    expected = final_state(tmp_path / "one")
    for other in ("two", "workers"):
        np.testing.assert_allclose(losses(tmp_path / other), losses(tmp_path / "one"), atol=1e-5)
        for key, array in final_state(tmp_path / other).items():
            np.testing.assert_allclose(array, expected[key], atol=2e-4, err_msg=f"{other} {key}")


@slow
@pytest.mark.parametrize("name", NAMES)
def test_mixed_precision_trains_like_float32(data, tmp_path, monkeypatch, name):
    monkeypatch.setattr(run, "export", lambda *arguments: None)
    for precision in ("float32", "mixed_float16", "mixed_bfloat16"):
        assert command.main(arguments(data, tmp_path / precision, name, "--precision", precision)) == 0
    for precision in ("mixed_float16", "mixed_bfloat16"):
        np.testing.assert_allclose(losses(tmp_path / precision), losses(tmp_path / "float32"), rtol=0.01, atol=0.05)


def test_a_field_recipe_on_a_folder_without_fields_says_what_to_do(tmp_path, capsys):
    inputs = write_inputs(tmp_path / "inputs", 4, size=64, grid=2)
    assert builder([*inputs.arguments(tmp_path / "data"), "--num-folds", "2", "--workers", "1"]) == 0
    assert command.main(arguments(tmp_path / "data", tmp_path / "out", "toy_puzzle")) == 2
    assert "--fields 32 adds them, its cells stay" in capsys.readouterr().err

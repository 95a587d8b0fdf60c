"""The systems of teams 1 to 3 as a user runs them: images -> shards -> all members -> predictions -> a score.

The recipes are those for two cores, but for their backbones (four convolutions) and how long they train.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hpa_tf import cell_table, files, recipes, serving
from hpa_tf.classes import CLASSES
from hpa_tf.evaluation.command import main as evaluate
from hpa_tf.pipeline import evaluation_batches, plan_everything
from hpa_tf.prediction.command import main as predict
from hpa_tf.synthetic import dataset
from hpa_tf.synthetic.config import SyntheticConfig
from hpa_tf.training.command import main as train
from hpa_tf.training.site import Data
from tfrecords_builder.__main__ import main as build

SHORT = ["--recipe.network.backbone", "SmallCnn", "--weights", "none", "--recipe.optimization.epochs", "1"]
SHORT += ["--recipe.sampling.num-cells", "16", "--recipe.optimization.batch-size", "4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with images of 512 px, their masks and truth, and shards of cells and fields."""
    root = tmp_path_factory.mktemp("teams")
    dataset.write(SyntheticConfig(seed=1), root / "train", 10, 1)
    words = [f"--images={root}/train/images", f"--labels={root}/train/train.csv", f"--masks={root}/train/masks"]
    assert build(["build", *words, "--fields=256", "--num-folds=2", "--workers=1", f"--out={root}/shards"]) == 0
    return root


def labels_of_students(system: str, data: str, folder: Path) -> list[str]:
    """Return the options of a training on what the system says out of fold."""
    soft, said, labels = (f"{folder}/{name}.parquet" for name in ("soft", "ensemble", "student"))
    assert build(["label", "--rule", "soften", "--data", data, "--out", soft]) == 0
    words = ["--labels", soft, "--recipe.objective.0.loss", "CrossEntropy", "--folds", "2", "--out-of-fold", said]
    words += ["--out", f"{folder}/folds", *SHORT]
    assert train(["--system", system, "--data", data, *words]) == 0
    assert build(["label", "--rule", "out_of_fold", "--data", data, "--predictions", said, "--out", labels]) == 0
    targets = cell_table.values(cell_table.read(labels))
    assert not np.isnan(targets).any() and len(np.unique(targets)) > 0.9 * targets.size
    return ["--labels", labels]


def answers_of_saved_model(run: str, data: str) -> pd.DataFrame:
    """Return what a run's SavedModel says of the shards' cells: another way to the same cells than predict.py's."""
    served, examples = serving.load(run), Data(data, clean=False).examples(None)
    view, size = served.recipe.asked_view, served.recipe.optimization.batch_size
    rows = plan_everything(examples, view, size).rows
    found = np.full((len(examples), len(CLASSES)), np.nan)
    batches = evaluation_batches(examples, view, batch_size=size)
    for cells, batch in zip(np.split(rows, len(rows) // size), batches, strict=True):
        answered = served.signatures["prepared"](**batch.inputs)["probabilities"].numpy()
        answered = np.broadcast_to(answered.reshape(size, -1, len(CLASSES)), (*cells.shape, len(CLASSES)))
        found[cells[cells >= 0]] = answered[cells >= 0]
    return cell_table.from_values(examples.table["image_id"], examples.table["cell"], found)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cpu_bestfitting", "cpu_red_ai", "cpu_mpware_zfturbo_dieter"])
def test_from_images_to_a_score(folder, name, tmp_path, capsys):
    system, runs, out, data = recipes.system_named(name), f"{tmp_path}/runs", tmp_path / "out", f"{folder}/shards"
    labels = labels_of_students(name, data, tmp_path) if "dieter" in name else []
    assert train(["--system", name, "--data", data, "--out", runs, *labels, *SHORT]) == 0
    assert f"predict.py --system {name} --runs {runs}" in capsys.readouterr().out
    words = ["--images", f"{folder}/train/images", "--masks", f"{folder}/train/masks", "--report-images", "2"]
    assert predict(["--system", name, "--runs", runs, "--out", str(out), "--workers", "1", *words]) == 0
    cells = cell_table.read(out / "cells.parquet")
    truth = cell_table.read(folder / "train" / "truth.parquet")
    assert len(cells) == len(truth) and cells[list(CLASSES)].notna().all(axis=None)
    for specialist in system.specialists:
        assert cells[specialist.column].between(0, 1).all()
    assert len(list((out / "raw").glob("*.parquet"))) == len(system.members)
    asked_as_trained = [member.recipe.name for member in system.members if member.asked is None]
    assert asked_as_trained
    for run in asked_as_trained:
        of_member = cell_table.read(out / "raw" / f"{run}.parquet")
        keys = of_member[cell_table.KEYS]
        of_saved_model = keys.merge(answers_of_saved_model(f"{runs}/{run}", data), on=cell_table.KEYS, validate="1:1")
        values = [table[list(CLASSES)].to_numpy() for table in (of_member, of_saved_model)]
        spread = np.ptp(values[0], axis=0).max()  # between cells: small, as these networks know next to nothing
        assert spread > 1e-3 and np.abs(values[0] - values[1]).max() < 0.02 * spread, run
    assert len(pd.read_csv(out / "submission.csv")) == 10
    words = ["--labels", f"{folder}/train/truth.parquet", "--predictions", str(out / "cells.parquet")]
    assert evaluate(["cells", *words, "--out", str(tmp_path / "scores"), "--bootstrap", "10"]) == 0
    assert files.exists(str(tmp_path / "scores" / "cells.json"))

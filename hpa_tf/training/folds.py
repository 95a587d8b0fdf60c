"""Cross-validation: one network for each fold, and every cell predicted by the network that has not seen its image."""

from dataclasses import replace

import keras
import numpy as np
import pandas as pd

from hpa_tf import cell_table, files
from hpa_tf.errors import InputError
from hpa_tf.models import weights
from hpa_tf.postprocessing import weighted_mean
from hpa_tf.recipes import Recipe
from hpa_tf.recipes.run_folder import read_run
from hpa_tf.records import read_manifest
from hpa_tf.training.run import train
from hpa_tf.training.site import Data, Site
from hpa_tf.training.strategy import wait_for_all
from hpa_tf.training.trainee import Trainee
from hpa_tf.training.validation import of_all_classes, predict


def train_folds(recipe: Recipe, num_folds: int, data: Data, out: str, site: Site) -> None:
    """Train into `out`/fold0, `out`/fold1, ...; fold k is kept out of the training of network k.

    Raises:
        InputError: The data has fewer folds; also see `train`.
    """
    available = read_manifest(data.data).num_folds
    if not 0 < num_folds <= available:
        raise InputError("--folds", str(num_folds), f"1 to {available}, the folds of the data", "choose fewer folds")
    for fold in range(num_folds):
        train(replace(recipe, validation_fold=fold), data, fold_folder(out, fold), site)
        keras.backend.clear_session()


def fold_folder(out: str, fold: int) -> str:
    """Return the run folder of the network that has not seen a fold."""
    return files.join(out, f"fold{fold}")


def out_of_fold_table(recipe: Recipe, num_folds: int, data: Data, out: str, path: str, site: Site) -> None:
    """Write each cell's prediction, and its fold, by the network that has not seen its image or group.

    Args:
        recipe: That of `train_folds`.
        num_folds: Folds that were trained; cells of other folds are not in the table.
        data: What was trained on; unclean cells are predicted too.
        out: Folder of the run folders.
        path: The table to write.
        site: Where it runs; every worker predicts, the first one writes.
    """
    wait_for_all(site.strategy)  # the first worker still exports the last network when the others come here
    trainee = Trainee(recipe, site.strategy, site.policy)
    predict_step = trainee.make_predict_step()
    tables = []
    for fold in range(num_folds):
        examples = replace(data, clean=False).examples({fold})
        predictions, shares = [], []
        for weights_file, share in read_run(fold_folder(out, fold)).checkpoints:
            weights.load(trainee.network, weights_file)
            trainee.hand_over()
            predictions.append(predict(site.strategy, predict_step, recipe, examples))
            shares.append(share)
        values = of_all_classes(weighted_mean(predictions, shares), recipe.network.classes)
        columns = {"fold": np.full(len(examples), fold)}
        tables.append(cell_table.from_values(examples.table["image_id"], examples.table["cell"], values, columns))
    if site.is_chief:
        cell_table.write(pd.concat(tables, ignore_index=True), path, "out_of_fold")

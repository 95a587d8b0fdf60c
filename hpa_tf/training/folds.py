"""Cross-validation: one network for each fold, which is kept out of its training."""

from dataclasses import replace

import keras

from hpa_tf.errors import InputError
from hpa_tf.postprocessing import PREDICTED_NEGATIVE
from hpa_tf.recipes import Member, Recipe, System
from hpa_tf.records import Manifest, read_manifest
from hpa_tf.run_folder import fold_folder
from hpa_tf.training import out_of_fold
from hpa_tf.training.leaks import check_unseen
from hpa_tf.training.run import FEWER_FOLDS, check_examples, check_fields_together, split, train
from hpa_tf.training.site import Data, Site


def train_folds(recipe: Recipe, num_folds: int, data: Data, out: str, site: Site) -> None:
    """Train into `out`/fold0, `out`/fold1, ...; fold k is kept out of the training of network k.

    Raises:
        InputError: The data has fewer folds, or a network would see its own; also see `train`.
    """
    check_num_folds(num_folds, data)
    check_unseen([recipe], range(num_folds), data.data)
    data.check_validation(range(num_folds))
    networks, manifest = [replace(recipe, validation_fold=fold) for fold in range(num_folds)], read_manifest(data.data)
    for network in networks:
        check_fields_together(network)
        check_examples(network, *split(network, data, manifest))
    for fold, network in enumerate(networks):
        train(network, data, fold_folder(out, fold), site)
        keras.backend.clear_session()


def check_num_folds(num_folds: int, data: Data) -> None:
    """Check that the data has as many folds, and cells of each.

    Raises:
        InputError: It has not.
    """
    manifest = read_manifest(data.data)
    available = manifest.num_folds
    if not 0 < num_folds <= available:
        raise InputError("--folds", str(num_folds), f"1 to {available}, the folds of the data", "choose fewer folds")
    check_cells(num_folds, manifest)


def check_cells(num_folds: int, manifest: Manifest) -> None:
    """Check that each of the first folds, which networks that have not seen them predict, has a cell.

    Raises:
        InputError: One has none.
    """
    there = manifest.folds_with_cells
    empty = [fold for fold in range(num_folds) if fold not in there]
    if empty:
        found = f"{num_folds}, of which fold {', '.join(map(str, empty))} has no cell"
        fix = f"--folds {empty[0]}, or {FEWER_FOLDS}" if empty[0] else FEWER_FOLDS
        raise InputError("--folds", found, "folds with cells to predict", fix)


def out_of_fold_table(recipe: Recipe, num_folds: int, data: Data, out: str, path: str, site: Site) -> None:
    """Write what the networks of `train_folds` say of the cells that they have not seen: see `out_of_fold`."""
    alone = System(recipe.name, (Member(recipe, 1.0),), PREDICTED_NEGATIVE)
    out_of_fold.out_of_fold_table(alone, num_folds, data, lambda fold, _: fold_folder(out, fold), path, site)

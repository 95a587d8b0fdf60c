"""The second stage of a system: every member goes on for an epoch on hand-graded cells, as team 4's did.

OUT/MEMBER            first stage (`systems`)
OUT/fine_tuned/       the fine-tuned system, which predicts like any other
  labels.parquet      the labels of the second stage: graded cells, and the validation cells that nobody graded
  MEMBER/             a run folder; where the first stage predicts with a mean over several checkpoints, each of them is
                      fine-tuned by itself (MEMBER/stages/epoch-0015/, ...) and the mean keeps its shares

Source: METHODS 3 (fine-tuning); W 7.
"""

import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from hpa_tf import cell_table, files, label_rules
from hpa_tf.classes import MITOTIC_SPINDLE
from hpa_tf.data_folder import graded_data
from hpa_tf.errors import HpaWarning, InputError, counted
from hpa_tf.label_rules import LabelTable
from hpa_tf.label_rules.label_table import is_marked
from hpa_tf.pipeline import Examples
from hpa_tf.pipeline.batches import draws_per_epoch
from hpa_tf.pipeline.examples import clean_cells
from hpa_tf.recipes import ALL_FOLDS, Recipe, System
from hpa_tf.recipes.milimed import fine_tuning
from hpa_tf.recipes.runs import Run, read_run
from hpa_tf.records import CELL_TABLE_NAME, read_manifest
from hpa_tf.run_folder import BEST_WEIGHTS, WEIGHTS, is_finished, read_result
from hpa_tf.training.claim import claimed
from hpa_tf.training.model_card import write_system_card
from hpa_tf.training.run import conclude, train
from hpa_tf.training.site import Data, Site
from hpa_tf.training.strategy import wait_for_all
from hpa_tf.training.systems import announce, claim_system

FINE_TUNED, LABELS, STAGES = "fine_tuned", "labels.parquet", "stages"
_TABLE = ".parquet"
"""What `--fine-tune` ends with where it is a table of labels, not a folder of grades."""
_SURE = {MITOTIC_SPINDLE: 0.9, 15: 0.9}
"""Least label with which an ungraded training cell of a class is trained on too. Source: METHODS 3 (fine-tuning)."""


def check_second_stage(system: System, adapt: Callable[[Recipe], Recipe], data: Data, grades: str, site: Site) -> None:
    """Check what the second stage needs before the first, days earlier; arguments as of `fine_tune_system`.

    Raises:
        InputError: The grades cannot be used, mark no cell that is trained on as graded or too few for a batch, or the
            replicas do not divide the second stage's batches.
    """
    recipes, replicas = [adapt(member.recipe) for member in system.members], site.strategy.num_replicas_in_sync
    for recipe in recipes:
        size, second = recipe.optimization.batch_size, fine_tuning(recipe).optimization.batch_size
        if second % replicas:
            found = f"{second} of {recipe.name} for {replicas} replicas in the second stage, whose batches are halved"
            fix = f"--recipe.optimization.batch-size {max(1, size // (2 * replicas)) * 2 * replicas}"
            raise InputError("batch_size", found, "a multiple", fix)
    with tempfile.TemporaryDirectory() as folder:
        table = grades
        if not grades.endswith(_TABLE):
            table = os.path.join(folder, LABELS)
            label_rules.write_labels(stage_labels(data, grades, recipes[0].validation_fold), table)
        examples = _second(data, table).examples(None)
    if grades.endswith(_TABLE):
        _check_graded(examples, grades)
    for recipe in recipes:
        _check_epoch(recipe, examples, site)


def _check_epoch(recipe: Recipe, examples: Examples, site: Site) -> None:
    """Check that the second stage of a member has a batch; warn where more than a tenth of its epoch fills none.

    Raises:
        InputError: It has none.
    """
    second = fine_tuning(recipe)
    size, draws = second.optimization.batch_size, draws_per_epoch(examples, second.view, second.sampling)
    if draws < size:
        found = f"{size} of {recipe.name} for {draws} draws of cells in the second stage, whose batches are halved"
        fix = f"grade more cells, or --recipe.optimization.batch-size {2 * draws} or less"
        raise InputError("batch_size", found, "one batch or more", fix)
    if site.is_chief and draws % size > draws / 10:
        found = f"{recipe.name}: {draws % size} of {draws} draws of cells in the second stage fill no batch of {size}"
        fix = "a smaller --recipe.optimization.batch-size, of which it is half, leaves out fewer"
        warnings.warn(f"{found} and are left out; {fix}", HpaWarning, stacklevel=3)


def _check_graded(examples: Examples, grades: str) -> None:
    table = examples.table
    if "graded" not in table or not table["graded"].any():
        expected = "a column 'graded' that is true for cells that a person graded"
        fix = "add it, or give --fine-tune the folder of the grading page"
        raise InputError(grades, "no cell to train on that is marked as graded", expected, fix)


def fine_tune_system(
    system: System, adapt: Callable[[Recipe], Recipe], data: Data, grades: str, out: str, site: Site
) -> None:
    """Run the second stage of every member whose first stage is in `out`; goes on where it was stopped.

    Args:
        system: Its members' recipes.
        adapt: The changes of the command line, the same as for the first stage.
        data: What the first stage was trained on.
        grades: Folder of the grading page, or a cell table: its cells and labels, `graded` where a person said so.
        out: Folder of the first stage's runs.
        site: Where it runs.

    Raises:
        InputError: The grades cannot be used, or changed since the second stage was begun.
    """
    folder = files.join(out, FINE_TUNED)
    claim_system(system, folder, site)
    recipes = [adapt(member.recipe) for member in system.members]
    table = grades
    if not grades.endswith(_TABLE):
        table = files.join(folder, LABELS)
        write_stage_labels(data, grades, recipes[0].validation_fold, table, site)
    wait_for_all(site.strategy)  # the first worker still exports the first stage, or writes the labels
    second = _second(data, table)
    if site.is_chief and second.clean:
        _warn_of_unclean_grades(second)
    for number, recipe in enumerate(recipes, start=1):
        announce(system, number, ", second stage", site)
        name = system.members[number - 1].recipe.name
        fine_tune(recipe, second, files.join(out, name), files.join(folder, name), site)
    if site.is_chief:
        write_system_card(system, folder)


def _second(data: Data, table: str) -> Data:
    """Return what the second stage is trained on: the cells of a table of labels."""
    return replace(data, labels=table, unknown_cells="drop", validation_labels=None)


def _warn_of_unclean_grades(data: Data) -> None:
    """Say how many of the cells that a person graded are left out as cut by the frame or as outliers."""
    labels = cell_table.read(data.labels)
    if "graded" not in labels:
        return
    cells = cell_table.read(files.join(data.data, CELL_TABLE_NAME))
    graded = labels.loc[is_marked(labels["graded"], data.labels), cell_table.KEYS]
    unclean = cells.loc[~clean_cells(cells), cell_table.KEYS]
    if count := len(graded.merge(unclean, on=cell_table.KEYS)):
        text = f"{counted(count, 'graded cell')} cut by the frame or outliers are not trained on"
        warnings.warn(f"{text}; --no-clean keeps them", HpaWarning, stacklevel=3)


def write_stage_labels(data: Data, grades: str, validation_fold: int, path: str, site: Site) -> None:
    """Write the labels of the second stage: all cells of the validation fold, and every graded cell.

    Raises:
        InputError: The grades are of other data, or others than the table there was made from.
    """
    labels = stage_labels(data, grades, validation_fold)
    if not site.is_chief:
        return
    if files.exists(path):
        if label_rules.read_labels(path).steps != labels.steps:
            fix = f"choose another --out, or remove {os.path.dirname(path)} to fine-tune again"
            raise InputError(path, "other grades or labels than now", "the same grades", fix)
        return
    label_rules.write_labels(labels, path)


def stage_labels(data: Data, grades: str, validation_fold: int) -> LabelTable:
    """Return the labels of the second stage: see `write_stage_labels`."""
    manifest = read_manifest(data.data)
    table = cell_table.read(files.join(data.data, CELL_TABLE_NAME))
    graded = graded_data(data.data, manifest, table)
    found, journals, sums = label_rules.grades_of_folder(grades, graded)
    print(label_rules.describe_grades(journals), flush=True)
    start = label_rules.from_image(table, {"data": manifest.fingerprint})
    if data.labels:
        own = label_rules.read_labels(data.labels)
        start = label_rules.completed(own, start) if data.unknown_cells == "keep" else own
    labels = label_rules.from_grades(start, found, label_rules.MAPS["validation"], sums)
    keep = labels.cells["graded"].to_numpy(bool, copy=True)
    fold_of = table["fold"].to_numpy()[labels.rows_of(table)]
    keep |= (fold_of == validation_fold) | (validation_fold == ALL_FOLDS)
    for class_id, least in _SURE.items():
        keep |= np.nan_to_num(labels.values[:, class_id]) >= least
    chosen = np.flatnonzero(keep)
    cells = labels.cells.iloc[chosen].reset_index(drop=True)
    return LabelTable(cells, labels.values[chosen], labels.set_by[chosen], labels.steps)


def fine_tune(recipe: Recipe, data: Data, first: str, out: str, site: Site) -> None:
    """Run the second stage of one member.

    Args:
        recipe: That of the first stage.
        data: What is trained on now.
        first: Run folder of the first stage, finished.
        out: Run folder to write.
        site: Where it runs.
    """
    run = read_run(first)
    second = fine_tuning(recipe)
    if len(run.checkpoints) == 1:
        train(replace(second, weights=run.checkpoints[0][0]), data, out, site)
        keras.backend.clear_session()
        return
    whole, manifest = replace(second, weights=first), read_manifest(data.data)
    if is_finished(out):
        train(whole, data, out, site)  # says so
        return
    stages = [_stage(out, path) for path, _ in run.checkpoints]
    with claimed(whole, data, manifest, out, site, stages):
        for (path, _), stage in zip(run.checkpoints, stages, strict=True):
            train(replace(second, weights=path), data, stage, site)
            keras.backend.clear_session()
        if site.is_chief:
            _gather(whole, run, out)


def _stage(out: str, checkpoint: str) -> str:
    return files.join(out, STAGES, Path(checkpoint).name.removesuffix(".weights.h5"))


def _gather(recipe: Recipe, first: Run, out: str) -> None:
    """Make one run of the fine-tuned checkpoints, with the shares that they had in the first stage."""
    shares, result = {}, {}
    for path, share in first.checkpoints:
        stage, name = _stage(out, path), f"{WEIGHTS}/{Path(path).name}"
        files.write_bytes(files.join(out, name), files.read_bytes(files.join(stage, BEST_WEIGHTS)))
        shares[name] = share
        result = read_result(stage)
    facts = {"epochs": 1, "best": result["best"], "scored": result["best"]}  # of the last checkpoint alone
    conclude(recipe, read_manifest(out), out, shares, facts)

"""Every cell predicted by networks that have not seen its image: of a recipe, or of a system's members, mixed.

What one network says of its fold is kept in its run folder (out_of_fold-1.npz, the number of the member), so that a
stopped prediction goes on; each depends on the weights and the view, and is made again where they are others.
"""

import hashlib
import io
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import keras
import numpy as np
import pandas as pd

from hpa_tf import cell_table, files, interrupts
from hpa_tf.errors import HpaWarning
from hpa_tf.models import weights
from hpa_tf.pipeline import Examples
from hpa_tf.pipeline.damage import damage_explained
from hpa_tf.postprocessing import mean_of_known, weighted_mean, with_negative
from hpa_tf.recipes import Member, Recipe, System, to_json
from hpa_tf.recipes.runs import Run, read_run
from hpa_tf.records import read_manifest
from hpa_tf.training.run import records_of
from hpa_tf.training.site import Data, Site
from hpa_tf.training.strategy import chief_says, wait_for_all
from hpa_tf.training.trainee import Trainee
from hpa_tf.training.validation import of_all_classes, predict

FolderOf = Callable[[int, int], str]
"""(fold, number of the member, from 0) -> run folder of the member's network that has not seen the fold."""


def out_of_fold_table(system: System, num_folds: int, data: Data, folder_of: FolderOf, path: str, site: Site) -> None:
    """Write what a system says of each cell's class, by networks that have not seen its image or group; and its fold.

    The values are the members' probabilities mixed as for a submission: the mean by the members' weights, with
    Negative as the system takes it. Rules that lower the scores of cut or dark cells are left out: they say nothing
    of where a protein is. So are specialists: where one answers for a class in the members' place, as team 3's does for
    mitotic spindle, the table has the members' mean.

    Args:
        system: Members as they were trained; one that is asked through another view says so.
        num_folds: Folds that were trained; cells of other folds are not in the table.
        data: What was trained on; cells that were left out of it are predicted too.
        folder_of: Where the run folders are.
        path: The table to write.
        site: Where it runs; every worker predicts, the first one writes.

    Raises:
        InputError: A record cannot be read, such as one of an unclean cell, which no training has read.
        StoreError: The object store refused one.
    """
    wait_for_all(site.strategy)  # the first worker still exports the last network when the others come here
    interrupts.keeps("all networks are trained; the same command goes on with what they say")
    examples = [data.asked({fold}) for fold in range(num_folds)]
    said = [_of_member(number, member, examples, folder_of, site) for number, member in enumerate(system.members)]
    if not site.is_chief:
        return
    warn_of_missing_folds(path, num_folds, read_manifest(data.data).num_folds)
    shares, tables = [member.weight for member in system.members], []
    for fold, (own, *members) in enumerate(zip(examples, *said, strict=True)):
        values = mix(members, shares, system.postprocessing.negative)
        columns = {"fold": np.full(len(own), fold), **own.areas}
        tables.append(cell_table.from_values(own.table["image_id"], own.table["cell"], values, columns))
    cell_table.write(pd.concat(tables, ignore_index=True), path, "out_of_fold")


def warn_of_missing_folds(path: str, num_folds: int, all_folds: int) -> None:
    """Warn where a table has predictions of some of the data's folds alone."""
    if num_folds < all_folds:
        missing = f"fold {num_folds}" if all_folds == num_folds + 1 else f"folds {num_folds} to {all_folds - 1}"
        text = f"{path} has no prediction of the cells of {missing}; --folds {all_folds} predicts all"
        warnings.warn(text, HpaWarning, stacklevel=3)


def mix(members: Sequence[np.ndarray], shares: Sequence[float], negative: str) -> np.ndarray:
    """Return the members' probabilities [N, 19] (NaN = a class that one does not answer) as one, [N, 19].

    Args:
        members: One array a member.
        shares: Their weights.
        negative: "derived": 1 - the largest of the other 18 of the mean; "predicted": the mean of what they say.
    """
    mean = mean_of_known(members, shares)
    return mean if negative == "predicted" else with_negative(mean[:, :-1])


def _of_member(
    number: int, member: Member, examples: Sequence[Examples], folder_of: FolderOf, site: Site
) -> list[np.ndarray]:
    """Return what a member says of the cells of each fold, [N, 19] each; nothing is read where only the chief needs it.

    The networks of all folds are one network with other weights: one trace.
    """
    recipe = replace(member.recipe, asked=member.asked or member.recipe.asked)
    said, ask = [], None
    for fold, own in enumerate(examples):
        run = read_run(folder_of(fold, number))
        path, key = files.join(run.folder, f"out_of_fold-{number + 1}.npz"), _key(run, recipe, own)
        values = _kept(path, key) if site.is_chief else None
        if not chief_says(site.strategy, values is None):  # they predict together or not at all
            said.append(values)
            continue
        ask = ask or _asking(recipe, site)
        with damage_explained(records_of(recipe, own)):
            values = ask(run, own)
        said.append(values)
        if site.is_chief:
            stream = io.BytesIO()
            np.savez(stream, key=np.array(key), values=values)
            files.write_bytes(path, stream.getvalue())
            print(f"fold {fold}: {recipe.name} has predicted {len(own)} cells that it has not seen", flush=True)
    keras.backend.clear_session()
    return said


def _asking(recipe: Recipe, site: Site) -> Callable[[Run, Examples], np.ndarray]:
    """Return what asks the networks of a recipe: (run, N cells) -> the mean over its checkpoints, [N, 19]."""
    trainee = Trainee(recipe, site.strategy, site.policy)
    predict_step = trainee.make_predict_step()

    def ask(run: Run, examples: Examples) -> np.ndarray:
        predictions = []
        for weights_file, _ in run.checkpoints:
            weights.load(trainee.network, weights_file)
            trainee.hand_over()
            predictions.append(predict(site.strategy, predict_step, recipe, examples))
        mean = weighted_mean(predictions, [share for _, share in run.checkpoints])
        return of_all_classes(mean, recipe.network.classes)

    return ask


def _key(run: Run, recipe: Recipe, examples: Examples) -> str:
    """Return a digest of all that a prediction depends on: weights, view, cells."""
    sums = [(files.sha256(path), share) for path, share in run.checkpoints]
    cells = examples.table[cell_table.KEYS].to_json(orient="values")
    asked = json.dumps([sums, to_json(recipe.network), to_json(recipe.asked_view), cells], sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()


def _kept(path: str, key: str) -> np.ndarray | None:
    """Return the prediction that was kept under a key; None where there is none, or a damaged or another one."""
    if not files.exists(path):
        return None
    try:
        with np.load(io.BytesIO(files.read_bytes(path)), allow_pickle=False) as stored:
            return stored["values"] if str(stored["key"]) == key else None
    except files.DAMAGED_NPZ:
        return None

"""A run folder: the files of one training, by name, for all who read it.

recipe.json          how it was trained
dataset.json         manifest of the data it was trained on
inputs.json          what else decided the result: labels table, first weights, precision
checkpoints/         everything needed to resume, last k and best (`training.checkpoint`)
weights/             best.weights.h5, and epoch-0003.weights.h5 of the epochs that the recipe's ensemble averages
history.csv          one row an epoch: loss, learning rate, validation
logs/                TensorBoard
result.json          written last: the run is finished; which weights predict, with which shares
saved_model/1/       for serving (`hpa_tf.serving`)
README.md            model card, with training.png (`hpa_tf.training.model_card`)

recipe.json, dataset.json, inputs.json, result.json and the weights carry their checksums (`hpa_tf.checksums`), that of
the history stands in result.json, checkpoints have those of zip files and the SavedModel a list of its own.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

from hpa_tf import checksums, files, starter
from hpa_tf.errors import InputError
from hpa_tf.file_names import check_name
from hpa_tf.manifest import MANIFEST_NAME

RECIPE, INPUTS, RESULT, HISTORY = "recipe.json", "inputs.json", "result.json", "history.csv"
CHECKPOINTS, WEIGHTS, LOGS, SAVED_MODEL = "checkpoints", "weights", "logs", "saved_model/1"
BEST_WEIGHTS = f"{WEIGHTS}/best.weights.h5"
"""Those that did best in validation."""
DATASET = MANIFEST_NAME
SYSTEM = "system.json"
"""Names the members of a system and their weights, in the folder of their runs."""
ADAPTED = "adapted.json"
"""What a run was adapted from (`predict.py --adapt`)."""
_FOLD = "fold"
MEND = "copy the run folder again; if there is no other, remove this file and run the same training again: it goes on"


def epoch_weights(epoch: int) -> str:
    """Return the name, below the run folder, of the weights of an epoch (counted from 0)."""
    return f"{WEIGHTS}/epoch-{epoch + 1:04d}.weights.h5"


def is_starter(run: str) -> bool:
    """Tell whether a name stands for the starter network: "starter", unless a run folder of that name is here."""
    return run == starter.NAME and not files.exists(files.join(run, RECIPE))


def fold_folder(out: str, fold: int) -> str:
    """Return the folder of what has not seen a fold: the run of a recipe, or the runs of a system's members."""
    return files.join(out, f"{_FOLD}{fold}")


def folds_in(folder: str) -> list[int]:
    """Return the folds that have such a folder in `folder`, rising."""
    names = files.list_folders(folder) if files.exists(folder) else []
    return sorted(int(name.removeprefix(_FOLD)) for name in names if re.fullmatch(rf"{_FOLD}\d+", name))


def is_finished(folder: str | os.PathLike) -> bool:
    """Tell whether the training in a run folder has come to its end."""
    return files.exists(files.join(folder, RESULT))


def has_saved_model(folder: str | os.PathLike) -> bool:
    """Tell whether a run folder holds a SavedModel."""
    return files.exists(files.join(folder, SAVED_MODEL, "saved_model.pb"))


def write_result(folder: str | os.PathLike, shares: Mapping[str, float], facts: Mapping[str, Any]) -> None:
    """Mark a run as finished.

    Args:
        folder: Run folder.
        shares: Weights files, below it, that predict, and their shares in the mean.
        facts: Further JSON values.
    """
    history = files.join(folder, HISTORY)
    digest = {"history_sha256": files.sha256(history)} if files.exists(history) else {}
    value = {"checkpoints": dict(shares), **digest, **facts}
    files.write_json(files.join(folder, RESULT), checksums.sealed_json(value))


def read_result(folder: str | os.PathLike) -> dict[str, Any]:
    """Return what `write_result` wrote.

    Raises:
        InputError: It is missing or damaged.
    """
    path = files.join(folder, RESULT)
    found = checksums.read_json(path, MEND)
    shares = found.get("checkpoints")
    if not isinstance(shares, dict) or not shares or not all(isinstance(s, int | float) for s in shares.values()):
        raise InputError(path, f"the checkpoints {shares!r}", "weights files and their shares", MEND)
    for name in shares:
        for part in name.split("/"):
            check_name(part, path)
    return found

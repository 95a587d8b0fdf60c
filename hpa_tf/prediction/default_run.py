"""Which run predicts where none is named: the newest finished one below runs/, else the starter network."""

import os
import shlex

from hpa_tf import files, starter
from hpa_tf.classes import NUM_CLASSES
from hpa_tf.errors import InputError, printable
from hpa_tf.prediction import results
from hpa_tf.prediction.adapting import RECORD, run_of
from hpa_tf.prediction_folder import MANIFEST
from hpa_tf.run_folder import RECIPE, RESULT, SYSTEM, fold_folder, has_saved_model, is_finished

FOLDER = "runs"


def choose_run(out: str, adapt: str | None = None) -> str:
    """Return the run that predicts into a folder, and print which one it is and why.

    A prediction that was stopped goes on with its own run, though a newer one may have ended since.

    Args:
        out: Folder of the results.
        adapt: Run folder that the run is adapted into, if it is to be adapted: a folder that is there goes on with its
            own run, and no run is adapted twice.
    """
    own = _begun_with(out) if adapt is None else _adapted_from(adapt)
    run, why = own or _newest(FOLDER, to_adapt=adapt is not None)
    print(printable(f"--run {run}: {why}; another: --run FOLDER"), flush=True)
    return run


def _begun_with(out: str) -> tuple[str, str] | None:
    if not files.exists(files.join(out, MANIFEST)) or results.summary_of(out) is not None:
        return None
    runs = results.request_of(out)["options"].get("run") or ()
    return (runs[0], f"{out} was begun with it") if len(runs) == 1 else None


def _adapted_from(adapt: str) -> tuple[str, str] | None:
    run = run_of(adapt)
    return None if run is None else (run, f"{adapt} was adapted from it")


def _newest(folder: str, to_adapt: bool) -> tuple[str, str]:
    """Return the run that ended last of those that can predict, and why; equal times: the last by name.

    Args:
        folder: Of the run folders.
        to_adapt: Leave adapted runs out.
    """
    found, kind = [], "finished run"
    below = [files.join(folder, name) for name in sorted(os.listdir(folder))] if os.path.isdir(folder) else []
    for run in below:
        if to_adapt and os.path.exists(files.join(run, RECORD)):
            continue
        if is_finished(run) and has_saved_model(run):
            if _is_of_few_classes(run):
                kind = "finished run of all classes"
            else:
                found.append((os.stat(files.join(run, RESULT)).st_mtime_ns, run))
    kind += " that is not adapted" if to_adapt else ""
    several = _of_several(below)
    if found:
        return max(found)[1], f"the newest {kind} in {folder}/{several}"
    return starter.NAME, f"no {kind} in {folder}/{several}, so the network that comes with hpa_tf"


def _is_of_few_classes(run: str) -> bool:
    """Tell whether a run's network answers some of the classes only; of a damaged recipe nobody knows."""
    try:
        return len(files.read_json(files.join(run, RECIPE))["network"]["classes"]) < NUM_CLASSES - 1
    except (InputError, KeyError, TypeError):  # a recipe of the first versions does not say it: all of them
        return False


def _of_several(below: list[str]) -> str:
    """Return in words which of some folders hold the runs of a system or of folds, which are named by other options."""
    systems = [f"--system NAME --runs {shlex.quote(one)}" for one in below if os.path.exists(files.join(one, SYSTEM))]
    first = [fold_folder(one, 0) for one in below]
    folds = [f"--run {shlex.quote(one)}" for one in first if os.path.exists(files.join(one, RESULT))]
    named = [*systems, *folds]
    return f" (beside it: {', '.join(named[:4])}{', ...' if len(named) > 4 else ''})" if named else ""

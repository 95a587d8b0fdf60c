"""Which run predicts where none is named: the newest finished one below runs/, else the starter network."""

import os

from hpa_tf import files, starter
from hpa_tf.prediction import results
from hpa_tf.prediction_folder import MANIFEST
from hpa_tf.run_folder import RESULT, SAVED_MODEL, is_finished

FOLDER = "runs"


def choose_run(out: str) -> str:
    """Return the run that predicts into a folder, and print which one it is and why.

    A prediction that was stopped goes on with its own run, though a newer one may have ended since.
    """
    run, why = _begun_with(out) or _newest(FOLDER)
    print(f"--run {run}: {why}; another: --run FOLDER", flush=True)
    return run


def _begun_with(out: str) -> tuple[str, str] | None:
    if not files.exists(files.join(out, MANIFEST)) or results.summary_of(out) is not None:
        return None
    runs = results.request_of(out)["options"].get("run") or ()
    return (runs[0], f"{out} was begun with it") if len(runs) == 1 else None


def _newest(folder: str) -> tuple[str, str]:
    """Return the run that ended last of those that can predict, and why; equal times: the last by name."""
    found = []
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        run = files.join(folder, name)
        if is_finished(run) and os.path.exists(files.join(run, SAVED_MODEL, "saved_model.pb")):
            found.append((os.stat(files.join(run, RESULT)).st_mtime_ns, run))
    if found:
        return max(found)[1], f"the newest finished run below {folder}/"
    return starter.NAME, f"no finished run below {folder}/, so the network that comes with hpa_tf"

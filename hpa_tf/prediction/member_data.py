"""What the members of a system were trained on: one build of cells, one table of labels, the same cells left out."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from hpa_tf import checksums, files, run_folder
from hpa_tf.errors import InputError
from hpa_tf.serving import Served

Known = dict[str, tuple[str, Any]]
"""By its name, a fact about the data of the runs so far: the first run that says it, and what it says."""

_OF_BUILD = ("classes", "channels", "fingerprint", "um_per_px", "bits", "margin", "segmenter", "num_folds", "num_cells")
"""What a manifest says of the cells. The fingerprint alone does not tell images or masks of equal sizes apart."""
_LABELS = ("labels_sha256", "unknown_cells")
"""What inputs.json says of `--labels`; it counts for networks that learn from labels of cells."""
_FIX = "train one of them again, on the same data; or predict with both as --run, which takes their plain mean"


def check_same_data(run: str, served: Served, known: Known) -> None:
    """Refuse a run that was trained on other data than those before it; what a run does not say is passed over.

    Args:
        run: Its folder.
        served: One of its networks.
        known: The facts of the runs before it; those of this run are added.

    Raises:
        InputError: Classes, build, labels or cleaning differ.
    """
    for name, value in _facts(run, served).items():
        first, before = known.setdefault(name, (run, value))
        if value != before:
            found = f"trained on other data than {first} ({name} {_short(value)}, not {_short(before)})"
            raise InputError(run, found, "members of one data folder and one table of labels", _FIX)


def _facts(run: str, served: Served) -> dict[str, Any]:
    manifest, inputs = json.loads(json.dumps(served.dataset)), _inputs_of(run)
    facts = {name: manifest[name] for name in _OF_BUILD if name in manifest}
    facts["records"] = _digest([shard for shard in manifest.get("shards", ()) if shard["kind"] == "cells"])
    names = ("clean", *_LABELS) if served.recipe.learns_from_cells else ("clean",)
    return facts | {name: inputs[name] for name in names if name in inputs}


def _inputs_of(run: str) -> Mapping[str, Any]:
    path = files.join(run, run_folder.INPUTS)
    return checksums.read_json(path, run_folder.MEND) if files.exists(path) else {}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _short(value: Any) -> str:
    return value[:8] if isinstance(value, str) and len(value) == 64 else str(value)

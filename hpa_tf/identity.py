"""Whether what is in a folder is what is asked for now: its identity is a named set of JSON values.

Who owns a folder says what decides its content, and nothing else: how many workers, what is done with errors and where
the log goes do not belong there. A new option changes no identity unless somebody names it there.
"""

import json
import os
from typing import Any

from hpa_tf import cell_table, files
from hpa_tf.errors import InputError

_MOST_NAMED = 20
_PREDICTION, _PAGE = "predictions.json", "report.html"
KINDS = {
    _PREDICTION: "a prediction",
    "recipe.json": "a run",
    "system.json": "the runs of a system",
    "dataset.json": "a data folder",
}
"""What a folder holds, by the file that says it; a run has the last, too."""
_WITHOUT_TABLES = {"system.json"}
_TABLES = ("cells.parquet", "images.parquet")
"""Tables of such folders, which what stands beside them belongs to."""
_PARQUET = b"PAR1"
_OTHER_ENDINGS = (".csv", ".tsv", ".txt", ".xlsx")


def differences(before: Any, now: Any, path: str = "") -> list[str]:
    """Return a line "field: before -> now" for each leaf in which two JSON values differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(before.keys() | now.keys())
        return [
            line
            for key in keys
            for line in differences(before.get(key), now.get(key), f"{path}.{key}" if path else str(key))
        ]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now) and dict in map(type, now):
        pairs = enumerate(zip(before, now, strict=True))
        return [line for i, (one, other) in pairs for line in differences(one, other, f"{path}.{i}")]
    return [] if before == now else [f"{path}: {before!r} -> {now!r}"]


def same_place(place: str) -> str:
    """Return how a local file or folder is spelled in comparisons: `./images/` is `images`; addresses stay."""
    return place if files.is_remote(place) else os.path.realpath(place)


def check_kind(out: str, marker: str, option: str = "--out") -> None:
    """Refuse a folder with results of another kind, which files of the same names would replace.

    Args:
        out: The folder; it need not be there.
        marker: The file of `KINDS` that says what is to be written.
        option: What names the folder on the command line.

    Raises:
        InputError: It holds something else.
    """
    found = next((name for name in KINDS if files.exists(files.join(out, name))), marker)
    if found != marker:
        raise InputError(out, f"{KINDS[found]} ({found})", f"{KINDS[marker]}, or neither", f"choose another {option}")


def check_table(option: str, path: str) -> None:
    """Check, before the work, that the table which `option` names can be written and replaces none of a folder's own.

    Raises:
        InputError: It is a table of a data folder or a prediction, or cannot be written.
    """
    folder, name = os.path.split(path)
    markers = (marker for marker in KINDS if marker not in _WITHOUT_TABLES)
    kind = next((KINDS[marker] for marker in markers if files.exists(files.join(folder, marker))), None)
    if kind and name in _TABLES:
        raise InputError(option, path, f"a table that is not the one of {kind} itself", "choose another name")
    files.check_can_be_written(option, path)


def check_parquet(option: str, path: str, kind: cell_table.Kind) -> None:
    """Check, as `check_table` does, a cell table that is to be written: it replaces no file of another kind.

    Raises:
        InputError: See `check_table`; or its name is that of a text file or a workbook, or a file that is no Parquet
            is there, or a cell table of another kind.
    """
    check_table(option, path)
    fix = f"choose another name, such as {kind}.parquet"
    if path.lower().endswith(_OTHER_ENDINGS):
        raise InputError(option, path, "a name for a Parquet file", fix)
    if files.exists(path):
        try:
            with files.open_file(path) as stream:
                start = stream.read(len(_PARQUET))
        except OSError as error:
            found = f"{path}, which cannot be read ({error.strerror or error})"
            raise InputError(option, found, "a table to replace, or a new name", fix) from error
        if start not in (b"", _PARQUET):
            raise InputError(option, f"{path}, a file that is no Parquet", "a table to replace, or a new name", fix)
        if start and (there := _kind_of(path)) not in (None, kind):
            found = f"{path}, a table of {there}"
            raise InputError(option, found, f"a table of {kind} to replace, or a new name", fix)


def _kind_of(path: str) -> str | None:
    try:
        return cell_table.kind(path)
    except (OSError, ValueError):  # damaged: nothing is lost with it
        return None


def check_page(option: str, path: str) -> None:
    """Check, before the work, that the page which `option` names can be written and is not that of a prediction.

    Raises:
        InputError: It is report.html of a prediction, or cannot be written.
    """
    folder, name = os.path.split(path)
    if name == _PAGE and files.exists(files.join(folder, _PREDICTION)):
        found = f"{path}, the report of a prediction"
        raise InputError(option, found, "another page, or a new name", f"choose another {option}")
    files.check_can_be_written(option, path)


def check_same(where: str | os.PathLike, before: Any, now: Any, what: str, fix: str) -> None:
    """Check that what was written down is what is asked for now.

    Args:
        where: The file that says it, or its folder.
        before: JSON value that was written down.
        now: What would be written now.
        what: What the folder holds, such as "run".
        fix: What to do where they differ.

    Raises:
        InputError: They differ; names the fields.
    """
    lines = differences(before, json.loads(json.dumps(now)))
    if lines:
        more = f"; and {len(lines) - _MOST_NAMED} more" if len(lines) > _MOST_NAMED else ""
        raise InputError(where, f"another {what} ({'; '.join(lines[:_MOST_NAMED])}{more})", f"the same {what}", fix)

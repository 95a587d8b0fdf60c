"""The journal of hand grades: one append-only file for each grader and class, one JSON line for each decision.

`class-11.anna.jsonl` begins with a header (format, version, class, grader, digest of the cells of the data); every
further line is a `Decision`, since version 2 with the place of its cell. A line is on the disk before its decision
counts, so a program that is killed at any moment loses nothing that it has acknowledged; a torn last line never counted
and is cut off when the file is opened again. Nothing is ever erased: undoing and correcting are lines too. Several
graders may share one folder.
"""

import contextlib
import json
import math
import os
import re
import threading
import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import asdict, fields, replace

import numpy as np
import pandas as pd

from hpa_tf import file_lock, files
from hpa_tf.classes import NUM_CLASSES
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.file_names import check_image_id
from hpa_tf.grade_decisions import Decision, GradedData, Journal

FORMAT, VERSION = "hpa_tf grades", 2
_NAME = re.compile(r"class-(\d{1,2})\.([\w-]{1,40})\.jsonl")
_HEADER_KEYS = {"format", "version", "class", "grader", "data"}


def file_name(class_id: int, grader: str) -> str:
    """Return the name of a journal in its folder, in NFC.

    Raises:
        InputError: The grader's name cannot be part of a file name.
    """
    name = unicodedata.normalize("NFC", f"class-{class_id}.{grader}.jsonl")
    if not _NAME.fullmatch(name):
        raise InputError("--grader", repr(grader), "1 to 40 letters, digits, '_' and '-'", "choose another name")
    return name


def file_names(folder: str | os.PathLike) -> dict[str, str]:
    """Return the names of the journals in a folder by their NFC form: a Mac, and what it packs, may decompose letters.

    Raises:
        InputError: There is no such folder, or two names in it are the same in NFC.
    """
    found: dict[str, str] = {}
    for name in files.list_names(folder):
        normal = unicodedata.normalize("NFC", name)
        if _NAME.fullmatch(normal) and found.setdefault(normal, name) != name:
            fix = "move one into a folder of its own; label --rule from_grades takes several folders"
            raise InputError(folder, f"two files {normal}, which differ in their Unicode form", "one journal", fix)
    return found


def read(path: str | os.PathLike) -> Journal:
    """Read a journal; a torn last line, which never counted, is passed over.

    Raises:
        InputError: The file is missing, damaged (names the line), or named as the journal of another class or grader.
    """
    try:
        data = files.read_bytes(path)
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "a journal of grades", "check the path") from error
    return _parse(data, path)


def _parse(data: bytes, path: str | os.PathLike) -> Journal:
    whole = data[: data.rfind(b"\n") + 1]
    lines = whole.splitlines()
    fix = "restore the file from a copy, or remove the damaged line and renumber"
    try:
        header = json.loads(lines[0])
        known = header.keys() == _HEADER_KEYS and header["format"] == FORMAT
        if not known or header["version"] not in range(1, VERSION + 1):
            raise ValueError(f"header {header}")
        if not 0 <= int(header["class"]) < NUM_CLASSES:
            raise ValueError(f"class {header['class']}")
        grader = unicodedata.normalize("NFC", str(header["grader"]))
        journal = Journal(int(header["class"]), grader, str(header["data"]))
    except (IndexError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path}, line 1", f"{error}", f"the header of {FORMAT}, version 1 to {VERSION}", fix
        ) from error
    _check_name(journal, path)
    names = {one.name for one in fields(Decision)}
    for number, line in enumerate(lines[1:], start=2):
        try:
            found = json.loads(line)
            if not isinstance(found, dict) or {*found, "place"} != names:
                raise ValueError("other keys than those of a decision")
            _check_values(found)
            check_image_id(found["image_id"], path)
            place = found.get("place")
            journal.add(Decision(**{**found, "place": None if place is None else tuple(place)}))
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f"{path}, line {number}", f"a damaged line ({error})", "a decision", fix) from error
    return journal


def _check_values(found: dict) -> None:
    """Refuse values that a table of grades cannot hold, or would hold as others.

    Raises:
        ValueError: There is one.
    """
    cell, seconds = found["cell"], found["seconds"]
    if not isinstance(found["image_id"], str) or type(cell) is not int or not 0 < cell < 1 << 31:
        raise ValueError("an image or cell of another kind")
    if type(found["repeat"]) is not bool or type(found["grade"]) not in (int, type(None)):
        raise ValueError("a grade or repeat of another kind")
    if seconds is not None and (type(seconds) not in (int, float) or not 0 <= seconds < math.inf):
        raise ValueError(f"seconds {seconds!r}")


def _check_name(journal: Journal, path: str | os.PathLike) -> None:
    """Refuse a copy under another name, whose grades would count again as another journal's.

    Raises:
        InputError: The journal's class or grader is not that of the file's name.
    """
    name = f"class-{journal.class_id}.{journal.grader}.jsonl"
    if unicodedata.normalize("NFC", os.path.basename(path)) != name:
        found = f"the journal of class {journal.class_id} by {journal.grader}"
        fix = "move copies out of the folder; a journal that was renamed gets its name back"
        raise InputError(path, found, f"the name {name}", fix)


def read_folder(folder: str | os.PathLike) -> list[Journal]:
    """Read every journal of a folder, by class and grader.

    Raises:
        InputError: There is none, or one is damaged or a copy under another name.
    """
    names = file_names(folder).values()
    if not names:
        fix = "python -m hpa_tf.grading --data DIR --class ID --out FOLDER"
        raise InputError(folder, "no journal of grades (class-ID.GRADER.jsonl)", "at least one", fix)
    found = (read(files.join(folder, name)) for name in names)
    return sorted(found, key=lambda journal: (journal.class_id, journal.grader))


class Writer:
    """A journal open for appending; one process at a time holds it.

    Attributes:
        journal: What the file says, this process's lines included.
    """

    def __init__(self, folder: str | os.PathLike, class_id: int, grader: str, data: GradedData):
        """Open or create a journal.

        Raises:
            InputError: Another process holds it, it is of other data or a copy of another journal, or the folder
                cannot be written.
        """
        files.make_folder(folder)
        grader, name = unicodedata.normalize("NFC", grader), file_name(class_id, grader)
        self.path = os.path.join(folder, file_names(folder).get(name, name))
        try:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise InputError(self.path, f"{error.strerror}", "a file to write to", "choose another --out") from error
        self._lock = threading.Lock()
        try:
            self._place_of = data.place_of
            self._open(folder, class_id, grader, data)
        except BaseException:
            os.close(self._descriptor)
            raise

    def _open(self, folder: str | os.PathLike, class_id: int, grader: str, data: GradedData) -> None:
        try:
            is_locked = file_lock.take(self._descriptor)
        except BlockingIOError as error:
            fix = "use the page that is open, or give --grader another name"
            raise InputError(self.path, f"{grader} is grading this class already", "one page each", fix) from error
        if not is_locked:
            warnings.warn(f"{self.path}: no locks on this disk: open one page only", HpaWarning, stacklevel=4)
        content = files.read_bytes(self.path)
        if b"\n" not in content:
            os.ftruncate(self._descriptor, 0)
            header = {"format": FORMAT, "version": VERSION, "class": class_id, "grader": grader, "data": data.cells}
            self._write([header])
            files.sync_folder(folder)
            self.journal = Journal(class_id, grader, data.cells)
            return
        self.journal = _parse(content, self.path)
        data.check(self.journal, self.path)
        os.ftruncate(self._descriptor, content.rfind(b"\n") + 1)

    def append(self, decisions: Sequence[Decision]) -> None:
        """Write decisions, with the places of their cells, to the disk; when this returns they are there for good.

        Raises:
            InputError: The disk is full or broken; nothing was written.
            ValueError: A decision does not fit the lines before; nothing was written.
        """
        placed = [replace(one, place=self._place_of(one.image_id, one.cell)) for one in decisions]
        with self._lock:
            try:
                for decision in placed:
                    self.journal.add(decision)
                self._write([asdict(decision) for decision in placed])
            except BaseException:
                self.journal = read(self.path)  # what is on the disk counts
                raise

    def _write(self, lines: Sequence[dict]) -> None:
        size = os.fstat(self._descriptor).st_size
        data = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines).encode()
        try:
            if os.write(self._descriptor, data) != len(data):
                raise OSError(28, "only a part could be written")
            os.fsync(self._descriptor)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, size)
            raise InputError(self.path, f"{error.strerror}", "a disk that takes grades", "make room") from error

    def close(self) -> None:
        """Close the file and give the lock back."""
        os.close(self._descriptor)


def grades_table(journals: Sequence[Journal]) -> pd.DataFrame:
    """Return one row for each grade that stands: class, grader, image_id, cell, grade, repeat, seconds, time."""
    columns = ["class", "grader", "image_id", "cell", "grade", "repeat", "seconds", "time"]
    rows = [
        (j.class_id, j.grader, d.image_id, d.cell, d.grade, d.repeat, d.seconds, d.time)
        for j in journals
        for d in j.standing.values()
        if d.action == "grade"
    ]
    table = pd.DataFrame(rows, columns=columns)
    types = {"class": np.int32, "cell": np.int32, "grade": np.int32, "repeat": bool, "seconds": float}
    return table.astype(types | dict.fromkeys(("grader", "image_id", "time"), "str"))

"""Files that carry the checksum of their own content, so that damage is seen wherever they are copied to.

A JSON object has it under a key of its own. A file of another format has a text where that format has room for one
(metadata of Parquet, an attribute of HDF5): `PLACE`, which `seal` replaces by the SHA-256 of all bytes as they were
before. Files without one, written by earlier versions, are taken as they are.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from hpa_tf import files
from hpa_tf.errors import InputError

KEY = "sha256"
"""Key of the checksum in a JSON object."""
PLACE = "hpa_tf.sha256:" + "0" * 64
"""The text that `seal` replaces."""
_SEALED = re.compile(rb"hpa_tf\.sha256:([0-9a-f]{64})")
_DIFFERS = "a file that was changed after it was written (its checksum differs)"


def of_json(value: Mapping[str, Any]) -> str:
    """Return the checksum of an object of JSON values, whatever stands under `KEY`."""
    rest = {name: item for name, item in value.items() if name != KEY}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def sealed_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object of JSON values with its checksum."""
    plain = json.loads(json.dumps(value))
    return {**plain, KEY: of_json(plain)}


def is_intact(value: Mapping[str, Any]) -> bool:
    """Tell whether an object has the values that its checksum was made of; True where it has none."""
    return KEY not in value or value[KEY] == of_json(value)


def read_json(path: str | os.PathLike, fix: str) -> dict[str, Any]:
    """Read an object that was written with its checksum, or without; return it without.

    Args:
        path: JSON file.
        fix: What to do where it is damaged.

    Raises:
        InputError: It is missing, no JSON object, or was changed.
    """
    value = files.read_json(path)
    if not isinstance(value, dict):
        raise InputError(path, f"JSON that is a {type(value).__name__}", "an object", fix)
    if not is_intact(value):
        more = f"{fix}; if the change was meant, remove the line {KEY!r}"
        raise InputError(path, _DIFFERS, "the file as it was written", more)
    return {name: item for name, item in value.items() if name != KEY}


def check_file(path: str | os.PathLike, digest: str | None, expected: str, fix: str) -> None:
    """Refuse a file whose SHA-256 is another than was written down elsewhere (None: nothing was).

    Raises:
        InputError: It was changed after it was written.
    """
    if digest is not None and files.sha256(path) != digest:
        raise InputError(path, _DIFFERS, expected, fix)


def seal(data: bytes) -> bytes:
    """Return the content of a file with the checksum of `data` in its `PLACE`.

    Raises:
        ValueError: There is no such place.
    """
    before, place, after = data.rpartition(PLACE.encode())
    if not place:
        raise ValueError("no place for a checksum")
    return before + place[:-64] + hashlib.sha256(data).hexdigest().encode() + after


def check_seal(data: bytes, path: str | os.PathLike, expected: str, fix: str) -> None:
    """Refuse content whose checksum is another than that in it.

    Args:
        data: Content of the file.
        path: The file, for the error.
        expected: What it should be.
        fix: What to do.

    Raises:
        InputError: It was changed after it was written.
    """
    all_found = list(_SEALED.finditer(data))
    if not all_found:
        return
    found = all_found[-1]  # as `seal` takes it
    before = b"".join((data[: found.start(1)], b"0" * 64, data[found.end(1) :]))
    if hashlib.sha256(before).hexdigest().encode() != found[1]:
        raise InputError(path, _DIFFERS, expected, fix)

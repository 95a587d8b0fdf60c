"""Names that come from outside and become names of files: checked before anything is read, written or removed."""

import os
from typing import Any

from hpa_tf.errors import InputError


def check_name(name: Any, where: str | os.PathLike) -> str:
    """Return `name`, read from a file, if it is the name of a file in its folder and not a way out of the folder.

    Every name that a file says is checked here before it becomes a path that is read, written or removed.

    Raises:
        InputError: It is no text, is empty, `.` or `..`, or holds a path separator, a drive or a control character.
    """
    bad = not isinstance(name, str) or name in ("", ".", "..") or any(letter in name for letter in "/\\:")
    if bad or any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        fix = "do not use files of unknown origin; make the folder again, or copy it from its source"
        raise InputError(where, f"the file name {str(name)[:220]!r}", "the name of a file in the same folder", fix)
    return name


def check_image_id(image_id: str, where: str | os.PathLike) -> str:
    """Return `image_id` if it is safe as part of a file name.

    Raises:
        InputError: It is empty, holds a path separator, `..`, a control character or bytes that are no UTF-8, or is
            longer than 200 characters or 220 bytes.
    """
    if not _is_part_of_a_name(image_id):
        raise InputError(where, f"image id {image_id[:220]!r}", f"an id {_SAFE}", "rename the image and its rows")
    return image_id


def check_network_name(name: Any, where: str | os.PathLike) -> str:
    """Return `name` if a network of this name can have its own file among the results of a prediction.

    Raises:
        InputError: It is no text, or none that `check_image_id` takes.
    """
    if not isinstance(name, str) or not _is_part_of_a_name(name):
        fix = "rename the run folder and predict again; do not use predictions of unknown origin"
        raise InputError(where, f"a network named {str(name)[:220]!r}", f"a name {_SAFE}", fix)
    return name


_MOST_CHARACTERS, _MOST_BYTES = 200, 220
"""A file's name has at most 255 bytes; our longest is `.ID_nucleusmask.png.PID.tmp`, with 7 digits for PID."""
_SAFE = "in UTF-8 without path separators, '..' and control characters, of 1 to "
_SAFE += f"{_MOST_CHARACTERS} characters and at most {_MOST_BYTES} bytes"


def _is_part_of_a_name(text: str) -> bool:
    """Tell whether a text is safe as part of a file name."""
    if any(part in text for part in ("/", "\\", "..")) or not 1 <= len(text) <= _MOST_CHARACTERS:
        return False
    if any(ord(c) < 32 or ord(c) == 127 or _is_surrogate(c) for c in text):
        return False
    return len(text.encode()) <= _MOST_BYTES


def _is_surrogate(letter: str) -> bool:
    """Tell whether a letter stands for a byte of a file name that is no UTF-8."""
    return 0xD800 <= ord(letter) < 0xE000

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
            longer than 200 characters.
    """
    bad = not image_id or "/" in image_id or "\\" in image_id or ".." in image_id or len(image_id) > 200
    if bad or any(ord(c) < 32 or ord(c) == 127 or _is_surrogate(c) for c in image_id):
        raise InputError(
            where,
            f"image id {image_id[:220]!r}",
            "an id in UTF-8 without path separators, '..' and control characters, 1 to 200 characters long",
            "rename the image and its rows",
        )
    return image_id


def _is_surrogate(letter: str) -> bool:
    """Tell whether a letter stands for a byte of a file name that is no UTF-8."""
    return 0xD800 <= ord(letter) < 0xE000

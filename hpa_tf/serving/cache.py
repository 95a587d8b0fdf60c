"""The user's cache: folders that are made when they are first needed, and appear whole. `XDG_CACHE_HOME` moves it."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from hpa_tf import files
from hpa_tf.errors import InputError

FIX = "set XDG_CACHE_HOME to a folder that can be written"


def user_cache() -> Path:
    """Return the folder of the user's cache: ~/.cache/hpa_tf.

    Raises:
        InputError: The user has no home folder, and `XDG_CACHE_HOME` names no other.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hpa_tf"
    except RuntimeError as error:
        raise InputError("~/.cache", "no home folder (HOME is not set)", "the user's cache", FIX) from error


@contextlib.contextmanager
def new_folder(final: Path, is_whole: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield a path beside `final` for a new folder, which becomes `final` when the block ends without an error.

    Where another process was faster, its folder stays; one that is not whole gives way.

    Args:
        final: The folder.
        is_whole: Tells whether a folder is there as it was made.

    Raises:
        OSError: The cache cannot be written.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    options = {"prefix": ".", "suffix": files.TEMPORARY_SUFFIX, "ignore_cleanup_errors": True}
    with tempfile.TemporaryDirectory(dir=final.parent, **options) as temporary:
        made = Path(temporary, final.name)
        yield made
        if not is_whole(final):
            with contextlib.suppress(FileNotFoundError):  # usually there is none
                os.rename(final, made.with_name("damaged"))
        try:
            os.rename(made, final)
        except OSError:
            if not final.is_dir():
                raise

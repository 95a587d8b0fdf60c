"""Files on object stores (`gs://`, `s3://`, `memory://`, anything fsspec opens); for `files`, which all others use.

A file that is not there is a `FileNotFoundError`, as on a disk. Whatever else a store says (expired credentials, no
right, no network, too busy even after the tries of its library) is a `StoreError`.
"""

import contextlib
import io
import logging
import os
from collections.abc import Iterator
from typing import IO, Any

from hpa_tf.errors import HpaError, InputError, StoreError

logging.getLogger("gcsfs").addHandler(logging.NullHandler())  # or it prints tracebacks of what it raises as well
_NO_REFUSAL = (FileNotFoundError, NotADirectoryError, IsADirectoryError, MemoryError, HpaError)


def exists(path: str | os.PathLike) -> bool:
    """Tell whether a file or folder exists."""
    with _opened(path) as (filesystem, name):
        return _is_there(filesystem, name)


def entries(folder: str | os.PathLike) -> dict[str, dict[str, Any]]:
    """Return what the store says of each file and folder in a folder, by name.

    Raises:
        OSError: There is no such folder.
    """
    with _opened(folder) as (filesystem, root):
        return {entry["name"].rstrip("/").rsplit("/", 1)[-1]: entry for entry in filesystem.ls(root, detail=True)}


def entries_below(folder: str | os.PathLike) -> dict[str, dict[str, Any]]:
    """Return what the store says of each file below a folder, at any depth, by its name below it."""
    with _opened(folder) as (filesystem, root):
        start = len(root.rstrip("/")) + 1
        return {name[start:]: entry for name, entry in filesystem.find(root, detail=True).items()}


def stamp(entry: dict[str, Any]) -> tuple[int, str]:
    """Return a file's size in bytes, and whatever the store says that changes with its content."""
    tag = next((entry[key] for key in ("md5Hash", "ETag", "etag", "mtime", "created") if key in entry), "")
    return int(entry["size"]), str(tag)


def remove(path: str | os.PathLike) -> None:
    """Remove a file if it is there."""
    with _opened(path) as (filesystem, name):
        if _is_there(filesystem, name):
            filesystem.rm_file(name)


def upload(local: str, path: str | os.PathLike) -> None:
    """Copy a local file to a store."""
    with _opened(path) as (filesystem, name):
        try:
            filesystem.put_file(local, name)
        except FileNotFoundError as error:  # there is no such bucket
            raise _refusal(path, error) from error


def open_file(path: str | os.PathLike) -> IO[bytes]:
    """Open a file for reading bytes."""
    with _opened(path) as (filesystem, name):
        return io.BufferedReader(_Reading(path, filesystem.open(name, "rb")))


def read_range(path: str | os.PathLike, start: int, end: int) -> bytes:
    """Return the bytes `start` to `end` of a file in one request; fewer where the file ends before."""
    with _opened(path) as (filesystem, name):
        return filesystem.cat_file(name, start=start, end=end)  # by name: s3fs has others between them


class _Reading(io.RawIOBase):
    """A file that fsspec opened: it asks the store again while it is read."""

    def __init__(self, path: str | os.PathLike, stream: IO[bytes]):
        self._path, self._stream = path, stream

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._stream.seekable()

    def readinto(self, buffer: memoryview) -> int:
        with _refusal_explained(self._path):
            data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        with _refusal_explained(self._path):
            return self._stream.read()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def close(self) -> None:
        self._stream.close()
        super().close()


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[tuple[Any, str]]:
    """Yield fsspec's file system of a path, and the path's name in it, for what may be refused inside the block.

    It is asked anew: fsspec keeps listings for good, and finds no file in them that another process has written since.
    """
    import fsspec  # 0.1 s: only where a remote path is used

    with _refusal_explained(path):
        try:
            filesystem, name = fsspec.core.url_to_fs(str(path))
        except (ImportError, ValueError) as error:  # the store's library is not installed, or there is no such store
            expected, fix = "s3://, gs:// or a local path", "pip install 'hpa_tf[remote]', or correct the address"
            raise InputError(path, f"an address that cannot be opened ({error})", expected, fix) from error
        filesystem.invalidate_cache()
        yield filesystem, name


@contextlib.contextmanager
def _refusal_explained(path: str | os.PathLike) -> Iterator[None]:
    """Turn whatever a store's library raises inside the block, unless it speaks of the file, into a `StoreError`."""
    try:
        yield
    except _NO_REFUSAL:
        raise
    except Exception as error:  # of fsspec, the store's library, its authentication or the network
        raise _refusal(path, error) from error


def _refusal(path: str | os.PathLike, error: Exception) -> StoreError:
    said = next(iter(str(error).strip().splitlines()), type(error).__name__)
    fix = "check the credentials and their expiry, the bucket's name and the network; the same command goes on"
    return StoreError(path, f"a store that refused ({said})", "one that answers", fix)


def _is_there(filesystem: Any, name: str) -> bool:
    """Tell whether a file or folder exists; fsspec's own `exists` takes every refusal for a no."""
    try:
        filesystem.info(name)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True

"""Files on object stores (`gs://`, `s3://`, `memory://`, anything fsspec opens); for `files`, which all others use."""

import os
from typing import IO, Any

from hpa_tf.errors import InputError


def exists(path: str | os.PathLike) -> bool:
    """Tell whether a file or folder exists."""
    filesystem, name = _opened(path)
    return filesystem.exists(name)


def entries(folder: str | os.PathLike) -> dict[str, dict[str, Any]]:
    """Return what the store says of each file and folder in a folder, by name.

    Raises:
        OSError: There is no such folder.
    """
    filesystem, root = _opened(folder)
    return {entry["name"].rstrip("/").rsplit("/", 1)[-1]: entry for entry in filesystem.ls(root, detail=True)}


def entries_below(folder: str | os.PathLike) -> dict[str, dict[str, Any]]:
    """Return what the store says of each file below a folder, at any depth, by its name below it."""
    filesystem, root = _opened(folder)
    start = len(root.rstrip("/")) + 1
    return {name[start:]: entry for name, entry in filesystem.find(root, detail=True).items()}


def stamp(entry: dict[str, Any]) -> tuple[int, str]:
    """Return a file's size in bytes, and whatever the store says that changes with its content."""
    tag = next((entry[key] for key in ("md5Hash", "ETag", "etag", "mtime", "created") if key in entry), "")
    return int(entry["size"]), str(tag)


def remove(path: str | os.PathLike) -> None:
    """Remove a file if it is there."""
    filesystem, name = _opened(path)
    if filesystem.exists(name):
        filesystem.rm_file(name)


def upload(local: str, path: str | os.PathLike) -> None:
    """Copy a local file to a store."""
    filesystem, name = _opened(path)
    filesystem.put_file(local, name)


def open_file(path: str | os.PathLike) -> IO[bytes]:
    """Open a file for reading bytes."""
    filesystem, name = _opened(path)
    return filesystem.open(name, "rb")


def read_range(path: str | os.PathLike, start: int, end: int) -> bytes:
    """Return the bytes `start` to `end` of a file in one request; fewer where the file ends before."""
    filesystem, name = _opened(path)
    return filesystem.cat_file(name, start=start, end=end)  # by name: s3fs has others between them


def _opened(path: str | os.PathLike) -> tuple[Any, str]:
    """Return fsspec's file system of a path, and the path's name in it.

    It is asked anew: fsspec keeps listings for good, and finds no file in them that another process has written since.
    """
    import fsspec  # 0.1 s: only where a remote path is used

    try:
        filesystem, name = fsspec.core.url_to_fs(str(path))
    except (ImportError, ValueError) as error:  # the store's library is not installed, or there is no such store
        expected, fix = "s3://, gs:// or a local path", "pip install 'hpa_tf[remote]', or correct the address"
        raise InputError(path, f"an address that cannot be opened ({error})", expected, fix) from error
    filesystem.invalidate_cache()
    return filesystem, name

"""Files that appear whole, on local disks and object stores.

Local: written under a temporary name in the same folder, flushed to the disk, renamed: never half a file. Remote
(`gs://`, `s3://`, `memory://`, anything fsspec opens): one upload under the final name when the writer closes; a store
that refuses is a `StoreError`.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import sys
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from hpa_tf import remote_files
from hpa_tf.errors import InputError

TEMPORARY_SUFFIX = ".tmp"
DAMAGED_NPZ = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError, ValueError, KeyError)
"""What NumPy raises for a damaged .npz file, by the place of the damage; also for one that cannot be read."""
_HOME = re.compile(r"^((?:[\w.-]+=)?)(~[^/\\]*)")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_remote(path: str | os.PathLike) -> bool:
    """Tell whether `path` is a URL such as `gs://bucket/key`."""
    return "://" in str(path)


def join(folder: str | os.PathLike, *names: str) -> str:
    """Join a folder, local or remote, and names below it."""
    return "/".join([str(folder).rstrip("/"), *names]) if is_remote(folder) else os.path.join(folder, *names)


def exists(path: str | os.PathLike) -> bool:
    """Tell whether a file or folder exists at `path`, local or remote."""
    if is_remote(path):
        return remote_files.exists(path)
    return os.path.exists(path)


def list_names(folder: str | os.PathLike) -> list[str]:
    """List the names of the files in a folder, sorted.

    Raises:
        InputError: There is no such folder.
    """
    return _listed(folder, "file", os.DirEntry.is_file)


def list_shown(folder: str | os.PathLike) -> list[str]:
    """List the names of the files in a folder, sorted, without hidden ones: systems leave some (.DS_Store, ._*).

    Raises:
        InputError: There is no such folder.
    """
    return [name for name in list_names(folder) if not name.startswith(".")]


def list_folders(folder: str | os.PathLike) -> list[str]:
    """List the names of the folders in a folder, sorted.

    Raises:
        InputError: There is no such folder.
    """
    return _listed(folder, "directory", os.DirEntry.is_dir)


def _listed(folder: str | os.PathLike, kind: str, is_kind: Callable[[os.DirEntry], bool]) -> list[str]:
    try:
        if is_remote(folder):
            return sorted(name for name, entry in remote_files.entries(folder).items() if entry["type"] == kind)
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if is_kind(entry))
    except OSError as error:
        raise _no_folder(folder, error) from error


def _no_folder(folder: str | os.PathLike, error: OSError) -> InputError:
    if isinstance(error, NotADirectoryError) and os.path.isfile(folder):
        return InputError(folder, "a file", "a folder with files", "give the folder that it is in")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return InputError(folder, "no such folder", "a folder with files", "check the path")
    fix = "check who may read it and that its disk is there"
    return InputError(folder, f"a folder that cannot be read ({error.strerror or error})", "a readable folder", fix)


def list_stamps(folder: str | os.PathLike) -> dict[str, tuple[int, str]]:
    """Return (size in bytes, time or tag of the last change) of each file in a folder, by name.

    Raises:
        InputError: There is no such folder.
    """
    try:
        if is_remote(folder):
            found = remote_files.entries(folder).items()
            return {name: remote_files.stamp(entry) for name, entry in found if entry["type"] == "file"}
        with os.scandir(folder) as entries:
            stats = ((entry.name, entry.stat()) for entry in entries if entry.is_file())
            return {name: (stat.st_size, str(stat.st_mtime_ns)) for name, stat in stats}
    except OSError as error:
        raise _no_folder(folder, error) from error


def list_below(folder: str) -> dict[str, tuple[int, str]]:
    """Return (size in bytes, tag of the last change) of all files below a remote folder, by their names below it.

    Raises:
        InputError: The folder cannot be read.
    """
    try:
        return {name: remote_files.stamp(entry) for name, entry in sorted(remote_files.entries_below(folder).items())}
    except OSError as error:
        raise _no_folder(folder, error) from error


def stamps_by_id(
    folder: str | os.PathLike, ids: Iterable[str], patterns: Iterable[str | None] = ()
) -> dict[str, list[tuple[str, int, str]]]:
    """Return (name, size, time or tag) of the files in a folder that belong to each id; one listing for all ids.

    A file belongs to an id that its name begins with, up to a `_` or `.`, or that it has in the place of `{ID}` in a
    pattern. An id without files is missing.

    Args:
        folder: Local or remote.
        ids: Image ids.
        patterns: Further file names with `{ID}` for the id; None is passed over.

    Raises:
        InputError: There is no such folder.
    """
    known = {unicodedata.normalize("NFC", name): name for name in ids}
    parts = [unicodedata.normalize("NFC", one).partition("{ID}") for one in ("{ID}", *filter(None, patterns))]
    starts, ends = {start for start, _, _ in parts}, {"_", "."} | {end[:1] for _, _, end in parts}
    found: dict[str, list[tuple[str, int, str]]] = {}
    for name, stamp in sorted(list_stamps(folder).items()):
        normal = unicodedata.normalize("NFC", name)
        for start in starts:
            rest = normal.removeprefix(start) if normal.startswith(start) else ""
            for end, letter in enumerate(rest):
                if letter in ends and rest[:end].strip() in known:
                    found.setdefault(known[rest[:end].strip()], []).append((name, *stamp))
    return found


def remove(path: str | os.PathLike) -> None:
    """Remove a file, local or remote, if it is there."""
    if is_remote(path):
        remote_files.remove(path)
        return
    Path(path).unlink(missing_ok=True)


def make_folder(path: str | os.PathLike, option: str = "--out") -> None:
    """Create a folder, which `option` names, and its parents; nothing to do on an object store.

    Raises:
        InputError: The folder cannot be created or written to.
    """
    if is_remote(path):
        return
    fix = f"choose another {option}"
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise InputError(path, f"{error.strerror}", "a folder that can be created", fix) from error
    if not os.access(path, os.W_OK):
        raise InputError(path, "a folder without write permission", "a writable folder", fix)


def check_can_be_written(option: str, path: str | os.PathLike) -> None:
    """Check, before the work, that the file which `option` names can be written at its end; its folder is made.

    Raises:
        InputError: It is a folder, a device or a pipe, or its folder cannot be created or written to.
    """
    if is_remote(path):
        return
    whole = os.path.abspath(path)
    if os.path.exists(whole) and not os.path.isfile(whole):  # a file would take its place
        kind = "folder" if os.path.isdir(whole) else "device or pipe"
        raise InputError(option, f"the {kind} {whole}", "the name of a file", "give the name of a file in a folder")
    make_folder(os.path.dirname(whole), option)


@contextlib.contextmanager
def atomic_writer(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """Open `path` for writing bytes; it appears, whole, only when the block ends without an error."""
    if is_remote(path):
        # fsspec's transactions cannot be nested, and two shards are written side by side: a local file, then one upload
        with tempfile.NamedTemporaryFile() as stream:
            yield stream
            stream.flush()
            remote_files.upload(stream.name, path)
        return
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        with open(temporary, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def full_disk_explained(where: str | os.PathLike) -> Iterator[None]:
    """Turn the system's word for a full disk inside the block into an error that says what to do.

    Args:
        where: What was being written, where the system names no file.

    Raises:
        InputError: A disk, a quota or a file is full.
    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        fix = "make room and run the same command again; what is finished is kept"
        raise InputError(error.filename or where, str(error.strerror), "room for the results", fix) from error


def is_full(error: BaseException) -> bool:
    """Tell whether an error is the system's word for a full disk, quota or file."""
    return isinstance(error, OSError) and error.errno in _FULL


def sync_folder(folder: str | os.PathLike) -> None:
    """Flush a local folder's entries to the disk, so that a rename inside it survives a power cut."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows opens no folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Write a whole file atomically."""
    with atomic_writer(path) as stream:
        stream.write(data)


def read_bytes(path: str | os.PathLike) -> bytes:
    """Read a whole file, local or remote."""
    with open_file(path) as stream:
        return stream.read()


def read_range(path: str | os.PathLike, start: int, end: int) -> bytes:
    """Read the bytes `start` to `end` of a remote file in one request; fewer where the file ends before."""
    return remote_files.read_range(path, start, end)


def sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file's content, local or remote, read in pieces."""
    with open_file(path) as stream:
        if not is_remote(path):
            return hashlib.file_digest(stream, "sha256").hexdigest()
        digest = hashlib.sha256()
        while piece := stream.read(1 << 20):
            digest.update(piece)
        return digest.hexdigest()


def open_file(path: str | os.PathLike) -> IO[bytes]:
    """Open a file for reading bytes, local or remote."""
    if is_remote(path):
        return remote_files.open_file(path)
    return open(path, "rb")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys (so equal values give equal bytes), atomically.

    Raises:
        ValueError: `value` holds NaN or infinity, which JSON does not know.
    """
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file.

    Raises:
        InputError: The file is missing or is not JSON.
    """
    try:
        return json.loads(read_bytes(path))
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "a JSON file", "check the path") from error
    except OSError as error:
        fix = "check who may read it and that its disk is there"
        raise InputError(path, f"a file that cannot be read ({error.strerror or error})", "a JSON file", fix) from error
    except (ValueError, RecursionError) as error:  # brackets nested a thousand deep
        raise InputError(path, f"no JSON ({error})", "a JSON file", "make the file again") from error


def expand_home(arguments: Iterable[str] | None = None) -> list[str]:
    """Return a command line (None = this process's) with `~` replaced at the start of values: `--images=~/images`,
    `NAME=~/file`.

    A shell does that only at the start of a word.
    """
    given = sys.argv[1:] if arguments is None else arguments
    return [_HOME.sub(lambda match: match[1] + os.path.expanduser(match[2]), argument) for argument in given]

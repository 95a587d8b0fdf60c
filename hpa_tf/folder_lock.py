"""One writer a folder: a second command that would write into it says so at once, and a dead one's lock is no lock.

The owner holds the system's lock on `lock.json` in the folder, which ends with the owner however it dies, and says in
it who it is. Between machines, and on object stores, the system's lock may not reach: there the owner writes again
every `BEAT` seconds, and a file that has not changed for `DEAD_AFTER` seconds is that of a dead owner. On an object
store two commands that start in the same second are not told apart.
"""

import contextlib
import json
import os
import random
import re
import shutil
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from hpa_tf import file_lock, files
from hpa_tf.errors import HpaWarning, InputError, StoreError

NAME = "lock.json"
BEAT = 10.0
DEAD_AFTER = 35.0
_TRIES = 5
"""How often a lock that is there is read before it counts as one that cannot be."""
_TEMPORARY = re.compile(rf"\..+\.(\d{{1,9}}){re.escape(files.TEMPORARY_SUFFIX)}")
"""What `files.atomic_writer` writes before it is whole: the name, the process."""


@dataclass(frozen=True)
class Owner:
    """The process that writes to a folder.

    Attributes:
        host: Name of its machine.
        machine: Tells machines, and starts of one, apart.
        namespace: Tells apart containers whose process numbers mean nothing to each other.
        pid: Process number.
        born: When the process started, in the system's own unit: a number may be given again.
        since: UTC time.
        token: Tells owners apart.
        beat: Counts up while it lives.
    """

    host: str
    machine: str
    namespace: str
    pid: int
    born: str
    since: str
    token: int
    beat: int = 0

    def is_here(self) -> bool:
        """Tell whether this process would see it among the processes that run."""
        return (self.machine, self.namespace) == (_machine(), _namespace())

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, which has been writing to it since {self.since}"


@contextlib.contextmanager
def locked(folder: str | os.PathLike) -> Iterator[Owner]:
    """Own a folder, which is there, inside the block.

    Raises:
        InputError: Another living process owns it.
    """
    path, owner = files.join(folder, NAME), _myself()
    if files.is_remote(folder):
        _wait_for_death(folder, path, system_lock=False)
        try:
            with _beating(lambda now: files.write_json(path, asdict(now)), owner):
                yield owner
        finally:
            with contextlib.suppress(StoreError):  # a lock that stays is soon that of a dead owner
                now = read(folder)
                if now is not None and now.token == owner.token:  # or it is the next owner's
                    files.remove(path)
        return
    descriptor = _take(folder, path)
    try:
        with _beating(lambda now: _overwrite(descriptor, now), owner):
            yield owner
    finally:
        with contextlib.suppress(FileNotFoundError):  # somebody removed it
            if _is_open_at(descriptor, path):  # or it is the next owner's
                os.unlink(path)
        os.close(descriptor)


def read(folder: str | os.PathLike) -> Owner | None:
    """Return who says that it owns a folder; None where nobody does, or the file says nothing.

    Raises:
        InputError: The file is there and cannot be read, even after a while.
        StoreError: The object store refuses it, even after a while.
    """
    path = files.join(folder, NAME)
    for left in reversed(range(_TRIES)):
        try:
            data = files.read_bytes(path)
            break
        except FileNotFoundError:
            return None
        except (OSError, StoreError) as error:  # while the owner writes it again or the store is busy
            if left:
                time.sleep(BEAT / 10)
            elif isinstance(error, StoreError):
                raise
            else:
                fix = "run the same command again in a while"
                raise InputError(path, f"a lock that cannot be read ({error})", "one that can be", fix) from error
    try:
        return Owner(**json.loads(data))
    except (ValueError, TypeError):
        return None


def _take(folder: str | os.PathLike, path: str) -> int:
    """Open the file with the system's lock on it."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise InputError(path, str(error.strerror), "a file that can be written", "choose another --out") from error
        try:
            held = file_lock.take(descriptor)
        except BlockingIOError as error:
            os.close(descriptor)
            raise _busy(folder, read(folder)) from error
        except InputError:
            os.close(descriptor)
            raise
        with contextlib.suppress(FileNotFoundError):  # its last owner removed it between our open and our lock
            if _is_open_at(descriptor, path):
                try:
                    _wait_for_death(folder, path, system_lock=held)
                except BaseException:
                    os.close(descriptor)
                    raise
                return descriptor
        os.close(descriptor)


def _is_open_at(descriptor: int, path: str) -> bool:
    """Tell whether an open file is the one that is at a path now."""
    return os.path.samestat(os.fstat(descriptor), os.stat(path))


def _wait_for_death(folder: str | os.PathLike, path: str, system_lock: bool) -> None:
    """Return once whoever the file names is dead.

    Raises:
        InputError: It lives.
    """
    owner = read(folder)
    if owner is None or (system_lock and owner.machine == _machine()):
        return  # on this machine the system's lock was its, and is not any more
    if owner.is_here():
        if _birth(owner.pid) == owner.born:
            raise _busy(folder, owner)
        return
    if not files.is_remote(path) and _age(path) > DEAD_AFTER:
        return
    text = f"{folder}: {owner}; waiting up to {DEAD_AFTER:.0f} s to see whether it still does"
    warnings.warn(text, HpaWarning, stacklevel=4)
    end = time.monotonic() + DEAD_AFTER
    while time.monotonic() < end:
        time.sleep(min(1.0, DEAD_AFTER / 4))
        now = read(folder)
        if now is None:
            return
        if now != owner:
            raise _busy(folder, now)


def _age(path: str) -> float:
    """Return the seconds since a file was written, by the clock of its file system."""
    probe = f"{path}.{os.getpid()}{files.TEMPORARY_SUFFIX}"
    with open(probe, "wb") as stream:
        stream.write(b"?")
        now = os.fstat(stream.fileno()).st_mtime
    os.unlink(probe)
    return now - os.stat(path).st_mtime


def _busy(folder: str | os.PathLike, owner: Owner | None) -> InputError:
    found = f"{owner}" if owner else "another process that is writing to it"
    return InputError(
        folder, found, "one command at a time in a folder", "wait for it, or stop it, or choose another --out"
    )


@contextlib.contextmanager
def _beating(write: Callable[[Owner], None], owner: Owner) -> Iterator[None]:
    """Write who owns the folder, and again every `BEAT` seconds until the block ends."""
    ended = threading.Event()

    def beat() -> None:
        now = owner
        while not ended.wait(BEAT):
            now = replace(now, beat=now.beat + 1)
            with contextlib.suppress(Exception):  # a disk that is full or away for a while: the next beat may arrive
                write(now)

    write(owner)
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _overwrite(descriptor: int, owner: Owner) -> None:
    content = (json.dumps(asdict(owner), sort_keys=True) + "\n").encode()
    os.pwrite(descriptor, content, 0)
    os.ftruncate(descriptor, len(content))


def _myself() -> Owner:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    token = random.SystemRandom().randrange(1, 2**31)
    return Owner(socket.gethostname(), _machine(), _namespace(), os.getpid(), _birth(os.getpid()), now, token)


def _machine() -> str:
    """Return what names this start of this machine."""
    with contextlib.suppress(OSError):
        return files.read_bytes("/proc/sys/kernel/random/boot_id").decode().strip()
    return socket.gethostname()


def remove_unfinished(folder: str | os.PathLike) -> None:
    """Remove what processes of this machine that are gone left half written in a local folder, if it is there."""
    for path in [] if files.is_remote(folder) else Path(folder).glob(f".*{files.TEMPORARY_SUFFIX}"):
        if (named := _TEMPORARY.fullmatch(path.name)) and _birth(int(named[1])) is None:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _namespace() -> str:
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _birth(pid: int) -> str | None:
    """Return when a process of this machine started, in any unit; None if it is not there."""
    with contextlib.suppress(OSError):
        status = files.read_bytes(f"/proc/{pid}/stat").decode(errors="replace").rpartition(")")[2].split()
        return None if status[0] in "ZX" else status[19]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""

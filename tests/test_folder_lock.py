"""One owner a folder: the living are respected, on this machine and on others; the dead are not waited for."""

import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from hpa_tf import file_lock, files, folder_lock
from hpa_tf.errors import HpaError, HpaWarning, InputError, StoreError
from hpa_tf.folder_lock import locked

ROOT = Path(__file__).parent.parent
HOLD = (
    "import sys, time; from hpa_tf.folder_lock import locked\nwith locked(sys.argv[1]): print(1, flush=True); input()"
)


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(folder_lock, "DEAD_AFTER", 1.0)
    monkeypatch.setattr(folder_lock, "BEAT", 0.1)


@pytest.fixture
def holder(tmp_path):
    """Return another process that owns `tmp_path`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=-1, stdout=-1, text=True)
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


@pytest.fixture(params=["with the system's lock", "without", "object store"])
def folder(request, tmp_path, monkeypatch):
    """Return a folder on a disk, on one whose file system has no locks, or on an object store."""
    if request.param == "without":

        def no_locks(*arguments):
            raise OSError(errno.ENOTSUP, "Operation not supported")

        monkeypatch.setattr(file_lock.fcntl, "flock", no_locks)
    return f"memory://lock/{uuid.uuid4().hex}" if request.param == "object store" else str(tmp_path)


def leave_lock(folder: str, **changes) -> folder_lock.Owner:
    """Write the lock of an owner that is gone, or is elsewhere."""
    owner = replace(folder_lock._myself(), **changes)
    files.write_json(files.join(folder, folder_lock.NAME), asdict(owner))
    return owner


def test_a_second_owner_is_refused_at_once_and_told_who_the_first_is(tmp_path, holder):
    start = time.monotonic()
    message = rf"process {holder.pid} on {socket.gethostname()}.*since .* UTC"
    with pytest.raises(InputError, match=message), locked(tmp_path):
        pass
    assert time.monotonic() - start < 0.5
    holder.communicate("\n")
    with locked(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


def test_one_that_was_killed_is_no_owner(tmp_path, holder):
    holder.kill()
    holder.wait()
    start = time.monotonic()
    assert folder_lock.read(tmp_path).pid == holder.pid
    with locked(tmp_path) as owner:
        assert owner.pid == os.getpid() == folder_lock.read(tmp_path).pid
    assert time.monotonic() - start < 0.5


def test_a_second_owner_in_the_same_process_is_refused(folder):
    with locked(folder), pytest.raises(InputError, match=f"process {os.getpid()} "), locked(folder):
        pass
    assert folder_lock.read(folder) is None
    with locked(folder):
        pass


def test_a_number_that_another_process_has_by_now_is_no_owner(folder):
    leave_lock(folder, born="1")
    with locked(folder):
        pass


@pytest.mark.parametrize("namespace", ["pid:[1]", None])
def test_an_owner_on_another_machine_that_lives_is_respected(folder, namespace):
    """Its process number says nothing here: what counts is that its file goes on changing."""
    owner = leave_lock(folder, host="far", machine="other", pid=1, **({"namespace": namespace} if namespace else {}))
    ended = threading.Event()

    def live():
        beat = 0
        while not ended.wait(0.2):
            beat += 1
            leave_lock(folder, **asdict(replace(owner, beat=beat)))

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.warns(HpaWarning), pytest.raises(InputError, match="process 1 on far"), locked(folder):
            pass
    finally:
        ended.set()
        thread.join()


def test_an_owner_on_another_machine_that_died_is_waited_out(folder):
    leave_lock(folder, host="far", machine="other")
    with pytest.warns(HpaWarning, match="waiting up to 1 s"), locked(folder) as owner:
        assert folder_lock.read(folder).token == owner.token


def test_an_owner_on_another_machine_that_died_long_ago_is_not_waited_for(tmp_path, recwarn):
    leave_lock(str(tmp_path), host="far", machine="other")
    os.utime(tmp_path / folder_lock.NAME, (1e9, 1e9))
    with locked(tmp_path):
        pass
    assert not recwarn.list


def test_the_owner_shows_others_that_it_lives(folder):
    with locked(folder):
        first = folder_lock.read(folder).beat
        time.sleep(0.35)
        assert folder_lock.read(folder).beat > first


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"host": 1}', b"\xff\xfe", json.dumps({"a": 1}).encode()])
def test_a_file_that_says_nothing_is_no_owner(tmp_path, content):
    (tmp_path / folder_lock.NAME).write_bytes(content)
    with locked(tmp_path):
        pass


def test_many_at_once_are_one_after_the_other(tmp_path):
    """Also while others remove the file: a lock on a removed file is none."""
    inside, most, turns = [], [], []

    def work():
        while len(turns) < 30:
            try:
                with locked(tmp_path):
                    inside.append(1)
                    time.sleep(0.002)
                    most.append(len(inside))
                    turns.append(1)
                    inside.pop()
            except InputError:
                pass

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1


def test_a_lock_on_a_file_that_its_last_owner_removed_is_taken_again(tmp_path, monkeypatch):
    """Removed between our open and our lock: whoever comes next locks another file."""
    take, taken = file_lock.take, []

    def late(descriptor: int) -> bool:
        if not taken:
            os.unlink(tmp_path / folder_lock.NAME)
        taken.append(descriptor)
        return take(descriptor)

    monkeypatch.setattr(file_lock, "take", late)
    with locked(tmp_path) as owner:
        assert len(taken) == 2 and folder_lock.read(tmp_path) == owner
        with pytest.raises(InputError, match=f"process {os.getpid()} "), locked(tmp_path):
            pass


def test_a_lock_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / folder_lock.NAME).mkdir()
    with pytest.raises(InputError, match=r"lock\.json: found Is a directory"), locked(tmp_path):
        pass


def test_a_lock_that_was_removed_meanwhile_costs_nothing(tmp_path):
    with locked(tmp_path):
        os.unlink(tmp_path / folder_lock.NAME)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Slow down"), StoreError("lock.json", "Slow down", "", "")])
@pytest.mark.parametrize("times", [2, 1000])
def test_a_lock_that_cannot_be_read_is_no_free_folder(folder, monkeypatch, times, error):
    """An object store says so while the owner writes its file again, or when it has too much to do."""
    read_bytes, refusals = files.read_bytes, iter(range(times))

    def refuse(path):
        if str(path).endswith(folder_lock.NAME) and next(refusals, None) is not None:
            raise error
        return read_bytes(path)

    message = "one command at a time" if times == 2 else "Slow down|writing to it"
    with locked(folder), monkeypatch.context() as patch:
        patch.setattr(files, "read_bytes", refuse)
        with pytest.raises(HpaError, match=message), locked(folder):
            pass
    assert folder_lock.read(folder) is None


def test_a_store_that_refuses_at_the_end_takes_no_work_away(monkeypatch):
    """What was done inside counts, and so does the error that ended it: the lock is that of a dead owner soon."""

    def refuse(path):
        raise StoreError(path, "a store that refused (at the end)", "", "")

    for error in (None, ZeroDivisionError):
        folder = f"memory://lock/{uuid.uuid4().hex}"
        raised = pytest.raises(error) if error else contextlib.nullcontext()
        with monkeypatch.context() as patch, raised, locked(folder):
            patch.setattr(files, "read_bytes", refuse)
            if error:
                raise error
        assert folder_lock.read(folder).pid == os.getpid()


def test_the_lock_of_the_next_owner_stays_in_an_object_store(monkeypatch):
    monkeypatch.setattr(folder_lock, "BEAT", 60.0)
    folder = f"memory://lock/{uuid.uuid4().hex}"
    with locked(folder):
        other = leave_lock(folder, pid=1)
    assert folder_lock.read(folder) == other


def test_the_lock_of_the_next_owner_stays(tmp_path):
    with locked(tmp_path):
        os.rename(tmp_path / folder_lock.NAME, tmp_path / "moved away")
        other = leave_lock(tmp_path, pid=1)
    assert folder_lock.read(tmp_path) == other


WITHOUT_LOCKS = """
import os, sys
sys.modules["fcntl"] = None
del os.O_DIRECTORY, os.pwrite
from hpa_tf import Predictor, files
from hpa_tf.errors import InputError
from hpa_tf.folder_lock import locked
from hpa_tf.grade_decisions import GradedData
from hpa_tf.grade_journal import Writer
files.write_bytes(sys.argv[1] + "/a", b"x")
for use in (lambda: locked(sys.argv[1]).__enter__(), lambda: Writer(sys.argv[1], 11, "anna", GradedData("", ""))):
    try:
        use()
    except InputError as error:
        print(error)
"""


@pytest.mark.slow
def test_on_windows_modules_are_imported_and_a_lock_is_refused_in_one_line(tmp_path):
    """A system without the module fcntl, which opens no folder as a file; every import ended in a traceback."""
    command = [sys.executable, "-c", WITHOUT_LOCKS, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    said = "fcntl: found no such module: this system cannot lock files; expected Linux or macOS. Fix: "
    assert [line.startswith(said) for line in done.stdout.splitlines()] == [True, True]
    assert (tmp_path / "a").read_bytes() == b"x"


def test_only_what_a_dead_process_left_half_written_is_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    kept = [f".a.parquet.{os.getpid()}.tmp", ".b.parquet.tmp", "c.1.tmp", f"d.{dead.pid}.tmp", ".e.x7.tmp"]
    for name in [f".a.parquet.{dead.pid}.tmp", *kept]:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / f".1.{dead.pid}.tmp" / "variables").mkdir(parents=True)
    (tmp_path / f".1.{os.getpid()}.tmp" / "variables").mkdir(parents=True)
    kept.append(f".1.{os.getpid()}.tmp")
    folder_lock.remove_unfinished(tmp_path)
    folder_lock.remove_unfinished(tmp_path / "none")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)

"""Ctrl-C and SIGTERM end a command at any moment with one line: what was kept, and how to go on; so are warnings.

A command's file installs this before its slow imports, and the command says as it goes what a stop would leave:

    sys.exit(interrupts.run("train.py", main))                      # exit code 130 after Ctrl-C, 143 after SIGTERM
    interrupts.keeps("finished shards are kept; the same command continues")

The signal raises `Stopped` in the main thread, so that `with` and `finally` end worker pools and remove temporary
files. Where that does not happen within seconds (a library waits in C++, or swallows the exception), and after a second
signal, the process ends at once. A part that can do better, such as a training that writes a checkpoint first, puts
its own handler in place for as long as it runs.
"""

import atexit
import contextlib
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from types import FrameType
from typing import NoReturn

from hpa_tf.errors import printable, show_warnings_plainly

SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
GRACE = 5.0
"""Seconds that a stopped command has to end by itself."""

_kept = "nothing was written yet"


class Stopped(KeyboardInterrupt):
    """A signal asked this process to stop.

    Args:
        number: The signal.
    """

    def __init__(self, number: int):
        super().__init__(SIGNALS[signal.Signals(number)])
        self.number = number


def keeps(text: str) -> None:
    """Say what a stop leaves from here on, and how to go on: the end of the line that is printed then."""
    global _kept
    _kept = text


def leave_to_parent() -> None:
    """In a worker process: let the parent handle Ctrl-C, which a terminal sends to both; let SIGTERM end it."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def starting_workers() -> Iterator[None]:
    """Let processes that are started inside the block be deaf to Ctrl-C from their first moment; ours waits till then.

    A terminal sends it to all processes: a worker that is still importing would end with a traceback.
    """
    resource_tracker.ensure_running()  # would unblock the signal when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run(program: str, command: Callable[[], int]) -> int:
    """Run a command; return its exit code. Does not return when a signal stopped it: the process ends.

    On Windows the command is not even imported: how it locks folders and starts workers is of Linux and macOS.

    Args:
        program: How the command is called, for the line.
        command: Returns an exit code; imports what is slow to import itself.
    """
    if sys.platform == "win32":
        print(f"{program}: hpa_tf runs on Linux and macOS; on Windows inside WSL 2", file=sys.stderr)
        return 2
    guard = _Guard(program)
    show_warnings_plainly()
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # a damaged file is an error of ours, with its name
    try:
        code = command()
        sys.stdout.flush()
    except BaseException as error:
        number = error.number if isinstance(error, Stopped) else guard.stopped_by  # a library may turn it into another
        if number is None and isinstance(error, BrokenPipeError) and _nobody_reads():
            return 128 + signal.SIGPIPE
        if number is None:
            raise
        guard.end(number)
    if code and guard.stopped_by is not None:
        guard.end(guard.stopped_by)
    guard.finish(code)
    return code


def _nobody_reads() -> bool:
    """Tell whether standard output is a pipe without a reader, as after `| head`; what is still to come is dropped."""
    poll = select.poll()
    poll.register(1, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return True


def _end_workers() -> None:
    """Kill the worker processes, also one that the fork server is starting and that is not known here yet.

    Such a one would find the semaphores of this process gone and say so with a traceback.
    """
    module = sys.modules.get("multiprocessing.forkserver")
    server = module and getattr(module._forkserver, "_forkserver_pid", None)
    if server:
        with contextlib.suppress(OSError, ValueError):
            os.kill(server, signal.SIGSTOP)  # it starts no more
            with open(f"/proc/{server}/task/{server}/children") as stream:  # Linux
                workers = [int(pid) for pid in stream.read().split()]
            for pid in (*workers, server):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    for child in multiprocessing.active_children():
        child.kill()


class _Guard:
    """Handlers of both signals, and a thread that sees to it that a stop comes to an end."""

    def __init__(self, program: str):
        self.program, self.stopped_by, self.said = program, None, False
        self.errors = os.dup(2)  # where the line goes even while a part has put standard error elsewhere
        self.wakeup, end = os.pipe()
        os.set_blocking(end, False)
        threading.Thread(target=self.watch, daemon=True).start()
        os.register_at_fork(after_in_child=leave_to_parent)
        signal.set_wakeup_fd(end, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, self.stop)
        sys.unraisablehook = self.unraisable

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal in the main thread, as soon as that is in Python."""
        if self.stopped_by is not None:
            self.end(number)
        self.stopped_by = number
        raise Stopped(number)

    def unraisable(self, ignored: "sys.UnraisableHookArgs") -> None:
        """End the process when Python drops the exception (it hit a destructor)."""
        if isinstance(ignored.exc_value, Stopped):
            self.end(ignored.exc_value.number)
        sys.__unraisablehook__(ignored)

    def watch(self) -> None:
        """End the process some time after a signal; this thread runs even while the main thread is not in Python."""
        signals = 0
        while read := os.read(self.wakeup, 1):
            if (number := read[0]) not in SIGNALS:
                continue
            signals += 1
            if signals > 1 or signal.getsignal(number) == self.stop:
                time.sleep(GRACE)
                self.end(number)

    def end(self, number: int) -> NoReturn:
        """Say what was kept; end the process and its workers."""
        if not self.said:
            line = f"{self.program}: stopped by {SIGNALS[signal.Signals(number)]}; {_kept}\n"
            with contextlib.suppress(OSError):
                os.write(self.errors, printable(line).encode())
            self.said = True
        _end_workers()
        if threading.current_thread() is threading.main_thread():
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                atexit._run_exitfuncs()  # temporary folders, semaphores; where one hangs, the other thread comes here
        os._exit(128 + number)

    def finish(self, code: int) -> None:
        """Let a signal end the process at once from here on: the command is done."""
        for number in SIGNALS:
            signal.signal(number, lambda *_: os._exit(code))

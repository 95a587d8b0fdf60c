"""Worker processes that survive what they work on; none of them knows of TensorFlow.

`concurrent.futures` gives up its whole pool when one worker dies, and does not say of what. Here a task that kills its
worker (a decoder's crash, memory) fails alone, by its name, and a new worker takes the place of the dead one. Workers
die with their parent, so that a killed command leaves no writer behind.

A fork of the main process would copy the locks that its threads hold. So workers are forked from a server that has no
threads and has imported once for all of them what they need, or, where the system has no such server, start anew.
"""

import collections
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

from hpa_tf.errors import InputError
from hpa_tf.interrupts import leave_to_parent, starting_workers
from hpa_tf.memory import keep_freed_memory


class WorkerDied(InputError):
    """A worker's process ended in the middle of a task."""


@dataclass(frozen=True)
class _Task:
    function: Callable
    arguments: tuple
    name: str
    heard: Callable[..., None] | None
    future: Future = field(default_factory=Future)


class Pool:
    """Worker processes, each led by a thread of this process; `with` ends them, at once after an error.

    Args:
        count: Processes; 0 = one a core.
        preload: Modules that the workers have imported when they start.
    """

    def __init__(self, count: int = 0, preload: Sequence[str] = ()):
        self.count = count or num_cores()
        self._context, self._is_closing = start_method(preload), False
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._workers: list[_Worker | None] = [None] * self.count
        self._leaders = [threading.Thread(target=self._lead, args=(i,), daemon=True) for i in range(self.count)]
        for leader in self._leaders:
            leader.start()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, kind: type | None, *error) -> None:
        self._is_closing = True
        with contextlib.suppress(queue.Empty):
            while True:
                task = self._tasks.get_nowait()
                if task is not None:
                    task.future.cancel()
        for _ in self._leaders:
            self._tasks.put(None)
        if kind is not None:
            for worker in self._workers:
                if worker is not None:
                    worker.process.kill()
        for leader in self._leaders:
            leader.join()

    def submit(
        self, function: Callable, *arguments: Any, name: str = "", heard: Callable[..., None] | None = None
    ) -> Future:
        """Start one call in a worker; its future raises `WorkerDied` where the worker does not survive it.

        Args:
            function: What is called, and with which arguments.
            arguments: See `function`.
            name: What it is about, such as "image X", for errors.
            heard: Told, in a thread, what the function says on its way: it gets a further argument, a callable.
        """
        task = _Task(function, arguments, name, heard)
        self._tasks.put(task)
        return task.future

    def map(
        self,
        function: Callable,
        tasks: Iterable[Any],
        limit: int,
        instead: Callable[[Any, WorkerDied], Any] | None = None,
    ) -> Iterator[Any]:
        """Yield `function(task)` in the order of the tasks; at most `limit` are started ahead.

        Args:
            function: What is called.
            tasks: Its arguments.
            limit: See above; so memory does not depend on how many there are.
            instead: Returns what is yielded for a task that killed its worker; None = the error is raised.
        """
        waiting: collections.deque[tuple[Any, Future]] = collections.deque()

        def first() -> Any:
            task, future = waiting.popleft()
            try:
                return future.result()
            except WorkerDied as error:
                if instead is None:
                    raise
                return instead(task, error)

        for task in tasks:
            waiting.append((task, self.submit(function, task)))
            if len(waiting) >= limit:
                yield first()
        while waiting:
            yield first()

    def _lead(self, number: int) -> None:
        """Hand tasks to one worker, and start another one after it died."""
        with contextlib.suppress(Exception):  # a start that fails is tried again, and told, with the first task
            self._workers[number] = _Worker(self._context)
        while self._lead_one(number):  # by itself, so that no result is kept while it waits
            pass
        if (worker := self._workers[number]) is not None:
            worker.end()

    def _lead_one(self, number: int) -> bool:
        task = self._tasks.get()
        if task is None or not task.future.set_running_or_notify_cancel():
            return task is not None
        try:
            worker = self._workers[number] = self._workers[number] or _Worker(self._context)
            task.future.set_result(worker.do(task))
        except WorkerDied as error:
            self._workers[number] = None
            task.future.set_exception(error)
        except BaseException as error:
            task.future.set_exception(error)
        return not self._is_closing


class _Worker:
    def __init__(self, context: BaseContext):
        self._pipe, there = context.Pipe()
        self.process = context.Process(target=_work, args=(there,), daemon=True)
        self.process.start()
        there.close()

    def do(self, task: _Task) -> Any:
        """Return what the task's function returns, or raise what it raises."""
        call = (task.function, task.arguments, task.heard is not None)
        try:
            self._pipe.send(call)
            kind, content = self._pipe.recv()
            while kind == "news":
                task.heard(*content)
                kind, content = self._pipe.recv()
        except (EOFError, OSError) as error:
            self.end()
            fix = "look at its files; give fewer --workers if memory is short; the same command goes on"
            found = f"its worker died: {_describe_exit(self.process.exitcode)}"
            raise WorkerDied(task.name or "worker process", found, "work that a process survives", fix) from error
        if kind == "error":
            raise content
        return content

    def end(self) -> None:
        """End the process, which waits for its next task or is dead."""
        self._pipe.close()
        self.process.join()


def _describe_exit(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
    return f"exit code {code}"


def _work(pipe: Connection) -> None:
    """Do tasks until the parent closes the pipe."""
    begin()
    with contextlib.suppress(EOFError, OSError):
        while True:
            _do_one(pipe)


def _do_one(pipe: Connection) -> None:
    function, arguments, speaks = pipe.recv()
    tell = (lambda *news: pipe.send(("news", news)),) if speaks else ()
    try:
        answer = ("result", function(*arguments, *tell))
    except Exception as error:
        answer = ("error", error)
    try:
        pipe.send(answer)
    except OSError:
        raise
    except Exception as error:  # what cannot be sent
        pipe.send(("error", RuntimeError(f"{function}: {type(error).__name__}: {error}")))


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_method(preload: Sequence[str] = ()) -> BaseContext:
    """Return the way to start workers, and start the server that they are forked from.

    Args:
        preload: Modules that the server imports meanwhile; of no effect where it runs already.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    if preload:
        context.set_forkserver_preload(list(preload))
    with starting_workers():
        forkserver.ensure_running()
    return context


def begin() -> None:
    """Begin a worker: deaf to Ctrl-C, which is the parent's; gone when the parent is; on one core."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    leave_to_parent()
    keep_freed_memory()
    use_one_thread()


def use_one_thread() -> None:
    """Keep the libraries of this process to one thread: there is a worker for each core."""
    import cv2
    import pyarrow
    import threadpoolctl

    cv2.setNumThreads(1)
    pyarrow.set_cpu_count(1)
    threadpoolctl.threadpool_limits(1)


def _end_with_parent() -> None:
    """End this process when the parent is gone: killed, it cannot tell its workers, and they must write no more."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)

"""Worker processes that survive what they work on.

`concurrent.futures` gives up its whole pool when one worker dies, and does not say of what. Here each worker tells
which image it begins, so that an image that kills its worker (a decoder's crash, memory) is named, and with errors
skipped the others go on. Workers die with their parent, so that a killed build leaves no writer behind.
"""

import contextlib
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext

from hpa_tf.errors import InputError
from hpa_tf.worker_processes import begin, start_method
from tfrecords_builder.field_shards import run_unit
from tfrecords_builder.image import Settings
from tfrecords_builder.plan import Unit
from tfrecords_builder.unit import UnitResult

Progress = Callable[[int], None]
"""Told the number of cells of each finished image."""


@dataclass
class _Worker:
    process: multiprocessing.Process
    pipe: Connection
    unit: Unit | None = None
    image_id: str | None = None


@dataclass
class _Queue:
    """Units to do, largest first so that no large one is left for the end; and the images that killed a worker."""

    units: deque[Unit]
    poisoned: dict[str, InputError] = field(default_factory=dict)


def run_units(
    units: Sequence[Unit], settings: Settings, num_workers: int, progress: Progress
) -> Iterator[tuple[Unit, UnitResult]]:
    """Yield each unit with its result as it is finished.

    Raises:
        InputError: A unit failed, or, where errors are not skipped, an image killed its worker.
    """
    queue = _Queue(deque(sorted(units, key=lambda unit: -len(unit.images))))
    workers = [_start(settings) for _ in range(min(num_workers, len(units)))]
    try:
        for worker in workers:
            _give(worker, queue)
        while busy := [worker for worker in workers if worker.unit is not None]:
            ready = set(wait([worker.pipe for worker in busy]))
            for worker in (worker for worker in busy if worker.pipe in ready):
                yield from _hear(worker, workers, queue, settings, progress)
    finally:
        for worker in workers:
            worker.process.kill()  # a worker that still works here is not wanted any more: the build failed
            worker.process.join()
            worker.pipe.close()


def warm_up() -> BaseContext:
    """Start the process that workers are forked from, so that it imports while the plan is made."""
    return start_method(("tfrecords_builder.field_shards", "hpa_tf.imaging.segmentation.nuclei_of_cells"))


def _start(settings: Settings) -> _Worker:
    context = warm_up()
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there, settings), daemon=True)
    process.start()
    there.close()
    return _Worker(process, here)


def _give(worker: _Worker, queue: _Queue) -> None:
    worker.unit = queue.units.popleft() if queue.units else None
    worker.image_id = None
    if worker.unit is not None:
        with contextlib.suppress(OSError):  # a worker that died meanwhile is heard of by `wait`
            worker.pipe.send((worker.unit, queue.poisoned))


def _hear(
    worker: _Worker, workers: list[_Worker], queue: _Queue, settings: Settings, progress: Progress
) -> Iterator[tuple[Unit, UnitResult]]:
    try:
        kind, *content = worker.pipe.recv()
    except (EOFError, OSError):
        _bury(worker, workers, queue, settings)
        return
    if kind == "image":
        image_id, num_cells = content
        worker.image_id = image_id if num_cells < 0 else None
        if num_cells >= 0:
            progress(num_cells)
    elif kind == "error":
        raise content[0]
    else:
        unit = worker.unit
        _give(worker, queue)
        yield unit, content[0]


def _bury(worker: _Worker, workers: list[_Worker], queue: _Queue, settings: Settings) -> None:
    """Name the image that killed a worker; where errors are skipped, go on without it in a new worker."""
    worker.process.join()
    how = _describe_exit(worker.process.exitcode)
    if worker.image_id is None:
        expected = "a worker that ends by itself"
        fix = "run the same command; it continues where it stopped (with fewer --workers if memory is short)"
        raise InputError("worker process", how, expected, fix)
    fix = "look at its files; use fewer --workers if memory is short; or build with --on-error skip"
    error = InputError(f"image {worker.image_id}", f"its worker died: {how}", "an image that can be processed", fix)
    if not settings.skip_errors:
        raise error
    queue.poisoned[worker.image_id] = error
    queue.units.appendleft(worker.unit)
    worker.pipe.close()
    new = _start(settings)
    worker.process, worker.pipe = new.process, new.pipe
    _give(worker, queue)


def _describe_exit(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
    return f"exit code {code}"


def _work(pipe: Connection, settings: Settings) -> None:
    """Build units until the parent closes the pipe."""
    begin()
    while True:
        try:
            unit, poisoned = pipe.recv()
        except EOFError:
            return
        try:
            result = run_unit(unit, settings, lambda *news: pipe.send(("image", *news)), poisoned)
        except Exception as error:
            pipe.send(("error", error))
            return
        pipe.send(("unit", result))

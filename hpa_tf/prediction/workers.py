"""The process pool that reads and cuts images, and finishes them, while the network runs in the main process.

At most `limit` images are under way at a time, so memory does not depend on how many there are.
"""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from hpa_tf.errors import InputError
from hpa_tf.worker_processes import begin, num_cores, start_method

Future = concurrent.futures.Future
_READERS = (
    "hpa_tf.prediction.shards",
    "hpa_tf.imaging.segmentation.classical",
    "hpa_tf.imaging.segmentation.masks_on_disk",
)


class Workers:
    """A pool of processes without TensorFlow; `with` ends it.

    Args:
        count: Processes; 0 = one a core.
    """

    def __init__(self, count: int = 0):
        self.count = count or num_cores()
        context = start_method(("hpa_tf.prediction.finishing", *_READERS))
        self._pool = concurrent.futures.ProcessPoolExecutor(self.count, context, begin)
        self.submit(int)  # starts the workers: their imports run beside TensorFlow's

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *error) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, function: Callable, *arguments: Any) -> Future:
        """Start one call in a worker."""
        try:
            return self._pool.submit(function, *arguments)
        except BrokenProcessPool as error:
            raise _killed() from error

    def map(self, function: Callable, tasks: Iterable[Any], limit: int) -> Iterator[Any]:
        """Yield `function(task)` in the order of the tasks; at most `limit` are started ahead."""
        waiting: collections.deque[Future] = collections.deque()
        for task in tasks:
            waiting.append(self.submit(function, task))
            if len(waiting) >= limit:
                yield result(waiting.popleft())
        while waiting:
            yield result(waiting.popleft())


class Inline:
    """Does at once, in this process, what `Workers` hands to others: for a process that is a worker itself."""

    count = 1

    def submit(self, function: Callable, *arguments: Any) -> Future:
        """Call the function; the future holds what it returned or raised."""
        future: Future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def map(self, function: Callable, tasks: Iterable[Any], limit: int) -> Iterator[Any]:
        """Yield `function(task)` in the order of the tasks; nothing is started ahead."""
        return map(function, tasks)


def result(future: Future) -> Any:
    """Return what a worker returned, or raise what it raised.

    Raises:
        InputError: The worker was killed.
    """
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise _killed() from error


def _killed() -> InputError:
    fix = "give fewer --workers or a lower --max-pixels, and run the same command again: it continues"
    return InputError("worker process", "it was killed (out of memory?)", "a worker that lives", fix)

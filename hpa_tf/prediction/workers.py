"""The worker processes that read and cut images, and finish them, while the network runs in the main process."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

from hpa_tf.worker_processes import Pool

_PRELOAD = (
    "hpa_tf.prediction.finishing",
    "hpa_tf.prediction.shards",
    "hpa_tf.imaging.segmentation.small",
    "hpa_tf.imaging.segmentation.masks_on_disk",
)


class Workers(Pool):
    """The pool of a prediction: see `Pool`.

    Args:
        count: Processes; 0 = one a core.
    """

    def __init__(self, count: int = 0):
        super().__init__(count, _PRELOAD)


class Inline:
    """Does at once, in this process, what `Workers` hands to others: for a process that is a worker itself."""

    count = 1

    def submit(self, function: Callable, *arguments: Any, name: str = "") -> Future:
        """Call the function; the future holds what it returned or raised."""
        future: Future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def map(self, function: Callable, tasks: Iterable[Any], limit: int, instead: Callable | None = None) -> Iterator:
        """Yield `function(task)` in the order of the tasks; nothing is started ahead, and nothing survives a crash."""
        return map(function, tasks)

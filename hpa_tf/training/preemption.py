"""Stopping on request: SIGTERM (preemption) and Ctrl-C let the running step end and a checkpoint be written."""

import signal
import threading
from types import FrameType

import tensorflow as tf

from hpa_tf import interrupts
from hpa_tf.training.strategy import gathered, worker

EXIT_CODE = 75
"""Exit code after a stop on request (EX_TEMPFAIL: try again); 0 = finished, 2 = bad input."""
AGREE_AFTER = 8
"""Steps, or batches of a validation, after which workers ask each other whether one of them was asked to stop."""


class Interrupted(Exception):
    """The training was stopped on request; a checkpoint holds everything."""


class Preemption:
    """Remembers, inside its `with` block, whether a signal asked for a stop; a second signal stops at once.

    It begins with `watch`: before the first step there is nothing to save, and a signal ends the command as any other.
    """

    def __init__(self):
        self.requested, self._asked = False, 0

    def __enter__(self) -> "Preemption":
        self._previous = {}
        return self

    def watch(self) -> None:
        """Let the running step end and a checkpoint be written, from here on, when a signal comes."""
        if not self._previous and threading.current_thread() is threading.main_thread():  # Python allows no other
            self._previous = {number: signal.signal(number, self._request) for number in interrupts.SIGNALS}

    def must_stop(self, strategy: tf.distribute.Strategy, is_last: bool = False) -> bool:
        """Tell whether to stop now: all workers, which call this together, if a signal came to any of them.

        They agree at every `AGREE_AFTER`-th call, and at the last one: they have to end after the same step.
        """
        if worker(strategy)[1] == 1:
            return self.requested
        self._asked += 1
        if self._asked % AGREE_AFTER and not is_last:
            return False
        return any(stop for (stop,) in gathered(strategy, [int(self.requested)]))

    def __exit__(self, *exception) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise interrupts.Stopped(number)
        self.requested = True

"""Stopping on request: SIGTERM (preemption) and Ctrl-C let the running step end and a checkpoint be written."""

import signal
import threading
from types import FrameType

EXIT_CODE = 75
"""Exit code after a stop on request (EX_TEMPFAIL: try again); 0 = finished, 2 = bad input."""


class Interrupted(Exception):
    """The training was stopped on request; a checkpoint holds everything."""


class Preemption:
    """Remembers, inside its `with` block, whether a signal asked for a stop; a second signal stops at once."""

    def __init__(self):
        self.requested = False

    def __enter__(self) -> "Preemption":
        self._previous = {}
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            self._previous = {s: signal.signal(s, self._request) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

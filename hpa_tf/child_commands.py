"""Commands that are steps of another one, each in a process of its own: of the demo, of the starter network, ..."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hpa_tf import interrupts

_PACKAGES = str(Path(__file__).parents[1])
"""Where hpa_tf is imported from."""


def run(program: str, words: Sequence[str]) -> int:
    """Print a command as a user would type it, run it, and wait for its end.

    It ends by itself when a stop is asked for, as a training does after it has written a checkpoint: SIGTERM is handed
    on to it, and the Ctrl-C of a terminal reaches it anyway.

    Args:
        program: Who runs it, for the line about one that failed.
        words: The command, without `hpa-tf`.

    Returns:
        Its exit code; 128 + the number of the signal that ended it.

    Raises:
        Stopped: A stop was asked for when the command was done.
    """
    print(f"\n$ hpa-tf {shlex.join(words)}", flush=True)
    interrupts.keeps("finished steps are kept; the same command continues")
    stops: list[int] = []
    before = {number: signal.signal(number, lambda number, _: stops.append(number)) for number in interrupts.SIGNALS}
    try:
        code = _wait(_start(words), stops)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if code:
        print(f"{program}: that command ended with {code}; the same command continues there", file=sys.stderr)
    elif stops:
        signal.raise_signal(stops[0])
    return code


def _start(words: Sequence[str]) -> subprocess.Popen:
    path = os.pathsep.join(filter(None, (_PACKAGES, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-P", "-m", "hpa_tf.command_line", *words]  # -P: no module from the current folder
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})


def _wait(process: subprocess.Popen, stops: Sequence[int]) -> int:
    """Wait for a process to end, handing on each SIGTERM that comes to stand in `stops`; return its exit code."""
    handed_on = 0
    while (code := process.poll()) is None:
        time.sleep(0.1)
        if stops.count(signal.SIGTERM) > handed_on:
            process.terminate()
            handed_on += 1
    return code if code >= 0 else 128 - code

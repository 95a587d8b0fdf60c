"""How worker processes start and end, the same in every pool: none of them knows of TensorFlow.

A fork of the main process would copy the locks that its threads hold. So workers are forked from a server that has no
threads and has imported once for all of them what they need, or, where the system has no such server, start anew.
"""

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Sequence
from multiprocessing import forkserver
from multiprocessing.context import BaseContext

from hpa_tf.interrupts import leave_to_parent, starting_workers
from hpa_tf.memory import keep_freed_memory


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

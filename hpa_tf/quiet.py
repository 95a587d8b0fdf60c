"""Import TensorFlow without the lines that its libraries print on every start.

They are written before TensorFlow reads TF_CPP_MIN_LOG_LEVEL, or in spite of it: that oneDNN is on, that there are no
CUDA drivers, that no GPU could be initialised, twice each. While TensorFlow is imported and looks for devices, the
process's standard error goes to a file; every line that is not one of these is printed afterwards.
"""

import contextlib
import importlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

_KNOWN = re.compile(
    r"All log messages before absl::InitializeLog"
    r"|port\.cc:\d+\] oneDNN custom operations are on"
    r"|cudart_stub\.cc:\d+\] Could not find cuda drivers"
    r"|cpu_feature_guard\.cc:\d+\] This TensorFlow binary is optimized"
    r"|^To enable the following instructions:"
    r"|cuda_(platform|executor|diagnostics)\.cc:\d+\] (failed call to cuInit|.*UNKNOWN ERROR \(303\))"
    r"|Unable to register cu(FFT|DNN|BLAS) factory"
    r"|computation_placer already registered"
)
"""Lines that say nothing a user could act on. A GPU that is there but cannot be used is said by `devices` itself."""


def import_tensorflow() -> None:
    """Import TensorFlow and Keras and list the devices, quietly; later imports find them loaded."""
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # warnings and errors
    with _without_known_lines():
        tensorflow = importlib.import_module("tensorflow")
        importlib.import_module("keras")
        with contextlib.suppress(RuntimeError):  # a driver that fails is said where the devices are chosen
            tensorflow.config.list_physical_devices()


@contextlib.contextmanager
def _without_known_lines() -> Iterator[None]:
    """Hold back what the process writes to standard error, then print it without the known lines."""
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # no standard error: nothing to hold back
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            for line in held.read().decode(errors="replace").splitlines():
                if line.strip() and not _KNOWN.search(line):
                    print(line, file=sys.stderr)

"""Import TensorFlow without the lines that its libraries print on every start, and without what nobody asked for.

They are written before TensorFlow reads TF_CPP_MIN_LOG_LEVEL, or in spite of it: that oneDNN is on, that there are no
CUDA drivers, that no GPU could be initialised, twice each. While TensorFlow is imported and looks for devices, the
process's standard error goes to a file; every line that is not one of these is printed afterwards.

Keras imports scikit-learn and matplotlib.pyplot where it finds them, for wrappers and galleries that no program here
uses: 1.2 of 4.3 processor seconds of every start.
"""

import contextlib
import importlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence

from hpa_tf.errors import InputError

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

_BACKEND = "tensorflow"
_NOT_USED = ("sklearn", "matplotlib")


def import_tensorflow(*, whole_keras: bool = False) -> None:
    """Import TensorFlow and Keras and list the devices, quietly; later imports find them loaded.

    Keras computes with TensorFlow, in float32, channels last, whatever the user's keras.json and environment say.

    Args:
        whole_keras: Let Keras find scikit-learn and matplotlib: `keras.wrappers` and `keras.visualization` work.

    Raises:
        InputError: Keras is already imported, with another backend.
    """
    if not {"tensorflow", "keras"} <= sys.modules.keys():
        _import(() if whole_keras else _NOT_USED)
    keras = sys.modules["keras"]
    if (backend := keras.config.backend()) != _BACKEND:
        fix = f"`from hpa_tf import Predictor` before keras is imported, or set KERAS_BACKEND={_BACKEND}"
        raise InputError("KERAS_BACKEND", backend, _BACKEND, fix)
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")


def _import(hidden: Sequence[str]) -> None:
    os.environ["KERAS_BACKEND"] = _BACKEND  # goes before keras.json
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # warnings and errors
    with _without_known_lines():
        with _hidden(hidden):
            tensorflow = importlib.import_module("tensorflow")
            importlib.import_module("keras")
        with contextlib.suppress(RuntimeError):  # a driver that fails is said where the devices are chosen
            tensorflow.config.list_physical_devices()


@contextlib.contextmanager
def _hidden(names: Sequence[str]) -> Iterator[None]:
    """Let packages that are not loaded yet look as if they were not installed."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # None: Python raises ModuleNotFoundError
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


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

"""What commands print: nothing from TensorFlow's libraries, progress in lines where there is no terminal."""

import json
import os
import subprocess
import sys

import keras
import pytest

from hpa_tf.errors import InputError
from hpa_tf.progress import progress
from hpa_tf.quiet import _without_known_lines, import_tensorflow

CUDA = "I0000 00:00:1795.365599    6941 cudart_stub.cc:31] Could not find cuda drivers on your machine"


def test_tensorflow_starts_in_silence_and_without_what_keras_would_wrap_which_can_be_imported_later():
    code = "import sys; from hpa_tf.quiet import import_tensorflow as start; start(); import keras; "
    code += "found = {'sklearn', 'matplotlib'} & set(sys.modules); import sklearn.metrics, matplotlib.pyplot; "
    code += "print(found, tuple(keras.ops.ones((1, 2)).shape))"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (result.returncode, result.stdout, result.stderr) == (0, "set() (1, 2)\n", "")


def test_keras_computes_with_tensorflow_whatever_the_user_has_set(tmp_path):
    code = "import hpa_tf.quiet as quiet; quiet.import_tensorflow(); import keras; c = keras.config; "
    code += "print(c.backend(), c.image_data_format(), c.floatx(), c.dtype_policy().name)"
    settings = {"backend": "theano", "image_data_format": "channels_first", "floatx": "float16"}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    environment = {**os.environ, "KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "jax"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (result.returncode, result.stdout) == (0, "tensorflow channels_last float32 float32\n"), result.stderr


def test_keras_that_was_imported_with_another_backend_is_refused(monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(InputError, match="KERAS_BACKEND: found jax; expected tensorflow"):
        import_tensorflow()


def test_lines_that_are_not_known_are_kept(capfd):
    with _without_known_lines():
        os.write(2, f"{CUDA}\nE0000 00:00 cuda_dnn.cc:5] no memory left\n".encode())
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "E0000 00:00 cuda_dnn.cc:5] no memory left\nafter\n"


def test_an_error_while_held_back_is_raised_and_what_was_written_is_shown(capfd):
    try:
        with _without_known_lines():
            os.write(2, b"why it failed\n")
            raise ImportError("broken")
    except ImportError:
        pass
    assert "why it failed" in capfd.readouterr().err


def test_progress_without_a_terminal_is_a_line_every_tenth(capsys):
    with progress(total=1000, initial=500, desc="predict", unit="image") as bar:
        bar.mininterval = 0
        for _ in range(500):
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 6 and "\r" not in "".join(lines)
    assert lines[-1].startswith("predict: 1000 of 1000 images, ")


@pytest.mark.parametrize(("unit", "shown"), [("cell", "2.00 of 2.00 cells, "), ("B", "2.00 of 2.00 B, ")])
def test_progress_names_what_is_counted(capsys, unit, shown):
    with progress(total=2, desc="x", unit=unit, unit_scale=True) as bar:
        bar.update(2)
    assert capsys.readouterr().err.startswith(f"x: {shown}")


def test_progress_of_an_unknown_number_does_not_say_what_is_left(capsys):
    with progress(desc="x", unit="cell") as bar:
        bar.mininterval = 0
        bar._printed_at -= 100
        bar.update(3)
    line = capsys.readouterr().err
    assert line.startswith("x: 3 cells, ") and "passed" in line and "left" not in line


def test_disabled_progress_prints_nothing(capsys):
    for _ in progress(range(3), desc="x", unit="image", disable=True):
        pass
    assert capsys.readouterr().err == ""

"""Signals at any moment end a command with one line and the right code, and leave no process behind."""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from builder_inputs import write_inputs
from training_process import TINY, write_tiny_dataset

from hpa_tf import interrupts, submission
from hpa_tf.imaging import run_length
from hpa_tf.imaging.segmentation.mask_files import read_mask

ROOT = Path(__file__).parent.parent
STOPS = [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")]


def stopped(code: str, number: int, signals: int = 1) -> tuple[int, str, str]:
    """Run Python code that prints "ready" in a command; signal it then; return its exit code, output and errors."""
    program = f"from hpa_tf import interrupts\ninterrupts.GRACE = 1\ndef main():\n{code}\ninterrupts.run('tool', main)"
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=-1, stderr=-1, text=True)
    assert process.stdout.readline() == "ready\n"
    children = psutil.Process(process.pid).children(recursive=True)
    for _ in range(signals):
        process.send_signal(number)
        time.sleep(0.2)
    output, errors = process.communicate(timeout=30)
    assert not psutil.wait_procs(children, timeout=5)[1]
    return process.returncode, output, errors


@pytest.mark.parametrize("count", [1, 100_000])
def test_a_reader_that_leaves_is_no_error(count):
    """`hpa-tf --help | head`: the rest goes nowhere, without a traceback."""
    program = f"from hpa_tf import interrupts\ninterrupts.run('tool', lambda: print('line\\n' * {count}) or 0)"
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=-1, stderr=-1, text=True)
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(30) in (0, 128 + signal.SIGPIPE)


def test_a_kept_folder_whose_name_is_no_utf8_is_named():
    code = "    import os, time\n    interrupts.keeps(os.fsdecode(b'kept in \\xf6'))\n"
    code += "    print('ready', flush=True)\n    time.sleep(60)"
    number, _, errors = stopped(code, signal.SIGTERM)
    assert (number, errors) == (143, "tool: stopped by SIGTERM; kept in \\xf6\n")


def test_windows_is_told_before_anything_is_imported(monkeypatch, capsys):
    """How commands start workers and answer to signals is of Linux and macOS."""
    monkeypatch.setattr(sys, "platform", "win32")
    assert interrupts.run("predict.py", lambda: pytest.fail("imported")) == 2
    assert capsys.readouterr().err == "predict.py: hpa_tf runs on Linux and macOS; on Windows inside WSL 2\n"


def test_a_command_says_our_warnings_as_one_line_and_others_with_their_place():
    program = (
        "import warnings\nfrom hpa_tf import interrupts\nfrom hpa_tf.errors import HpaWarning\ndef main():\n"
        "    warnings.warn('dark images', HpaWarning)\n    warnings.warn('a library', RuntimeWarning)\n    return 0\n"
        "interrupts.run('tool', main)"
    )
    errors = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stderr
    assert errors.splitlines()[0] == "warning: dark images"
    assert "RuntimeWarning: a library" in errors and "<string>" in errors


def test_a_damaged_picture_is_one_line_of_ours_and_none_of_opencv(tmp_path):
    picture = cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (99, 99), np.uint8))[1].tobytes()
    (tmp_path / "x_red.png").write_bytes(picture[:3000])
    program = (
        "from hpa_tf import interrupts\ndef main():\n    from hpa_tf.imaging.channel_files import read_channel_file\n"
        "    try:\n        read_channel_file('x_red.png', 'red')\n    except ValueError as error: print(error)\n"
        "interrupts.run('tool', main)"
    )
    where = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=where, capture_output=True, text=True, check=True)
    assert "damaged or truncated" in done.stdout and done.stderr == ""


def test_a_broken_pipe_elsewhere_is_still_an_error():
    program = "from hpa_tf import interrupts\ndef main():\n raise BrokenPipeError('of a worker')\n"
    command = [sys.executable, "-c", program + "interrupts.run('tool', main)"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "of a worker" in result.stderr and result.returncode == 1


@pytest.mark.parametrize("number, code, word", STOPS)
@pytest.mark.parametrize(
    "body",
    [
        " import time; print('ready', flush=True); time.sleep(60)",
        # a library that makes another error of it, and a command that takes that for bad input
        " import time; print('ready', flush=True)\n try: time.sleep(60)\n except BaseException: raise ValueError('x')",
        " import time; print('ready', flush=True)\n try: time.sleep(60)\n except BaseException: return 2",
        # a worker that would work on for a minute
        " import concurrent.futures as f, multiprocessing, time\n"
        " p = f.ProcessPoolExecutor(1, multiprocessing.get_context('forkserver'), interrupts.leave_to_parent)\n"
        " p.submit(int).result(); p.submit(time.sleep, 60); print('ready', flush=True); time.sleep(60)",
        # a worker that the fork server has started, and that the process does not know of yet
        " import concurrent.futures as f, multiprocessing, time\n"
        " p = f.ProcessPoolExecutor(1, multiprocessing.get_context('forkserver'), interrupts.leave_to_parent)\n"
        " p.submit(int).result(); p.submit(time.sleep, 60); multiprocessing.process._children.clear()\n"
        " print('ready', flush=True); time.sleep(60)",
        # a forked worker: its parent's handlers are not its own
        " import multiprocessing, time\n"
        " p = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,)); p.start()\n"
        " print('ready', flush=True); p.join()",
        # in a destructor, where Python drops exceptions
        " import time\n class A:\n  def __del__(self): print('ready', flush=True); time.sleep(60)\n"
        " a = A(); del a; time.sleep(60)",
    ],
    ids=["python", "another error", "bad input", "pool", "unknown worker", "fork", "destructor"],
)
def test_one_line_and_the_code_of_the_signal(body, number, code, word):
    kept = " interrupts.keeps('all is kept; go on')\n"
    assert stopped(kept + body, number) == (code, "", f"tool: stopped by {word}; all is kept; go on\n")


@pytest.mark.parametrize(
    "body, signals",
    [
        # waits in C until the end of time, as for a peer that never comes: Python's handlers do not run
        (" import ctypes; print('ready', flush=True); ctypes.CDLL(None).sleep(60); ctypes.CDLL(None).sleep(60)", 1),
        (
            " import time; print('ready', flush=True)\n while 1:\n  try: time.sleep(60)\n  except BaseException: 1",
            1,
        ),
        (" import time; print('ready', flush=True)\n try: time.sleep(60)\n finally: time.sleep(60)", 2),
    ],
    ids=["in C", "swallowed", "twice"],
)
def test_what_does_not_stop_is_ended(body, signals):
    start = time.monotonic()
    result = stopped(body, signal.SIGTERM, signals)
    assert result == (143, "", "tool: stopped by SIGTERM; nothing was written yet\n")
    assert time.monotonic() - start < 30


def test_own_handlers_of_a_part_come_first():
    body = """
 import signal, time; asked = []
 old = signal.signal(signal.SIGTERM, lambda *_: asked.append(1)); print('ready', flush=True)
 while not asked: time.sleep(.1)
 time.sleep(2); signal.signal(signal.SIGTERM, old); print('a checkpoint'); raise SystemExit(75)"""
    assert stopped(body, signal.SIGTERM) == (75, "a checkpoint\n", "")


def test_train_says_what_it_keeps(tmp_path):
    """The real program; its data is being read, or its network built or traced, when the signal comes."""
    data = write_tiny_dataset(tmp_path / "data")
    command = [sys.executable, "train.py", "--data", data, "--out", tmp_path / "out", *TINY]
    process = subprocess.Popen(command, cwd=ROOT, stdout=-1, stderr=-1, text=True)
    assert "OneDeviceStrategy" in process.stdout.readline()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Traceback" not in errors
    assert re.search(r"^train.py: stopped by Ctrl-C; .*(nothing was written|holds no step)", errors, re.MULTILINE)


def test_a_command_that_ends_by_itself_keeps_its_code():
    for body, code in ((" return 0", 0), (" return 2", 2), (" raise SystemExit(3)", 3), (" 1 / 0", 1)):
        program = f"import sys; from hpa_tf import interrupts\ndef main():\n{body}\nsys.exit(interrupts.run('t', main))"
        assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True).returncode == code


@pytest.mark.slow
@pytest.mark.parametrize("number, code, word", STOPS)
@pytest.mark.parametrize("name", ["build", "generate", "score"])
def test_commands_that_have_begun_stop_with_one_line_and_go_on(tmp_path, name, number, code, word):
    """The real programs, their worker processes included, at three moments after the first file is there."""
    inputs = write_inputs(tmp_path, 120, size=96, grid=3)
    out, images = tmp_path / "out", tmp_path / "generated"
    generate = ["generate", "--size", "512", "--out", str(images), "--num-images"]
    commands = {
        "build": ["build", *inputs.arguments(out)[1:], "--workers", "2", "--images-per-shard", "2"],
        "generate": [*generate, "16"],
        "score": ["score", "--truth-masks", str(images / "masks"), "--truth-labels", str(images / "truth.parquet")]
        + ["--submission", str(tmp_path / "submission.csv"), "--out", str(out)],
    }
    program = [sys.executable, "-m", "hpa_tf.command_line"]
    if name == "score":
        subprocess.run([*program, *generate, "3"], cwd=ROOT, check=True, capture_output=True)
        write_submission(images, tmp_path / "submission.csv")
    target, draw = (images if name == "generate" else out), random.Random(number)
    for _ in range(3):
        process = subprocess.Popen(
            [*program, *commands[name]], cwd=ROOT, stdout=-1, stderr=-1, text=True, start_new_session=True
        )
        begun, deadline = time.time(), time.monotonic() + 120
        while not writes_since(begun, target) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.5))
        if process.poll() is not None:  # it was done before the signal
            assert process.communicate() and process.returncode == 0
            continue
        children = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, number)
        output, errors = process.communicate(timeout=60)
        said = [line for line in errors.replace("\r", "\n").splitlines() if "stopped by" in line]
        assert process.returncode in (code, 0) and "Traceback" not in errors + output, errors
        assert len(said) == (process.returncode == code) and all(word in line for line in said), errors
        assert not psutil.wait_procs(children, timeout=10)[1], "a child is left"
    assert subprocess.run([*program, *commands[name]], cwd=ROOT, capture_output=True).returncode == 0
    assert not list(target.rglob("*.tmp"))  # what killed workers were writing is gone at the end


def writes_since(moment: float, folder: Path) -> bool:
    """Tell whether a file below a folder was written since a moment."""
    for path in folder.rglob("*.*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and path.stat().st_mtime > moment:
                return True
    return False


def write_submission(images: Path, path: Path) -> None:
    """Write a submission that finds every cell and says one class of it."""
    with submission.SubmissionWriter(path) as writer:
        for mask_path in sorted((images / "masks").glob("*_cellmask.png")):
            mask = read_mask(mask_path)
            texts = tuple(map(submission.encode_text, run_length.encode_cells(mask).values()))
            ids = np.arange(len(texts))
            image_id = mask_path.name.removesuffix("_cellmask.png")
            writer.write(submission.SubmissionRow(image_id, *mask.shape[::-1], texts, ids, ids * 0, ids * 0 + 0.5))

"""Commands that are steps of another one: a stop is theirs, and nothing of the current folder is imported."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hpa_tf import child_commands

ROOT = Path(__file__).parent.parent
CHILD = """
import signal, sys, time
def save(number, frame):
    time.sleep(1)
    open("saved", "w").close()
    sys.exit({code})
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, save)
print("ready", flush=True)
time.sleep(60)
"""
PARENT = """
import sys
from hpa_tf import child_commands, interrupts
sys.executable = "./python"
def main():
    return child_commands.run("tool", ["train"]) or child_commands.run("tool", ["predict"])
sys.exit(interrupts.run("tool", main))
"""
CONTINUES = "the same command continues"


@pytest.mark.parametrize(
    ("ends_with", "code", "said"),
    [
        (75, 75, f"tool: that command ended with 75; {CONTINUES} there\n"),
        (0, 143, f"tool: stopped by SIGTERM; finished steps are kept; {CONTINUES}\n"),
    ],
)
def test_a_stop_reaches_the_command_which_ends_in_its_own_time(tmp_path, ends_with, code, said):
    process = start(tmp_path, ends_with)
    process.terminate()
    assert (process.communicate(timeout=60)[1], process.returncode) == (said, code)
    assert (tmp_path / "saved").exists()


def test_a_terminals_ctrl_c_reaches_both_and_the_command_ends_in_its_own_time(tmp_path):
    process = start(tmp_path, 75)
    os.killpg(process.pid, signal.SIGINT)
    assert f"ended with 75; {CONTINUES}" in process.communicate(timeout=60)[1]
    assert process.returncode == 75 and (tmp_path / "saved").exists()


def start(folder: Path, ends_with: int) -> subprocess.Popen:
    """Start a command of two steps, in place of which `CHILD` runs; return it when the first one is ready."""
    (folder / "python").write_text(f"#!{sys.executable}{CHILD.format(code=ends_with)}")
    (folder / "python").chmod(0o755)
    command, where = [sys.executable, "-c", PARENT], {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=folder, env=where, start_new_session=True, **pipes)
    assert [process.stdout.readline() for _ in range(3)] == ["\n", "$ hpa-tf train\n", "ready\n"]
    return process


def test_modules_in_the_current_folder_are_not_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    (tmp_path / "difflib.py").write_text("raise ValueError('not this one')")
    assert child_commands.run("tool", ["--version"]) == 0


def test_a_command_that_a_signal_ended_has_the_code_that_shells_give_it():
    process = subprocess.Popen(["sleep", "60"])
    process.kill()
    assert child_commands._wait(process, []) == 137

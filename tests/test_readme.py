"""The README's commands exist with the options that it names, and so do the files that it points to."""

import functools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[list[str]]:
    lines = "\n".join(BLOCKS).replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines if line.startswith("python ")]
    return [words[1:] for words in found if "venv" not in words]


def help_of(words: list[str]) -> str:
    target = words[:2] if words[0] == "-m" else words[:1]
    rest = words[len(target) :]
    return _help(*target, *(rest[:1] if rest and not rest[0].startswith("-") else []))


@functools.cache
def _help(*command: str) -> str:
    result = subprocess.run([sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_there_are_commands_to_check():
    programs = {" ".join(words[:2]) if words[0] == "-m" else words[0] for words in commands()}
    assert {"-m tfrecords_builder", "train.py", "predict.py", "-m hpa_tf.evaluation"} <= programs


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_command_knows_its_options(words):
    text = help_of(words)
    for option in (word for word in words if word.startswith("--") and word != "--help"):
        assert re.search(rf"{option}\b", text), f"{option} is not an option of {words}"


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([\w-]+)", "\n".join(BLOCKS), flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_files_that_are_pointed_to_exist():
    linked = re.findall(r"\]\((?!http)([^)]+)\)", README)
    named = re.findall(r"`((?:hpa_tf|tfrecords_builder|benchmarks|docs|examples|tests)/[\w./]*)`", README)
    assert linked and named
    for path in linked + named:
        assert (ROOT / path).exists(), path

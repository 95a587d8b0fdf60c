"""The README's commands exist with the options that it names, and so do the files that it points to."""

import contextlib
import functools
import io
import re
import shlex
from pathlib import Path

import pytest

from hpa_tf import command_line

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    lines = "\n".join(BLOCKS).replace("\\\n", " ").splitlines()
    found = [" ".join(shlex.split(line, comments=True)) for line in lines if line.startswith("python ")]
    return [line for line in found if "venv" not in line]


def name_of(line: str) -> str:
    """Return the name under which `hpa-tf` has a command of a checkout."""
    return next(name for name, one in command_line.COMMANDS.items() if f"{line} ".startswith(f"{one.same_as} "))


@functools.cache
def help_of(name: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as end:
        command_line.main([name, "--help"])
    assert not end.value.code
    return printed.getvalue()


def test_there_are_commands_to_check():
    assert {"build", "train", "predict", "score"} <= set(map(name_of, commands()))


@pytest.mark.parametrize("line", commands())
def test_command_knows_its_options(line):
    text = help_of(name_of(line))
    for option in (word for word in line.split() if word.startswith("--")):
        assert re.search(rf"{option}\b", text), f"{option} is not an option of {line}"


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


def test_an_image_of_docker_holds_the_package_alone():
    """Everything is left out but what is named, and what is named is there."""
    first, *rest = (ROOT / ".dockerignore").read_text().splitlines()
    assert first == "*"
    kept = [line.removeprefix("!") for line in rest if line.startswith("!")]
    assert all((ROOT / name).exists() for name in kept)
    assert {"hpa_tf", "tfrecords_builder", "train.py", "predict.py", "requirements.txt", "pyproject.toml"} <= {*kept}

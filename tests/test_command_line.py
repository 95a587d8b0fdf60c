"""`hpa-tf`: finds every command, imports nothing for its help, suggests the nearest name."""

import importlib.util
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from hpa_tf import command_line
from hpa_tf.demo import Demo, main, steps
from tfrecords_builder import command

ROOT = Path(__file__).parent.parent


def run(*arguments: str, module: str = "hpa_tf.command_line") -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_lists_every_command_and_imports_nothing_heavy():
    code = (
        "import sys; from hpa_tf.command_line import main; main(['--help']);"
        "print(sorted({'tensorflow', 'numpy', 'tyro', 'pandas'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    *text, imported = result.stdout.splitlines()
    assert imported == "[]"
    assert all(any(line.startswith(f"  {name} ") for line in text) for name in command_line.COMMANDS)


@pytest.mark.parametrize("name", ["predict", "serve"])
def test_the_help_of_a_command_that_needs_tensorflow_later_comes_without_it(name):
    code = f"""
import sys
from hpa_tf.command_line import main
try:
    main(["{name}", "--help"])
finally:
    print(sorted({{"tensorflow", "keras"}} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--run" in result.stdout and result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", command_line.COMMANDS)
def test_every_command_has_its_module(name):
    assert importlib.util.find_spec(command_line.COMMANDS[name].module)


def test_every_command_of_the_builder_has_its_name():
    names = {typing.get_args(one)[1].name for one in typing.get_args(command.Command)}
    assert len(names) == 8 and names <= set(command_line.COMMANDS)


def test_a_command_gets_its_options():
    result = run("verify", "no_such_folder")
    assert result.returncode == 2 and "no_such_folder" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("arguments", [(), ("--help",), ("--version",), ("biuld",), ("verify", "no_such_folder")])
def test_the_package_is_the_same_program(arguments):
    """`python -m hpa_tf` says and ends as `hpa-tf` does, under its name."""
    found, expected = (run(*arguments, module=module) for module in ("hpa_tf", "hpa_tf.command_line"))
    same = ("returncode", "stdout", "stderr")
    assert [getattr(found, name) for name in same] == [getattr(expected, name) for name in same]
    assert found.stdout or found.stderr
    assert "__main__" not in found.stdout + found.stderr


_AT_HOME = {
    "segment": ["--images=~/none", "--out=~/out"],
    "build": ["--images=~/none", "--labels=~/l.csv", "--segmenter=classical", "--out=~/out"],
    "verify": ["~/none"],
    "repair": ["~/none"],
    "inspect": ["~/none"],
    "grade": ["--data=~/none", "--class=3", "--out=~/grades"],
    "grades": ["~/none", "--out=~/g.csv"],
    "label": ["--rule=from_image", "--data=~/none", "--out=~/l.parquet"],
    "diff": ["~/none", "~/none"],
    "train": ["--data=~/none", "--out=~/out"],
    "predict": ["--run=~/none", "--images=~/none", "--out=~/out"],
    "merge": ["--out=~/out", "~/none"],
    "score": ["--truth-masks=~/none", "--truth-labels=~/none", "--submission=~/none", "--out=~/out"],
    "cells": ["--labels=~/none", "--predictions=~/none", "--out=~/out"],
    "check": ["~/none"],
    "diagnose": ["--truth-masks=~/none", "--truth-labels=~/none", "--submission=~/none", "--out=~/out"],
    "outlines": ["~/none", "--out=~/out"],
    "serve": ["--run=~/none", "--port=0"],
    "onnx": ["--run=~/none"],
}


@pytest.mark.parametrize("name", _AT_HOME)
def test_a_tilde_is_home_in_the_paths_of_every_command(name, tmp_path, monkeypatch, capsys):
    """Shells leave it alone after an equals sign."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    try:
        code = command_line.main([name, *_AT_HOME[name]])
    except SystemExit as error:
        code = error.code
    errors = capsys.readouterr().err
    assert code == 2 and f"{tmp_path}" in errors and "~" not in errors, errors
    assert not list(tmp_path.glob("~*"))


@pytest.mark.parametrize(("typed", "meant"), [("biuld", "build"), ("Train", "train"), ("scores", "score")])
def test_a_wrong_name_is_refused_with_the_nearest(typed, meant, capsys):
    assert command_line.main([typed]) == 2
    assert f"did you mean '{meant}'?" in capsys.readouterr().err


def test_the_steps_of_the_demo_are_commands_and_use_what_the_ones_before_wrote():
    commands = steps(Demo(out="there"))
    assert {words[0] for words in commands} <= set(command_line.COMMANDS)
    written = {words[words.index("--out") + 1] for words in commands}
    read = {word for words in commands for word in words if word.startswith("there/")} - written
    assert all(any(word.startswith(folder + "/") for folder in written) for word in read)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mydir"], "Fix: --out mydir"),
        (["my dir"], "Fix: --out 'my dir'"),
        (["--recipe", "cpu_fcna"], "did you mean 'cpu_fcan'?"),
        (["--recipe", "relabel_small"], "one network for each class"),
        (["--", "--recipe.seed", "1", "--out=x"], "give --out before --"),
        *(
            (["--", option, "x"], f"leave {option} out")
            for option in ("--data", "--folds", "--system", "--out-of-fold")
        ),
        (["--", "--show_sampling"], "leave --show-sampling out"),
    ],
)
def test_the_demo_refuses_before_its_first_step_what_a_later_one_would(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.setattr("hpa_tf.demo.steps", lambda asked: [])
    assert main(["--out", str(tmp_path / "my"), *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("recipe", "fields"), [("cpu_lite0", None), ("cpu_b0", None), ("cpu_fcan", "192")])
def test_the_demo_builds_the_fields_that_its_recipe_sees(recipe, fields):
    build = next(words for words in steps(Demo(recipe=recipe)) if words[0] == "build")
    assert (build[build.index("--fields") + 1] if "--fields" in build else None) == fields


def test_make_clean_removes_the_folder_of_the_demo_alone(tmp_path):
    for name in ("my demo", "my", "demo"):
        (tmp_path / name).mkdir()
    subprocess.run(["make", "-f", ROOT / "Makefile", "clean", "DEMO=my demo"], cwd=tmp_path, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo", "my"]

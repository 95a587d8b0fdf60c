"""`hpa-tf`: finds every command, imports nothing for its help, suggests the nearest name."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from hpa_tf import command_line
from hpa_tf.demo import Demo, steps

ROOT = Path(__file__).parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "hpa_tf.command_line", *arguments]
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


@pytest.mark.parametrize("name", command_line.COMMANDS)
def test_every_command_has_its_module(name):
    assert importlib.util.find_spec(command_line.COMMANDS[name].module)


def test_a_command_gets_its_options():
    result = run("verify", "no_such_folder")
    assert result.returncode == 2 and "no_such_folder" in result.stderr and "Traceback" not in result.stderr


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

"""The layers hold, and nothing heavy is imported where it must not be."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_import_contracts_hold():
    result = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    "module",
    [
        "hpa_tf.imaging.cells",
        "hpa_tf.records",
        "hpa_tf.cell_table",
        "hpa_tf.submission",
        "hpa_tf.postprocessing",
        "hpa_tf.synthetic",
        "hpa_tf.evaluation",
        "hpa_tf.grading.command",
        "tfrecords_builder",
    ],
)
def test_these_do_not_load_tensorflow(module):
    code = f"import sys, {module}; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_modules_stay_readable():
    sources = [
        *ROOT.glob("hpa_tf/**/*.py"),
        *ROOT.glob("tfrecords_builder/*.py"),
        ROOT / "train.py",
        ROOT / "predict.py",
    ]
    too_long = {str(p.relative_to(ROOT)): n for p in sources if (n := len(p.read_text().splitlines())) > 330}
    assert not too_long


def test_folders_name_their_modules():
    for folder in filter(Path.is_dir, ROOT.glob("hpa_tf/*")):
        said = (folder / "__init__.py").read_text().split('"""')[1] if (folder / "__init__.py").exists() else ""
        modules = {path.name for path in folder.glob("*.py")} - {"__init__.py", "__main__.py", "command.py"}
        assert modules <= set(re.findall(r"\w+\.py", said)), folder


def test_no_pickle_is_ever_loaded():
    for path in [*ROOT.glob("hpa_tf/**/*.py"), *ROOT.glob("tfrecords_builder/*.py")]:
        text = path.read_text()
        assert not re.search(r"\b(import|from) (pickle|_pickle|dill|joblib|cloudpickle)\b|torch\.load", text), path
        assert "allow_pickle=True" not in text and "safe_mode=False" not in text, path

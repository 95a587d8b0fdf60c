"""README's and docs' commands run as they stand, in order, on generated images; what does not is listed with why.

Each command runs in this process through `hpa-tf`, whose table says which command of a checkout it is the same as.
Trainings get `SMALL` added: a few steps instead of minutes. All but the first also get `TINY`: tracing Lite0 takes
most of such a training's time, and one of them shows that the recipe's own network is trained, exported and asked.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import pandas as pd
import pytest

from hpa_tf import cell_table, command_line, recipes
from hpa_tf.classes import CLASSES
from hpa_tf.losses import CrossEntropy
from hpa_tf.objectives import Labels
from hpa_tf.recipes import bestfitting, milimed, mpware_zfturbo_dieter, red_ai
from hpa_tf.recipes.optimization import Constant
from hpa_tf.training import command as train
from hpa_tf.training.start import parse_member_weights
from tfrecords_builder.label import RULES

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/data.md", "docs/training.md", "docs/labels.md", "docs/evaluation.md", "docs/serving.md")
SMALL = ("--recipe.sampling.num-cells", "32", "--recipe.optimization.epochs", "4")
_WIDTHS = ("--recipe.network.backbone.widths", "8", "8", "8")
TINY = ("--recipe.weights", "none", "--recipe.network.backbone", "SmallCnn", *_WIDTHS)
FIRST = "runs/first"
SKIPPED = {
    r"make ": "the demo and the tests themselves",
    r"python -m venv|pip install": "downloads",
    r"export ": "a second machine",
    r"python train.py --strategy (multiworker|tpu)": "machines that are not here; tests/test_training_distribution.py",
    r"python -m hpa_tf.grading": "runs until it is stopped; tests/test_grading_browser.py",
    r"python -m hpa_tf.serving (serve|onnx|bioimageio)": "runs until stopped, or an extra; tests/test_serving*.py",
    r"python examples/": "tests/test_examples.py and test_serving_http.py",
    r"python .* milimed_final_2": "trains for days",
    r"python .*(cpu_mpware_zfturbo_dieter|student\.parquet|soft\.parquet)": "12 networks; tests/test_team_systems.py",
    r"python .*relabel": "trains 19 networks a fold; tests/test_second_stage.py",
    r"python .*(--readout|levels\.parquet)": "needs shards of fields; tests/test_out_of_fold.py, test_label_rules.py",
    r"python -m hpa_tf.segmenting|python predict.py .* --segmenter hpa\b": "weights that must be downloaded",
    r"python .* (grades|validation\.parquet)\b": "needs a person's grades; tests/test_second_stage.py",
}
"""What is not run: a regular expression that the line begins with, and why, or what tests it."""


def lines_of(page: str) -> list[tuple[str, str]]:
    """Return (language, line) of each command of a page, and each Python block as one."""
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE):
        if language == "python":
            found.append(("python", block))
            continue
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"(python|make|pip|hpa-tf|export|curl) ", line):
                found.append(("shell", line))
    return found


def reason_of(line: str) -> str | None:
    return next((reason for pattern, reason in SKIPPED.items() if re.match(pattern, line)), None)


def arguments_of(line: str) -> list[str]:
    """Return a command's words after `hpa-tf`."""
    line = " ".join(shlex.split(line, comments=True))
    for name, command in command_line.COMMANDS.items():
        for start in (f"hpa-tf {name} ", f"{command.same_as} "):
            if f"{line} ".startswith(start):
                rest = shlex.split(f"{line} "[len(start) :])
                if name == "train":
                    rest += SMALL if FIRST in rest else (*SMALL, *TINY)
                return [name, *rest]
    raise AssertionError(f"no command of hpa-tf: {line}")


def test_every_command_is_run_or_listed_and_the_list_is_not_stale():
    others = sorted(set((ROOT / "docs").glob("*.md")) - {ROOT / "docs/measurements.md"})  # its blocks are output
    pages = ["README.md", *(f"docs/{path.name}" for path in others)]
    used = set()
    for page in pages:
        for language, line in lines_of(page):
            if language == "shell" and (reason := reason_of(line)):
                used.add(reason)
            elif language == "shell":
                assert page in PAGES, f"{page} is not run: {line}"
                assert arguments_of(line)
    assert used == set(SKIPPED.values())


TEAMS = (bestfitting, red_ai, mpware_zfturbo_dieter, milimed)


@pytest.mark.parametrize("module", TEAMS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_the_commands_at_the_head_of_a_teams_recipes_are_understood(module):
    """Indented lines; what a command's further lines are indented deeper belongs to it."""
    text = re.sub(r"\n {8,}", " ", module.__doc__)
    found = re.findall(r"^    (?:python )?(train\.py|tfrecords_builder) (.*)$", text, re.MULTILINE)
    assert found and (module is bestfitting) == any("inception_fine_tuned" in line for _, line in found)
    for program, line in found:
        words = shlex.split(line)
        if program == "tfrecords_builder":
            assert words[words.index("--rule") + 1] in RULES
            continue
        names, rest = train._names(words)
        members = recipes.system_named(names.system).members if names.system else ()
        chosen = [member.recipe for member in members] or [recipes.recipe_named(names.recipe)]
        parsed = [train.parse(rest, recipe) for recipe in chosen]
        if "soft.parquet" in line.lower():  # SYSTEMS 3 Z: plain networks by cross-entropy, students by squares
            losses = {term.loss for one in parsed for term in one.recipe.objective if isinstance(term, Labels)}
            assert losses == {CrossEntropy()}
        if "inception_fine_tuned" in line:  # SYSTEMS 1e
            (one,) = parsed
            assert (one.recipe.optimization.schedule, one.recipe.optimization.learning_rate) == (Constant(), 1e-5)
            assert one.recipe.weights == "runs/bestfitting/bestfitting_inception"
        assert {one.data.clean for one in parsed} == {module is milimed}  # METHODS 3: cleaning is team 4's alone
        parse_member_weights(parsed[0].member_weights, [recipe.name for recipe in chosen])


def test_the_other_teams_commands_of_the_page_leave_no_cells_out():
    """Cleaning, which is on by default, is team 4's alone."""
    found = re.findall(r"^ *(?:python )?train\.py (.*)$", (ROOT / "docs/teams.md").read_text(), re.MULTILINE)
    assert len(found) == 3 and all("--no-clean" in line for line in found)


def test_every_rule_of_labels_has_its_row():
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/labels.md").read_text(), re.MULTILINE)
    assert set(rows) >= set(RULES) and rows.index("merge") == len(RULES) - 1


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The files that the pages name, made as a user would have them: 0.08 um per px, masks beside."""
    root = tmp_path_factory.mktemp("documented")
    for folder, count, seed in (("train", 6, 1), ("test", 2, 2)):
        words = [
            "generate",
            "--out",
            str(root / folder),
            "--num-images",
            str(count),
            "--size",
            "2048",
            "--seed",
            str(seed),
        ]
        assert command_line.main([*words, "--balance", "1"]) == 0
    (root / "train/images").rename(root / "images")
    (root / "train/train.csv").rename(root / "train.csv")
    (root / "test/images").rename(root / "test_images")
    for plate, folder in (("plate1", "images"), ("plate2", "test_images")):
        write_plate(root / plate, root / folder)
    (root / "truth").mkdir()
    (root / "test/masks").rename(root / "truth/masks")
    truth = cell_table.read(root / "test/truth.parquet")
    cell_table.write(truth, root / "truth/cells.parquet", "truth")
    names = [";".join(str(c) for c in row.nonzero()[0]) or "18" for row in cell_table.values(truth) > 0.5]
    table = pd.DataFrame({"ID": truth["image_id"], "Cell_index": truth["cell"], "Cell_Label": names})
    table.to_csv(root / "truth/cells.csv", index=False)
    assert len(CLASSES) == 19 and len(truth) > 4
    return root


def write_plate(plate: Path, images: Path) -> None:
    """Write three channels of each image as an Opera names them."""
    plate.mkdir()
    for number, channel in enumerate(("blue", "green", "red"), start=1):
        for path in images.glob(f"*_{channel}.png"):
            name = path.name.replace(f"_{channel}.png", f"-ch{number}sk1fk1fl1.tiff")
            cv2.imwrite(str(plate / name), cv2.imread(str(path), cv2.IMREAD_UNCHANGED))


@pytest.mark.slow
def test_commands_run_in_order(world, monkeypatch, capsys):
    monkeypatch.chdir(world)
    for page in PAGES:
        for language, line in lines_of(page):
            if language == "python":
                exec(compile(line, page, "exec"), {})
            elif reason_of(line) is None:
                words = arguments_of(line)
                code = end_of(words)
                assert code == 0, f"{page}: {line}\n{capsys.readouterr().err[-2000:]}"
    for left in ("scores/scores.json", "predictions/report.html", "runs/first/README.md", "out_of_fold.parquet"):
        assert (world / left).exists(), left


def end_of(words: list[str]) -> int:
    """Run a command; return its exit code. `--help` exits by itself."""
    try:
        return command_line.main(words)
    except SystemExit as error:
        return int(error.code or 0)


@pytest.mark.slow
def test_predict_with_images_alone_runs(world, monkeypatch):
    """`python predict.py --images DIR` of the README, as a program in a folder without runs."""
    (world / "elsewhere").mkdir()
    command = [sys.executable, str(ROOT / "predict.py"), "--images", "../test_images"]
    result = subprocess.run(command, cwd=world / "elsewhere", capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "--run starter" in result.stdout and (world / "elsewhere/predictions/submission.csv").exists()

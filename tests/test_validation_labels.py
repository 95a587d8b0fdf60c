"""A table of validation labels beside several trainings: who is measured by it, what is refused before the first."""

from dataclasses import replace

import pytest
from training_process import TINY, words, write_tiny_dataset

from hpa_tf import cell_table, files, recipes
from hpa_tf.recipes import ALL_FOLDS, Member, System
from hpa_tf.training import command, run

OPTIONS = TINY[2:] + words("--recipe.sampling.num-cells 16 --recipe.optimization.epochs 1 --deterministic off")
SMALL = recipes.recipe_named("cpu_small")
MEASURED, ON_ALL = replace(SMALL, name="measured"), replace(SMALL, name="on_all", validation_fold=ALL_FOLDS)
SYSTEM = System("mixed", (Member(ON_ALL, 0.5), Member(MEASURED, 0.5)))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("validation") / "data")


@pytest.fixture(scope="module")
def grades(data):
    """Labels of fold 0 alone."""
    table = cell_table.read(data / "cells.parquet")
    path = data.parent / "grades.parquet"
    cell_table.write(table[table["fold"] == 0].reset_index(drop=True), path, "labels")
    return str(path)


@pytest.fixture
def call(data, grades, tmp_path, monkeypatch):
    """Return a function that trains with the table; it takes the system or None, and further options."""
    monkeypatch.setattr(run, "export", lambda *arguments: None)

    def train(system: System | None, *options: str) -> int:
        monkeypatch.setattr(command, "system_named", lambda name: system)
        named = ["--system", "mixed"] if system else ["--recipe", "cpu_small"]
        given = ["--data", str(data), "--out", str(tmp_path / "out"), "--validation-labels", grades]
        return command.main([*named, *given, *OPTIONS, *options])

    return train


def test_members_that_keep_no_fold_out_are_trained_without_it(call, tmp_path, capsys):
    assert call(SYSTEM) == 0
    said = "trained on all folds, and not measured by --validation-labels: on_all"
    assert capsys.readouterr().out.splitlines().count(said) == 1
    inputs = {
        one.recipe.name: files.read_json(tmp_path / "out" / one.recipe.name / "inputs.json") for one in SYSTEM.members
    }
    assert {name for name, one in inputs.items() if "validation_labels_sha256" in one} == {"measured"}


def test_sampling_is_shown_for_them_too(call, capsys):
    assert call(SYSTEM, "--show-sampling") == 0
    assert "on_all" in capsys.readouterr().out


@pytest.mark.parametrize(
    "system, options, said",
    [
        (replace(SYSTEM, members=SYSTEM.members[:1]), "", "--validation-labels: found no validation fold"),
        (SYSTEM, "--folds 2", "cells left of fold 1 with labels in"),
        (None, "--folds 2", "cells left of fold 1 with labels in"),
        (
            replace(SYSTEM, members=(Member(replace(MEASURED, name="other", validation_fold=1), 1.0), *SYSTEM.members)),
            "",
            "of fold 1",
        ),
        (
            replace(SYSTEM, members=(*SYSTEM.members, Member(replace(MEASURED, name="other", validation_fold=5), 1.0))),
            "",
            "fold 5 of 2",
        ),
    ],
)
def test_what_it_cannot_measure_is_refused_before_the_first_training(call, tmp_path, capsys, system, options, said):
    assert call(system, *words(options)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

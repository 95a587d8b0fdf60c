"""What validation measures: a table of labels beside several trainings, and networks that see several cells at once."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import toy_networks
from training_process import TINY, words, write_tiny_dataset

from hpa_tf import cell_table, files, recipes
from hpa_tf.classes import CLASSES, MITOTIC_SPINDLE
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.pipeline import Examples, evaluation_batches
from hpa_tf.recipes import ALL_FOLDS, Member, System
from hpa_tf.records import read_manifest
from hpa_tf.training import command, run
from hpa_tf.training.site import Data
from hpa_tf.training.strategy import make_strategy
from hpa_tf.training.trainee import Trainee
from hpa_tf.training.validation import measure, predict
from hpa_tf.views import Bag, Crop

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


@pytest.mark.slow
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


# -- what a network is shown ------------------------------------------------------------------------------------------

BAGS = next(recipe for recipe in toy_networks.TOYS if recipe.name == "toy_duo")
BAGS = replace(BAGS, view=Bag(4, Crop(16)), validation_fold=0)


@pytest.fixture(params=["graded", "clean"])
def one_measured(data, tmp_path, request):
    """Return data, and the rows of an image of which only the second cell is measured: graded, or not cut."""
    table = cell_table.read(data / "cells.parquet")
    spindles = table.groupby("image_id")[CLASSES[MITOTIC_SPINDLE]].transform("max")
    image = np.flatnonzero((spindles == 0) & (table["fold"] == 0))[:4]  # its cut cells are left out
    assert table["image_id"].iloc[image].nunique() == 1
    if request.param == "graded":
        path = tmp_path / "one.parquet"
        cell_table.write(table.iloc[image[1:2]].reset_index(drop=True), path, "labels")
        return Data(str(data), validation_labels=str(path)), image
    folder = tmp_path / "cut"
    folder.mkdir()
    for file in data.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "cells.parquet").unlink()
    table.loc[image[[0, 2, 3]], "cleaning_value"] = 0.001
    cell_table.write(table, folder / "cells.parquet", "labels")
    return Data(str(folder)), image


def test_a_network_of_bags_is_validated_in_the_bags_it_is_asked_with(data, one_measured):
    """A cell's probability depends on the others of its bag: all cells of the image, as in a prediction."""
    given, image = one_measured
    _, validation = run.split(BAGS, given, read_manifest(data))
    everything = Data(str(data), clean=False).examples(None).select(image)
    own = np.flatnonzero(validation.table["image_id"] == everything.table["image_id"].iloc[0])
    np.testing.assert_array_equal(validation.known[own], np.array([0, 1, 0, 0], bool)[:, None].repeat(19, axis=1))
    trainee = Trainee(BAGS, make_strategy("one"), "float32")
    found = predict(trainee.strategy, trainee.make_predict_step(), BAGS, validation)
    inputs = next(iter(evaluation_batches(everything, BAGS.view, batch_size=1))).inputs
    outputs = trainee.network({name: inputs[name] for name in trainee.network.input}, training=False)
    expected = BAGS.network.probabilities(outputs, inputs).numpy()[0]
    np.testing.assert_allclose(found[own], expected, atol=1e-6)
    measured = validation.known[:, 0]
    alone = measure(validation.select(measured), found[measured], BAGS.network.classes)
    assert measure(validation, found, BAGS.network.classes) == pytest.approx(alone, nan_ok=True)


def test_a_network_of_crops_is_validated_on_the_measured_cells_alone(data, one_measured):
    given, image = one_measured
    _, validation = run.split(SMALL, given, read_manifest(data))
    name = Data(str(data)).examples(None).table["image_id"].iloc[image[0]]
    assert validation.known.all() and (validation.table.loc[validation.table["image_id"] == name, "cell"] == 2).all()


@pytest.mark.parametrize(
    "class_id, changes, refused",
    [
        (0, {"early_stopping": 3}, None),
        (MITOTIC_SPINDLE, {"early_stopping": 3}, "early_stopping of cpu_small, and no cell of fold 0 with a class"),
        (MITOTIC_SPINDLE, {"early_stopping": 3, "measure": "loss"}, None),
        (0, {"measure": "AUC"}, "measure AUC of cpu_small, and .* beside one known to be without it"),
        (MITOTIC_SPINDLE, {}, None),
    ],
)
def test_a_fold_that_cannot_decide_what_it_has_to_is_refused(class_id, changes, refused):
    """Every cell has class 0."""
    labels = np.eye(19)[np.zeros(64, int)]
    cells = Examples("folder", cell_table.from_values([f"i{i}" for i in range(64)], np.ones(64, int), labels))
    network, optimization = replace(SMALL.network, classes=(class_id,)), replace(SMALL.optimization, **changes)
    recipe = replace(SMALL, network=network, optimization=optimization)
    with pytest.raises(InputError, match=refused) if refused else nullcontext():
        run.check_examples(recipe, cells, cells)
    with pytest.warns(HpaWarning, match="the last epoch") if class_id and "measure" not in changes else nullcontext():
        run.warn_of_no_measure(recipe, cells)


def test_a_class_that_no_cell_has_is_not_measured():
    """Softened labels are above 0 for every class of every cell."""
    labels = np.full((4, 19), 0.01)
    labels[:2, 0] = 0.99
    probabilities = np.full((4, 18), 0.5)
    probabilities[1:3, 0] = 0.6  # one of the two before a cell without the class
    found = measure(SimpleNamespace(labels=labels, known=np.ones_like(labels, bool)), probabilities)
    measured = [name for name in CLASSES if not np.isnan(found[f"AP: {name}"])]
    assert measured == [CLASSES[0]] and found["mAP"] == found[f"AP: {CLASSES[0]}"] < 0.8


@pytest.mark.parametrize("name", ["mpware_puzzle_cam", "cpu_fcan"])
def test_labels_of_cells_that_the_measure_does_not_see_are_refused(name, data, grades):
    recipe = recipes.recipe_named(name)
    given = Data(str(data), validation_labels=grades)
    by_loss = replace(recipe, validation_fold=0, optimization=replace(recipe.optimization, measure="loss"))
    with pytest.raises(InputError, match=r"which is judged by a loss of labels of images.*measure mAP"):
        run.split(by_loss, given, read_manifest(data))
    by_map = replace(by_loss, optimization=replace(recipe.optimization, measure="mAP"))
    assert run.split(by_map, given, read_manifest(data))[1].known.all()
    of_cells = replace(SMALL, optimization=replace(SMALL.optimization, measure="loss"))
    assert run.split(of_cells, given, read_manifest(data))[1].known.all()


def test_they_are_refused_before_the_first_member(call, tmp_path, capsys):
    by_image = replace(SMALL, name="by_image", objective=recipes.recipe_named("cpu_fcan").objective[:1])
    by_image = replace(by_image, optimization=replace(SMALL.optimization, measure="loss"))
    assert call(replace(SYSTEM, members=(*SYSTEM.members, Member(by_image, 1.0)))) == 2
    assert "by_image, which is judged by a loss of labels of images" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

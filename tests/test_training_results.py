"""What a training leaves is what its recipe says: the moving average, the checkpoints that predict, the measures."""

import json
import re
import shutil
import time
import typing
import warnings
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import toy_networks
from sklearn.metrics import roc_auc_score
from training_process import TINY, words, write_tiny_dataset

from hpa_tf import cell_table
from hpa_tf.classes import CLASSES, NUM_CLASSES
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.metrics import soft_average_precision
from hpa_tf.pipeline import Examples, evaluation_batches
from hpa_tf.recipes import RECIPES, recipe_named
from hpa_tf.recipes.optimization import Constant, Cosine
from hpa_tf.recipes.recipe import AnyNetwork
from hpa_tf.recipes.runs import read_run
from hpa_tf.training import command, run
from hpa_tf.training.inputs import warn_of_donors, warn_of_schedules, warn_of_unused_labels
from hpa_tf.training.logs import Watch, final_table
from hpa_tf.training.loop import Progress
from hpa_tf.training.site import Data
from hpa_tf.training.strategy import make_strategy
from hpa_tf.training.trainee import Trainee
from hpa_tf.training.validation import measure
from hpa_tf.views import AnyView, Bag, CellInField, Crop, Field

STEPS = 6
OPTIONS = words(
    f"--recipe.sampling.num-cells {8 * STEPS // 2} --recipe.optimization.epochs 2 --deterministic off "
    "--recipe.optimization.ema-decay 0.25 --checkpoint-steps 1 --keep-checkpoints 99 --recipe.optimization.measure loss"
)


@pytest.fixture(scope="module")
def every_step(tmp_path_factory):
    """Return the run folder of a training with a checkpoint after each step; its last validation batch is padded."""
    folder = tmp_path_factory.mktemp("results")
    data, out = write_tiny_dataset(folder / "data", 44), folder / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "export", lambda *arguments: None)
        assert command.main(["--data", str(data), "--out", str(out), *TINY, *OPTIONS]) == 0
    return out


def test_the_average_is_that_of_every_steps_weights(every_step):
    """d = min(decay, (1 + t) / (10 + t)); average <- d average + (1 - d) weights, from the first weights on."""
    recipe = read_run(every_step).recipe
    trainee = Trainee(recipe, make_strategy("one"), "float32")
    weights = {id(variable): i for i, variable in enumerate(trainee.network.variables)}
    moving = [f"network/{weights[id(variable)]:04d}" for variable in trainee.network.trainable_variables]
    expected = [variable.numpy() for variable in trainee.network.trainable_variables]
    assert len(expected) > 4
    for step in range(STEPS):
        with np.load(every_step / "checkpoints" / f"step-{step + 1:08d}.npz") as stored:
            state = {name.removeprefix("array/"): stored[name] for name in stored.files}
        decay = min(0.25, (1 + step) / (10 + step))  # 1/10, 2/11, 3/12 and from then on .25
        expected = [decay * e + (1 - decay) * state[name] for e, name in zip(expected, moving, strict=True)]
        for i, average in enumerate(expected):
            np.testing.assert_allclose(state[f"average/{i:04d}"], average, atol=1e-6)


def test_the_average_is_what_is_kept_and_the_weights_go_on(every_step):
    recipe = read_run(every_step).recipe
    network = recipe.network.build(recipe.view.specs())
    best = json.loads((every_step / "result.json").read_text())["best"]
    network.load_weights(read_run(every_step).checkpoints[0][0])
    with np.load(every_step / "checkpoints" / f"step-{best['step']:08d}.npz") as stored:
        for i, variable in enumerate(network.trainable_variables):
            np.testing.assert_array_equal(variable.numpy(), stored[f"array/average/{i:04d}"])


def test_validation_is_judged_by_the_loss_that_the_kept_network_has(every_step):
    """The history's loss is NumPy's focal loss of what the averaged weights say of the cells that were kept out."""
    recipe = read_run(every_step).recipe
    network = recipe.network.build(recipe.view.specs())
    history = pd.read_csv(every_step / "history.csv")
    best = json.loads((every_step / "result.json").read_text())["best"]
    assert best["validation_loss"] == pytest.approx(history["validation_loss"].min())
    assert best["epoch"] == history["validation_loss"].idxmin() + 1
    network.load_weights(read_run(every_step).checkpoints[0][0])
    examples = Data(str(every_step.parent / "data")).validation_examples(0)
    assert len(examples) % recipe.optimization.batch_size, "no batch is padded"
    inputs = next(iter(evaluation_batches(examples, recipe.view, batch_size=len(examples)))).inputs
    z, y = network(inputs, training=False)["logits"].numpy().astype(float), examples.labels[:, :18]
    entropy = np.logaddexp(0, z) - y * z
    expected = ((1 - np.exp(-entropy)) ** 2 * entropy).mean()
    assert best["validation_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("measure", "best"), [("mAP", 1), ("AUC", 2), ("loss", 0)])
def test_the_best_epoch_is_that_of_the_measure(measure, best, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "export", lambda *arguments: None)
    monkeypatch.setattr(run, "write_card", lambda out: None)
    values = [(0.1, 0.6, 0.2), (0.3, 0.5, 0.4), (0.2, 0.7, 0.3)]
    rows = [{"epoch": i + 1, "mAP": m, "AUC": a, "validation_loss": v} for i, (m, a, v) in enumerate(values)]
    recipe = recipe_named("cpu_small")
    recipe = replace(recipe, optimization=replace(recipe.optimization, measure=measure, early_stopping=2))
    progress = Progress(rows=rows)
    run.finish(recipe, None, str(tmp_path), progress)
    assert json.loads((tmp_path / "result.json").read_text())["best"]["epoch"] == best + 1
    assert recipe.optimization.should_stop(progress.past(measure)) == (best == 0)


def test_a_loss_that_cannot_be_measured_is_refused():
    recipe = recipe_named("cpu_red_ai_field")
    for changes, found in (
        ({"asked": CellInField(192, recipe.view.channels)}, "measure: found loss, of a network that is asked .*CellIn"),
        ({"validation_fold": -1}, "measure loss without a validation fold"),
    ):
        optimization = replace(recipe.optimization, measure="loss")
        with pytest.raises(InputError, match=found):
            run.check_fields_together(replace(recipe, optimization=optimization, **changes))


@pytest.mark.parametrize(
    ("name", "changes", "found"),
    [
        ("cpu_lite0", {"view": Bag()}, "recipe.view: found Bag for Classifier; expected Crop or CellInField or Field"),
        ("cpu_duo_branch", {"view": Crop(), "asked": None}, "recipe.view: found Crop for DuoBranch; expected Bag"),
        ("cpu_mask_pooled", {"asked": CellInField()}, "recipe.asked: found CellInField for MaskPooled; expected Field"),
        ("cpu_fcan", {"asked": Bag()}, "recipe.asked: found Bag for Fcan"),
    ],
)
def test_a_view_that_the_network_does_not_take_is_refused(name, changes, found):
    with pytest.raises(InputError, match=found):
        run.check_fields_together(replace(recipe_named(name), **changes))


def test_a_network_of_ones_own_says_which_views_it_takes():
    class Own:
        views = ("Bag", "Field")

    run.check_views(SimpleNamespace(network=Own(), view=Bag(), asked_view=Field()))
    with pytest.raises(InputError, match="found Crop for Own; expected Bag or Field"):
        run.check_views(SimpleNamespace(network=Own(), view=Bag(), asked_view=Crop()))


def test_views_of_every_network_are_those_that_recipes_may_name():
    known = {view.__name__ for view in typing.get_args(AnyView)}
    for network in typing.get_args(AnyNetwork):
        assert network.views and set(network.views) <= known
        assert "views" not in {field.name for field in fields(network)}, "it is no option"
    for recipe in RECIPES:
        run.check_views(recipe)


@pytest.mark.parametrize(("stored", "told"), [(192, True), (255, True), (256, False), (512, False), (None, False)])
def test_fields_stored_smaller_than_they_are_seen_are_told(stored, told):
    manifest = SimpleNamespace(options={"fields": stored} if stored else {})
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        run.warn_of_small_fields(recipe_named("cpu_puzzle_cam"), manifest)  # squares of 192 of 256 px
        run.warn_of_small_fields(recipe_named("cpu_lite0"), manifest)
    assert [f"stored with {stored} px" in str(one.message) for one in found] == [True] * told
    assert all("--fields 256" in str(one.message) for one in found)


@pytest.mark.parametrize(
    ("name", "stored", "told"),
    [
        ("cpu_puzzle_cam", 200, "lower recipe.view.whole and recipe.asked.size"),
        ("cpu_puzzle_cam", 100, "lower recipe.view.whole and recipe.view.size and recipe.asked.size"),
        ("cpu_mask_pooled", 100, "lower recipe.view.size"),
    ],
)
def test_every_field_that_enlarges_what_is_stored_is_named(name, stored, told):
    with pytest.warns(HpaWarning, match=f"or {re.escape(told)}$"):
        run.warn_of_small_fields(recipe_named(name), SimpleNamespace(options={"fields": stored}))


@pytest.mark.parametrize(
    ("name", "options", "lacking"),
    [
        ("cpu_fcan", "--recipe.view.size 128", "--recipe.asked.size 128"),
        ("cpu_fcan", "--recipe.view.size 128 --recipe.asked.num-cells 8", "--recipe.asked.size 128"),
        ("cpu_fcan", "--recipe.view.size 128 --recipe.asked.size 128", None),
        ("cpu_fcan", "--recipe.view.size=128 --recipe.asked.size=192", None),
        ("cpu_fcan", "--recipe.view Field", "--recipe.asked.size 512"),
        ("cpu_duo_branch", "--recipe.view.cell.size 96", "--recipe.asked.cell.size 96"),
        ("cpu_duo_branch", "--recipe.view.cell.size 96 --recipe.asked.cell.size 96", None),
        ("cpu_duo_branch", "--recipe.view.cell.surroundings all", "--recipe.asked.cell.surroundings all"),
        ("cpu_duo_branch", "--recipe.view.cell.margin 9 --recipe.asked.cell.margin 0", None),
        ("cpu_puzzle_cam", "--recipe.view.size 96", None),  # smaller squares of the same field
        ("cpu_puzzle_cam", "--recipe.view.size 96 --recipe.view.whole 128", "--recipe.asked.size 128"),
        ("cpu_mask_pooled", "--recipe.view.size 96", None),  # it is asked as it is trained
    ],
)
def test_a_network_is_not_asked_with_an_old_size_or_surroundings_without_a_word(name, options, lacking):
    if lacking is None:
        assert command.parse(words(options), recipe_named(name))
        return
    with pytest.raises(InputError, match=f"recipe.view: found {name}, trained with .* Fix: give {lacking}, too"):
        command.parse(words(options), recipe_named(name))


@pytest.mark.parametrize(
    ("name", "stored", "wanted"),
    [
        ("bestfitting_inception", 0, 80),
        ("bestfitting_inception", 79, 80),
        ("bestfitting_inception", 80, None),
        ("milimed_b0_square", 15, 16),
        ("cpu_lite0", 0, None),
        ("cpu_fcan", 0, None),
        ("cpu_duo_branch", 0, None),
    ],
)
def test_crops_stored_with_less_around_them_than_is_seen_are_told(name, stored, wanted):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        run.warn_of_tight_crops(recipe_named(name), SimpleNamespace(margin=stored))
    said = [str(one.message) for one in found]
    assert ["--margin" in one and f"stored with {stored} px" in one for one in said] == [True] * (wanted is not None)
    assert all(f"--margin {wanted} or more" in one for one in said)


@pytest.mark.parametrize(
    ("label", "least", "told"), [(0.9, 0.9, False), (0.89, 0.9, True), (np.nan, 0.0, True), (0.0, 0.0, False)]
)
def test_cells_to_paste_that_there_are_not_are_told(label, least, told):
    values = np.ones((3, NUM_CLASSES), np.float32)
    values[:, CLASSES.index("Mitotic spindle")] = [np.nan, np.nan, label]
    examples = Examples("data", cell_table.from_values(["a"] * 3, [1, 2, 3], values))
    recipe = recipe_named("bestfitting_fcan")
    pasting = replace(recipe.augmentation, paste=replace(recipe.augmentation.paste, least=least))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warn_of_donors(replace(recipe, augmentation=pasting), examples)
        warn_of_donors(recipe_named("cpu_fcan"), examples)
    said = [str(one.message) for one in found]
    assert ["bestfitting_fcan: no training cell has the label Mitotic spindle" in one for one in said] == [True] * told


@pytest.mark.parametrize(
    ("of_images", "probability", "told"),
    [
        ([[1, 1, 1], [1, 1], [0, 0]], 0.1, True),  # labels of images
        ([[1, 1, 1], [1, 1], [0, 0]], 0, False),
        ([[1, 1, 1], [1, 0], [0, 0]], 0.1, False),
        ([[1], [1], [0, 0]], 0.1, False),  # a cell each: nobody can tell
    ],
)
def test_cells_to_paste_by_labels_of_images_are_told(of_images, probability, told):
    """SYSTEMS 1f: one cell of high class-11 score; 7 in 100 cells of an image with the label show it."""
    values = np.zeros((sum(map(len, of_images)), NUM_CLASSES), np.float32)
    values[:, CLASSES.index("Mitotic spindle")] = np.concatenate(of_images)
    ids = [f"image_{i}" for i, labels in enumerate(of_images) for _ in labels]
    examples = Examples("data", cell_table.from_values(ids, range(1, len(ids) + 1), values))
    recipe = recipe_named("bestfitting_fcan")
    pasting = replace(recipe.augmentation, paste=replace(recipe.augmentation.paste, probability=probability))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warn_of_donors(replace(recipe, augmentation=pasting), examples)
    said = ["every cell of 2 images has the label Mitotic spindle, as by labels" in str(one.message) for one in found]
    assert said == [True] * told


def test_a_square_that_grows_needs_more_than_the_box():
    recipe = replace(recipe_named("cpu_duo_branch"), view=Bag(2, Crop(8, square="grow")), asked=None)
    with pytest.warns(HpaWarning, match="1 px or more around the cell, stored with 0 px"):
        run.warn_of_tight_crops(recipe, SimpleNamespace(margin=0))


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["cpu_fcan", "cpu_duo_branch", "cpu_completeness"], True),  # the last: all labels become "whole"
        (["cpu_fcan", "cpu_bestfitting_cells"], False),
        (["bestfitting_fcan"], False),  # pastes cells by their labels
    ],
)
def test_labels_of_cells_that_nobody_learns_from_are_told(names, told):
    recipes = [recipe_named(name) for name in names]
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warn_of_unused_labels(recipes, None)
        warn_of_unused_labels(recipes, "student.parquet")
    text = f"--labels student.parquet: {', '.join(names)} learn from labels of images alone"
    assert [text in str(one.message) for one in found] == [True] * told


@pytest.mark.parametrize(
    ("inputs", "names", "told"),
    [
        ({"data": "a", "new.csv": "b"}, ["cpu_lite0", "cpu_duo_branch"], "cpu_duo_branch"),
        ({"data": "a", "new.csv": "b"}, ["bestfitting_fcan", "cpu_lite0"], "bestfitting_fcan"),
        ({"data": "a", "new.csv": "b"}, ["cpu_lite0"], None),
        ({"data": "a"}, ["cpu_duo_branch"], None),
    ],
)
def test_corrected_labels_of_images_that_do_not_reach_a_loss_are_told(tmp_path, inputs, names, told):
    table = pd.DataFrame({"image_id": ["a"], "cell": [1], **dict.fromkeys(CLASSES, 0.0)})
    path = str(tmp_path / "labels.parquet")
    steps = [{"name": "from_image", "rule": "from_image", "options": {}, "inputs": inputs}]
    cell_table.write(table, path, "labels", steps=steps)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warn_of_unused_labels([recipe_named(name) for name in names], path)
    said = [str(one.message) for one in found if "stay those of --data" in str(one.message)]
    assert [f": {told} learn from labels of images" in text and "new.csv" in text for text in said] == [True] * bool(
        told
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"epochs": 30}, "cpu_lite0: the learning rate falls over 6 epochs of 30, and then stays at its lowest"),
        ({"epochs": 2}, "cpu_lite0: the learning rate falls over 6 epochs of 2, and does not come to its end"),
        ({"epochs": 30, "schedule": Cosine(30)}, None),
        ({"epochs": 30, "schedule": Constant()}, None),
    ],
)
def test_epochs_over_which_the_rate_does_not_fall_are_told(changes, told):
    recipe = recipe_named("cpu_lite0")
    changed = replace(recipe, optimization=replace(recipe.optimization, **changes))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warn_of_schedules([*(one for one in RECIPES if one not in toy_networks.TOYS), changed])
    assert [str(one.message).split(";")[0] for one in found] == ([told] if told else [])


def test_a_network_that_pastes_no_cell_learns_from_no_label_of_a_cell():
    recipe = recipe_named("bestfitting_fcan")
    off = replace(recipe.augmentation, paste=replace(recipe.augmentation.paste, probability=0))
    assert recipe.learns_from_cells and not replace(recipe, augmentation=off).learns_from_cells


def test_a_recipe_and_a_system_that_learn_from_images_say_so(every_step, tmp_path, monkeypatch, capsys):
    """Labels in a table change neither a duo-branch network nor any member of team 2's system."""
    monkeypatch.setattr(command, "train", lambda *arguments: None)
    monkeypatch.setattr(command, "train_system", lambda *arguments: None)
    given = ["--data", str(every_step.parent / "data"), "--labels", "t.parquet", "--out", str(tmp_path / "out")]
    for chosen in (["--recipe", "cpu_duo_branch"], ["--system", "cpu_red_ai"]):
        with pytest.warns(HpaWarning, match="cpu_duo_branch.* learn from labels of images alone"):
            assert command.main([*chosen, *given, "--deterministic", "off"]) == 0
    assert "--fine-tune" not in capsys.readouterr().out  # grades are labels of cells, too


def test_every_recipe_fits_together():
    for recipe in RECIPES:
        run.check_fields_together(recipe)


def test_a_training_goes_on_from_its_newest_checkpoint(every_step, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run, "export", lambda *arguments: None)
    out = shutil.copytree(every_step, tmp_path / "out")
    (out / "result.json").unlink()
    options = ["--data", str(every_step.parent / "data"), "--out", str(out), *TINY, *OPTIONS]
    assert command.main(options) == 0
    assert f"resumed after step {STEPS}" in capsys.readouterr().out


def test_the_share_of_waiting_is_that_of_the_time():
    """A loader that takes a fifth of a second for each of two batches, then a step that takes as long as both."""

    def load():
        for _ in range(2):
            time.sleep(0.2)
            yield 0

    watch, batches = Watch(), load()
    watch.waiting_for(batches)
    watch.waiting_for(batches)
    time.sleep(0.4)
    assert 0.2 < watch.times()["waiting"] < 0.8


def test_the_final_table_has_the_mean():
    row = {"epoch": 3, "mAP": 0.25, "AUC": 0.5, "calibration_error": None, **{f"AP: {name}": None for name in CLASSES}}
    lines = final_table(row, np.arange(19)).splitlines()
    assert len(lines) == 22 and re.fullmatch(r"mean over the classes.* 0\.2500", lines[20])
    assert lines[21] == "AUC 0.5000, calibration error -"


@pytest.mark.parametrize(
    "epochs, expected",
    [(6, {3: 0.2, 4: 0.3, 5: 0.35, 6: 0.15}), (4, {1: 0.2, 2: 0.3, 3: 0.35, 4: 0.15}), (3, {1: 0.3, 2: 0.35, 3: 0.15})],
)
def test_the_last_checkpoints_predict_with_their_own_shares(tmp_path, monkeypatch, epochs, expected):
    """After an early stop there are fewer: the newest keep their shares, oldest first."""
    exported = []
    monkeypatch.setattr(run, "export", lambda recipe, manifest, out, shares: exported.append(dict(shares)))
    monkeypatch.setattr(run, "write_card", lambda out: None)  # there is no run to describe
    recipe = replace(recipe_named("cpu_small"), ensemble=(0.2, 0.3, 0.35, 0.15))
    rows = [{"epoch": i + 1, "mAP": value} for i, value in enumerate([0.1, 0.4, 0.2, 0.3, 0.3, 0.2][:epochs])]
    run.finish(recipe, None, str(tmp_path), Progress(rows=rows))
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["checkpoints"] == {f"weights/epoch-{e:04d}.weights.h5": share for e, share in expected.items()}
    assert exported == [result["checkpoints"]]  # the SavedModel holds them all
    assert result["epochs"] == epochs and result["best"]["epoch"] == 2
    assert result["scored"] == rows[-1], "the last epochs predict, whichever was best"


def test_without_an_ensemble_the_best_epoch_predicts(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "export", lambda *arguments: None)
    monkeypatch.setattr(run, "write_card", lambda out: None)
    rows = [{"epoch": 1, "mAP": 0.4}, {"epoch": 2, "mAP": 0.3}]
    run.finish(recipe_named("cpu_small"), None, str(tmp_path), Progress(rows=rows))
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["checkpoints"] == {"weights/best.weights.h5": 1.0}
    assert result["scored"] == result["best"] == rows[0]


def test_the_end_of_a_training_shows_what_predicts(every_step, tmp_path, capsys, monkeypatch):
    """With an ensemble the last epochs predict, so their last one's scores are shown, not the best one's."""
    monkeypatch.setattr(run, "export", lambda *arguments: None)
    monkeypatch.setattr(run, "best_epoch", lambda past: 0)
    out, given = tmp_path / "out", ["--data", str(every_step.parent / "data"), *TINY, *OPTIONS]
    assert command.main([*given, "--out", str(out), "--recipe.ensemble", "0.5", "0.5"]) == 0
    shown, card = capsys.readouterr().out, (out / "README.md").read_text()
    assert re.search(r"^epoch 2 .* cells +soft-label AP$", shown, re.MULTILINE)
    assert "the last epoch alone: the mean of 2 that predicts was not measured" in shown
    row = pd.read_csv(out / "history.csv").iloc[-1]
    assert f"kept out of the training, against the labels named above: soft-label mAP {row['mAP']:.3f}" in card
    assert "(epoch 2 alone: the mean that predicts was not measured)" in card


def test_negative_is_measured_by_the_likeliest_other_class():
    """A cell is as probably negative as its likeliest label is not there, 1 - max: AUC against scikit-learn's."""
    rng = np.random.default_rng(0)
    labels = np.zeros((400, NUM_CLASSES))
    labels[np.arange(400), np.where(rng.random(400) < 0.3, 18, rng.integers(0, 18, 400))] = 1
    probabilities = rng.random((400, NUM_CLASSES - 1)) * 0.5 + 0.3 * labels[:, :-1]
    examples = Examples("folder", cell_table.from_values([f"i{i}" for i in range(400)], np.ones(400, int), labels))
    measured = measure(examples, probabilities)
    scores = np.column_stack([probabilities, 1 - probabilities.max(axis=1)])
    expected = [roc_auc_score(labels[:, c], scores[:, c]) for c in range(NUM_CLASSES)]
    assert expected[18] > 0.7 and measured["AUC"] == pytest.approx(np.mean(expected), abs=1e-6)
    precision = soft_average_precision(labels, scores, np.ones_like(labels, bool))
    assert measured["AP: Negative"] == precision[18] and measured["mAP"] == pytest.approx(precision.mean(), abs=1e-6)


def test_what_a_network_does_not_answer_is_not_measured():
    labels = np.eye(NUM_CLASSES)[[0, 1, 2, 2]]
    examples = Examples("folder", cell_table.from_values(list("abcd"), np.ones(4, int), labels))
    measured = measure(examples, np.array([[0.1], [0.2], [0.9], [0.3]]), classes=(2,))
    assert measured[f"AP: {CLASSES[2]}"] == measured["mAP"] == 1
    assert np.isnan(measured[f"AP: {CLASSES[18]}"]) and np.isnan(measured[f"AP: {CLASSES[0]}"])

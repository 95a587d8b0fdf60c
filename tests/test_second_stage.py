"""Fine-tuning on hand grades, validation by grades, and networks that find wrong labels."""

import json
import shutil
import warnings
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from shards import one_hot, write_dataset

from hpa_tf import cell_table, files, folder_lock
from hpa_tf import label_rules as rules
from hpa_tf.classes import CLASSES
from hpa_tf.data_folder import graded_data
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.grade_decisions import Decision
from hpa_tf.grade_journal import Writer
from hpa_tf.pipeline.sampling import draw_epoch
from hpa_tf.recipes import Member, System, recipe_named
from hpa_tf.recipes.milimed import MILIMED_B0_FLIPS, fine_tuning
from hpa_tf.recipes.optimization import Constant, Optimization
from hpa_tf.recipes.relabel import ASKED, RELABEL_SMALL
from hpa_tf.recipes.runs import read_run
from hpa_tf.records import CELL_TABLE_NAME, manifest_json, read_manifest
from hpa_tf.run_folder import DATASET, write_result
from hpa_tf.training import command, relabelling
from hpa_tf.training import fine_tuning as fine_tuning_stage
from hpa_tf.training.claim import check_same_run, claimed
from hpa_tf.training.fine_tuning import check_second_stage, stage_labels
from hpa_tf.training.loop import Loop
from hpa_tf.training.relabelling import of_one_class
from hpa_tf.training.run import split
from hpa_tf.training.site import Data, Site
from hpa_tf.training.strategy import make_strategy
from hpa_tf.training.systems import train_system
from tfrecords_builder.__main__ import main as builder

TINY = ["--recipe.view.size", "16", "--recipe.network.backbone.widths", "4", "6"]


TINY_RELABELLING = [
    *("--recipe", "relabel_small", "--folds", "1", "--recipe.optimization.epochs", "1", *TINY),
    *("--recipe.sampling.num-cells", "8", "--recipe.optimization.batch-size", "8"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """48 cells in 12 images and 2 folds; green is bright in the cells that really have class 3."""
    folder = tmp_path_factory.mktemp("second") / "data"
    rng = np.random.default_rng(0)
    crops = []
    for i in range(48):
        crop = rng.integers(0, 60, (16, 16, 4), dtype=np.uint8)
        crop[..., 1] += 150 * (i % 2)
        crops.append((crop, np.ones((16, 16), np.uint8)))
    labels = np.stack([one_hot(3) if i // 4 % 3 else one_hot(5) for i in range(48)])
    table = write_dataset(folder, labels, num_shards=1, crops=crops)
    return folder, table


@pytest.fixture(scope="module")
def graded(data, tmp_path_factory):
    """Grades of class 3, of cells of both folds; 5 where it is really there."""
    folder, table = data
    out = tmp_path_factory.mktemp("grades")
    writer = Writer(out, 3, "anna", graded_data(folder, read_manifest(folder), table))
    rows = np.flatnonzero(table["Nucleoli fibrillar center"].to_numpy() > 0)[::3]
    keys = table[["image_id", "cell"]].to_numpy().tolist()
    writer.append([Decision(n + 1, "grade", *keys[row], 5 if row % 2 else 2) for n, row in enumerate(rows)])
    writer.close()
    return out, rows


def test_fine_tuning_is_that_of_the_source():
    second = fine_tuning(MILIMED_B0_FLIPS).optimization
    assert (second.epochs, second.batch_size, second.learning_rate, second.schedule) == (1, 16, 3e-5, Constant())
    cutter = recipe_named("milimed_b0_square").view
    assert (cutter.size, cutter.surroundings, cutter.square, cutter.margin) == (512, "background", "grow", 16)


def test_labels_of_the_second_stage(data, graded):
    folder, table = data
    labels = stage_labels(Data(str(folder)), str(graded[0]), 0)
    keys = set(map(tuple, table[["image_id", "cell"]].to_numpy()))
    expected = set(np.flatnonzero(table["fold"] == 0)) | set(graded[1])
    rows = {tuple(key): row for row, key in enumerate(table[["image_id", "cell"]].to_numpy().tolist())}
    found = {rows[key] for key in map(tuple, labels.cells[["image_id", "cell"]].to_numpy().tolist())}
    assert found == expected and len(found) < len(keys)
    assert set(np.unique(labels.values[labels.cells["graded"].to_numpy(bool), 3])) == {0.5, 1.0}  # validation maps
    assert len(stage_labels(Data(str(folder)), str(graded[0]), -1)) == len(table)


def test_cells_that_the_labels_lack_keep_those_of_the_data_in_the_second_stage(data, graded, tmp_path):
    """Ungraded cells of the validation fold, and graded ones."""
    folder, table = data
    own, path = table[table["cell"] == 2].reset_index(), str(tmp_path / "labels.parquet")
    marked = {"graded": np.arange(len(own)) == 0}
    cell_table.write(
        cell_table.from_values(own["image_id"], own["cell"], np.full((len(own), 19), 0.25), marked), path, "labels"
    )
    labels = stage_labels(Data(str(folder), labels=path, unknown_cells="keep"), str(graded[0]), 0)
    rules.write_labels(labels, path)
    labels = rules.read_labels(path)
    rows = labels.rows_of(table)
    by_hand = np.isin(rows, graded[1])
    assert set(rows) == set(np.flatnonzero(table["fold"] == 0)) | set(graded[1])
    assert labels.cells["graded"].tolist() == (by_hand | (rows == own["index"][0])).tolist()
    in_table = (table["cell"] == 2).to_numpy()[rows]
    expected = np.where(in_table[:, None], 0.25, cell_table.values(table)[rows])
    np.testing.assert_array_equal(labels.values[~by_hand, 4:], expected[~by_hand, 4:])
    rule_of = np.asarray([step.rule for step in labels.steps])[labels.set_by[~by_hand, 4]]
    assert rule_of.tolist() == np.where(in_table, "given", "from_image")[~by_hand].tolist()


def test_validation_by_grades_alone(data, graded, tmp_path):
    folder, table = data
    path = str(tmp_path / "validation.parquet")
    arguments = ["--data", str(folder), "--grades", str(graded[0]), "--maps", "validation", "--only-graded"]
    assert builder(["label", "--rule", "from_grades", *arguments, "--out", path]) == 0
    recipe = recipe_named("cpu_small")
    training, validation = split(recipe, Data(str(folder), validation_labels=path), read_manifest(folder))
    own = [row for row in graded[1] if table["fold"][row] == 0]
    assert len(validation) == len(own) and validation.known.sum() == len(own) and validation.known[:, 3].all()
    np.testing.assert_allclose(validation.labels[:, 3], [1.0 if row % 2 else 0.5 for row in own])
    assert len(training) == int((table["fold"] != 0).sum()) and set(np.unique(training.labels[:, 3])) == {0, 1}
    with pytest.raises(InputError, match="--validation-labels"):
        split(replace(recipe, validation_fold=-1), Data(str(folder), validation_labels=path), read_manifest(folder))
    unknown = rules.read_labels(path)
    unknown.values[:], unknown.set_by[:] = np.nan, -1
    rules.write_labels(unknown, path)
    with pytest.raises(InputError, match="no known label"):
        split(recipe, Data(str(folder), validation_labels=path), read_manifest(folder))


def test_a_relabelling_epoch_is_half_positive(data):
    folder, table = data
    for class_id in (3, 5):
        examples = of_one_class(Data(str(folder)).examples(None), class_id)
        np.testing.assert_array_equal(examples.labels[:, ASKED], table[CLASSES[class_id]])
        assert examples.labels[:, 1:].sum() == 0
        fields = examples.images  # what views of whole fields are drawn from
        of_images = table.groupby("image_id", sort=False)[CLASSES[class_id]].max()
        np.testing.assert_array_equal(fields.labels[:, ASKED], of_images[fields.table["image_id"]])
        assert examples.image_table is not None and fields.labels[:, 1:].sum() == 0
        drawn = draw_epoch(examples, RELABEL_SMALL.sampling, 0, 0)
        assert len(drawn) == 2048 and abs(examples.labels[drawn, ASKED].mean() - 0.5) < 0.01


@pytest.mark.parametrize(
    ("chosen", "trained_by"),
    [
        ("relabel_small --recipe.name mine", "train_relabelling"),
        ("cpu_small --recipe.name relabel_small", "train"),
    ],
)
def test_a_name_of_ones_own_does_not_make_a_recipe_another(data, tmp_path, monkeypatch, chosen, trained_by):
    called = []
    for name in ("train", "train_relabelling"):
        monkeypatch.setattr(command, name, lambda *arguments, name=name: called.append(name))
    given = ["--data", str(data[0]), "--out", str(tmp_path / "out"), "--recipe", *chosen.split()]
    assert command.main(given) == 0 and called == [trained_by]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fine-tune", "grades", "--recipe", "cpu_small"], "--system"),
        (["--recipe", "relabel_small", "--folds", "9"], "--folds"),
        (["--recipe", "cpu_small", "--validation-labels", "nowhere.parquet"], "nowhere.parquet"),
    ],
)
def test_bad_options(data, tmp_path, capsys, arguments, said):
    assert command.main(["--data", str(data[0]), "--out", str(tmp_path / "run"), *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_relabelling_that_fails_midway_keeps_its_networks_and_which_labels_they_have_seen(
    data, tmp_path, monkeypatch, capsys
):
    """Others would be taken for those of other labels; before the first network is trained, nothing is lost."""
    arguments = ["--data", str(data[0]), "--out", str(tmp_path / "out"), *TINY_RELABELLING]
    asked, damaged = [], InputError("cells", "a damaged record", "the shard that the build wrote", "build it again")

    def predict(*arguments):
        asked.append(relabelling_predict(*arguments))
        if len(asked) == 2:
            raise damaged
        return asked[-1]

    relabelling_predict = relabelling.predict
    monkeypatch.setattr(relabelling, "predict", predict)
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "execute", mock.Mock(side_effect=damaged))
        assert command.main([*arguments, "--recipe.seed", "1"]) == 2
    assert command.main(arguments) == 2 and len(asked) == 2, "the folder was free"
    assert (tmp_path / "out" / "fold0" / "class03.npy").exists()
    capsys.readouterr()
    assert command.main([*arguments, "--recipe.seed", "1"]) == 2
    assert "another run (seed: 0 -> 1)" in capsys.readouterr().err
    with pytest.warns(HpaWarning, match="no prediction of the cells of fold 1; --folds 2 predicts all"):
        assert command.main(arguments) == 0
    assert len(asked) == 3, "the first network is not asked again"
    first, path = asked[0], tmp_path / "out" / "fold0" / "class03.npy"
    for content in (path.read_bytes()[:-3], b""):
        path.write_bytes(content)
        with pytest.warns(HpaWarning, match="class03.npy: a damaged file .*; its network is trained again"):
            assert command.main(arguments) == 0
        np.testing.assert_array_equal(asked[-1], first)
    said = cell_table.read(tmp_path / "out" / relabelling.OUT_OF_FOLD)
    both = said.merge(data[1], on=cell_table.KEYS, suffixes=("", " of the data"))
    assert len(both) == len(said) and (both["cell_area"] == both["cell_area of the data"]).all(), "which cells it means"


@pytest.mark.slow
def test_relabelling_on_another_worker_needs_no_file_of_the_first(data, tmp_path, monkeypatch):
    """That of the weights may not be there yet, or be of an earlier epoch; and the first says what is done."""
    arguments = ["--data", str(data[0]), *TINY_RELABELLING, "--recipe.optimization.ema-decay", "0.5"]
    arguments += ["--recipe.asked", "Crop", "--recipe.asked.size", "24"]
    assert command.main([*arguments, "--out", str(tmp_path / "first")]) == 0
    expected = [np.load(path) for path in sorted((tmp_path / "first" / "fold0").glob("*.npy"))]
    assert not np.array_equal(*expected), "the network that is asked through the other view has the class's weights"
    (tmp_path / "other" / "fold0").mkdir(parents=True)
    (tmp_path / "other" / "fold0" / "class03.npy").touch()
    said, asked, predict = [], [], relabelling.predict
    monkeypatch.setattr(Site, "is_chief", False)
    monkeypatch.setattr(relabelling, "chief_says", lambda strategy, answer: said.append(answer))
    monkeypatch.setattr(relabelling, "predict", lambda *arguments: asked.append(predict(*arguments)) or asked[-1])
    assert command.main([*arguments, "--out", str(tmp_path / "other")]) == 0
    np.testing.assert_array_equal([found[:, 0] for found in asked], expected)
    assert said == [False] * 18, "the first worker alone knows what is done"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--recipe.validation-fold 1", "validation_fold 1"),
        ("--recipe.ensemble 1 --recipe.optimization.early-stopping 2", "ensemble and early_stopping"),
        ("--recipe.optimization.measure loss", "measure loss"),
        ("--recipe.optimization.schedule Plateau", "schedule Plateau"),
        ("--recipe.network.classes 3", "network.classes"),
        ("--recipe.asked Field", "no fields of view"),
    ],
)
def test_fields_without_effect_on_relabelling_are_refused(data, tmp_path, capsys, options, said):
    out = tmp_path / "out"
    assert command.main(["--recipe", "relabel_small", "--data", str(data[0]), "--out", str(out), *options.split()]) == 2
    assert said in capsys.readouterr().err and not out.exists()


def test_relabelling_finds_a_shard_of_another_size_first(data, tmp_path, capsys):
    folder = shutil.copytree(data[0], tmp_path / "data")
    shard = max(folder.glob("cells-*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    arguments = ["--data", str(folder), "--out", str(tmp_path / "out"), *TINY_RELABELLING]
    assert command.main(arguments) == 2
    assert str(shard) in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_relabelling_finds_wrong_labels_goes_on_and_traces_once(data, tmp_path, monkeypatch):
    """Half of the cells of positive images do not show the class; the networks say which, out of fold."""
    folder, table = data
    out = tmp_path / "relabel"
    arguments = ["--recipe", "relabel_small", "--data", str(folder), "--out", str(out), *TINY]
    from hpa_tf.training.trainee import Trainee

    made = []
    original = Trainee._make_replica_step
    monkeypatch.setattr(Trainee, "_make_replica_step", lambda self, xla: made.append(1) or original(self, xla))
    assert command.main(arguments) == 0
    assert len(made) == 1  # one graph for 2 classes x 2 folds
    found = cell_table.read(out / "out_of_fold.parquet")
    assert cell_table.kind(out / "out_of_fold.parquet") == "out_of_fold" and len(found) == len(table)
    assert found["Negative"].isna().all() and found["Nucleoplasm"].isna().all()  # no cell has it: no network
    merged = table.merge(found, on=["image_id", "cell"], suffixes=("", "_p"))
    p, really = merged["Nucleoli fibrillar center_p"].to_numpy(), np.arange(48) % 2 == 1
    positive = merged["Nucleoli fibrillar center"].to_numpy() > 0
    assert p[positive & really].mean() > p[positive & ~really].mean()
    first = (out / "out_of_fold.parquet").read_bytes()
    for path in (out / "out_of_fold.parquet", out / "fold1" / "class05.npy"):
        path.unlink()
    assert command.main(arguments) == 0
    assert (out / "out_of_fold.parquet").read_bytes() == first


def test_another_worker_waits_for_the_labels_of_the_second_stage(data, graded, tmp_path, monkeypatch):
    system = System("tiny", (Member(recipe_named("cpu_small"), 1.0),))
    labels, seen = tmp_path / "fine_tuned" / "labels.parquet", []
    monkeypatch.setattr(Site, "is_chief", False)
    monkeypatch.setattr(fine_tuning_stage, "wait_for_all", lambda strategy: labels.parent.mkdir() or labels.touch())
    monkeypatch.setattr(fine_tuning_stage, "fine_tune", lambda *arguments: seen.append(labels.exists()))
    asked = (system, lambda recipe: recipe, Data(str(data[0])), str(graded[0]), str(tmp_path))
    fine_tuning_stage.fine_tune_system(*asked, Site(make_strategy("one"), "float32"))
    assert seen == [True]


SYSTEM = System("tiny", (Member(recipe_named("cpu_small"), 0.5), Member(recipe_named("cpu_lite0"), 0.5)))


@pytest.mark.parametrize(
    ("options", "replicas", "said"),
    [
        ("--recipe.optimization.batch-size 24", 8, "12 of cpu_small for 8 replicas in the second stage"),
        ("--recipe.optimization.batch-size 40", 8, "--recipe.optimization.batch-size 32"),
        ("", 3, "16 of cpu_small for 3 replicas in the second stage"),
    ],
)
def test_batches_of_the_second_stage_are_looked_at_first(
    data, graded, tmp_path, monkeypatch, capsys, options, replicas, said
):
    site = Site(SimpleNamespace(num_replicas_in_sync=replicas), "float32")
    monkeypatch.setattr(command, "start", lambda options: site)
    monkeypatch.setattr(command, "system_named", lambda name: SYSTEM)
    monkeypatch.setattr(command, "train_system", lambda *arguments: pytest.fail("the first stage has begun"))
    given = ["--system", "tiny", "--data", str(data[0]), "--out", str(tmp_path / "out"), "--weights", "none"]
    assert command.main([*given, "--fine-tune", str(graded[0]), *options.split()]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_later_members_batches_are_looked_at_first(data, tmp_path):
    later = replace(recipe_named("cpu_lite0"), optimization=Optimization(batch_size=20))
    system = System("tiny", (Member(recipe_named("cpu_small"), 0.5), Member(later, 0.5)))
    site = Site(SimpleNamespace(num_replicas_in_sync=8), "float32")
    with pytest.raises(InputError, match="20 of cpu_lite0 for 8 replicas"):
        train_system(system, lambda recipe: recipe, Data(str(data[0])), str(tmp_path / "out"), site)
    assert not (tmp_path / "out").exists()


def test_a_later_members_epoch_is_looked_at_first(data, tmp_path):
    small = recipe_named("cpu_small")
    later = replace(small, name="later", sampling=replace(small.sampling, num_cells=8))
    system, site = System("tiny", (Member(small, 0.5), Member(later, 0.5))), Site(make_strategy("one"), "float32")
    with pytest.raises(InputError, match="of later for an epoch of 8 cells"):
        train_system(system, lambda recipe: recipe, Data(str(data[0])), str(tmp_path / "out"), site)
    assert not (tmp_path / "out").exists()


def test_epochs_of_the_second_stage_are_looked_at_first(data, graded):
    """24 cells of the validation fold, 5 graded ones of the other, and 2 more draws of each of the 11 graded ones."""

    def check(batch_size: int) -> None:
        small = recipe_named("cpu_small")
        small = replace(small, optimization=replace(small.optimization, batch_size=batch_size))
        asked = lambda recipe: recipe, Data(str(data[0])), str(graded[0]), Site(make_strategy("one"), "float32")
        check_second_stage(System("tiny", (Member(small, 1.0),)), *asked)

    draws = 24 + 5 + 2 * 11
    with pytest.raises(InputError, match=f"100 of cpu_small for {draws} draws of cells in the second stage") as caught:
        check(200)
    assert f"--recipe.optimization.batch-size {2 * draws} or less" in caught.value.fix
    with pytest.warns(HpaWarning, match=f"cpu_small: {draws // 2 - 1} of {draws} draws .* are left out"):
        check(2 * (draws - draws // 2 + 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error", HpaWarning)
        check(2 * draws)


@pytest.mark.parametrize(
    ("system", "named"),
    [
        ("bestfitting", "bestfitting_fcan, bestfitting_fcan_2 of"),
        ("cpu_bestfitting", "cpu_fcan of"),
        ("cpu_red_ai", "cpu_duo_branch"),
    ],
)
def test_members_whose_loss_is_of_labels_of_images_are_not_fine_tuned(tmp_path, capsys, system, named):
    """Also where they paste cells by labels of cells."""
    given = ["--system", system, "--data", "nowhere", "--out", str(tmp_path / "out"), "--weights", "none"]
    assert command.main([*given, "--fine-tune", "grades"]) == 2
    error = capsys.readouterr().err
    assert f"--fine-tune: found {named}" in error and "whose loss is of labels of images alone" in error


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (None, "nowhere"),
        (lambda table: table, "no cell to train on that is marked as graded"),
        (lambda table: table.assign(graded=False), "no cell to train on that is marked as graded"),
        (lambda table: table.assign(graded=True, image_id="x" + table["image_id"]), "no row of a cell of the dataset"),
    ],
)
def test_grades_that_cannot_be_used_are_refused_before_the_first_stage(
    data, tmp_path, monkeypatch, capsys, change, said
):
    folder, table = data
    grades = str(tmp_path / "nowhere")
    if change:
        labels = cell_table.from_values(table["image_id"], table["cell"], cell_table.values(table))
        grades = str(tmp_path / "graded.parquet")
        cell_table.write(change(labels), grades, "labels")
    monkeypatch.setattr(command, "system_named", lambda name: SYSTEM)
    monkeypatch.setattr(command, "train_system", lambda *arguments: pytest.fail("the first stage has begun"))
    given = ["--system", "tiny", "--data", str(folder), "--out", str(tmp_path / "out"), "--weights", "none"]
    assert command.main([*given, "--fine-tune", grades]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind, columns", [("labels", {"graded": [True] + [False] * 47}), ("grades", {})])
def test_tables_of_graded_cells_are_taken(data, tmp_path, kind, columns):
    folder, table = data
    path = str(tmp_path / "graded.parquet")
    values = cell_table.values(table)
    cell_table.write(cell_table.from_values(table["image_id"], table["cell"], values, columns), path, kind)
    site = Site(make_strategy("one"), "float32")
    check_second_stage(SYSTEM, lambda recipe: recipe, Data(str(folder)), path, site)


@pytest.mark.parametrize("clean", [True, False])
def test_graded_cells_that_cleaning_leaves_out_are_counted(tmp_path, monkeypatch, clean):
    table = write_dataset(tmp_path / "data", np.stack([one_hot(5) for _ in range(16)]))
    table.loc[:2, "cleaning_value"] = 0.001
    cell_table.write(table, tmp_path / "data" / CELL_TABLE_NAME, "labels")
    graded = cell_table.from_values(
        table["image_id"], table["cell"], cell_table.values(table), {"graded": np.arange(16) < 8}
    )
    cell_table.write(graded, tmp_path / "graded.parquet", "labels")
    for name in ("claim_system", "announce", "fine_tune", "write_system_card"):
        monkeypatch.setattr(fine_tuning_stage, name, lambda *arguments: None)
    system = System("tiny", (Member(recipe_named("cpu_small"), 1.0),))
    asked = Data(str(tmp_path / "data"), clean=clean), str(tmp_path / "graded.parquet"), str(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", HpaWarning)
        fine_tuning_stage.fine_tune_system(system, lambda recipe: recipe, *asked, Site(make_strategy("one"), "float32"))
    texts = [str(one.message) for one in caught if issubclass(one.category, HpaWarning)]
    assert [text.startswith("3 graded cells") and "--no-clean" in text for text in texts] == ([True] if clean else [])


def test_a_finished_run_without_weights_of_a_best_epoch_is_compared(data, tmp_path):
    """So is that of several fine-tuned checkpoints."""
    first, out, site = tmp_path / "first", tmp_path / "out", Site(make_strategy("one"), "float32")
    (first / "weights").mkdir(parents=True)
    (first / "weights/best.weights.h5").write_bytes(b"one")
    asked = replace(recipe_named("cpu_small"), weights=str(first)), Data(str(data[0])), read_manifest(data[0])
    with claimed(*asked, str(out), site):
        write_result(out, {"weights/epoch-0001.weights.h5": 1.0}, {})
    before = {path: path.read_bytes() for path in out.iterdir() if path.suffix == ".json"}
    (first / "weights/best.weights.h5").write_bytes(b"two")
    with pytest.raises(InputError, match=r"another run \(weights_sha256"), claimed(*asked, str(out), site):
        pass
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_that_goes_on_removes_what_a_killed_one_left_half_written(data, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "_birth", lambda pid: None if pid == 99 else "lives")
    left = [".recipe.json.99.tmp", "weights/.best.weights.h5.99.tmp", "saved_model/.1.99.tmp/saved_model.pb"]
    left += ["saved_model/.1.old.99.tmp/saved_model.pb", "fold0/class03/weights/.best.weights.h5.99.tmp"]
    for name in [*left, "weights/best.weights.h5", "weights/.best.weights.h5.98.tmp"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    asked = recipe_named("cpu_small"), Data(str(data[0])), read_manifest(data[0]), str(tmp_path)
    with claimed(*asked, Site(make_strategy("one"), "float32"), [str(tmp_path / "fold0/class03")]):
        assert {path.name for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".json"} == {
            "best.weights.h5",
            ".best.weights.h5.98.tmp",
        }


@pytest.mark.parametrize("of_cells", [True, False])
def test_a_build_that_is_spelled_anew_makes_no_other_data(data, tmp_path, of_cells):
    manifest = replace(read_manifest(data[0]), checksums={CELL_TABLE_NAME: "a", "features.json": "b"})
    before = replace(manifest, options={"images": "images", "on_error": "fail", "fields": 64})
    same = replace(manifest, options={"images": "./images", "on_error": "skip", "fields": 64})
    same = replace(same, checksums={CELL_TABLE_NAME: "a", "features.json": "c"})
    files.write_json(tmp_path / DATASET, manifest_json(before))
    check_same_run(str(tmp_path), {DATASET: manifest_json(same)}, of_cells)
    others = [{"fingerprint": "other"}, {"checksums": {CELL_TABLE_NAME: "other"}}, {"num_folds": 5}]
    others.append({"shards": tuple(replace(one, sha256="other") for one in manifest.shards)})
    others += [] if of_cells else [{"options": {"fields": 32}}]
    for other in others:
        with pytest.raises(InputError, match=next(iter(other))):
            check_same_run(str(tmp_path), {DATASET: manifest_json(replace(same, **other))}, of_cells)


@pytest.mark.slow
def test_both_stages_of_a_system(data, graded, tmp_path, monkeypatch, capsys):
    """A member with one set of weights, and one with a mean over two checkpoints, which the second stage keeps."""
    small = recipe_named("cpu_small")
    small = replace(small, sampling=replace(small.sampling, num_cells=64),
                    optimization=replace(small.optimization, epochs=2, batch_size=16))  # fmt: skip
    system = System(
        "tiny",
        (Member(replace(small, name="one"), 0.5), Member(replace(small, name="two", ensemble=(0.25, 0.75)), 0.5)),
    )
    monkeypatch.setattr(command, "system_named", lambda name: system)
    folder, out = data[0], tmp_path / "system"
    arguments = ["--system", "tiny", "--data", str(folder), "--out", str(out), *TINY]
    assert command.main(arguments) == 0
    assert "first stage only" in capsys.readouterr().out
    before = (out / "two" / "result.json").read_bytes()
    assert command.main([*arguments, "--fine-tune", str(graded[0])]) == 0
    assert (out / "two" / "result.json").read_bytes() == before
    one, two = (read_run(out / "fine_tuned" / name) for name in ("one", "two"))
    assert [share for _, share in one.checkpoints] == [1.0]
    assert [share for _, share in two.checkpoints] == [0.25, 0.75] and (out / "fine_tuned/two/saved_model/1").is_dir()
    cards = [(out / "fine_tuned" / name / "README.md").read_text() for name in (".", "one", "two")]
    assert "](one/README.md)" in cards[0] and "](two/README.md)" in cards[0] and "SHA-256" in cards[2]
    for path, _ in two.checkpoints:  # each checkpoint moved, from its own start
        started = json.loads((out / "fine_tuned/two/stages" / path.split("/")[-1][:10] / "recipe.json").read_text())
        assert json.dumps(started).count(path.split("/")[-1]) == 1
    kept = {
        path: path.read_bytes()
        for path in (out / "fine_tuned").rglob("*")
        if path.suffix in (".json", ".h5", ".parquet") and "saved_model" not in path.parts  # TensorFlow's bytes differ
    }
    (out / "fine_tuned" / "two" / "result.json").unlink()  # killed before the end
    assert command.main([*arguments, "--fine-tune", str(graded[0])]) == 0
    assert {path: path.read_bytes() for path in kept} == kept
    writer = Writer(graded[0], 5, "ben", graded_data(folder, read_manifest(folder), data[1]))
    writer.append([Decision(1, "grade", "image-00000", 1, 5)])
    writer.close()
    assert command.main([*arguments, "--fine-tune", str(graded[0])]) == 2
    assert "other grades" in capsys.readouterr().err

"""Training through its own command, in this process: what a run folder holds, guards, systems, folds."""

import re
import shutil
import threading
import time
import uuid
from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from training_process import TINY, dynamic_shapes, final_state, losses, train, words, write_tiny_dataset

from hpa_tf import cell_table, files, recipes
from hpa_tf.errors import InputError
from hpa_tf.models.classifier import Classifier
from hpa_tf.models.small_cnn import SmallCnn
from hpa_tf.pipeline import evaluation_batches, training_batches
from hpa_tf.postprocessing import with_negative
from hpa_tf.recipes import Member, System
from hpa_tf.recipes.runs import read_run
from hpa_tf.run_folder import CHECKPOINTS
from hpa_tf.training import checkpoint, command, run, start
from hpa_tf.training.inputs import Batches
from hpa_tf.training.logs import Profiler
from hpa_tf.training.loop import Loop
from hpa_tf.training.site import Data, Site
from hpa_tf.training.strategy import make_strategy
from hpa_tf.training.systems import claim_system
from hpa_tf.training.trainee import Trainee
from hpa_tf.views import Batch, Crop

OPTIONS = TINY + words("--recipe.sampling.num-cells 32 --recipe.optimization.epochs 1 --deterministic off")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("training") / "data")


@pytest.fixture(autouse=True)
def no_saved_model(monkeypatch, request):
    """The SavedModel takes longer than these trainings; one test here makes it, the others are about the rest."""
    if "saved_model" not in request.node.name:
        monkeypatch.setattr(run, "export", lambda *arguments: None)


def call(data, out, *options) -> int:
    return command.main(["--data", str(data), "--out", str(out), *OPTIONS, *options])


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    """Return the run folder of one epoch in float32."""
    out = tmp_path_factory.mktemp("training") / "plain"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "export", lambda *arguments: None)
        assert call(data, out) == 0
    return out


def test_without_options_shards_are_trained_on_by_the_recipe_of_the_demo(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = command.parse([], recipes.recipe_named(command.DEFAULT_RECIPE))
    assert (options.data.data, options.out, options.recipe.name) == ("shards", "runs/cpu_lite0", "cpu_lite0")
    assert command.main(["--strategy", "mirrored"]) == 2
    assert "tfrecords_builder build --images IMAGES" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_run_folder_is_complete_with_its_saved_model(data, tmp_path, capsys):
    out = tmp_path / "out"
    two = words("--recipe.optimization.epochs 2 --recipe.ensemble 1 3")
    assert call(data, out, "--strategy", "mirrored", *two) == 0
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert {"recipe.json", "dataset.json", "inputs.json", "history.csv", "result.json"} <= names
    assert {"README.md", "training.png"} <= names and "cpu\\_small" in (out / "README.md").read_text()
    assert {"weights/best.weights.h5", "weights/epoch-0001.weights.h5", "weights/epoch-0002.weights.h5"} <= names
    trained = read_run(out)
    assert [share for _, share in trained.checkpoints] == [0.25, 0.75]
    network = trained.recipe.network.build(trained.recipe.view.specs())
    pixels = np.random.default_rng(0).random((3, 16, 16, 4), np.float32)
    served = tf.saved_model.load(str(out / "saved_model" / "1")).signatures["prepared"](image=tf.constant(pixels))
    mean = 0.0
    for path, share in trained.checkpoints:
        network.load_weights(path)
        mean += share * keras.ops.sigmoid(network({"image": pixels})["logits"]).numpy()
    np.testing.assert_allclose(served["probabilities"], with_negative(mean), atol=1e-5)
    printed = capsys.readouterr().out
    assert re.search(r"MirroredStrategy \| 1 replica\(s\) on .*CPU:0 .* float32", printed)
    assert "Nucleoplasm" in printed and "calibration error" in printed and "process 1" not in printed


def test_a_finished_run_gets_a_missing_export_again(data, plain, tmp_path, monkeypatch, capsys):
    out, made = shutil.copytree(plain, tmp_path / "out"), []
    monkeypatch.setattr(run, "export", lambda recipe, manifest, *where: made.append((recipe, *where)))
    assert call(data, out) == 0
    assert made == [(read_run(out).recipe, str(out), {"weights/best.weights.h5": 1.0})]
    assert "is finished: its SavedModel is missing and is made again" in capsys.readouterr().out
    (out / "saved_model/1").mkdir(parents=True)
    (out / "saved_model/1/saved_model.pb").touch()
    assert call(data, out) == 0
    assert len(made) == 1 and "is finished: nothing to do" in capsys.readouterr().out


def test_mirrored_without_gpu_warns():
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("there is a GPU")
    with pytest.warns(UserWarning, match="found no GPU"):
        make_strategy("mirrored")


def test_divergence_stops_with_step_rate_and_images_and_keeps_a_good_checkpoint(data, tmp_path, capsys):
    out = tmp_path / "out"
    broken = words("--recipe.optimization.learning-rate 1e30 --checkpoint-steps 1 --recipe.optimization.warmup-steps 0")
    broken += words("--recipe.optimization.schedule Constant")
    assert call(data, out, *broken) == command.DIVERGED_EXIT_CODE
    message = capsys.readouterr().err
    assert re.search(r"at step \d+, learning rate 1e\+30\. Lower .* with another --out .*image-0000\d/\d, ", message)
    assert not (out / "result.json").exists()
    assert all(np.isfinite(array).all() for array in final_state(out).values())


@pytest.mark.slow
@pytest.mark.parametrize(
    "steps, schedule",  # epochs of 4 steps: all at once; 3 + 1
    [
        ("25", "Cosine --recipe.optimization.schedule.epochs 2 --recipe.optimization.warmup-steps 3"),
        ("3", "Plateau --recipe.optimization.schedule.patience 1 --recipe.optimization.ema-decay 0.99"),
    ],
)
def test_many_steps_an_execution_are_the_same_steps(data, tmp_path, capsys, steps, schedule):
    """Learning rate, warm-up and the moving average's decay move with every step, whoever counts them."""
    options = words(f"--recipe.optimization.epochs 3 --recipe.optimization.schedule {schedule}")
    assert call(data, tmp_path / "one", *options) == 0
    assert "waiting" in capsys.readouterr().err
    assert call(data, tmp_path / "many", *options, "--steps-per-execution", steps) == 0
    assert "waiting" not in capsys.readouterr().err
    one, many = (pd.read_csv(tmp_path / name / "history.csv") for name in ("one", "many"))
    np.testing.assert_allclose(many["mAP"], one["mAP"], atol=1e-5)
    np.testing.assert_allclose(many["loss"], one["loss"], rtol=1e-6)
    assert one["waiting"].between(0, 1).all() and many["waiting"].isna().all(), "nobody measures it inside a graph"
    expected = final_state(tmp_path / "one")
    for name, array in final_state(tmp_path / "many").items():
        np.testing.assert_allclose(array, expected[name], atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_a_run_on_a_plateau_falls_by_the_measure_of_its_recipe(data, tmp_path):
    """By the loss of the validation, worked out here from the history, and not as the mAP would have it."""
    options = "epochs 5 schedule Plateau schedule.patience 0 schedule.factor 0.5 measure loss learning-rate 0.1"
    options = options.split() + ["warmup-steps", "0"]
    pairs = zip(options[::2], options[1::2], strict=True)
    options = [word for name, value in pairs for word in (f"--recipe.optimization.{name}", value)]
    assert call(data, tmp_path / "out", *options) == 0
    history = pd.read_csv(tmp_path / "out" / "history.csv")

    def rates(values) -> list[float]:
        """Return the rate of each epoch; the lower the value, the better."""
        (best, *others), found = values, [0.1, 0.1]
        for value in others[:-1]:
            is_better = value < best - 1e-4 * abs(best)
            found.append(found[-1] * (1 if is_better else 0.5))
            best = value if is_better else best
        return found

    expected = rates(history["validation_loss"])
    np.testing.assert_allclose(history["learning_rate"], expected, rtol=1e-6)
    assert expected[-1] < 0.1 and expected != rates(-history["mAP"])


def test_a_loss_that_is_no_number_is_found_in_the_middle_of_an_execution(data, tmp_path, capsys):
    broken = words("--recipe.optimization.schedule Constant --recipe.optimization.warmup-steps 0")
    broken += words("--recipe.optimization.learning-rate 1e30 --steps-per-execution 4")
    assert call(data, tmp_path / "out", *broken) == command.DIVERGED_EXIT_CODE
    message = capsys.readouterr().err.splitlines()[-1]
    assert 1 < int(re.search(r"at step (\d+)", message)[1]) <= 4
    assert len(re.findall(r"image-\d+/\d", message)) == 8  # those of that step's batch alone
    assert call(data, tmp_path / "out") == 0, "as the message says, with a lower rate"


def test_weights_that_are_no_numbers_are_not_kept(data, tmp_path, monkeypatch, capsys):
    """Nothing but prediction reads a moving variance, so every loss stays finite."""
    initialize = start.initialize

    def with_a_broken_variance(network, recipe):
        initialize(network, recipe)
        broken = next(variable for variable in network.variables if variable.path.endswith("moving_variance"))
        broken.assign(np.full(broken.shape, np.nan))

    monkeypatch.setattr(start, "initialize", with_a_broken_variance)
    assert call(data, tmp_path / "out") == command.DIVERGED_EXIT_CODE
    assert "a weight that is not a number at step 4" in capsys.readouterr().err
    assert not checkpoint.steps_in(str(tmp_path / "out" / CHECKPOINTS))


def test_xla_gives_the_same_losses(data, plain, tmp_path):
    """Also: every op of forward and backward pass has an XLA kernel and a static shape, as TPUs need."""
    assert call(data, tmp_path / "xla", "--xla") == 0
    np.testing.assert_allclose(losses(tmp_path / "xla"), losses(plain), atol=1e-4)


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains_like_float32(data, plain, tmp_path, precision):
    assert call(data, tmp_path / "half", "--precision", precision) == 0
    np.testing.assert_allclose(losses(tmp_path / "half"), losses(plain), atol=0.02)
    kept = {array.dtype.name for array in final_state(tmp_path / "half").values() if array.dtype.kind not in "iu"}
    assert kept == {"float32"}, "weights, moments and the moving average"


@pytest.mark.parametrize("scale", [0.0, 2.0**-20])
def test_a_collapsed_loss_scale_stops_the_training(data, tmp_path, monkeypatch, capsys, scale):
    """Executions begin at steps 0, 3, 4 and 7, none of which but the first is a multiple of 5."""
    monkeypatch.setattr(
        Trainee, "loss_scale", lambda self: scale if int(self.optimizer.iterations.numpy()) >= 7 else 1.0
    )
    options = words("--recipe.optimization.epochs 2 --steps-per-execution 3 --log-steps 5")
    assert call(data, tmp_path / "out", *options) == command.DIVERGED_EXIT_CODE
    assert "the loss scale has collapsed" in capsys.readouterr().err


def test_overflow_under_float16_skips_the_step_and_halves_the_scale():
    recipe = replace(recipes.recipe_named("cpu_small"), network=Classifier(SmallCnn(widths=(4,))))
    trainee = Trainee(recipe, make_strategy("one"), "mixed_float16")
    trainee.optimizer.dynamic_scale.assign(2.0**40)
    rng = np.random.default_rng(0)
    batch = Batch(
        inputs={"image": tf.constant(rng.random((4, 64, 64, 4), np.float32))},
        rows=tf.range(4, dtype=tf.int64)[:, None],
        cell_labels=tf.ones((4, 1, 19)),
        cell_known=tf.ones((4, 1, 19)),
        image_labels=tf.ones((4, 19)),
        image_known=tf.ones((4, 19)),
        weight=tf.ones(4),
        seed=tf.zeros((4, 2), tf.int32),
    )
    before = trainee.arrays()
    loss = trainee.make_train_step()(batch, tf.constant(1e-3), tf.constant(0.0))
    after = trainee.arrays()
    assert np.isfinite(loss.numpy()) and trainee.loss_scale() == 2.0**39
    names = [name for name in before if name.startswith("network/") and before[name].ndim > 1]
    assert names and all((before[name] == after[name]).all() for name in names)


def test_training_step_has_static_shapes_everywhere(tmp_path):
    """What TPUs need, by tracing: bfloat16, many steps an execution, batches as the pipeline shapes them."""
    recipe = recipes.recipe_named("cpu_small")
    assert dynamic_shapes(recipe, Data(str(write_tiny_dataset(tmp_path / "data"))).examples(None)) == []


def test_batches_of_the_pipeline_have_static_shapes(data):
    recipe = recipes.recipe_named("cpu_small")
    options = {"batch_size": 4, "seed": 0, "epoch": 0}
    examples = Data(str(data)).examples(None)
    spec = training_batches(examples, recipe.view, recipe.augmentation, recipe.sampling, **options).element_spec
    assert all(one.shape.is_fully_defined() for one in tf.nest.flatten(spec))


@pytest.mark.parametrize("strategy, message", [("multiworker", "no TF_CONFIG"), ("tpu", "no TPU")])
def test_missing_devices_are_named(data, tmp_path, capsys, monkeypatch, strategy, message):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert call(data, tmp_path / "out", "--strategy", strategy) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, message",
    [
        ("--recipe.validation-fold 7", "fold 7 of 2"),
        ("--weights nowhere.h5", "does not exist"),
        ("--folds 3", "1 to 2"),
        ("--out-of-fold x.parquet", "no --folds"),
        ("--strategy mirrored --xla", "--xla"),
        ("--labels nowhere.parquet", "no such file"),
        ("--recipe.optimization.batch-size 4096", "batch"),
    ],
)
def test_bad_options_end_with_one_line(data, tmp_path, capsys, options, message):
    assert call(data, tmp_path / "out", *words(options)) == 2
    error = capsys.readouterr().err.splitlines()
    assert [line for line in error if line.startswith("train.py: ") and message in line], error
    assert not [line for line in error if "Traceback" in line]


def test_impossible_value_in_a_field_is_named(data, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        call(data, tmp_path / "out", "--recipe.optimization.epochs", "0")
    assert stop.value.code == 2 and "epochs 0" in capsys.readouterr().err


def test_typo_in_an_option_suggests_the_right_one(data, tmp_path, capsys):
    with pytest.raises(SystemExit):
        call(data, tmp_path / "out", "--recipe.optimization.lerning-rate", "1")
    assert "--recipe.optimization.learning-rate" in capsys.readouterr().err


def test_run_folder_on_an_object_store(data, capsys):
    out = f"memory://runs/{uuid.uuid4().hex}"
    assert call(data, out) == 0
    assert files.list_names(f"{out}/checkpoints") == ["step-00000004.npz"]
    assert len(read_run(out).checkpoints) == 1
    assert call(data, out) == 0
    assert "is finished" in capsys.readouterr().out


def test_profile_and_pictures_are_written_for_tensorboard(data, tmp_path):
    assert call(data, tmp_path / "out", "--profile", "--recipe.sampling.num-cells", "160") == 0
    logs = tmp_path / "out" / "logs"
    assert list(logs.glob("plugins/profile/*/*.xplane.pb"))
    events = [e for path in logs.glob("events*") for e in tf.compat.v1.train.summary_iterator(str(path))]
    tags = {value.tag for event in events for value in event.summary.value}
    assert {"loss", "learning_rate", "cells_per_second", "waiting", "validation/mAP", "augmented cells"} <= tags
    assert any(tag.startswith("validation/AP: ") for tag in tags)


@pytest.mark.parametrize("executions", [[1] * 25, [25, 25], [25], [3] * 5])
def test_a_profile_is_written_however_many_steps_an_execution_has(tmp_path, monkeypatch, executions):
    calls = []
    monkeypatch.setattr(tf.profiler.experimental, "start", lambda folder: calls.append(profiler.steps))
    monkeypatch.setattr(tf.profiler.experimental, "stop", lambda: calls.append(profiler.steps))
    profiler = Profiler(str(tmp_path), enabled=True)
    for steps in executions:
        profiler.count(steps)
    profiler.close()
    start, stop = calls
    assert start >= 10 and stop >= start


def test_a_profile_that_never_began_is_said(tmp_path):
    profiler = Profiler(str(tmp_path), enabled=True)
    profiler.count(5)
    with pytest.warns(UserWarning, match="5 steps"):
        profiler.close()


def test_show_sampling_trains_nothing(data, tmp_path, capsys):
    assert call(data, tmp_path / "out", "--show-sampling") == 0
    printed = capsys.readouterr().out
    assert "expected" in printed and "Nucleoplasm" in printed
    assert not (tmp_path / "out").exists()


def test_another_data_folder_does_not_become_a_run(data, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(data, other)
    before = sorted(path.name for path in other.iterdir())
    assert call(data, other) == 2
    assert "found a data folder (dataset.json); expected a run" in capsys.readouterr().err
    assert sorted(path.name for path in other.iterdir()) == before


def test_a_run_and_a_system_do_not_replace_each_other(data, tmp_path, capsys):
    for name in ("run", "system"):
        (tmp_path / name).mkdir()
    (tmp_path / "system" / "system.json").write_text("{}")
    assert call(data, tmp_path / "system") == 2
    assert "found the runs of a system (system.json); expected a run, or neither" in capsys.readouterr().err
    (tmp_path / "run" / "recipe.json").write_text("{}")
    site = Site(make_strategy("one"), "float32")
    with pytest.raises(InputError, match=r"found a run \(recipe.json\); expected the runs of a system, or neither"):
        claim_system(recipes.system_named("cpu_pair"), str(tmp_path / "run"), site)
    assert {path.name for path in tmp_path.rglob("*.*")} == {"system.json", "recipe.json"}, "nothing was written"


def test_a_mistake_before_the_first_checkpoint_leaves_the_folder_free(data, tmp_path, capsys):
    out = tmp_path / "out"
    assert call(data, out, "--weights", "no_such_file.h5") == 2
    assert "no_such_file.h5" in capsys.readouterr().err
    assert call(data, out, "--recipe.validation-fold", "-1") == 0, "another command"
    epochs = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert epochs and not any("validation" in line for line in epochs), "nothing was kept out"
    assert call(data, out, "--weights", "no_such_file.h5") == 2, "there is another run now"
    assert "another run" in capsys.readouterr().err and read_run(out).checkpoints


def test_a_run_killed_before_its_first_checkpoint_leaves_the_folder_free(data, tmp_path, monkeypatch):
    class Killed(BaseException):
        """What no handler of errors sees, as a SIGKILL."""

    def die(*_, **__):
        raise Killed

    with monkeypatch.context() as context:
        context.setattr(Loop, "execute", die)
        with pytest.raises(Killed):
            call(data, tmp_path / "out")
    assert (tmp_path / "out/recipe.json").exists()
    assert call(data, tmp_path / "out", "--recipe.validation-fold", "-1") == 0


def test_too_little_memory_before_the_first_checkpoint_leaves_the_folder_free(data, tmp_path, monkeypatch, capsys):
    execute = Loop.execute

    def of_small_memory(self, *arguments, **options):
        if self.batch_size > 4:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return execute(self, *arguments, **options)

    monkeypatch.setattr(Loop, "execute", of_small_memory)
    assert call(data, tmp_path / "out") == 2
    assert "--recipe.optimization.batch-size with a smaller number" in capsys.readouterr().err
    assert call(data, tmp_path / "out", "--recipe.optimization.batch-size", "4") == 0


def test_system_trains_its_members_and_skips_finished_ones(data, tmp_path, capsys):
    tiny = command.parse(["--data", str(data), "--out", "x", *OPTIONS[2:]], recipes.recipe_named("cpu_small")).recipe
    system = System("pair", tuple(Member(replace(tiny, name=name, seed=i), 0.5) for i, name in enumerate("ab")))
    site = Site(make_strategy("one"), "float32")
    for _ in range(2):
        command.train_system(system, lambda recipe: recipe, Data(str(data)), str(tmp_path / "out"), site)
    printed = capsys.readouterr().out
    assert printed.count("is finished") == printed.count("member 2 of 2: b, weight 0.5") == 2
    first, second = (final_state(tmp_path / "out" / name) for name in "ab")
    assert any((first[name] != second[name]).any() for name in first)
    written = files.read_json(tmp_path / "out" / "system.json")
    assert [member["weight"] for member in written["members"]] == [0.5, 0.5]
    newer = written["version"] + 1
    files.write_json(tmp_path / "out" / "system.json", written | {"version": newer})
    told = rf"system.json: found a system of version {newer}; .*version of hpa_tf that wrote"
    with pytest.raises(InputError, match=told):
        claim_system(system, str(tmp_path / "out"), site)
    del written["version"], written["members"][0]["tta"]  # as earlier programs wrote it
    files.write_json(tmp_path / "out" / "system.json", written)
    mirrored = tuple(replace(member, tta="2") for member in system.members)
    claim_system(replace(system, members=mirrored), str(tmp_path / "out"), site)  # says nothing of the training
    assert files.read_json(tmp_path / "out" / "system.json")["version"] == newer - 1
    with pytest.raises(InputError, match=r"another system \(members.0.weight: 0.5 -> 0.25"):
        claim_system(
            replace(system, members=(replace(system.members[0], weight=0.25), system.members[1])),
            str(tmp_path / "out"),
            site,
        )


@pytest.mark.slow
def test_out_of_fold_table_is_by_the_network_that_has_not_seen_the_image(data, tmp_path):
    table_path = tmp_path / "out_of_fold.parquet"
    assert call(data, tmp_path / "out", "--folds", "2", "--out-of-fold", str(table_path)) == 0
    table = cell_table.read(table_path)
    cells = cell_table.read(data / "cells.parquet")
    assert cell_table.kind(table_path) == "out_of_fold" and len(table) == len(cells)
    for fold in range(2):
        trained = read_run(tmp_path / "out" / f"fold{fold}")
        assert trained.recipe.validation_fold == fold
        examples = Data(str(data)).examples({fold})
        network = trained.recipe.network.build(trained.recipe.view.specs())
        network.load_weights(trained.checkpoints[0][0])
        inputs = next(iter(evaluation_batches(examples, trained.recipe.view, batch_size=len(examples)))).inputs
        expected = keras.ops.sigmoid(network(inputs)["logits"]).numpy()
        merged = examples.table[["image_id", "cell"]].merge(table, on=["image_id", "cell"])
        assert len(merged) == len(examples) and (merged["fold"] == fold).all()
        np.testing.assert_allclose(cell_table.values(merged)[:, :18], expected, atol=1e-5)


def test_second_stage_starts_from_a_run(data, plain, tmp_path):
    still = words("--recipe.optimization.learning-rate 1e-12 --recipe.optimization.schedule.final 1e-12")
    assert call(data, tmp_path / "second", "--weights", str(plain), *still) == 0
    first, second = (Classifier(SmallCnn(widths=(8, 16))).build(Crop(16).specs()) for _ in range(2))
    first.load_weights(read_run(plain).checkpoints[0][0])
    second.load_weights(read_run(tmp_path / "second").checkpoints[0][0])
    for a, b in zip(first.trainable_variables, second.trainable_variables, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6)


def test_labels_table_replaces_the_labels_and_belongs_to_the_run(data, tmp_path, capsys):
    table = cell_table.read(data / "cells.parquet")[["image_id", "cell", *cell_table.VALUES]]
    table[cell_table.VALUES[0]] = np.nan
    cell_table.write(table, tmp_path / "labels.parquet", "labels")
    labels = ("--labels", str(tmp_path / "labels.parquet"))
    assert call(data, tmp_path / "out", *labels) == 0
    assert pd.read_csv(tmp_path / "out" / "history.csv")["AP: Nucleoplasm"].isna().all()
    assert call(data, tmp_path / "out") == 2
    assert "labels_sha256" in capsys.readouterr().err


@pytest.mark.slow
def test_mirrored_float16_equals_one_device(data, tmp_path):
    options = [
        "--data",
        str(data),
        *OPTIONS,
        "--precision",
        "mixed_float16",
        "--recipe.network.backbone.synchronized",
        "True",
    ]
    assert train([*options, "--out", str(tmp_path / "one")]) == 0
    assert train([*options, "--out", str(tmp_path / "two"), "--strategy", "mirrored"], devices=2) == 0
    np.testing.assert_allclose(losses(tmp_path / "one"), losses(tmp_path / "two"), atol=2e-3)


def test_an_iterator_is_freed_aside():
    """On one core TensorFlow's destructor waits for as long as the epoch took, up to a minute."""
    freed, may_end = [], threading.Event()

    class Slow:
        def __next__(self):
            return "batch"

        def __del__(self):
            freed.append(may_end.wait(10))

    batches = Batches(type("Dataset", (), {"__iter__": lambda self: Slow()})())
    assert next(batches) == "batch"
    batches.close()
    may_end.set()
    while not freed:
        time.sleep(0.01)
    assert freed == [True], "the caller waited for the destructor"

"""Out-of-fold tables of a system: the right networks, mixed as stated, resumable; and what a network has seen."""

import shutil
import warnings
from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest
from shards import one_hot, write_dataset
from training_process import TINY, words

from hpa_tf import cell_table, files, recipes, records
from hpa_tf.data_folder import read_cells
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.models.fcan import ALL_CLASSES
from hpa_tf.pipeline import evaluation_batches
from hpa_tf.postprocessing import PREDICTED_NEGATIVE, PostProcessing, mean_of_known
from hpa_tf.recipes import Member, System
from hpa_tf.recipes.runs import read_run
from hpa_tf.run_folder import write_result
from hpa_tf.training import command, leaks, out_of_fold, relabelling, run
from hpa_tf.training.loop import Progress
from hpa_tf.training.out_of_fold import mix
from hpa_tf.training.site import Data, Site
from hpa_tf.training.strategy import make_strategy
from hpa_tf.views import Crop

OPTIONS = TINY[2:] + words("--recipe.sampling.num-cells 16 --recipe.optimization.epochs 2 --deterministic off")
SMALL = recipes.recipe_named("cpu_small")
ONE = replace(SMALL, name="one")
TWO = replace(SMALL, name="two", ensemble=(0.25, 0.75), seed=1)
OTHER_VIEW = Crop(16, surroundings="all")
SITE = Site(make_strategy("one"), "float32")
SYSTEM = System("tiny", (Member(ONE, 0.5), Member(TWO, 0.2), Member(TWO, 0.3, asked=OTHER_VIEW)))


@pytest.fixture(scope="module", autouse=True)
def no_saved_model():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "export", lambda *arguments: None)
        patch.setattr(command, "system_named", lambda name: SYSTEM)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """48 cells in 12 images, 2 folds; some cells are cut, and left out of training alone."""
    folder = tmp_path_factory.mktemp("out_of_fold") / "data"
    table = write_dataset(folder, np.stack([one_hot(i % 5, 7) for i in range(48)]))
    table.loc[::7, "cleaning_value"] = 0.001
    cell_table.write(table, folder / records.CELL_TABLE_NAME, "labels")
    return folder


def call(data, out, *options) -> int:
    return command.main(["--system", "tiny", "--data", str(data), "--out", str(out), *OPTIONS, *options])


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Return the folder of the folds and the table of what their networks say."""
    root = tmp_path_factory.mktemp("trained")
    table = root / "table.parquet"
    assert call(data, root / "out", "--folds", "2", "--out-of-fold", str(table)) == 0
    return root / "out", table


def asked(folder, view, examples) -> np.ndarray:
    """Return the probabilities [N, 18] of a run, computed from its weights files alone."""
    found, mean = read_run(folder), 0
    network = found.recipe.network.build(view.specs())
    for path, share in found.checkpoints:
        network.load_weights(path)
        inputs = next(iter(evaluation_batches(examples, view, batch_size=len(examples)))).inputs
        mean = mean + share * keras.ops.sigmoid(network(inputs)["logits"]).numpy().astype(float)
    return mean


def test_the_table_is_the_mean_of_the_members_that_have_not_seen_the_image(data, trained):
    out, path = trained
    table = cell_table.read(path)
    assert cell_table.kind(path) == "out_of_fold" and len(table) == 48
    for fold in range(2):
        folders = [out / f"fold{fold}" / name for name in ("one", "two", "two")]
        assert {read_run(folder).recipe.validation_fold for folder in folders} == {fold}
        assert files.read_json(out / f"fold{fold}" / "system.json")["name"] == "tiny"
        examples = Data(str(data), clean=False).examples({fold})
        views = [Crop(16), Crop(16), OTHER_VIEW]
        each = [asked(folder, view, examples) for folder, view in zip(folders, views, strict=True)]
        assert np.abs(each[1] - each[2]).max() > 1e-3, "the views show the same"
        expected = 0.5 * each[0] + 0.2 * each[1] + 0.3 * each[2]
        expected = np.column_stack([expected, 1 - expected.max(axis=1)])
        own = examples.table[["image_id", "cell"]].merge(table, on=["image_id", "cell"], validate="1:1")
        assert len(own) == 24 and (own["fold"] == fold).all()
        np.testing.assert_allclose(cell_table.values(own), expected, atol=1e-5)


@pytest.mark.slow
def test_it_goes_on_where_it_was_stopped(data, trained, tmp_path, monkeypatch):
    out, path = trained
    before, again = path.read_bytes(), tmp_path / "again.parquet"
    arguments = ("--folds", "2", "--out-of-fold", str(again))
    asked_again = []
    original = out_of_fold._asking
    monkeypatch.setattr(out_of_fold, "_asking", lambda recipe, site: asked_again.append(1) or original(recipe, site))
    assert call(data, out, *arguments) == 0
    assert again.read_bytes() == before and not asked_again
    (out / "fold1/two/out_of_fold-3.npz").unlink()
    damaged = out / "fold0/one/out_of_fold-1.npz"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    again.unlink()
    assert call(data, out, *arguments) == 0
    assert again.read_bytes() == before and len(asked_again) == 2


@pytest.mark.slow
def test_a_damaged_record_of_a_cell_that_no_training_reads_is_named(data, trained, tmp_path, capfd):
    folder, out = shutil.copytree(data, tmp_path / "data"), shutil.copytree(trained[0], tmp_path / "out")
    table = read_cells(folder)
    unclean = table[(table["cleaning_value"] < 0.01) & (table["fold"] == 1)].iloc[0]
    shard = folder / unclean["shard"]
    content = bytearray(shard.read_bytes())
    content[unclean["offset"] + 100] ^= 1
    shard.write_bytes(content)
    (out / "fold1/one/out_of_fold-1.npz").unlink()
    assert call(folder, out, "--folds", "2", "--out-of-fold", str(tmp_path / "again.parquet")) == 2
    error = capfd.readouterr().err
    assert f"{shard}: found a damaged record" in error and f"repair {folder}" in error
    assert not (tmp_path / "again.parquet").exists()


def test_a_prediction_of_other_weights_is_not_taken(data, trained, tmp_path):
    out, _ = trained
    examples, found = Data(str(data), clean=False).examples({0}), read_run(out / "fold0/two")
    key = out_of_fold._key(found, found.recipe, examples)
    assert out_of_fold._kept(str(out / "fold0/two/out_of_fold-2.npz"), key) is not None
    others = (
        out_of_fold._key(replace(found, checkpoints=found.checkpoints[::-1]), found.recipe, examples),
        out_of_fold._key(found, replace(found.recipe, asked=OTHER_VIEW), examples),
        out_of_fold._key(found, found.recipe, examples.select(np.arange(23))),
        out_of_fold._key(found, found.recipe, examples.select(np.arange(24)[::-1])),
        out_of_fold._key(read_run(out / "fold0/one"), found.recipe, examples),
    )
    assert len({key, *others}) == 6
    assert out_of_fold._kept(str(out / "fold0/two/out_of_fold-2.npz"), others[0]) is None


def test_folds_that_were_not_trained_are_said(tmp_path, monkeypatch):
    write_dataset(tmp_path / "data", np.stack([one_hot(i % 5) for i in range(48)]), num_folds=3)
    monkeypatch.setattr(out_of_fold, "_of_member", lambda number, member, examples, *rest: [
        np.full((len(one), 19), 0.5) for one in examples
    ])  # fmt: skip
    path = str(tmp_path / "said.parquet")
    for num_folds, said in ((2, "no prediction of the cells of fold 2; --folds 3"), (1, "folds 1 to 2"), (3, None)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", HpaWarning)
            out_of_fold.out_of_fold_table(SYSTEM, num_folds, Data(str(tmp_path / "data")), None, path, SITE)
        texts = [str(one.message) for one in caught if issubclass(one.category, HpaWarning)]
        assert [said in text for text in texts] == ([True] if said else [])
        assert set(cell_table.read(path)["fold"]) == set(range(num_folds))


def test_every_cell_is_predicted_whatever_cells_were_trained_on(data, tmp_path, monkeypatch):
    part, path = tmp_path / "part.parquet", str(tmp_path / "said.parquet")
    table = read_cells(data)
    cell_table.write(table[table["cell"] <= 2], part, "labels")  # two of the four cells of each image
    trained_on = Data(str(data), labels=str(part), unknown_cells="drop")
    monkeypatch.setattr(out_of_fold, "_of_member", lambda number, member, examples, *rest: [
        np.full((len(one), 19), 0.5) for one in examples
    ])  # fmt: skip
    out_of_fold.out_of_fold_table(SYSTEM, 2, trained_on, None, path, SITE)
    monkeypatch.setattr(relabelling, "_train_class", lambda *arguments: None)
    recipe = replace(recipes.recipe_named("relabel_small"), weights="none")
    relabelled = relabelling._tables(recipe, range(2), trained_on, records.read_manifest(data), str(tmp_path), SITE)
    for found in (cell_table.read(path), pd.concat(relabelled)):
        assert set(map(tuple, found[cell_table.KEYS].to_numpy())) == set(map(tuple, table[cell_table.KEYS].to_numpy()))


def test_members_of_other_classes_are_mixed_where_they_answer():
    rng = np.random.default_rng(0)
    located, whole, spindle = (rng.uniform(0, 1, (5, 19)) for _ in range(3))
    spindle[:, [c for c in range(19) if c != 11]] = np.nan
    mean = mix([located, whole, spindle], (2.0, 1.0, 1.0), "predicted")
    np.testing.assert_allclose(mean[:, 3], (2 * located[:, 3] + whole[:, 3]) / 3)
    np.testing.assert_allclose(mean[:, 18], (2 * located[:, 18] + whole[:, 18]) / 3)
    np.testing.assert_allclose(mean[:, 11], (2 * located[:, 11] + whole[:, 11] + spindle[:, 11]) / 4)
    derived = mix([located, whole], (1.0, 1.0), "derived")
    np.testing.assert_allclose(derived[:, 18], 1 - derived[:, :18].max(axis=1))
    nothing = mean_of_known([spindle, spindle], (1.0, 1.0))
    assert np.isnan(nothing[:, 0]).all() and np.allclose(nothing[:, 11], spindle[:, 11])
    assert PREDICTED_NEGATIVE.negative == "predicted" and PostProcessing().negative == "derived" and ALL_CLASSES


@pytest.mark.parametrize("readout", ["cell", "field", None])
def test_fcan_is_asked_otherwise_without_being_trained_otherwise(data, tmp_path, monkeypatch, readout):
    """What five levels need: the folder of the folds stays that of the recipe, whatever the table is to say."""
    calls = {}
    monkeypatch.setattr(command, "train_folds", lambda recipe, *rest: calls.update(trained=recipe))
    monkeypatch.setattr(command, "out_of_fold_table", lambda recipe, *rest: calls.update(asked=recipe))
    words_of = ["--recipe", "cpu_fcan", "--data", str(data), "--out", str(tmp_path / "out"), "--folds", "2"]
    words_of += ["--out-of-fold", str(tmp_path / "table.parquet"), "--deterministic", "off"]
    assert command.main(words_of + (["--readout", readout] if readout else [])) == 0
    fcan = recipes.recipe_named("cpu_fcan")
    assert calls["trained"] == fcan
    expected = fcan if readout is None else replace(fcan, network=replace(fcan.network, readout=readout))
    assert calls["asked"] == expected


@pytest.mark.parametrize("options", ["--recipe cpu_small", "--system tiny"])
def test_no_table_of_predictions_takes_the_place_of_labels(data, tmp_path, capsys, options):
    labels = shutil.copy(data / "cells.parquet", tmp_path / "graded.parquet")
    arguments = [*words(options), "--data", str(data), "--out", str(tmp_path / "out"), "--folds", "2"]
    assert command.main([*arguments, "--out-of-fold", str(labels)]) == 2
    assert "a table of labels; expected a table of out_of_fold" in capsys.readouterr().err
    assert labels.read_bytes() == (data / "cells.parquet").read_bytes() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options",
    ["--recipe cpu_fcan", "--recipe cpu_fcan --folds 2", "--recipe cpu_small --folds 2 --out-of-fold {}",
     "--system tiny --folds 2 --out-of-fold {}"],
)  # fmt: skip
def test_a_readout_without_effect_is_refused(data, tmp_path, capsys, options):
    arguments = words(options.format(tmp_path / "table.parquet"))
    assert command.main([*arguments, "--data", str(data), "--out", str(tmp_path / "out"), "--readout", "cell"]) == 2
    assert "--readout: found" in capsys.readouterr().err


# -- leaks ------------------------------------------------------------------------------------------------------------


def write_run(folder, data, validation_fold: int, source: str = "none", other_data: bool = False) -> str:
    """Write the files of a finished run that say what it has seen."""
    (folder / "weights").mkdir(parents=True)
    recipe = replace(SMALL, validation_fold=validation_fold, weights=source)
    recipes.save(recipe, folder / "recipe.json")
    manifest = records.read_manifest(data)
    records.write_manifest(folder, replace(manifest, fingerprint="1" * 64) if other_data else manifest)
    write_result(folder, {"weights/best.weights.h5": 1.0}, {})
    return str(folder)


def test_weights_that_have_seen_a_fold_are_refused(data, tmp_path):
    everything = write_run(tmp_path / "everything", data, -1)
    zero = write_run(tmp_path / "zero", data, 0)
    through = write_run(tmp_path / "through", data, 0, everything + "/weights/best.weights.h5")
    elsewhere = write_run(tmp_path / "elsewhere", data, -1, other_data=True)
    far = write_run(tmp_path / "far", data, -1, everything, other_data=True)
    lent = write_run(tmp_path / "lent", data, -1, f"backbone:{everything}", other_data=True)
    itself = write_run(tmp_path / "itself", data, -1, str(tmp_path / "itself"), other_data=True)
    for source, folds, seen in (
        (everything, range(2), 0), (zero, range(2), 1), (zero, range(1), None), (through, range(1), 0),
        (f"backbone:{zero}", range(2), 1), (f"backbone:{zero}", range(1), None), (lent, range(1), 0),
        (elsewhere, range(2), None), (far, range(1), 0), (itself, range(2), None), ("imagenet", range(2), None),
    ):  # fmt: skip
        asked_recipes = [SMALL, replace(SMALL, weights=source)]
        if seen is None:
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter("always")
                leaks.check_unseen(asked_recipes, folds, str(data))
            told = [str(one.message) for one in found if one.category is HpaWarning]
            assert len(told) == (source in (elsewhere, itself)), "another data folder may hold the same images"
            assert all("trained on another data folder" in one for one in told)
            continue
        with pytest.raises(InputError, match=rf"--weights .*saw the images of fold {seen}"):
            leaks.check_unseen(asked_recipes, folds, str(data))


def seen_by(source: str, data) -> list[str]:
    """Return what is said where fold 0 is predicted, and measured, by a network that starts from `source`."""
    recipe, manifest = replace(SMALL, weights=source, validation_fold=0), records.read_manifest(data)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        leaks.check_unseen([recipe], range(1), str(data))
        leaks.warn_of_seen_fold(recipe, manifest)
    return [str(one.message) for one in found if one.category is HpaWarning]


def test_a_source_that_is_gone_may_have_seen_everything(data, tmp_path):
    """Of the nearest one nothing is said: it is missed when it is read, and a training that goes on was warned."""
    everything = write_run(tmp_path / "everything", data, -1)
    zero = write_run(tmp_path / "zero", data, 0, f"{everything}/weights/best.weights.h5")
    shutil.rmtree(everything)
    for source in (zero, f"backbone:{zero}"):
        unseen, measured = seen_by(source, data)
        assert f"--weights {everything}/weights/best.weights.h5: is gone" in unseen and "fold 0, which" in measured
    assert seen_by(everything, data) == []
    assert leaks.who_may_have_seen(replace(SMALL, weights=everything), records.read_manifest(data)) == everything
    imagenet = write_run(tmp_path / "imagenet", data, 0, "nowhere/imagenet.pth")
    assert seen_by(imagenet, data) == []


def test_a_run_that_says_it_may_have_seen_its_fold_is_believed(data, tmp_path):
    """Its first weights were another run's, which was made anew in the same place and has seen less."""
    again = write_run(tmp_path / "again", data, 0)
    zero = write_run(tmp_path / "zero", data, 0, again)
    assert seen_by(zero, data) == []
    write_result(tmp_path / "zero", {"weights/best.weights.h5": 1.0}, {"may_have_seen_fold": True})
    unseen, measured = seen_by(zero, data)
    assert f"--weights {zero}: may have seen the fold that it left out" in unseen and "fold 0, which" in measured


def test_a_head_of_antibodies_that_other_data_number_is_told(data, tmp_path):
    own = write_run(tmp_path / "own", data, 0)
    other = write_run(tmp_path / "other", data, 0, other_data=True)
    (tmp_path / "other/weights/best.weights.h5").touch()
    fcan = recipes.recipe_named("cpu_fcan_antibodies")
    for recipe, source, told in (
        (fcan, own, False), (fcan, other, True), (fcan, f"{other}/weights/best.weights.h5", True),
        (fcan, f"backbone:{other}", False), (fcan, "imagenet", False), (recipes.recipe_named("cpu_fcan"), other, False),
    ):  # fmt: skip
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always", HpaWarning)
            leaks.warn_of_other_antibodies(replace(recipe, weights=source), records.read_manifest(data))
        texts = [str(one.message) for one in found if one.category is HpaWarning]
        assert [f"--weights {other}: was trained on another data folder, so its head" in one for one in texts] == (
            [True] * told
        )


def test_a_training_ends_well_from_weights_that_do_not_say_what_they_saw(data, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "write_card", lambda out: None)
    bare = write_run(tmp_path / "bare", data, -1)
    (tmp_path / "bare" / records.MANIFEST_NAME).unlink()
    unseen, measured = seen_by(bare, data)
    assert "does not say what it was trained on" in unseen and "fold 0, which" in measured
    recipe, manifest = replace(SMALL, weights=bare), records.read_manifest(data)
    run.finish(recipe, manifest, str(tmp_path), Progress(rows=[{"epoch": 1, "mAP": 0.5}]))
    assert files.read_json(tmp_path / "result.json")["may_have_seen_fold"]


@pytest.mark.parametrize("name", ["--system tiny", "--recipe cpu_small", "--recipe relabel_small"])
def test_such_weights_are_refused_before_the_training(data, tmp_path, capsys, name):
    everything = write_run(tmp_path / "everything", data, -1)
    arguments = [*words(name), "--data", str(data), "--out", str(tmp_path / "out"), *OPTIONS, "--folds", "2"]
    assert command.main([*arguments, "--weights", everything]) == 2
    assert "saw the images of fold 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_weights_that_have_seen_the_validation_fold_are_said(data, tmp_path, monkeypatch, capsys):
    zero = write_run(tmp_path / "zero", data, 0)
    through = write_run(tmp_path / "through", data, 1, zero)
    elsewhere = write_run(tmp_path / "elsewhere", data, 1, other_data=True)

    def stop(*arguments):
        raise InputError("--out", "the end of the test", "no training", "none")

    monkeypatch.setattr(run, "claimed", stop)
    monkeypatch.setattr(run, "export", lambda *arguments: None)
    monkeypatch.setattr(run, "write_card", lambda out: None)
    manifest = records.read_manifest(data)
    for source, fold, seen in (
        ("none", 1, None), (zero, 0, None), (zero, -1, None), (zero, 1, zero), (f"backbone:{zero}", 1, zero),
        (through, 0, through), (through, 1, zero), (elsewhere, 1, elsewhere), (elsewhere, -1, None),
    ):  # fmt: skip
        given = ["--recipe", "cpu_small", *OPTIONS, "--data", str(data), "--out", str(tmp_path / "out")]
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            assert command.main([*given, "--weights", source, "--recipe.validation-fold", str(fold)]) == 2
        assert "the end of the test" in capsys.readouterr().err
        told = [text for one in found if (text := str(one.message)).startswith("--weights")]
        expected = f"--weights {seen}: has seen, or may have seen, fold {fold}, which is measured"
        assert [one.split(";")[0] for one in told] == ([expected] if seen else [])
        if fold >= 0:
            recipe = replace(SMALL, weights=source, validation_fold=fold)
            run.finish(recipe, manifest, str(tmp_path), Progress(rows=[{"epoch": 1, "mAP": 0.5}]))
            assert files.read_json(tmp_path / "result.json")["may_have_seen_fold"] == (seen is not None)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, None),
        ({"cell_line": ["A-431"] * 24 + ["U2OS"] * 24}, None),
        ({"cell_line": ["A-431"] * 25 + ["U2OS"] * 23}, "cell_line of several images 'A-431'"),
        ({"cell_line": ["A-431 "] * 24 + ["A-431"] * 24}, "cell_line of several images 'A-431'"),
        ({"cell_line": [""] * 48}, None),
        ({"cell_line": [None] * 24 + [" "] * 24}, None),
        ({"image_id": ["x"] * 48, "cell": range(1, 49)}, "image 'x'"),
    ],
)
def test_groups_in_two_folds_are_refused(data, tmp_path, change, found):
    table = read_cells(data).assign(**change)
    cell_table.write(table, tmp_path / records.CELL_TABLE_NAME, "labels")
    manifest = replace(records.read_manifest(data), options={"group_by": "cell_line"})
    if found is None:
        leaks.check_folds_apart(str(tmp_path), manifest)
        return
    with pytest.raises(InputError, match=found):
        leaks.check_folds_apart(str(tmp_path), manifest)

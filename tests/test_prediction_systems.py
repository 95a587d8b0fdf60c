"""Systems end to end: members that see different things, a run asked twice, Negative as the networks predict it."""

import shutil
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import keras
import numpy as np
import prediction_cases as cases
import pytest
import toy_networks

from hpa_tf import cell_table, checksums, files, recipes, run_folder, serving
from hpa_tf.classes import CLASSES, NEGATIVE
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.models import weights
from hpa_tf.models.classifier import Classifier
from hpa_tf.models.fcan import ALL_CLASSES, Fcan
from hpa_tf.models.puzzle_cam import PuzzleCam
from hpa_tf.models.small_cnn import SmallCnn
from hpa_tf.objectives import Labels
from hpa_tf.postprocessing import PREDICTED_NEGATIVE
from hpa_tf.prediction import members
from hpa_tf.prediction.member_data import check_same_data
from hpa_tf.prediction.options import Options
from hpa_tf.prediction.predict import predict
from hpa_tf.prediction.requests import make_request
from hpa_tf.recipes import Member, Recipe, Specialist, System
from hpa_tf.recipes.recipe import Tta
from hpa_tf.records import Shard, write_manifest
from hpa_tf.views import CellInField, Crop, Field

TOYS = {recipe.name: recipe for recipe in toy_networks.TOYS}
CELLS = Recipe("cells", Crop(16), Classifier(SmallCnn((4, 6)), classes=ALL_CLASSES))
RGB = ("red", "green", "blue")
SYSTEM = System(
    "toys",
    (
        Member(TOYS["toy_puzzle"], 0.2),
        Member(replace(TOYS["toy_fcan"], asked=None), 0.1),
        Member(replace(TOYS["toy_fcan"], asked=None), 0.1, asked=CellInField(32)),
        Member(TOYS["toy_duo"], 0.3),
        Member(CELLS, 0.3),
    ),
    PREDICTED_NEGATIVE,
)


def check(network, known):
    check_same_data(network.run, network.served, known)


def write_member(folder: Path, recipe: Recipe, seed: int = 0, **facts) -> None:
    """Write a whole run folder of a network with random weights."""
    keras.utils.set_random_seed(len(recipe.name) + seed)
    network = recipe.network.build(recipe.asked_view.specs())
    for layer in network.layers:
        if isinstance(layer, keras.layers.Dense):
            layer.set_weights([layer.get_weights()[0] * 3, *layer.get_weights()[1:]])
    (folder / "weights").mkdir(parents=True)
    weights.save(network, folder / run_folder.BEST_WEIGHTS)
    manifest = replace(cases.MANIFEST, **facts)
    recipes.save(recipe, folder / run_folder.RECIPE)
    write_manifest(folder, manifest)
    serving.export(folder, network, recipe, manifest)
    run_folder.write_result(folder, {run_folder.BEST_WEIGHTS: 1.0}, {})


@pytest.mark.slow
def test_a_system_of_all_views_is_the_weighted_mean_of_its_members(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "SYSTEMS", (SYSTEM,))
    for recipe in dict.fromkeys(member.recipe for member in SYSTEM.members):
        write_member(tmp_path / "runs" / recipe.name, recipe)
    masks = cases.write_images(tmp_path / "images")
    images = str(tmp_path / "images")
    options = Options(str(tmp_path / "out"), system="toys", runs=str(tmp_path / "runs"), images=images, masks=images)
    predict(replace(options, workers=1, report_images=2))
    names = ["toy_puzzle", "toy_fcan", "toy_fcan.CellInField", "toy_duo", "cells"]
    tables = [cell_table.read(tmp_path / f"out/raw/{name}.parquet") for name in names]
    values = [cell_table.values(table).copy() for table in tables]
    assert [np.isnan(one[:, NEGATIVE]).all() for one in values] == [False, False, False, True, False]
    assert np.abs(values[1] - values[2])[:, :NEGATIVE].max() > 0.01, "asked in two ways, it gives two answers"
    for one in values:
        one[:, NEGATIVE] = np.where(np.isnan(one[:, NEGATIVE]), 1 - one[:, :NEGATIVE].max(axis=1), one[:, NEGATIVE])
    shares = np.array([member.weight for member in SYSTEM.members])
    mean = np.tensordot(shares / shares.sum(), np.stack(values), axes=1)
    cells = cell_table.read(tmp_path / "out/cells.parquet")
    assert len(cells) == sum(len(np.unique(mask)) - 1 for mask in masks.values())
    np.testing.assert_allclose(cell_table.values(cells), mean, atol=1e-6)
    np.testing.assert_allclose(cells[[f"raw: {name}" for name in CLASSES]], mean, atol=1e-6)
    assert (tmp_path / "out/submission.csv").read_text().count("\n") == len(masks) + 1


def test_folds_of_a_system_are_averaged(tmp_path, monkeypatch):
    """SYSTEMS 2g: the mean of folds and backbones; each member has its weight, shared by the networks of its folds."""
    asked = (Member(CELLS, 0.4), Member(CELLS, 0.6, asked=Crop(16, surroundings="all"), tta="2"))
    monkeypatch.setattr(recipes, "SYSTEMS", (System("folded", asked, PREDICTED_NEGATIVE),))
    for fold in range(2):
        write_member(tmp_path / f"runs/fold{fold}/cells", CELLS, seed=fold)
    cases.write_images(tmp_path / "images")
    images, out, runs = (str(tmp_path / name) for name in ("images", "out", "runs"))
    predict(Options(out, system="folded", runs=runs, images=images, masks=images, workers=1, report_images=0))
    networks = files.read_json(tmp_path / "out/predictions.json")["request"]["networks"]
    names = ["cells.fold0", "cells.fold1", "cells.fold0.Crop", "cells.fold1.Crop"]
    assert [(one["name"], one["weight"], one.get("tta")) for one in networks] == [
        *((name, 0.2, None) for name in names[:2]),
        *((name, 0.3, "2") for name in names[2:]),
    ]
    values = [cell_table.values(cell_table.read(tmp_path / f"out/raw/{name}.parquet")) for name in names]
    assert min(np.abs(values[i] - values[j]).max() for i in range(4) for j in range(i)) > 1e-3
    mean = np.tensordot([0.2, 0.2, 0.3, 0.3], np.stack(values), axes=1)
    np.testing.assert_allclose(cell_table.values(cell_table.read(tmp_path / "out/cells.parquet")), mean, atol=1e-6)
    one = members.load_members(recipes.SYSTEMS[0], f"{runs}/fold1")
    assert [(network.name, network.weight) for network in one] == [("cells", 0.4), ("cells.Crop", 0.6)]


def test_folds_that_are_not_whole_are_named(tmp_path, monkeypatch):
    system = System("pair", (Member(CELLS, 0.5), Member(replace(CELLS, name="others"), 0.5)))

    def finish(*names: str) -> None:
        for name in names:
            (tmp_path / name).mkdir(parents=True)
            run_folder.write_result(tmp_path / name, {run_folder.BEST_WEIGHTS: 1.0}, {})

    finish("fold0/cells", "fold0/others", "fold1/cells")
    (tmp_path / "fold1/system.json").touch()  # `train.py --system` began the fold
    with pytest.raises(InputError) as error:
        members.load_members(system, str(tmp_path))
    assert str(error.value).startswith(f"{tmp_path}/fold1: found no finished run of others (1 of 2 members)")
    assert error.value.fix.endswith(f"--system pair --folds 2 --out {tmp_path}")
    finish("fold1/others", "cells")
    with pytest.raises(InputError, match=r"found fold0 and, beside it, cells; .*--runs .*/fold0 asks one fold alone"):
        members.load_members(system, str(tmp_path))


@pytest.mark.slow
def test_members_may_have_unlike_numbers_of_folds(tmp_path, monkeypatch):
    """SYSTEMS 2: team 2 had 5 folds of duo-branch and 2 of the fields; here trained one by one, each by its recipe."""
    others = replace(CELLS, name="others")
    system = System("pair", (Member(CELLS, 0.6), Member(others, 0.4)))
    for fold in range(3):
        write_member(tmp_path / f"fold{fold}/cells", CELLS, seed=fold)
    with pytest.raises(InputError, match=r"fold0: found no finished run of others \(1 of 2 members\)"):
        members.load_members(system, str(tmp_path))
    write_member(tmp_path / "fold1/others", others)
    with pytest.warns(HpaWarning, match="unlike numbers of folds: others of 1, the others of 3"):
        found = members.load_members(system, str(tmp_path))
    assert [network.name for network in found] == ["cells.fold0", "cells.fold1", "cells.fold2", "others.fold1"]
    np.testing.assert_allclose([network.weight for network in found], [0.2, 0.2, 0.2, 0.4])
    (tmp_path / "fold2/others").mkdir()
    recipes.save(others, tmp_path / "fold2/others/recipe.json")  # its training has begun
    with pytest.raises(InputError, match=r"fold2: found no finished run of others \(1 of 2 members\)"):
        members.load_members(system, str(tmp_path))


def test_a_mean_of_fewer_folds_than_the_data_have_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(members, "_networks_of", lambda run, name, *rest: [network(CELLS, name, num_folds=5)])
    for fold in range(2):
        (tmp_path / f"fold{fold}/cells").mkdir(parents=True)
        run_folder.write_result(tmp_path / f"fold{fold}/cells", {run_folder.BEST_WEIGHTS: 1.0}, {})
    with pytest.warns(HpaWarning, match="the mean of 2 folds, as many as are trained; the data have 5"):
        members.load_members(System("one", (Member(CELLS, 1.0),)), str(tmp_path))


def network(recipe: Recipe, name: str = "run", **facts) -> members.Network:
    """Return a network that was never built."""
    manifest = asdict(replace(cases.MANIFEST, **facts))
    return members.Network(name, 1.0, serving.Served(name, {}, recipe, manifest, 16, None), "", name)


def test_members_name_their_views_at_prediction():
    """SYSTEMS: team 1 flips and turns, team 2's bags 16 views, ZFTurbo mirrors; for two cores none."""
    views = {system.name: {one.recipe.name: one.tta for one in system.members} for system in recipes.SYSTEMS}
    assert set(views["bestfitting"].values()) == {"8"}
    assert {name for name, tta in views["red_ai"].items() if tta == "16"} == {
        *("red_ai_duo_b3", "red_ai_duo_b5", "red_ai_duo_seresnext50", "red_ai_duo_resnet200d")
    }
    team_3 = views["mpware_zfturbo_dieter"]
    assert {name: tta for name, tta in team_3.items() if tta != "none"} == {
        **dict.fromkeys(("zfturbo_6_channels", "zfturbo_green"), "2")
    }
    others = [tta for name, of in views.items() if name.startswith(("cpu_", "milimed")) for tta in of.values()]
    assert set(others) == {"none"}
    asked = next(field.type for field in fields(Options) if field.name == "tta")
    assert set(get_args(Tta)) == set(get_args(get_args(asked)[0])), "options know the same numbers"


def test_the_views_of_members_belong_to_a_prediction():
    """Where --tta is not given each member's stand in the request; given, they have no effect and are left out."""
    eight, source = replace(network(CELLS), tta="8"), SimpleNamespace(load=None)

    def request(tta, *networks) -> dict:
        return make_request(Options("out", tta=tta), {}, networks, source, PREDICTED_NEGATIVE)

    assert request(None, network(CELLS)) == request("none", network(CELLS)) == request("none", eight)
    assert request("8", network(CELLS)) == request("8", eight) != request(None, eight)
    assert request(None, eight)["networks"][0]["tta"] == "8" and request(None, eight)["options"]["tta"] == "none"


CELL_SHARD = Shard("cells-fold0.tfrecord-00000-of-00001", "cells", 0, 20, 900, "a" * 64)
OTHER_DATA = (
    ({"fingerprint": "1" * 64}, "fingerprint 11111111, not 00000000"),
    ({"um_per_px": (0.16,)}, r"um_per_px \[0.16\], not \[0.08\]"),  # as the files say it, which have the same sizes
    ({"num_cells": 21}, "num_cells 21, not 20"),
    ({"shards": (CELL_SHARD,)}, "records .*"),  # other pixels or masks in files of the same sizes
)


def test_members_of_other_classes_or_data_are_named():
    located = replace(CELLS, network=replace(CELLS.network, classes=tuple(range(NEGATIVE))))
    with pytest.raises(InputError, match="found a network of 18 classes; expected 19 classes as cells"):
        members._check_classes_of(CELLS, network(located))
    known = {}
    check(network(CELLS, "runs/first"), known)
    check(network(CELLS), known)
    for facts, said in OTHER_DATA:
        with pytest.raises(InputError, match=rf"trained on other data than runs/first \({said}\)"):
            check(network(CELLS, **facts), known)


def test_fields_of_view_that_were_added_later_make_no_other_data():
    known, whole = {}, replace(CELL_SHARD, name="fields-fold0.tfrecord-00000-of-00001", kind="fields")
    check(network(CELLS, shards=(CELL_SHARD,)), known)
    check(network(CELLS, shards=(CELL_SHARD, whole), options={"fields": 512}), known)


def test_members_of_other_labels_or_other_cells_are_named(tmp_path):
    """--labels counts for networks that learn from labels of cells alone; a run that does not say it is passed over."""
    of_images = replace(CELLS, objective=(Labels(of="image"),))

    def run(name: str, recipe: Recipe = CELLS, labels: str | None = None, clean: bool = True) -> members.Network:
        (tmp_path / name).mkdir()
        inputs = {"labels_sha256": labels, "unknown_cells": "error" if labels else None, "clean": clean}
        files.write_json(tmp_path / name / run_folder.INPUTS, checksums.sealed_json(inputs))
        return network(recipe, str(tmp_path / name))

    known = {}
    for one in (run("first", labels="a" * 64), network(CELLS), run("same", labels="a" * 64), run("field", of_images)):
        check(one, known)
    with pytest.raises(InputError, match=r"other: found .* than .*/first \(labels_sha256 bbbbbbbb, not aaaaaaaa\)"):
        check(run("other", labels="b" * 64), known)
    with pytest.raises(InputError, match=r"\(labels_sha256 None, not aaaaaaaa\)"):
        check(run("of the data"), known)
    with pytest.raises(InputError, match=r"\(clean False, not True\)"):
        check(run("unclean", of_images, clean=False), known)


@pytest.mark.slow
def test_specialists_that_are_trained_beside_the_members_have_their_data(tmp_path):
    one = replace(CELLS, name="one", network=replace(CELLS.network, classes=(0,)))
    write_member(tmp_path / "cells", CELLS)
    write_member(tmp_path / "one", one, fingerprint="1" * 64)
    system = System("pair", (Member(CELLS, 1.0),), specialists=(Specialist(one, "whole"),))
    with pytest.raises(InputError, match="one: found trained on other data than"):
        members.load_members(system, str(tmp_path))
    own = replace(system, specialists=(Specialist(one, "whole", own_labels=True),))
    assert [network.name for network in members.load_members(own, str(tmp_path))] == ["cells", "one"]
    shutil.rmtree(tmp_path / "one")
    for clean, words in ((True, ""), (False, " --no-clean")):
        files.write_json(tmp_path / "cells" / run_folder.INPUTS, checksums.sealed_json({"clean": clean}))
        with pytest.raises(InputError, match=f"train.py --data DIR --recipe one{words} --out {tmp_path}/one"):
            members.load_members(system, str(tmp_path))


def test_missing_members_are_counted_once_though_a_run_is_asked_twice(tmp_path):
    with pytest.raises(InputError) as error:
        members.load_members(recipes.system_named("cpu_red_ai"), str(tmp_path))
    assert "cpu_duo_branch, cpu_red_ai_field, cpu_red_ai_cell (3 of 3 members)" in str(error.value)


@pytest.mark.parametrize("system", recipes.SYSTEMS, ids=lambda system: system.name)
def test_members_of_every_system_can_be_asked(system):
    """Channels of a second view are those of the network, and every member answers all classes or all but Negative."""
    for member in system.members:
        asked = replace(member.recipe, asked=member.asked or member.recipe.asked)
        members._check_classes(asked, member.recipe.name)
        assert members.needs_of([network(asked)]).crops == (asked.asked_view.reads == "cells")
    names = [(member.recipe.name, type(member.asked)) for member in system.members]
    assert len(set(names)) == len(names), "each network's table has its own name"


ASKED_TWICE = {
    "field, cell on it, crop": (
        Classifier(SmallCnn((4, 6))),
        [Field(16, RGB, 3), CellInField(32, RGB), Crop(24, channels=RGB)],
    ),
    "FCAN": (Fcan(SmallCnn((4, 6)), hidden=8), [Field(16, num_cells=3), Field(32, num_cells=5), CellInField(32)]),
    "Puzzle-CAM": (PuzzleCam(SmallCnn((4, 6))), [Field(32, num_cells=2), Crop(16)]),
}


@pytest.mark.parametrize("name", ASKED_TWICE)
def test_weights_of_one_view_are_those_of_another(name, tmp_path):
    """What a run learned through one view answers through another: every weight comes to its place."""
    spec, views = ASKED_TWICE[name]
    keras.utils.set_random_seed(0)
    trained = spec.build(views[0].specs())
    for i, variable in enumerate(trained.variables):
        variable.assign(np.full(variable.shape, i + 1, np.float32))
    expected = [(variable.shape, i + 1.0) for i, variable in enumerate(trained.variables)]
    weights.save(trained, tmp_path / "all.weights.h5")
    for view in views[1:]:
        asked = spec.build(view.specs())
        weights.load(asked, str(tmp_path / "all.weights.h5"))
        assert [(variable.shape, float(variable.numpy().flat[0])) for variable in asked.variables] == expected

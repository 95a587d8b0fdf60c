"""Prediction from shards, from checkpoint ensembles and systems, with embeddings: the same numbers by another way."""

import shutil
import warnings
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import prediction_cases as cases
import pytest
import tensorflow as tf

from hpa_tf import cell_table, files, records, run_folder, serving, submission
from hpa_tf.classes import CLASSES
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.imaging.squares import Square
from hpa_tf.prediction import members, outputs, shards
from hpa_tf.prediction.inputs import Shards
from hpa_tf.prediction.needs import TIGHT_CROPS
from hpa_tf.prediction.options import Options
from hpa_tf.prediction.predict import predict
from hpa_tf.recipes import Member, System, save
from hpa_tf.recipes import recipe as recipe_module
from tfrecords_builder.build import build
from tfrecords_builder.options import BuildOptions


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    masks = cases.write_images(root / "images")
    (root / "train.csv").write_text("ID,Label\n" + "".join(f"{name},{i}\n" for i, name in enumerate(masks)))
    build(
        BuildOptions(
            images=(str(root / "images"),), labels=(str(root / "train.csv"),), masks=(str(root / "images"),),
            out=str(root / "data"), num_folds=2, margin=8, workers=1,
        )
    )  # fmt: skip
    return root


def write_trained_run(folder, name: str, data, shares: dict[str, float], seed: int = 0):
    """Write what training leaves behind: recipe, manifest, weights of each checkpoint, result."""
    folder.mkdir(parents=True)
    save(replace(cases.recipe(), name=name), folder / run_folder.RECIPE)
    manifest = records.read_manifest(data)
    records.write_manifest(folder, manifest)
    for i, path in enumerate(shares):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        cases.network(seed + i).save_weights(folder / path)
    serving.export(folder, cases.network(seed), replace(cases.recipe(), name=name), manifest)
    files.write_json(folder / run_folder.RESULT, {"checkpoints": shares})
    return folder


GROWN = {"square": "grow", "margin": 5, "surroundings": "background"}


@pytest.mark.parametrize("preparation", [pytest.param({}, marks=pytest.mark.slow), GROWN])
def test_shards_give_the_numbers_of_the_images(world, pool, tmp_path, preparation):
    manifest = records.read_manifest(world / "data")
    run = tmp_path / "run"
    serving.export(run, cases.network(), cases.recipe(**preparation), manifest)
    options = Options(str(tmp_path / "images"), run=(str(run),), images=str(world / "images"), report_images=2)
    predict(replace(options, masks=str(world / "images")), pool)
    predict(replace(options, out=str(tmp_path / "shards"), images=None, data=str(world / "data")), pool)
    first, second = (cell_table.read(tmp_path / out / "cells.parquet") for out in ("images", "shards"))
    pd.testing.assert_frame_equal(first, second, atol=1e-5, rtol=0)
    rows = {out: list(submission.read(tmp_path / out / "submission.csv")) for out in ("images", "shards")}
    with_cells = [row for row in rows["images"] if row.image_id != "b2"]  # no cell, no record
    assert [(r.image_id, r.mask_texts) for r in with_cells] == [(r.image_id, r.mask_texts) for r in rows["shards"]]
    assert (tmp_path / "shards/overlays/c3.png").exists()


def test_what_shards_lack_is_told(world):
    """Image b2 has no cell, so no record and no row; fields that are stored small are enlarged, and blurred."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        shards.shard_source(str(world / "data"), 0, (0, 1))  # of one fold nobody knows
        shards.shard_source(str(world / "data"), None, (0, 1))
        stored = replace(records.read_manifest(world / "data"), options={"fields": 192})
        for seen in (128, 192, 256):
            needs = replace(TIGHT_CROPS, squares=(Square(256, seen),))
            shards._tell_lost("built", stored, None, needs)
    said = [str(one.message) for one in found if one.category is HpaWarning]
    assert "data: 1 of 6 images have no cells, and no row in what is written; predict from --images" in said[0]
    assert "built: fields of view stored with 192 px are enlarged for a network that sees 256 px" in said[1]
    assert len(said) == 2


@pytest.mark.parametrize(
    ("trained", "view", "told"),
    [
        ({}, {"margin": 5}, None),
        ({"um_per_px": (0.32,)}, {}, "images of 0.08 um per px, but run was trained at 0.32"),
        ({"segmenter": "classical-4"}, {}, "cells are found by small-3, but run was trained on those of classical-4"),
        ({"margin": 3}, {"margin": 2}, None),  # sees no more than was stored
        ({"margin": 3}, {"margin": 5}, None),
        ({"margin": 9}, {"margin": 10}, "crops stored with 8 px around the cell, but run was trained on 9 px"),
        ({"margin": 20}, {"square": "grow"}, "crops stored with 8 px around the cell, but run was trained on 20 px"),
    ],
)
def test_shards_unlike_those_of_the_training_are_a_warning(world, tmp_path, trained, view, told):
    shutil.copytree(world / "data", tmp_path / "data")
    built = replace(records.read_manifest(world / "data"), segmenter="small-3 + masks")
    records.write_manifest(tmp_path / "data", built)
    served = serving.Served("", {}, cases.recipe(**view), asdict(replace(built, **trained)), cases.SIZE, None)
    network = members.Network("run", 1.0, served, "", "")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Shards(str(tmp_path / "data"), (0, 1), fold=0).source([network, network], TIGHT_CROPS)
    assert [told in str(one.message) for one in caught] == [True] * (told is not None)


@pytest.mark.slow
def test_folds_part_the_images(world, pool, tmp_path):
    run = cases.write_run(tmp_path / "run")
    found = []
    for fold in (0, 1):
        out = str(tmp_path / f"fold{fold}")
        predict(Options(out, run=(str(run),), data=str(world / "data"), fold=fold, report_images=0), pool)
        table = cell_table.read(files.join(out, "cells.parquet"))
        found.append(set(table["image_id"]))
    assert not found[0] & found[1] and found[0] | found[1] == {"a1", "c3", "d4", "e5", "f6"}
    with pytest.raises(InputError, match="0 to 1"):
        predict(Options(str(tmp_path / "no"), run=(str(run),), data=str(world / "data"), fold=2), pool)


def test_a_damaged_shard_is_named(world, pool, tmp_path):
    run = cases.write_run(tmp_path / "run")
    data = tmp_path / "data"
    data.mkdir()
    for path in (world / "data").iterdir():
        content = bytearray(path.read_bytes()) if path.is_file() else b""
        if path.name.startswith("cells-fold0") and content:
            content[len(content) // 2] ^= 1
        (data / path.name).write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"cells-fold0.*checksum"):
        predict(Options(str(tmp_path / "out"), run=(str(run),), data=str(data), fold=0, report_images=0), pool)


def test_checkpoints_of_a_run_are_averaged_by_their_shares(world, pool, tmp_path):
    shares = {"weights/epoch-0007.weights.h5": 0.2, "weights/epoch-0008.weights.h5": 0.8}
    run = write_trained_run(tmp_path / "ensemble", "tiny", world / "data", shares)
    out = tmp_path / "out"
    predict(Options(str(out), run=(str(run),), data=str(world / "data"), report_images=2, embeddings=True), pool)
    names = ["ensemble@epoch-0007", "ensemble@epoch-0008"]
    raw = [cell_table.values(cell_table.read(out / f"raw/{name}.parquet"))[:, :18] for name in names]
    table = cell_table.read(out / "cells.parquet")
    mean = table[[f"raw: {name}" for name in cell_table.VALUES[:18]]].to_numpy()
    np.testing.assert_allclose(mean, 0.2 * raw[0] + 0.8 * raw[1], atol=1e-12)
    assert np.abs(raw[0] - raw[1]).max() > 0.1
    single = cases.write_run(tmp_path / "single", seed=0)
    predict(Options(str(tmp_path / "one"), run=(str(single),), data=str(world / "data"), report_images=0), pool)
    alone = cell_table.values(cell_table.read(tmp_path / "one/raw/single.parquet"))[:, :18]
    np.testing.assert_allclose(raw[0], alone, atol=1e-5)
    features = pd.read_parquet(out / "embeddings.parquet")
    assert features[["image_id", "cell"]].equals(table[["image_id", "cell"]]) and features.shape[1] == 2 + 12


@pytest.mark.slow
def test_a_system_reads_its_members_with_their_weights(world, pool, tmp_path, monkeypatch):
    made = System("pair", tuple(Member(replace(cases.recipe(), name=name), w) for name, w in (("x", 0.3), ("y", 0.7))))
    assert isinstance(made, recipe_module.System)
    monkeypatch.setattr("hpa_tf.recipes.SYSTEMS", (made,))
    write_trained_run(tmp_path / "runs/x", "x", world / "data", {"weights/best.weights.h5": 1.0})
    options = Options(str(tmp_path / "out"), system="pair", runs=str(tmp_path / "runs"), data=str(world / "data"))
    with pytest.raises(InputError, match=r"no finished run of y \(1 of 2 members\)"):
        predict(options, pool)
    shutil.copytree(tmp_path / "runs/x", tmp_path / "runs/pair/x")
    (tmp_path / "runs/pair/system.json").write_text("{}")  # where train.py --system writes by default
    with pytest.raises(InputError, match=rf"Fix: --runs {tmp_path}/runs/pair, or python train.py"):
        predict(options, pool)
    write_trained_run(tmp_path / "runs/y", "y", world / "data", {"weights/best.weights.h5": 1.0}, seed=5)
    predict(replace(options, report_images=0), pool)
    raw = [cell_table.values(cell_table.read(tmp_path / f"out/raw/{name}.parquet"))[:, :18] for name in ("x", "y")]
    table = cell_table.read(tmp_path / "out/cells.parquet")
    mean = table[[f"raw: {name}" for name in cell_table.VALUES[:18]]].to_numpy()
    np.testing.assert_allclose(mean, 0.3 * raw[0] + 0.7 * raw[1], atol=1e-12)


def test_two_runs_of_one_name_are_refused(tmp_path):
    for parent in ("a", "b"):
        (tmp_path / parent / "run").mkdir(parents=True)
    with pytest.raises(InputError, match="several runs named run"):
        members.load_networks([str(tmp_path / "a/run"), str(tmp_path / "b/run")])


def test_anndata_is_what_scanpy_loads(world, pool, tmp_path):
    anndata = pytest.importorskip("anndata", reason="needs the extra [anndata]")
    run, out = cases.write_run(tmp_path / "run"), tmp_path / "out"
    predict(Options(str(out), run=(str(run),), data=str(world / "data"), anndata=True, report_images=0), pool)
    data, table = anndata.read_h5ad(out / "cells.h5ad"), cell_table.read(out / "cells.parquet")
    assert data.X.shape == (len(table), 12) and data.obs_names.is_unique
    np.testing.assert_allclose(data.obsm["scores"], cell_table.values(table), atol=1e-6)
    assert (data.obs["cell"].to_numpy() == table["cell"].to_numpy()).all()
    first = cell_table.first_classes(cell_table.values(table))
    assert data.obs["first_class"].tolist() == [CLASSES[c] if c >= 0 else np.nan for c in first]
    x, y = data.obsm["spatial"].T
    np.testing.assert_array_equal(2 * x, table["left"] + table["right"])
    np.testing.assert_array_equal(2 * y, table["top"] + table["bottom"])


def test_anndata_of_images_without_cells_is_a_warning(pool, tmp_path):
    pytest.importorskip("anndata", reason="needs the extra [anndata]")
    cases.write_field(tmp_path / "images", "a", 0, 1)
    run, images = cases.write_run(tmp_path / "run"), str(tmp_path / "images")
    options = Options(str(tmp_path / "out"), run=(str(run),), images=images, masks=images, anndata=True)
    with pytest.warns(HpaWarning, match=r"no cell has an embedding: no \S+cells\.h5ad"):
        predict(options, pool)
    assert (tmp_path / "out/submission.csv").exists() and not (tmp_path / "out/cells.h5ad").exists()
    with pytest.raises(InputError, match=r"--anndata: found --out s3://b/p; expected a folder on this machine"):
        predict(replace(options, out="s3://b/p"), pool)


def test_results_of_images_that_are_all_left_out_now_do_not_stay(tmp_path):
    """Of a folder that goes on: the numbers of an earlier state would pass for those of today."""
    (tmp_path / "raw").mkdir()
    names = ("cells.parquet", "raw/run.parquet", "embeddings.parquet", "cells.h5ad", "cells.csv", "submission.csv")
    for name in names:
        (tmp_path / name).write_bytes(b"earlier")
    with pytest.warns(HpaWarning, match="no cell has an embedding"):
        outputs.write_outputs(str(tmp_path), [], ["run"], outputs.Asked(embeddings=True, anndata=True, csv=True))
    left = {name: (tmp_path / name).read_bytes() for name in names if (tmp_path / name).exists()}
    assert left == {"submission.csv": b"ID,ImageWidth,ImageHeight,PredictionString\n"}


def test_tables_for_spreadsheets_and_the_images_that_differ(world, pool, tmp_path):
    run, out = cases.write_run(tmp_path / "run"), tmp_path / "out"
    (tmp_path / "labels.csv").write_text("ID,Label\na1_green.png,0|16\nnot_here,3\n")
    asked = Options(str(out), run=(str(run),), images=str(world / "images"), masks=str(world / "images"))
    asked = replace(asked, csv=True, image_labels=str(tmp_path / "labels.csv"), overlays=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", HpaWarning)
        predict(asked, pool)
    said = {str(one.message) for one in caught if "labels.csv" in str(one.message)}
    assert said == {
        f"{asked.image_labels}: 1 ids are read as those of the images they mean, first 'a1_green.png' as 'a1'"
    }
    table, text = cell_table.read(out / "cells.parquet"), pd.read_csv(out / "cells.csv")
    assert list(text.columns) == list(table.columns) and len(text) == len(table)
    np.testing.assert_array_equal(cell_table.values(text), cell_table.values(table))
    marked = {path.name for path in out.glob("*.csv") if path.read_bytes().count(b"\xef\xbb\xbf") == 1}
    assert marked == {"cells.csv", "heterogeneity.csv"}, "submission.csv is for programs"
    images = pd.read_csv(out / "heterogeneity.csv", keep_default_na=False).set_index("image_id")
    assert set(table["image_id"]) <= set(images.index)
    assert images.loc["a1", "image_label"] == "Nucleoplasm, Cytosol" and (images["image_label"] != "").sum() == 1


def test_a_table_of_labels_of_other_images_is_told(world, pool, tmp_path):
    run = cases.write_run(tmp_path / "run")
    (tmp_path / "labels.csv").write_text("ID,Label\nA1,0|16\n")
    asked = Options(str(tmp_path / "out"), run=(str(run),), images=str(world / "images"), masks=str(world / "images"))
    asked = replace(asked, image_labels=str(tmp_path / "labels.csv"), overlays=False, report_images=0)
    with pytest.warns(HpaWarning, match=r"labels\.csv names none of the \d images"):
        predict(asked, pool)


@pytest.mark.slow
def test_shards_that_were_built_again_are_predicted_again(pool, tmp_path):
    images, masks, data = tmp_path / "images", str(tmp_path / "images"), tmp_path / "data"
    for seed, image_id in enumerate("abcd"):
        cases.write_field(images, image_id, 2, seed, size=(48, 64))
    (tmp_path / "train.csv").write_text("ID,Label\na,0\nb,1\nc,2\nd,3\n")
    asked = BuildOptions(
        images=(masks,), labels=(str(tmp_path / "train.csv"),), masks=(masks,), out=str(data), num_folds=1, workers=1,
        images_per_shard=1, on_change="rebuild",
    )  # fmt: skip
    build(asked)
    run = cases.write_run(tmp_path / "run")
    options = Options(str(tmp_path / "out"), run=(str(run),), data=str(data), report_images=0, overlays=False)
    predict(options, pool)
    cases.write_field(images, "c", 4, 9, size=(48, 64))
    build(asked)
    outcome = predict(options, pool)
    assert (outcome.num_changed, outcome.num_predicted) == (1, 1)
    predict(replace(options, out=str(tmp_path / "fresh")), pool)
    found, expected = (cell_table.read(tmp_path / out / "cells.parquet") for out in ("out", "fresh"))
    pd.testing.assert_frame_equal(found, expected)
    assert (found["image_id"] == "c").sum() == 4


def test_a_savedmodel_of_several_checkpoints_answers_their_mean_and_each(pool, tmp_path):
    """What predict.py averages, the SavedModel and what is made of it answer; each checkpoint is there, too."""
    recipe, networks, shares = cases.recipe(), [cases.network(3), cases.network(4)], (0.6, 1.8)
    parts = [serving.Checkpoint(f"epoch-000{i}", *pair) for i, pair in enumerate(zip(networks, shares, strict=True))]
    serving.export(tmp_path / "run", parts, recipe, cases.MANIFEST)
    served = serving.load(tmp_path / "run")
    assert served.checkpoints == (("epoch-0000", 0.6), ("epoch-0001", 1.8))
    image = tf.constant(np.random.default_rng(0).random((3, cases.SIZE, cases.SIZE, 4), np.float32))
    each = [
        1 / (1 + np.exp(-one({"image": image}, training=False)["logits"].numpy().astype(float))) for one in networks
    ]
    mean = 0.25 * each[0] + 0.75 * each[1]
    for signature in ("prepared", "activation_maps"):
        found = served.signatures[signature](image=image)["probabilities"].numpy()
        np.testing.assert_allclose(found[:, :18], mean, atol=1e-5)
        np.testing.assert_allclose(found[:, 18], 1 - mean.max(axis=1), atol=1e-5)
    assert np.abs(each[0] - each[1]).max() > 0.1
    for number, expected in enumerate(each):
        alone = served.only(number).signatures["prepared"](image=image)["probabilities"].numpy()
        np.testing.assert_allclose(alone[:, :18], expected, atol=1e-5)
    cases.write_field(tmp_path / "images", "x", 4, 1)
    images = str(tmp_path / "images")
    predict(
        Options(str(tmp_path / "out"), run=(str(tmp_path / "run"),), images=images, masks=images, report_images=1), pool
    )
    tables = [
        cell_table.values(cell_table.read(tmp_path / f"out/raw/run@epoch-000{i}.parquet"))[:, :18] for i in (0, 1)
    ]
    raw = cell_table.read(tmp_path / "out/cells.parquet")[[f"raw: {name}" for name in CLASSES[:18]]].to_numpy()
    np.testing.assert_allclose(raw, 0.25 * tables[0] + 0.75 * tables[1], atol=1e-9)
    assert np.abs(tables[0] - tables[1]).max() > 0.05

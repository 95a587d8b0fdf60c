"""Batch statistics re-estimated on the user's images: their numbers, and `predict.py --adapt` from end to end."""

import dataclasses
import os
import shutil
from pathlib import Path

import cv2
import keras
import numpy as np
import prediction_cases as cases
import pytest

from hpa_tf import files, run_folder, serving
from hpa_tf.errors import InputError
from hpa_tf.imaging.fields import find_fields, read_field
from hpa_tf.imaging.layout_options import LayoutOptions
from hpa_tf.manifest import write_manifest
from hpa_tf.models import weights
from hpa_tf.models.classifier import Classifier
from hpa_tf.models.efficientnet import EfficientNet
from hpa_tf.models.normalization import BatchNormalization, re_estimate
from hpa_tf.models.vit import VisionTransformer
from hpa_tf.prediction import adapting
from hpa_tf.prediction.options import Options
from hpa_tf.prediction.predict import predict
from hpa_tf.prediction.workers import Workers
from hpa_tf.recipes.serialization import save
from hpa_tf.views import Crop


def killed_or_loaded(image_id: str) -> str:
    if image_id == "bad":
        os._exit(9)
    return image_id


def shifted(count: int = 40, seed: int = 0) -> np.ndarray:
    """Return images that are darker and of another contrast than those of `cases.network`."""
    return np.random.default_rng(seed).beta(2, 9, (count, cases.SIZE, cases.SIZE, 4)).astype(np.float32)


def norms(network: keras.Model) -> list[BatchNormalization]:
    return [layer for layer in network._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]


def other_weights(network: keras.Model) -> list[np.ndarray]:
    moving = {id(v) for layer in norms(network) for v in (layer.moving_mean, layer.moving_variance)}
    return [v.numpy() for v in network.weights if id(v) not in moving]


def test_the_whole_of_one_batch_is_normalised_as_in_training():
    network, images = cases.network(), shifted()
    before = other_weights(network)
    features = keras.Model(network.input, network.output["features"])  # without the dropout behind it
    trained = features({"image": images}, training=True).numpy()
    assert re_estimate(network, {"image": images}, 1.0, len(images)) == len(norms(network)) > 1
    answered = features({"image": images}, training=False).numpy()
    assert answered == pytest.approx(trained, abs=1e-4)
    assert np.abs(trained).max() > 0.1
    assert all(np.array_equal(one, other) for one, other in zip(before, other_weights(network), strict=True))


def test_several_batches_are_taken_together():
    """The first layer's input does not depend on batches, so its statistics are those of all whole batches."""
    network, images = cases.network(), shifted(45)
    first = norms(network)[0]
    seen = keras.Model(network.input, first.input)({"image": images[:40]}).numpy().astype(np.float64)
    re_estimate(network, {"image": images}, 1.0, 10)
    assert first.moving_mean.numpy() == pytest.approx(seen.mean((0, 1, 2)), rel=1e-4, abs=1e-6)
    assert first.moving_variance.numpy() == pytest.approx(seen.var((0, 1, 2)), rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_the_share_mixes_with_the_trainings_statistics(share):
    whole, network, images = cases.network(), cases.network(), shifted()
    before = [(layer.moving_mean.numpy(), layer.moving_variance.numpy()) for layer in norms(network)]
    re_estimate(whole, {"image": images}, 1.0, 40)
    re_estimate(network, {"image": images}, share, 40)
    for layer, other, (mean, variance) in zip(norms(network), norms(whole), before, strict=True):
        assert layer.moving_mean.numpy() == pytest.approx(
            (1 - share) * mean + share * other.moving_mean.numpy(), abs=1e-5
        )
        assert layer.moving_variance.numpy() == pytest.approx(
            (1 - share) * variance + share * other.moving_variance.numpy(), rel=1e-4, abs=1e-6
        )
        assert layer.momentum != 0


def test_nothing_is_dropped_meanwhile():
    """Stochastic depth and dropout would ask for seeds, and disturb what later layers see."""
    network = Classifier(EfficientNet("B0", drop_connect=0.5), dropout=0.5).build(Crop(32).specs())
    images = shifted(8)
    re_estimate(network, {"image": images}, 1.0, 8)
    once = [layer.moving_mean.numpy() for layer in norms(network)]
    re_estimate(network, {"image": images}, 1.0, 8)
    assert all(np.array_equal(a, layer.moving_mean.numpy()) for a, layer in zip(once, norms(network), strict=True))


@pytest.fixture(scope="module")
def world(tmp_path_factory, pool):
    """A run with weights, images of 301 cells, and their prediction by the run adapted to them."""
    root = tmp_path_factory.mktemp("adapting")
    cases.write_images(root / "images")
    write_trained(root / "run", cases.network(), cases.recipe())
    options = Options(
        out=str(root / "out"), run=(str(root / "run"),), images=str(root / "images"), masks=str(root / "images"),
        adapt=str(root / "mine"), adapt_share=0.75, overlays=False, report_images=0,
    )  # fmt: skip
    predict(options, pool)
    return root, options


def write_trained(folder: Path, network: keras.Model, recipe) -> None:
    files.make_folder(folder / run_folder.WEIGHTS)
    weights.save(network, folder / run_folder.BEST_WEIGHTS)
    save(recipe, folder / run_folder.RECIPE)
    write_manifest(str(folder), cases.MANIFEST)
    serving.export(folder, network, recipe, cases.MANIFEST)
    run_folder.write_result(folder, {run_folder.BEST_WEIGHTS: 1.0}, {})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_new_run_predicts_and_the_old_one_stays(world, pool):
    """What --adapt predicts is what the folder it wrote predicts by itself, and is not what the run predicts."""
    root, options = world
    for name, run in (("by_mine", "mine"), ("by_run", "run")):
        plain = dataclasses.replace(options, adapt=None, adapt_share=0.5, run=(str(root / run),), out=str(root / name))
        predict(plain, pool)
    submission = (root / "out/submission.csv").read_bytes()
    assert submission == (root / "by_mine/submission.csv").read_bytes()
    assert submission != (root / "by_run/submission.csv").read_bytes()
    original, adapted = cases.network(), cases.network(1)
    weights.load(adapted, str(root / "mine" / run_folder.BEST_WEIGHTS))
    changed = [
        layer.name
        for layer, other in zip(original._flatten_layers(), adapted._flatten_layers(), strict=True)
        if not all(np.array_equal(a, b) for a, b in zip(layer.get_weights(), other.get_weights(), strict=True))
        and not isinstance(layer, keras.Model)
    ]
    assert changed == [layer.name for layer in norms(original)]
    weights.load(adapted, str(root / "run" / run_folder.BEST_WEIGHTS))  # the given run is as it was
    assert all(np.array_equal(a, b) for a, b in zip(original.get_weights(), adapted.get_weights(), strict=True))


def test_the_statistics_are_those_of_the_images_cells(world):
    """Against crops prepared in NumPy: every cell once, whatever image it is in."""
    root, _ = world
    cells = []
    for one in find_fields(root / "images"):
        field = read_field(one)
        mask = cv2.imread(str(root / "images" / f"{one.image_id}_cellmask.png"), -1)
        for number in np.unique(mask[mask > 0]):
            rows, columns = np.nonzero(mask == number)
            box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            cells.append(cases.prepared(field.pixels[box], (mask == number)[box]))
    record = files.read_json(root / "mine" / adapting.RECORD)
    assert record["cells"] == len(cells) == 301
    assert "masks_on_disk" in record["reading"]["segmenter"]
    network, adapted = cases.network(), cases.network()
    first = norms(network)[0]
    seen = keras.Model(network.input, first.input)({"image": np.array(cells, np.float32)}).numpy()
    weights.load(adapted, str(root / "mine" / run_folder.BEST_WEIGHTS))
    mixed = 0.25 * first.moving_mean.numpy() + 0.75 * seen.mean((0, 1, 2))
    assert norms(adapted)[0].moving_mean.numpy() == pytest.approx(mixed, abs=0.02 * float(np.abs(seen).mean()))


@pytest.mark.slow
def test_the_same_command_goes_on_with_the_same_bytes(world, pool):
    root, options = world
    before = contents(root / "mine"), (root / "out/submission.csv").read_bytes()
    predict(options, pool)  # finished: nothing is made again
    assert contents(root / "mine") == before[0]
    killed = (root / "mine" / run_folder.RESULT, root / "mine" / run_folder.BEST_WEIGHTS)
    without_saved_model = (root / "mine" / run_folder.SAVED_MODEL / "saved_model.pb",)
    for lost in (killed, without_saved_model):
        for path in lost:
            files.remove(path)
        shutil.rmtree(root / "out")
        predict(options, pool)
        assert contents(root / "mine").keys() == before[0].keys()
        assert (root / "out/submission.csv").read_bytes() == before[1]


@pytest.mark.parametrize("is_earlier", [False, True])
def test_a_folder_goes_on_with_another_limit_of_pixels_and_spelling_of_masks(world, pool, tmp_path, is_earlier):
    """Earlier versions wrote down both."""
    root, options = world
    shutil.copytree(root / "mine", tmp_path / "mine")
    record = files.read_json(tmp_path / "mine" / adapting.RECORD)
    assert str(root) not in str(record["reading"])
    if is_earlier:
        masks = f"masks_on_disk({options.masks}, cell=None, nucleus=None)"
        record["reading"] |= {"max_pixels": 100_000_000, "segmenter": masks}
        files.write_json(tmp_path / "mine" / adapting.RECORD, record)
    before = contents(tmp_path / "mine")
    change = {"adapt": str(tmp_path / "mine"), "out": str(tmp_path / "out"), "masks": f"{options.masks}/"}
    predict(dataclasses.replace(options, max_pixels=10**6, **change), pool)
    assert contents(tmp_path / "mine") == before


@pytest.mark.slow
def test_the_same_command_without_a_run_goes_on(world, pool, tmp_path, monkeypatch):
    """It adapts the run that it adapted the first time, and not the adapted one, which is newer by then."""
    root, options = world
    monkeypatch.chdir(tmp_path)
    shutil.copytree(root / "run", "runs/trained")
    options = dataclasses.replace(options, run=(), adapt="runs/mine", out=str(tmp_path / "out"))
    predict(options, pool)
    before = contents(tmp_path / "runs/mine")
    predict(options, pool)
    assert contents(tmp_path / "runs/mine") == before
    assert (tmp_path / "out/submission.csv").read_bytes() == (root / "out/submission.csv").read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        *({"adapt_share": 0.3}, {"images": "more"}, {"adapt": "run"}),
        *(
            {"full_scale": 4095},
            {"um_per_px": 0.16},
            {"cell_pattern": "{ID}_cellmask"},
            {"layout": LayoutOptions(channels=("protein=green",))},
        ),
    ],
)
def test_a_folder_of_something_else_is_kept(world, pool, tmp_path, change):
    root, options = world
    if "images" in change:
        cases.write_field(tmp_path / "more", "z9", 120, 9, size=(200, 200))
        change = {"images": str(tmp_path / "more"), "masks": str(tmp_path / "more")}
    elif "adapt" in change:
        change = {"adapt": str(root / "run")}
    before = contents(root / "mine"), contents(root / "run")
    with pytest.raises(InputError, match=r"mine|another run"):
        predict(dataclasses.replace(options, out=str(tmp_path / "out"), **change), pool)
    assert (contents(root / "mine"), contents(root / "run")) == before


@pytest.mark.parametrize("holds", ["dataset.json", "predictions.json"])
def test_a_folder_of_another_kind_is_kept(world, pool, tmp_path, monkeypatch, holds):
    """Before any image is read: a data folder's manifest would be replaced by the run's."""
    _, options = world
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / holds).write_text("{}")
    monkeypatch.setattr(adapting, "sample", lambda *_: pytest.fail("images were read"))
    with pytest.raises(InputError, match=rf"mine: found .*{holds}.*expected a run.*another --adapt"):
        predict(dataclasses.replace(options, adapt=str(tmp_path / "mine"), out=str(tmp_path / "out")), pool)
    assert contents(tmp_path / "mine") == {holds: b"{}"}


def test_a_folder_that_cannot_be_made_is_refused_before_any_image_is_read(world, pool, tmp_path, monkeypatch):
    _, options = world
    (tmp_path / "file").touch()
    monkeypatch.setattr(adapting, "sample", lambda *_: pytest.fail("images were read"))
    with pytest.raises(InputError, match="choose another --adapt"):
        predict(dataclasses.replace(options, adapt=str(tmp_path / "file/mine"), out=str(tmp_path / "out")), pool)


def test_too_few_cells_are_refused(world, pool, tmp_path):
    _, options = world
    cases.write_field(tmp_path / "few", "a", 12, 1)
    few = dataclasses.replace(
        options, images=str(tmp_path / "few"), masks=str(tmp_path / "few"), adapt=str(tmp_path / "mine"),
        out=str(tmp_path / "out"),
    )  # fmt: skip
    with pytest.raises(InputError, match="12 cells"):
        predict(few, pool)
    assert not (tmp_path / "mine").exists()


def test_a_network_without_batch_norm_is_refused(tmp_path):
    recipe = dataclasses.replace(
        cases.recipe(), network=Classifier(VisionTransformer(depth=1, embedding=64)), view=Crop(32)
    )
    network = recipe.network.build(recipe.view.specs())
    files.make_folder(tmp_path / "run" / run_folder.WEIGHTS)
    weights.save(network, tmp_path / "run" / run_folder.BEST_WEIGHTS)
    save(recipe, tmp_path / "run" / run_folder.RECIPE)
    write_manifest(str(tmp_path / "run"), cases.MANIFEST)
    with pytest.raises(InputError, match="batch norm"):
        adapting.write_run(str(tmp_path / "run"), str(tmp_path / "mine"), shifted(), 0.5, {})


@pytest.mark.parametrize(
    "change",
    [
        {"run": ("a", "b")},
        {"run": (), "system": "cpu_pair"},
        {"shard": "0/2"},
        {"runner": "DirectRunner"},
        {"adapt_share": 1.5},
        {"adapt": "s3://bucket/mine"},
        {"adapt": None, "adapt_share": 0.7},
    ],
)
def test_options_that_do_not_go_together(change):
    options = Options(out="out", run=("a",), images="images", adapt="mine")
    options.check()
    with pytest.raises(InputError, match="adapt"):
        dataclasses.replace(options, **change).check()


def test_the_sample_is_the_same_in_any_order(monkeypatch):
    """The cells with the smallest hashes, so neither the order of the images nor the number of workers matters."""
    monkeypatch.setattr(adapting, "MOST_CELLS", 7)
    monkeypatch.setattr(adapting, "LEAST_CELLS", 5)
    fields = [Field(f"image{i}", np.arange(1, 6) + 5 * i) for i in range(4)]
    one, other = (adapting.sample(iter(order), Served(), (1, 1, 4)) for order in (fields, fields[::-1]))
    assert np.array_equal(one, other) and len(np.unique(one)) == 7


def test_networks_of_large_crops_have_cells_enough(monkeypatch):
    """Memory for five cells: as many are taken as are needed at least."""
    monkeypatch.setattr(adapting, "_MOST_BYTES", 5 * 4 * 4)
    fields = [Field(f"image{i}", np.arange(1, 6) + 5 * i) for i in range(30)]
    assert len(adapting.sample(iter(fields), Served(), (1, 1, 4))) == adapting.LEAST_CELLS == 100


class Killing:
    """A source one of whose images kills its worker."""

    image_ids = ("bad", "good")
    load = staticmethod(killed_or_loaded)

    def task(self, index):
        return self.image_ids[index]


@pytest.mark.slow
def test_an_image_that_kills_its_worker_is_named_or_skipped():
    with Workers(1) as workers:
        assert list(adapting._fields(Killing(), workers, skip=True)) == ["good"]
        with pytest.raises(InputError, match="image bad"):
            list(adapting._fields(Killing(), workers, skip=False))


class Served:
    def prepare(self, crop, region):
        return {"image": keras.ops.convert_to_tensor(np.full((1, 1, 4), crop, np.float32))}


class Field:
    def __init__(self, image_id, numbers):
        self.image_id, self.table = image_id, {"cell": numbers}
        self.crops, self.regions = tuple(numbers), (None,) * len(numbers)

"""Packed weights, the starter network, and prediction in memory."""

import numpy as np
import pytest

from hpa_tf import Predictor, make_starter, recipes, starter
from hpa_tf.classes import CLASSES
from hpa_tf.errors import InputError
from hpa_tf.models import packed, weights
from hpa_tf.models.classifier import Classifier
from hpa_tf.models.small_cnn import SmallCnn
from hpa_tf.records import read_manifest
from hpa_tf.serving import starter as serving_starter
from hpa_tf.synthetic.config import SyntheticConfig
from hpa_tf.synthetic.generator import make
from hpa_tf.views import Crop


@pytest.fixture(scope="module")
def networks():
    spec = Classifier(SmallCnn(widths=(4, 8)))
    first, second = (spec.build(Crop(size=16).specs()) for _ in range(2))
    for layer in packed.layers_with_weights(first):  # moving statistics that float16 cannot hold
        if layer.name.endswith("_bn"):
            layer.set_weights([array + (1e6 if i == 3 else 0.1) for i, array in enumerate(layer.get_weights())])
    return first, second


def test_packed_weights_answer_alike(networks, tmp_path):
    first, second = networks
    packed.pack(first, tmp_path / "weights.npz")
    packed.unpack(second, tmp_path / "weights.npz")
    pixels = np.random.default_rng(0).random((4, 16, 16, 4), np.float32)
    one, two = (network({"image": pixels})["logits"].numpy() for network in networks)
    assert np.abs(one - two).max() < 0.01
    assert np.abs(one).max() > 0.1
    for layer, other in zip(*(list(packed.layers_with_weights(n)) for n in networks), strict=True):
        for array, restored in zip(layer.get_weights(), other.get_weights(), strict=True):
            assert restored == pytest.approx(array, rel=2e-3, abs=1e-4)


def test_packed_weights_are_half_the_size(networks, tmp_path):
    first, _ = networks
    packed.pack(first, tmp_path / "weights.npz")
    with np.load(tmp_path / "weights.npz", allow_pickle=False) as stored:
        assert stored["stage1_conv/0"].dtype == np.float16
        assert stored["stage1_bn/3"].dtype == np.float32  # 1e6 is above float16's largest number


@pytest.mark.parametrize("damage", ["missing", "cut", "other", "pickle"])
def test_bad_files_are_refused(networks, tmp_path, damage):
    path = tmp_path / "weights.npz"
    packed.pack(networks[0], path)
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "other":
        packed.pack(Classifier(SmallCnn(widths=(4,))).build(Crop(size=16).specs()), path)
    else:
        np.savez(path, **{"stage0_conv/0": np.array([{"run": "me"}], object)})
    before = networks[0].get_weights()
    with pytest.raises(InputError, match=r"weights\.npz"):
        packed.unpack(networks[0], path)
    assert all(np.array_equal(a, b) for a, b in zip(before, networks[0].get_weights(), strict=True))


def test_the_package_holds_the_starters_recipe_manifest_and_weights():
    assert recipes.load(starter.FOLDER / "recipe.json") == recipes.recipe_named("starter")
    manifest = read_manifest(starter.FOLDER)
    assert manifest.num_cells > 10_000
    assert starter.WEIGHTS.stat().st_size < 15e6
    with np.load(starter.WEIGHTS, allow_pickle=False) as stored:
        assert stored["head_logits/0"].shape == (1280, 18)
        assert stored["stem_conv/0"].shape[:3] == (3, 3, 4)
        assert all(np.isfinite(stored[name]).all() for name in stored.files)
    assert {"MODEL_CARD.md", "NOTICE"} <= {path.name for path in starter.FOLDER.iterdir()}


def test_a_run_folder_of_that_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert serving_starter.resolve("other") == "other"
    (tmp_path / "starter").mkdir()
    (tmp_path / "starter" / "recipe.json").write_text("{}")
    assert serving_starter.resolve("starter") == "starter"


@pytest.mark.slow
def test_the_starter_knows_generated_images_it_has_not_seen(tmp_path, monkeypatch):
    """At first use the run folder appears in the cache; the second use takes it; what it answers is mostly right."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    predictor = Predictor("starter")
    folder = serving_starter.prepare()
    assert folder.startswith(str(tmp_path)) and (tmp_path / "hpa_tf").is_dir()
    config = SyntheticConfig(seed=4711, difficulty="real", penetrance=(0.95,) * 18, extra_label=0.0)
    right = []
    for class_id in (0, 2, 4, 6, 10, 13, 14, 16, 17):
        made = make(config, class_id, np.arange(19) == class_id)
        table = predictor.predict(made.field, made.masks)
        probabilities = table[[f"raw: {name}" for name in CLASSES]].to_numpy()
        own = np.delete(probabilities[:, :18], class_id, axis=1).mean()
        right.append(probabilities[:, class_id].mean() > 2 * own)
    assert np.mean(right) > 0.7


@pytest.mark.slow
def test_training_starts_from_it():
    spec = recipes.recipe_named("starter")
    network = spec.network.build(spec.view.specs())
    weights.initialize(network, spec.network, "starter")
    with np.load(starter.WEIGHTS, allow_pickle=False) as stored:
        kernel = network.get_layer("head_logits").get_weights()[0]
        assert kernel == pytest.approx(stored["head_logits/0"].astype(np.float32))


@pytest.mark.slow
def test_one_command_makes_it_and_goes_on_after_a_stop(tmp_path):
    """`make starter` with tiny numbers; stopped before its end, it comes to the same weights."""
    asked = ["--out", tmp_path / "work", "--package", tmp_path / "package", "--real-images", 3, "--easy-images", 2]
    asked += ["--epochs", 2, "--cells", 64, "--weights", "none"]
    assert make_starter.main([str(word) for word in asked]) == 0
    packed_once = (tmp_path / "package/weights.npz").read_bytes()
    images = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*/images/*.png")}
    assert len(images) == 5 * 4
    for name in ("package/weights.npz", "work/run/result.json", "work/truth.parquet"):
        (tmp_path / name).unlink()
    assert make_starter.main([str(word) for word in asked]) == 0
    assert (tmp_path / "package/weights.npz").read_bytes() == packed_once
    assert images == {path: path.stat().st_mtime_ns for path in images}  # what is whole is not made again
    network = recipes.recipe_named("starter").network.build(recipes.recipe_named("starter").view.specs())
    packed.unpack(network, tmp_path / "package/weights.npz")
    assert recipes.load(tmp_path / "package/recipe.json").optimization.epochs == 2

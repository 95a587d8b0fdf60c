"""A training may start from the backbone of a run whose network is another one."""

import numpy as np
import pytest

from hpa_tf.errors import InputError
from hpa_tf.models import weights
from hpa_tf.models.bags import DuoBranch
from hpa_tf.models.classifier import Classifier
from hpa_tf.models.network import HEAD
from hpa_tf.models.packed import layers_with_weights
from hpa_tf.models.small_cnn import SmallCnn
from hpa_tf.recipes import Recipe, recipe_named, serialization
from hpa_tf.run_folder import BEST_WEIGHTS, RECIPE
from hpa_tf.training import start
from hpa_tf.views import Bag, Crop

BACKBONE = SmallCnn(widths=(4, 6))
RECIPE_OF_BAGS = Recipe("bags", view=Bag(3, Crop(16)), network=DuoBranch(BACKBONE))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder of a network on cells, and its weights by layer."""
    folder = tmp_path_factory.mktemp("run")
    recipe = Recipe("cells", view=Crop(16), network=Classifier(BACKBONE))
    network = recipe.network.build(recipe.view.specs())
    for layer in layers_with_weights(network):
        layer.set_weights([np.random.default_rng(3).normal(size=one.shape) for one in layer.get_weights()])
    (folder / "weights").mkdir()
    serialization.save(recipe, folder / RECIPE)
    weights.save(network, folder / BEST_WEIGHTS)
    return folder, {layer.name: layer.get_weights() for layer in layers_with_weights(network)}


def started(recipe):
    """Return a network's weights by layer, before and after it was started."""
    network = recipe.network.build(recipe.view.specs())
    before = {layer.name: layer.get_weights() for layer in layers_with_weights(network)}
    start.initialize(network, recipe)
    return before, {layer.name: layer.get_weights() for layer in layers_with_weights(network)}


def equal(first, second):
    return all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


def with_weights(source, **changes):
    return Recipe(**{**vars(RECIPE_OF_BAGS), "weights": source, **changes})


def test_the_backbone_is_the_runs_and_the_head_stays(run):
    folder, trained = run
    before, after = started(with_weights(f"backbone:{folder}"))
    backbone = [name for name in after if not name.startswith(HEAD)]
    assert len(backbone) >= 4
    assert set(backbone) == {name for name in trained if not name.startswith(HEAD)}
    for name, values in after.items():
        assert equal(values, before[name] if name.startswith(HEAD) else trained[name]), name
        assert name.startswith(HEAD) or not equal(values, before[name]), name


@pytest.mark.parametrize(
    "changes",
    [
        {"network": DuoBranch(SmallCnn(widths=(4, 6, 8)))},  # a layer more
        {"network": DuoBranch(SmallCnn(widths=(4, 8)))},
    ],
)
def test_another_backbone_is_refused_by_name(run, changes):
    recipe = with_weights(f"backbone:{run[0]}", **changes)
    with pytest.raises(InputError, match="another backbone than duo_branch's") as error:
        started(recipe)
    assert str(run[0]) in str(error.value)


@pytest.mark.parametrize(
    "channels", [("green",), ("red", "blue", "yellow", "cell"), ("green", "red", "blue", "yellow")]
)
@pytest.mark.parametrize("source", ["backbone:{}", "{}"])
def test_weights_of_other_channels_are_refused(run, channels, source):
    """As many channels have kernels of the same shape: filters of green would see blue."""
    view = Bag(3, Crop(16, channels=channels)) if source.startswith("backbone") else Crop(16, channels=channels)
    network = RECIPE_OF_BAGS.network if source.startswith("backbone") else Classifier(BACKBONE)
    recipe = with_weights(source.format(run[0]), view=view, network=network)
    with pytest.raises(
        InputError, match=f"a network of red, green, blue, yellow; expected one of {', '.join(channels)}"
    ):
        started(recipe)


def test_a_keras_file_is_a_file_under_both_its_suffixes(tmp_path):
    (tmp_path / "x.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n")
    network = recipe_named("cpu_small").network
    with pytest.raises(InputError, match=r"x\.hdf5' for SmallCnn"):
        weights.initialize(None, network, str(tmp_path / "x.hdf5"))


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="no run there"):
        started(with_weights(f"backbone:{tmp_path}"))
    with pytest.raises(InputError, match="does not exist"):
        started(with_weights(str(tmp_path / "nowhere")))

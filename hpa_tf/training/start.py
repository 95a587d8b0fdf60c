"""What a training starts from: what `models.weights` knows, or the backbone of a run whose network is another one."""

import difflib
import warnings
from collections.abc import Sequence

import keras

from hpa_tf import files
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.models import weights
from hpa_tf.models.network import HEAD
from hpa_tf.models.packed import layers_with_weights
from hpa_tf.models.small_cnn import SmallCnn
from hpa_tf.recipes import Recipe
from hpa_tf.recipes.serialization import load
from hpa_tf.run_folder import BEST_WEIGHTS, RECIPE


def initialize(network: keras.Model, recipe: Recipe) -> None:
    """Set the weights of a freshly built network to those that its recipe names.

    Args:
        network: What `recipe.network.build` returned.
        recipe: `recipe.weights` is what `models.weights.initialize` takes, or `backbone:RUN`: the backbone's layers
            get the best weights of the run, the head stays random. So a network of bags or fields starts from one that
            was trained on single cells.

    Raises:
        InputError: There are no such weights, or they do not fit the network.
    """
    run = weights.backbone_of(recipe.weights)
    if run is None:
        if files.exists(files.join(recipe.weights, RECIPE)):
            _check_same_channels(load(files.join(recipe.weights, RECIPE)), recipe.weights, recipe)
        weights.initialize(network, recipe.network, recipe.weights, recipe.view.channels)
        return
    if not files.exists(files.join(run, RECIPE)):
        fix = "give the folder of a run, or its weights without backbone: if the network is the same"
        raise InputError(f"--weights {recipe.weights}", "no run there", "backbone:RUN, RUN with a recipe.json", fix)
    lender = load(files.join(run, RECIPE))
    _check_same_channels(lender, run, recipe)
    copy_backbone(lender, run, network)


def _check_same_channels(lender: Recipe, run: str, recipe: Recipe) -> None:
    """Check that the network that lends its weights sees the channels of the one that gets them, in the same order.

    Raises:
        InputError: It sees others: filters for one channel would be laid on another.
    """
    theirs, own = lender.view.channels, recipe.view.channels
    if tuple(theirs) != tuple(own):
        fix = "start from a run that sees the same channels in this order"
        raise InputError(run, f"a network of {', '.join(theirs)}", f"one of {', '.join(own)}", fix)


def check_starts(recipes: Sequence[Recipe]) -> None:
    """Check, before the first of several trainings, that each network can start from the weights its recipe names.

    Raises:
        InputError: One cannot: names its recipe, and see `initialize`.
    """
    checked = set()
    for recipe in recipes:
        asked = (recipe.network, recipe.view, recipe.weights)
        if recipe.weights == weights.NONE or asked in checked:
            continue
        checked.add(asked)
        try:
            initialize(recipe.network.build(recipe.view.specs()), recipe)
        except InputError as error:
            fix = f"{error.fix}; --member-weights {recipe.name}=WEIGHTS gives this member its own"
            raise InputError(f"{error.where} for {recipe.name}", error.found, error.expected, fix) from error
        keras.backend.clear_session()


def parse_member_weights(texts: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Return what single members of a system start from, by name.

    Args:
        texts: `MEMBER=WEIGHTS` of each.
        names: The networks that are trained.

    Raises:
        InputError: A text has another form, or its name is not one of them, or is there twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, _, source = text.partition("=")
        if not source:
            raise InputError("--member-weights", repr(text), "MEMBER=WEIGHTS", f"such as {names[0]}=FILE")
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
            fix = f"did you mean {near[0]!r}?" if near else "choose one of them"
            raise InputError("--member-weights", repr(name), f"one of {', '.join(dict.fromkeys(names))}", fix)
        if name in found:
            raise InputError("--member-weights", f"{name} twice", "each member once", "leave one of them out")
        found[name] = source
    return found


def warn_of_random_starts(recipes: Sequence[Recipe]) -> None:
    """Warn of networks that start from random weights though ImageNet weights of their backbone are published."""
    published = [one for one in recipes if not isinstance(one.network.backbone, SmallCnn)]
    names = list(dict.fromkeys(recipe.name for recipe in published if recipe.weights == weights.NONE))
    if names:
        found = f"{', '.join(names)}: trained from random weights"
        fix = f"--member-weights {names[0]}=FILE starts one from its network's weights (docs/teams.md)"
        warnings.warn(f"{found}; {fix}, or say --weights none", HpaWarning, stacklevel=2)


def copy_backbone(recipe: Recipe, run: str, network: keras.Model) -> None:
    """Copy the best weights of every layer that does not belong to the head, by name.

    Args:
        recipe: How the network that lends them was trained.
        run: Folder that has them.
        network: Gets them; its backbone is of the same kind.

    Raises:
        InputError: The backbones differ, or their numbers of channels.
    """
    donor = recipe.network.build(recipe.view.specs())
    weights.load(donor, files.join(run, BEST_WEIGHTS))
    own, theirs = _backbone(network), _backbone(donor)
    differing = [name for name, layer in own.items() if name not in theirs or _shapes(theirs[name]) != _shapes(layer)]
    if differing:
        found = f"another backbone than {network.name}'s: {', '.join(differing[:3])}; {len(differing)} layers differ"
        fix = "start from a run with the same backbone and channels"
        raise InputError(run, found, f"the {len(own)} layers of its backbone", fix)
    for name, layer in own.items():
        layer.set_weights(theirs[name].get_weights())


def _backbone(network: keras.Model) -> dict[str, keras.layers.Layer]:
    return {layer.name: layer for layer in layers_with_weights(network) if not layer.name.startswith(HEAD)}


def _shapes(layer: keras.layers.Layer) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in layer.weights]

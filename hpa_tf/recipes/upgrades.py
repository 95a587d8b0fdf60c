"""Recipes of earlier versions, as JSON values and on the command line: what their fields are called now."""

import re
import warnings
from collections.abc import Sequence
from typing import Any

from hpa_tf.errors import HpaWarning

Json = dict[str, Any]

_BACKBONE = "variant|widths|stem|drop_connect|norm_momentum|synchronized"
_OPTIONS = (
    (r"preparation\.(\w+)", r"view.\1"),
    (r"optimization\.cosine_epochs", "optimization.schedule.epochs"),
    (r"optimization\.final_learning_rate", "optimization.schedule.final"),
    (r"optimization\.plateau_(factor|patience)", r"optimization.schedule.\1"),
    (rf"network\.({_BACKBONE})", r"network.backbone.\1"),
)
"""Fields of version 1 and 2 on the command line, below --recipe, and their names now."""


def upgrade_options(arguments: Sequence[str]) -> list[str]:
    """Return a command line with the fields of earlier versions under their names now; a warning says each."""
    found = []
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if option.startswith("--recipe."):
            path = option.removeprefix("--recipe.").replace("-", "_")
            now = next((re.sub(old, new, path) for old, new in _OPTIONS if re.fullmatch(old, path)), path)
            if now != path:
                renamed = f"--recipe.{now}".replace("_", "-")
                warnings.warn(f"{option} is called {renamed} now", HpaWarning, stacklevel=2)
                argument = renamed + equals + value
        found.append(argument)
    return found


def upgrade_from_1(recipe: Json) -> Json:
    """Return a recipe of version 1 (crops, one network, one loss) as one of version 2 (views, backbones, terms)."""
    recipe = dict(recipe)
    preparation = recipe.pop("preparation")
    recipe["view"] = {**preparation, "class": "Crop", "channels": ["red", "green", "blue", "yellow"]}
    recipe["network"] = _network(recipe["network"])
    recipe["objective"] = [_term(recipe["objective"])]
    return recipe


def upgrade_from_2(recipe: Json) -> Json:
    """Return a recipe of version 2 as one of version 3: classes for ways of sampling and schedules, a view to ask."""
    recipe = {**recipe, "asked": None}
    recipe["sampling"] = _sampling(recipe["sampling"])
    recipe["optimization"] = _optimization(recipe["optimization"])
    return recipe


def upgrade_from_3(recipe: Json) -> Json:
    """Return a recipe of version 3 as one of version 4: backbones that scale their pixels and pad in two ways."""
    network = recipe["network"]
    if network["backbone"]["class"] != "EfficientNet":
        return recipe
    backbone = {**network["backbone"], "pixels": {"class": "UnitRange"}, "padding": "same"}
    return {**recipe, "network": {**network, "backbone": backbone}}


def upgrade_from_4(recipe: Json) -> Json:
    """Return a recipe of version 4 as one of version 5: further steps of augmentation, random squares of fields."""
    recipe = {**recipe, "augmentation": {**recipe["augmentation"], "steps": [], "paste": None, "cut": None}}
    for name in ("view", "asked"):
        if recipe[name] and recipe[name]["class"] == "Field":
            recipe[name] = {**recipe[name], "whole": 0}
    return recipe


def upgrade_from_5(recipe: Json) -> Json:
    """Return a recipe of version 5 as one of version 6: channels that are black in some examples."""
    return {**recipe, "augmentation": {**recipe["augmentation"], "drop_red": 0.0, "drop_yellow": 0.0}}


def upgrade_from_6(recipe: Json) -> Json:
    """Return a recipe of version 6 as one of version 7: validation judged by mAP, no rise over epochs."""
    return {**recipe, "optimization": {**recipe["optimization"], "warmup_epochs": 0.0, "measure": "mAP"}}


def upgrade_from_7(recipe: Json) -> Json:
    """Return a recipe of version 7 as one of version 8, in which only members of systems have another field (views)."""
    return recipe


STEPS = (
    *(upgrade_from_1, upgrade_from_2, upgrade_from_3, upgrade_from_4, upgrade_from_5, upgrade_from_6),
    upgrade_from_7,
)
"""A recipe of version i + 1 -> one of the next."""


def upgrade_system(system: Json, version: int) -> Json:
    """Return a system whose fields are of an earlier version, its recipes among them, as one of today.

    Args:
        system: The system.
        version: Of its fields and recipes.
    """
    members = [{"asked": None, "tta": "none", **_upgraded(member, version)} for member in system["members"]]
    specialists = [_upgraded(one, version) for one in system.get("specialists", [])]
    since = {"small_nucleus": None, "factors": [], "negative": "derived", "alone": []}
    postprocessing = {**since, **system["postprocessing"]}
    return {**system, "members": members, "specialists": specialists, "postprocessing": postprocessing}


def _upgraded(member: Json, version: int) -> Json:
    recipe = member["recipe"]
    for step in STEPS[version - 1 :]:
        recipe = step(recipe)
    return {**member, "recipe": recipe}


def _network(network: Json) -> Json:
    network = dict(network)
    dropout = network.pop("dropout")
    backbone = {**network, "class": "SmallCnn"} if network["class"] == "SmallNetwork" else {**network, "stride": 32}
    return {"class": "Classifier", "backbone": backbone, "dropout": dropout, "classes": list(range(18))}


def _sampling(sampling: Json) -> Json:
    sampling = dict(sampling)
    every = {name: sampling.pop(name) for name in ("extra_repeats", "ungraded_classes")}
    if sampling.pop("balanced"):
        return {**sampling, "class": "SemiBalanced"}
    return {**every, **{name: sampling[name] for name in ("num_cells", "positive", "sure")}, "class": "EveryCell"}


def _optimization(old: Json) -> Json:
    old = dict(old)
    final = old.pop("final_learning_rate")
    cosine = {"class": "Cosine", "epochs": old.pop("cosine_epochs"), "final": final}
    plateau = {"class": "Plateau", "factor": old.pop("plateau_factor"), "patience": old.pop("plateau_patience")}
    schedules = {"cosine": cosine, "plateau": {**plateau, "final": final}, "constant": {"class": "Constant"}}
    decay = old["weight_decay"] if old.pop("optimizer") == "adamw" else 0.0
    return {**old, "schedule": schedules[old["schedule"]], "weight_decay": decay}


def _term(objective: Json) -> Json:
    gamma = objective["focal_gamma"]
    loss = {"class": "Focal", "gamma": gamma} if gamma else {"class": "CrossEntropy", "positive_weight": 1.0}
    whole = {"class": "Labels", "output": "logits", "of": "cell", "weight": 1.0, "class_weights": None}
    return {**whole, "loss": loss}

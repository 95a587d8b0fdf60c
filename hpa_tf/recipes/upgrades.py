"""Recipes of earlier versions, as JSON values: what their fields are called now."""

from typing import Any

Json = dict[str, Any]


def upgrade_from_1(recipe: Json) -> Json:
    """Return a recipe of version 1 (crops, one network, one loss) as one of version 2 (views, backbones, terms)."""
    recipe = dict(recipe)
    preparation = recipe.pop("preparation")
    recipe["view"] = {**preparation, "class": "Crop", "channels": ["red", "green", "blue", "yellow"]}
    recipe["network"] = _network(recipe["network"])
    recipe["objective"] = [_term(recipe["objective"])]
    return recipe


def _network(network: Json) -> Json:
    network = dict(network)
    dropout = network.pop("dropout")
    backbone = {**network, "class": "SmallCnn"} if network["class"] == "SmallNetwork" else {**network, "stride": 32}
    return {"class": "Classifier", "backbone": backbone, "dropout": dropout, "classes": list(range(18))}


def _term(objective: Json) -> Json:
    gamma = objective["focal_gamma"]
    loss = {"class": "Focal", "gamma": gamma} if gamma else {"class": "CrossEntropy", "positive_weight": 1.0}
    whole = {"class": "Labels", "output": "logits", "of": "cell", "weight": 1.0, "class_weights": None}
    return {**whole, "loss": loss}

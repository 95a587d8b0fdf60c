"""Each team's system as data: frozen dataclasses that say how a network is trained and how networks are combined.

recipe.py         Recipe, Member, System
optimization.py   optimizer, schedules, stopping rule
serialization.py  recipes as JSON, and back
choices.py        fields that may be of several classes, on the command line
upgrades.py       recipes of earlier versions
bestfitting.py, red_ai.py, mpware_zfturbo_dieter.py, milimed.py    teams 1 to 4
relabel.py        one single-output network a class, for pseudo-labels
small.py          recipes that a CPU trains; starter.py: that of the network that comes with hpa_tf
runs.py           a trained run, for those who use its network
"""

import difflib

from hpa_tf.errors import InputError
from hpa_tf.recipes import bestfitting, milimed, mpware_zfturbo_dieter, red_ai, relabel, small, starter
from hpa_tf.recipes.choices import choose_classes, describe_choices
from hpa_tf.recipes.optimization import Optimization
from hpa_tf.recipes.recipe import ALL_FOLDS, Member, Recipe, Specialist, System
from hpa_tf.recipes.serialization import (
    from_json,
    load,
    recipe_from_json,
    recipe_to_json,
    save,
    system_from_json,
    system_to_json,
    to_json,
)

_TEAMS = (bestfitting, red_ai, mpware_zfturbo_dieter, milimed)
RECIPES: tuple[Recipe, ...] = (
    *(*small.RECIPES, *starter.RECIPES, *relabel.RECIPES),
    *(recipe for team in _TEAMS for recipe in team.RECIPES),
)
SYSTEMS: tuple[System, ...] = (*small.SYSTEMS, *(system for team in _TEAMS for system in team.SYSTEMS))

__all__ = [
    "ALL_FOLDS",
    "RECIPES",
    "SYSTEMS",
    "Member",
    "Optimization",
    "Recipe",
    "Specialist",
    "System",
    "choose_classes",
    "describe_choices",
    "from_json",
    "load",
    "recipe_from_json",
    "recipe_named",
    "recipe_to_json",
    "save",
    "system_from_json",
    "system_named",
    "system_to_json",
    "to_json",
]


def recipe_named(name: str) -> Recipe:
    """Return the recipe of that name.

    Raises:
        InputError: There is none; suggests the nearest name.
    """
    return _named("--recipe", name, RECIPES)


def system_named(name: str) -> System:
    """Return the system of that name.

    Raises:
        InputError: There is none; suggests the nearest name.
    """
    return _named("--system", name, SYSTEMS)


def _named(option: str, name: str, among: tuple) -> Recipe | System:
    names = {item.name: item for item in among}
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        fix = f"did you mean {near[0]!r}?" if near else "choose one of them"
        raise InputError(option, repr(name), f"one of {', '.join(names)}", fix)
    return names[name]

"""Recipes and systems as JSON, and back, without loss.

A dataclass becomes an object of its fields; where a field may hold one of several classes, the class's name stands in
`class`. Unknown or missing fields are errors that name them: a recipe written by another version is never half read.
"""

import dataclasses
import os
import types
import typing
from typing import Any

from hpa_tf import checksums, files
from hpa_tf.errors import InputError
from hpa_tf.recipes.recipe import Recipe, System
from hpa_tf.recipes.upgrades import STEPS, upgrade_system

VERSION = len(STEPS) + 1
"""Of the fields of a recipe or a system; raised by every change of them: a step in `upgrades`."""
_CLASS, _VERSION = "class", "version"


def to_json(value: Any) -> Any:
    """Return a dataclass (or one of its values) as JSON values."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {_CLASS: type(value).__name__, **fields}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    return value


def from_json(annotation: Any, value: Any, where: str) -> Any:
    """Return the value of type `annotation` that `to_json` turned into `value`.

    Args:
        annotation: A dataclass, or the annotation of one of its fields.
        value: JSON values.
        where: File and field, for errors.

    Raises:
        InputError: Fields are missing or unknown, or a class is not one of those allowed.
    """
    if isinstance(value, dict) and _CLASS in value:
        return _dataclass_from_json(annotation, value, where)
    arguments = typing.get_args(annotation)
    if isinstance(value, list):
        if type(None) in arguments:  # tuple[...] | None
            return from_json(next(kind for kind in arguments if kind is not type(None)), value, where)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            arguments = arguments[:1] * len(value)
        return tuple(from_json(kind, item, where) for kind, item in zip(arguments, value, strict=True))
    if isinstance(value, dict):
        key_type, item_type = arguments
        return {key_type(key): from_json(item_type, item, where) for key, item in value.items()}
    return float(value) if annotation is float and isinstance(value, int) else value


def _dataclass_from_json(annotation: Any, value: dict, where: str) -> Any:
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    allowed = {kind.__name__: kind for kind in (typing.get_args(annotation) if union else (annotation,))}
    if value[_CLASS] not in allowed:
        raise InputError(
            where, f"{value[_CLASS]!r}", f"one of {sorted(allowed)}", "use the version that wrote the file"
        )
    kind = allowed[value[_CLASS]]
    hints = typing.get_type_hints(kind)
    names = {field.name for field in dataclasses.fields(kind)}
    differing = sorted(names ^ (value.keys() - {_CLASS}))
    if differing:
        found = f"missing or unknown fields {differing} of {kind.__name__}"
        raise InputError(where, found, f"the fields {sorted(names)}", "use the version that wrote the file")
    return kind(**{name: from_json(hints[name], value[name], f"{where}: {name}") for name in names})


def recipe_to_json(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as JSON values, with the version of its fields."""
    return {_VERSION: VERSION, **to_json(recipe)}


def recipe_from_json(value: Any, where: str | os.PathLike) -> Recipe:
    """Return the recipe that `recipe_to_json` turned into `value`, now or in an earlier version.

    Raises:
        InputError: It is no recipe, or one of another version than this program knows.
    """
    if not isinstance(value, dict) or value.get(_CLASS) != Recipe.__name__:
        raise InputError(where, "JSON that is no recipe", "a recipe.json", "give the recipe of a run folder")
    value, version = dict(value), value.get(_VERSION, 1)
    value.pop(_VERSION, None)
    _check_version(version, "recipe", where)
    for upgrade in STEPS[version - 1 :]:
        value = upgrade(value)
    return from_json(Recipe, value, str(where))


def _check_version(version: Any, what: str, where: str | os.PathLike) -> None:
    if version not in range(1, VERSION + 1):
        found, fix = f"a {what} of version {version}", "use the version of hpa_tf that wrote the file, or a newer one"
        raise InputError(where, found, f"version 1 to {VERSION}", fix)


def system_to_json(system: System) -> dict[str, Any]:
    """Return a system as JSON values, with the version of its fields."""
    return {_VERSION: VERSION, **to_json(system)}


def system_from_json(value: Any, where: str | os.PathLike) -> System:
    """Return the system that `system_to_json` turned into `value`, now or in an earlier version.

    The first programs wrote no version: it is then the newest of those under which all fields are there.

    Raises:
        InputError: It is no system, or one of another version than this program knows.
    """
    if not isinstance(value, dict) or value.get(_CLASS) != System.__name__:
        raise InputError(where, "JSON that is no system", "a system.json", "give a folder of train.py --system")
    if _VERSION in value:
        _check_version(value[_VERSION], "system", where)
        return _system_of(value, value[_VERSION], where)
    for version in range(VERSION, 0, -1):
        try:
            return _system_of(value, version, where)
        except (AttributeError, KeyError, TypeError, ValueError):  # the fields of another version, or damaged
            continue
    raise InputError(where, "a system of no known version", f"version 1 to {VERSION}", "use the version that wrote it")


def _system_of(value: dict[str, Any], version: int, where: str | os.PathLike) -> System:
    fields = {name: item for name, item in value.items() if name != _VERSION}
    return from_json(System, upgrade_system(fields, version), str(where))


def save(recipe: Recipe, path: str | os.PathLike) -> None:
    """Write a recipe as JSON with its checksum, atomically."""
    files.write_json(path, checksums.sealed_json(recipe_to_json(recipe)))


def load(path: str | os.PathLike) -> Recipe:
    """Read a recipe that `save` wrote.

    Raises:
        InputError: The file is missing, damaged, is no recipe, or was written by another version.
    """
    return recipe_from_json(checksums.read_json(path, "copy the run folder again"), path)

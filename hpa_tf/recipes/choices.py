"""Fields of a recipe that may be of several classes, on the command line: `--recipe.optimization.schedule Plateau`."""

import copy
import dataclasses
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from hpa_tf.errors import InputError
from hpa_tf.recipes.recipe import Recipe

_PREFIX = "--recipe."


def choose_classes(recipe: Recipe, arguments: Sequence[str]) -> tuple[Recipe, list[str]]:
    """Give fields that arguments name another class, with the defaults of that class.

    Args:
        recipe: Where to start from.
        arguments: Of the command line.

    Returns:
        The recipe, and the arguments that are left.

    Raises:
        InputError: A field may not be of that class, or the class has fields without a default.

    The recipe is not checked: other arguments may change what does not go with the new class yet.
    """
    chosen, rest = [], []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        path, is_whole, value = argument.removeprefix(_PREFIX).partition("=")
        may_choose = argument.startswith(_PREFIX) and (is_whole or waiting)
        if may_choose and _looks_like_class(value if is_whole else waiting[0]):
            chosen.append((path, value if is_whole else waiting.pop(0)))
        else:
            rest.append(argument)
    for path, name in sorted(chosen, key=lambda one: one[0].count(".")):  # a class before the fields inside it
        parts = path.replace("-", "_").split(".")
        if _annotation_at(recipe, Recipe, parts) is None:
            rest += [_PREFIX + path, name]  # an ordinary value, or a typo that tyro explains
        else:
            recipe = _replaced(recipe, Recipe, parts, name, _PREFIX + path)
    return recipe, rest


def describe_choices(recipe: Recipe) -> str:
    """Return a line for each field of a recipe that may be of several classes."""
    return "\n".join(f"  {_PREFIX}{path} {{{','.join(names)}}}" for path, names in _choices(recipe, Recipe, ""))


def _looks_like_class(value: str) -> bool:
    return value[:1].isupper() and value.isalnum() and value not in ("True", "False", "None")


def _choices(value: Any, annotation: Any, path: str) -> Iterator[tuple[str, list[str]]]:
    kinds = _classes(annotation)
    if len(kinds) > 1:
        yield path, sorted(name for name, kind in kinds.items() if not _without_default(kind))
    if isinstance(value, tuple):
        for i, item in enumerate(value):
            yield from _choices(item, _item_of(annotation), f"{path}.{i}")
    elif dataclasses.is_dataclass(value):
        for name, kind in typing.get_type_hints(type(value)).items():
            field = name.replace("_", "-")
            yield from _choices(getattr(value, name), kind, f"{path}.{field}" if path else field)


def _annotation_at(value: Any, annotation: Any, parts: Sequence[str]) -> Any:
    """Return the annotation of the part that `parts` lead to; None where it is no field that has a class."""
    for part in parts:
        if isinstance(value, tuple) and part.isdecimal() and int(part) < len(value):
            value, annotation = value[int(part)], _item_of(annotation)
            continue
        hints = typing.get_type_hints(type(value)) if dataclasses.is_dataclass(value) else {}
        if part not in hints:
            return None
        value, annotation = getattr(value, part), hints[part]
    return annotation if _classes(annotation) else None


def _replaced(value: Any, annotation: Any, parts: Sequence[str], name: str, where: str) -> Any:
    """Return `value` with the part that `parts` lead to replaced by an instance of the class `name`."""
    if not parts:
        kinds = _classes(annotation)
        if name not in kinds:
            raise InputError(where, name, f"one of {', '.join(sorted(kinds))}", "choose one of them")
        if lacking := _without_default(kinds[name]):
            fix = "choose another class, or a recipe that has it there"
            raise InputError(where, f"{name}, which needs {', '.join(lacking)}", "a class with defaults", fix)
        return kinds[name]()
    first, *others = parts
    if isinstance(value, tuple):
        items = list(value)
        items[int(first)] = _replaced(items[int(first)], _item_of(annotation), others, name, where)
        return tuple(items)
    hint = typing.get_type_hints(type(value))[first]
    changed = copy.copy(value)
    object.__setattr__(changed, first, _replaced(getattr(value, first), hint, others, name, where))
    return changed


def _without_default(kind: type) -> list[str]:
    """Return the fields of a dataclass that it cannot be made without."""
    missing = dataclasses.MISSING
    return [one.name for one in dataclasses.fields(kind) if one.default is missing and one.default_factory is missing]


def _classes(annotation: Any) -> dict[str, type]:
    """Return the dataclasses that a field of this annotation may be of, by name."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    members = typing.get_args(annotation) if union else (annotation,)
    return {kind.__name__: kind for kind in members if dataclasses.is_dataclass(kind)}


def _item_of(annotation: Any) -> Any:
    arguments = typing.get_args(annotation)
    return arguments[0] if arguments else Any

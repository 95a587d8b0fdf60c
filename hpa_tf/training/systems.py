"""Train every member of a system, one after the other; or all of them once for each fold."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace

import keras

from hpa_tf import files
from hpa_tf.identity import check_kind, check_same
from hpa_tf.recipes import ALL_FOLDS, Recipe, Specialist, System, system_from_json, system_to_json
from hpa_tf.recipes.optimization import Plateau
from hpa_tf.records import read_manifest
from hpa_tf.run_folder import CHECKPOINTS, SYSTEM, fold_folder, is_finished
from hpa_tf.training import checkpoint
from hpa_tf.training.folds import check_num_folds
from hpa_tf.training.inputs import check_batch_size, check_validation_labels
from hpa_tf.training.leaks import check_unseen
from hpa_tf.training.model_card import write_system_card
from hpa_tf.training.out_of_fold import out_of_fold_table
from hpa_tf.training.run import check_examples, check_first, split, train
from hpa_tf.training.site import Data, Site
from hpa_tf.training.start import check_starts


def changed_by(change: Callable[[Recipe], Recipe], recipe: Recipe) -> Recipe:
    """Return a recipe with changes that all networks of a system share.

    A network of cells that are cut keeps no fold out, whatever fold the others do: nobody knows of the cells of a fold
    whether they are whole. So what a validation decides stays as it is, too.
    """
    augmentation, own = recipe.augmentation, recipe.optimization
    if augmentation.cut is None:
        return change(recipe)
    changed = change(replace(recipe, augmentation=replace(augmentation, cut=None)))  # cells of a fold can be measured
    optimization = replace(changed.optimization, early_stopping=own.early_stopping, measure=own.measure)
    if isinstance(optimization.schedule, Plateau):
        optimization = replace(optimization, schedule=own.schedule)
    augmentation = replace(changed.augmentation, cut=augmentation.cut)
    return replace(
        changed, augmentation=augmentation, optimization=optimization, validation_fold=recipe.validation_fold
    )


def train_system(system: System, adapt: Callable[[Recipe], Recipe], data: Data, out: str, site: Site) -> None:
    """Train the members into `out`/MEMBER, skipping finished ones; `out`/system.json names them and their weights.

    Args:
        system: Its members' recipes.
        adapt: The changes of the command line.
        data: What is trained on.
        out: Folder of the run folders.
        site: Where it runs.

    Raises:
        InputError: `out` holds another system; also see `train`.
    """
    recipes = [adapt(member.recipe) for member in system.members]  # refused now, not days later
    specialists = [replace(one, recipe=adapt(one.recipe)) for one in system.specialists]
    runs = {member.recipe.name: recipe for member, recipe in zip(system.members, recipes, strict=True)}
    runs |= {one.recipe.name: one.recipe for one in specialists if not one.own_labels}
    _check_all(list(runs.values()), data, site)
    check_starts([recipe for name, recipe in runs.items() if not _has_begun(files.join(out, name))])
    claim_system(system, out, site)
    if site.is_chief and data.validation_labels:
        _say_who_validates(runs)
    for number, (member, recipe) in enumerate(zip(system.members, recipes, strict=True), start=1):
        announce(system, number, "", site)
        train(recipe, data.keeping_out(recipe.validation_fold), files.join(out, member.recipe.name), site)
        keras.backend.clear_session()
    for specialist in specialists:
        _train_specialist(specialist, data, files.join(out, specialist.recipe.name), site)
    if site.is_chief:
        write_system_card(system, out)


def _has_begun(folder: str) -> bool:
    """Tell whether a run is past its first weights."""
    return is_finished(folder) or bool(checkpoint.steps_in(files.join(folder, CHECKPOINTS)))


def _check_all(recipes: list[Recipe], data: Data, site: Site) -> None:
    """Check all trainings before the first: fields, batches, cells, and that validation labels can measure each."""
    manifest = read_manifest(data.data)
    for recipe in recipes:
        check_first(recipe, manifest)
        check_batch_size(recipe, site.strategy)
        check_validation_labels(recipe, data.keeping_out(recipe.validation_fold).validation_labels)
    data.check_validation(recipe.validation_fold for recipe in recipes)
    for recipe in recipes:
        check_examples(recipe, *split(recipe, data.keeping_out(recipe.validation_fold), manifest))


def _say_who_validates(runs: Mapping[str, Recipe]) -> None:
    """Say which of the trainings keep no fold out, whose cells a table of validation labels would measure."""
    names = [name for name, recipe in runs.items() if recipe.validation_fold == ALL_FOLDS]
    if names:
        print(f"trained on all folds, and not measured by --validation-labels: {', '.join(names)}", flush=True)


def _train_specialist(specialist: Specialist, data: Data, folder: str, site: Site) -> None:
    """Train a specialist, or say which command does where it needs labels of its own."""
    recipe = specialist.recipe
    if not specialist.own_labels:
        if site.is_chief:
            print(f"beside the members: {recipe.name}, which becomes {specialist.column!r}", flush=True)
        train(recipe, data.keeping_out(recipe.validation_fold), folder, site)
        keras.backend.clear_session()
    else:
        _say_who_trains(specialist, data, folder, site)


def _say_who_trains(specialist: Specialist, data: Data, folder: str, site: Site) -> None:
    """Say which command trains a specialist, without which the system does not predict, unless it is trained."""
    if not site.is_chief or is_finished(folder):
        return
    words = [*("python", "train.py", "--data", data.data), *(() if data.clean else ("--no-clean",))]
    words += ["--recipe", specialist.recipe.name, *(("--labels", "TABLE") if specialist.own_labels else ())]
    why = "needs labels of its own" if specialist.own_labels else "is needed to predict, and not trained here"
    print(f"{specialist.recipe.name} {why}: {shlex.join([*words, '--out', folder])}", flush=True)


def train_system_folds(
    system: System, adapt: Callable[[Recipe], Recipe], num_folds: int, data: Data, out: str, site: Site
) -> None:
    """Train the members into `out`/fold0/MEMBER, `out`/fold1/MEMBER, ...; each fold is kept out of its networks.

    Args:
        system: Its members' recipes.
        adapt: The changes of the command line.
        num_folds: Folds to train.
        data: What is trained on.
        out: Folder of the folds; each of them is one of a system, which predicts like any other.
        site: Where it runs.

    Raises:
        InputError: The data has fewer folds, a network would see its own, or see `train_system`.
    """
    check_num_folds(num_folds, data)
    check_unseen([adapt(member.recipe) for member in system.members], range(num_folds), data.data)
    _check_all([_without(fold, adapt)(one.recipe) for fold in range(num_folds) for one in system.members], data, site)
    claim_system(system, out, site)
    members = replace(system, specialists=())  # what is written out of fold is the members' mean
    for fold in range(num_folds):
        if site.is_chief:
            print(f"fold {fold}, networks {fold + 1} of {num_folds}", flush=True)
        train_system(members, _without(fold, adapt), data, fold_folder(out, fold), site)
    for specialist in system.specialists:
        _say_who_trains(specialist, data, files.join(out, specialist.recipe.name), site)


def _without(fold: int, adapt: Callable[[Recipe], Recipe]) -> Callable[[Recipe], Recipe]:
    return lambda recipe: replace(adapt(recipe), validation_fold=fold)


def system_out_of_fold_table(
    system: System, adapt: Callable[[Recipe], Recipe], num_folds: int, data: Data, out: str, path: str, site: Site
) -> None:
    """Write what the networks of `train_system_folds` say, mixed, of the cells that they have not seen.

    Arguments as there; `path`: the table to write, see `out_of_fold`.
    """
    members = tuple(replace(member, recipe=adapt(member.recipe)) for member in system.members)
    names = [member.recipe.name for member in system.members]
    asked = replace(system, members=members)
    out_of_fold_table(asked, num_folds, data, lambda fold, i: files.join(fold_folder(out, fold), names[i]), path, site)


def claim_system(system: System, out: str, site: Site) -> None:
    """Write which system a folder holds, or check that it holds the same one.

    Raises:
        InputError: It holds another one, or a run or the like, or a newer version of this program wrote it.
    """
    path, value = files.join(out, SYSTEM), system_to_json(system)
    if files.exists(path):
        before = system_from_json(files.read_json(path), path)
        known, wanted = (system_to_json(_as_trained(one)) for one in (before, system))
        check_same(path, known, wanted, "system", "choose another --out")
    else:
        check_kind(out, SYSTEM)
    if site.is_chief:
        files.make_folder(out)
        files.write_json(path, value)


def _as_trained(system: System) -> System:
    """Return a system without what only prediction goes by: earlier versions did not write it."""
    return replace(system, members=tuple(replace(member, tta="none") for member in system.members))


def announce(system: System, number: int, stage: str, site: Site) -> None:
    """Say which member comes now, counted from 1."""
    member = system.members[number - 1]
    if site.is_chief:
        what = f"member {number} of {len(system.members)}: {member.recipe.name}, weight {member.weight:g}{stage}"
        print(what, flush=True)

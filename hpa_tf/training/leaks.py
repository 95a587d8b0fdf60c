"""What the runs saw that first weights come from: a network predicts out of fold what none of them has seen.

Neither the images themselves, nor others of their groups.
"""

import os
import warnings
from collections.abc import Iterator
from itertools import islice

import numpy as np

from hpa_tf import files
from hpa_tf.data_folder import read_cells
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.models.weights import OWN_SUFFIX, backbone_of, file_of
from hpa_tf.recipes import ALL_FOLDS, Recipe
from hpa_tf.recipes.runs import read_run
from hpa_tf.records import CELL_TABLE_NAME, Manifest, read_manifest
from hpa_tf.run_folder import is_finished, read_result


def check_unseen(recipes: list[Recipe], folds: range, folder: str) -> None:
    """Check that the network of each fold sees nothing of that fold while it is trained.

    Args:
        recipes: How the networks are trained; each fold's is kept out of its training, whatever they say themselves.
        folds: The folds that are predicted.
        folder: Data folder.

    Raises:
        InputError: An image or a group of images is in two folds, or a network starts from the weights of a run of
            the same data that was trained on a fold which it predicts. (A run of other data, or one that is gone, is a
            warning: it does not say which images it saw.)
    """
    manifest = read_manifest(folder)
    check_folds_apart(folder, manifest)
    for source in dict.fromkeys(recipe.weights for recipe in recipes):
        for run, trained_without, doubt in () if _is_gone(source) else _ancestors(source, manifest):
            if doubt:
                fix = "make sure that it has not seen the images that are predicted"
                warnings.warn(f"--weights {run}: {doubt}; {fix}", HpaWarning, stacklevel=2)
                continue
            seen = [fold for fold in folds if fold != trained_without]
            if seen:
                kept_out = "no fold" if trained_without == ALL_FOLDS else f"fold {trained_without} alone"
                found = f"a run whose training left out {kept_out}: it saw the images of fold {seen[0]}"
                fix = "start from weights of other data: --weights imagenet or none"
                raise InputError(f"--weights {run}", found, "weights that have not seen what they predict", fix)


def who_may_have_seen(recipe: Recipe, manifest: Manifest) -> str | None:
    """Return the nearest run, of those its first weights come from, that may have seen the fold a training measures.

    That is one of the same data that did not keep that fold out, or one of other data, or one that is gone, which do
    not say which images they saw. None = there is no such run.
    """
    for run, trained_without, doubt in _ancestors(recipe.weights, manifest):
        if doubt or trained_without != recipe.validation_fold:
            return run
    return None


def warn_of_seen_fold(recipe: Recipe, manifest: Manifest) -> None:
    """Warn where the fold that a training measures is one that its first weights have seen, or may have seen."""
    if recipe.validation_fold == ALL_FOLDS or _is_gone(recipe.weights):
        return
    run = who_may_have_seen(recipe, manifest)
    if run is not None:
        found = f"--weights {run}: has seen, or may have seen, fold {recipe.validation_fold}, which is measured"
        fix = "its scores may be too high: start from weights of a run of the same data that kept this fold out"
        warnings.warn(f"{found}; {fix}", HpaWarning, stacklevel=2)


def warn_of_other_antibodies(recipe: Recipe, manifest: Manifest) -> None:
    """Warn where a head of antibodies starts from one that may number them otherwise: that of a run of other data."""
    if not getattr(recipe.network, "antibodies", 0) or backbone_of(recipe.weights) or _is_gone(recipe.weights):
        return
    for run, _, doubt in islice(_ancestors(recipe.weights, manifest), 1):
        if doubt:
            found = f"--weights {run}: {doubt}, so its head of antibodies may be of others in another order"
            warnings.warn(f"{found}; --weights backbone:{run} lends no head", HpaWarning, stacklevel=2)


def check_folds_apart(folder: str, manifest: Manifest) -> None:
    """Check that no image, and no group of images where the data are built by groups, is in two folds.

    Raises:
        InputError: One is.
    """
    table = read_cells(folder, manifest)
    group = manifest.options.get("group_by")
    for column in ("image_id", *([group] if group in table.columns else [])):
        named = table[table[column].notna() & (table[column].astype(str).str.strip() != "")]
        count = named.groupby(named[column].astype(str).str.strip())["fold"].nunique()
        if (count > 1).any():
            name = count.index[int(np.argmax(count.to_numpy() > 1))]
            what = "image" if column == "image_id" else f"{column} of several images"
            found, fix = f"{what} {name!r} in several folds", "build the data again"
            raise InputError(files.join(folder, CELL_TABLE_NAME), found, "each in one fold", fix)


def _is_gone(source: str) -> bool:
    """Tell whether first weights are not there: a training that needs them ends, one that has begun was warned."""
    return file_of(source) is not None and not files.exists(backbone_of(source) or source)


def _ancestors(source: str, manifest: Manifest) -> Iterator[tuple[str, int, str]]:
    """Yield (run folder, the fold it left out, what speaks against taking its word) of the runs that weights come from.

    The nearest comes first; ImageNet's files and the like end the way. A run is yielded twice where it says itself that
    it may have seen the fold that it left out, by its own first weights.
    """
    been: set[str] = set()
    while (path := file_of(source)) is not None and path.endswith(OWN_SUFFIX):
        run = os.path.dirname(os.path.dirname(path)) or os.curdir
        if run in been:
            return
        been.add(run)
        try:
            found = read_run(run)
            result = read_result(run) if is_finished(run) else {}
        except (InputError, OSError):
            yield backbone_of(source) or source, ALL_FOLDS, "is gone, or does not say what it was trained on"
            return
        is_same = found.manifest.fingerprint == manifest.fingerprint
        yield run, found.recipe.validation_fold, "" if is_same else "was trained on another data folder"
        if result.get("may_have_seen_fold"):
            yield run, ALL_FOLDS, "may have seen the fold that it left out, by the weights that it began with"
        source = found.recipe.weights

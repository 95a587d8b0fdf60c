"""Folds: every image in exactly one, classes spread evenly, and no group of images in two folds.

Both ways are deterministic in (labels, groups, seed) and in the order of the images.
"""

from collections.abc import Sequence

import numpy as np

from hpa_tf.errors import InputError


def stratified_folds(labels: np.ndarray, num_folds: int, seed: int) -> np.ndarray:
    """Spread the images so that each class is shared evenly between the folds.

    Args:
        labels: [N, 19], 0 or 1.
        num_folds: Number of folds.
        seed: Seed of the random choices between equally good folds.

    Returns:
        int64 [N], the fold of each image.

    Raises:
        InputError: Fewer images than folds.
    """
    _check_enough(len(labels), num_folds, "images")
    folds = np.zeros(len(labels), np.int64)
    if num_folds == 1:
        return folds
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold  # imports scikit-learn: a second a worker

    splitter = MultilabelStratifiedKFold(num_folds, shuffle=True, random_state=seed)
    for fold, (_, members) in enumerate(splitter.split(np.zeros(len(labels)), labels.astype(np.int64))):
        folds[members] = fold
    return folds


def grouped_folds(labels: np.ndarray, groups: Sequence[str], num_folds: int, seed: int) -> np.ndarray:
    """Spread whole groups, the largest first, each to the fold where the classes and the sizes stay most even.

    Args:
        labels: [N, 19], 0 or 1.
        groups: N group names; an image with an empty name is a group of its own.
        num_folds: Number of folds.
        seed: Seed of the order of equally large groups.

    Returns:
        int64 [N], the fold of each image.

    Raises:
        InputError: Fewer groups than folds.
    """
    keys = [("group", name) if name else ("image", str(index)) for index, name in enumerate(groups)]
    group_of = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    member_of = np.array([group_of[key] for key in keys])
    _check_enough(len(group_of), num_folds, "groups")
    counted = np.concatenate([labels, np.ones((len(labels), 1))], axis=1)  # the last column balances the sizes
    per_group = np.zeros((len(group_of), counted.shape[1]))
    np.add.at(per_group, member_of, counted)
    share = per_group / np.maximum(per_group.sum(axis=0), 1)
    shuffled = np.random.default_rng(seed).permutation(len(group_of))
    order = shuffled[np.argsort(-share[shuffled].sum(axis=1), kind="stable")]
    held = np.zeros((num_folds, counted.shape[1]))
    fold_of_group = np.zeros(len(group_of), np.int64)
    for group in order:
        # adding s to h raises the sum of squares by 2 h s + s^2: the best fold has the least h s
        fold = int(np.argmin(held @ share[group]))
        fold_of_group[group] = fold
        held[fold] += share[group]
    return fold_of_group[member_of]


def _check_enough(found: int, num_folds: int, what: str) -> None:
    if num_folds < 1 or found < num_folds:
        raise InputError(
            "--num-folds", f"{num_folds} folds for {found} {what}", f"1 to {found}", f"--num-folds {found}"
        )

"""Image labels, and the labels that single cells of such an image really show.

Source: METHODS 5; the shares of label counts, the spread between images and where extra labels go were measured on
the same real cells.
"""

import numpy as np

from hpa_tf.classes import MITOTIC_SPINDLE, NEGATIVE, NUM_CLASSES
from hpa_tf.synthetic.config import TEST_IMAGES, TRAIN_IMAGES, SyntheticConfig

NUCLEAR = (0, 1, 2, 3, 4, 5)
"""Classes that need a nucleus: a dividing cell has none."""


def class_shares(config: SyntheticConfig) -> np.ndarray:
    """Return how often each class is drawn, [K], sum 1: real frequencies, flattened by `balance`, floored."""
    images = TEST_IMAGES if config.frequencies == "test" else TRAIN_IMAGES
    shares = np.asarray(images, float) ** (1 - config.balance)
    shares = np.maximum(shares / shares.sum(), config.class_floor)
    return shares / shares.sum()


def draw_image_labels(rng: np.random.Generator, config: SyntheticConfig) -> np.ndarray:
    """Draw the weak label of an image: bool [K]. Negative stands alone; a mitotic spindle never does.

    A class stands alone in proportion to its penetrance: what few cells show is seldom an image's only label.
    """
    shares = class_shares(config)
    labels = np.zeros(NUM_CLASSES, bool)
    count = 1 + rng.choice(len(config.num_labels), p=np.asarray(config.num_labels) / sum(config.num_labels))
    if count == 1:
        alone = shares * np.asarray([*config.penetrance, 1.0])
        alone[MITOTIC_SPINDLE] = 0
        labels[rng.choice(NUM_CLASSES, p=alone / alone.sum())] = True
        return labels
    shares[NEGATIVE] = 0
    while labels.sum() < count:
        others = np.where(labels, 0, shares)
        labels[rng.choice(NUM_CLASSES, p=others / others.sum())] = True
    return labels


def draw_cell_labels(
    rng: np.random.Generator, config: SyntheticConfig, image_labels: np.ndarray, num_cells: int
) -> np.ndarray:
    """Draw what each cell shows: bool [N, K]; a cell without any of the 18 classes is Negative.

    Each class keeps its penetrance exactly (on average over images). A share `exclusion` of the cells draws its
    classes by systematic sampling (one uniform number against stacked probabilities), which makes "none of them" as
    rare as the penetrances allow; the others draw them independently.
    """
    present = np.flatnonzero(image_labels[:NEGATIVE])
    labels = np.zeros((num_cells, NUM_CLASSES), bool)
    if len(present):
        mean = np.clip(np.asarray(config.penetrance)[present], 1e-9, 1 - 1e-9)
        probability = rng.beta(mean * config.penetrance_concentration, (1 - mean) * config.penetrance_concentration)
        labels[:, present] = rng.random((num_cells, len(present))) < probability
        systematic = np.flatnonzero(rng.random(num_cells) < config.exclusion)
        for cell in systematic:
            order = rng.permutation(len(present))
            stacked = rng.random() + np.concatenate([[0], np.cumsum(probability[order])])
            labels[cell, present[order]] = np.diff(np.floor(stacked)) > 0
    _add_extra_labels(rng, config, image_labels, labels)
    labels[np.ix_(labels[:, MITOTIC_SPINDLE], NUCLEAR)] = False
    labels[:, NEGATIVE] = ~labels[:, :NEGATIVE].any(1)
    return labels


def _add_extra_labels(rng, config: SyntheticConfig, image_labels: np.ndarray, labels: np.ndarray) -> None:
    """Give a share `extra_label` of the cells one class that the image label lacks, in place."""
    shares = np.where(image_labels, 0, class_shares(config))
    shares[NEGATIVE] = 0
    empty = ~labels.any(1)
    typical_empty = 0.12  # share of cells without a class of the image label, measured on the real cells
    probability = np.where(
        empty,
        config.extra_label * config.extra_in_empty / typical_empty,
        config.extra_label * (1 - config.extra_in_empty) / (1 - typical_empty),
    )
    if image_labels[NEGATIVE]:
        probability = np.full(len(labels), config.extra_label)
    drawn = np.flatnonzero(rng.random(len(labels)) < probability)
    for cell in drawn if shares.any() else ():  # an image may have all 18 classes
        labels[cell, rng.choice(NUM_CLASSES, p=shares / shares.sum())] = True

"""Labels of cells from labels of images: copied, softened, or in five levels by what networks say of them."""

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd

from hpa_tf.classes import CLASSES, NUM_CLASSES
from hpa_tf.errors import InputError
from hpa_tf.label_rules.label_table import LabelTable, given


def from_image(
    table: pd.DataFrame, inputs: Mapping[str, str], image_classes: Mapping[str, Collection[int]] | None = None
) -> LabelTable:
    """Give every cell the labels of its image: the weak labels that the other rules refine.

    Args:
        table: Cell table of a data folder.
        inputs: What it and the image labels were read from.
        image_classes: Classes of each image, instead of those that the folder was built with; cells of other images
            are not known.
    """
    labels = given(table, "from_image", inputs)
    if image_classes is None:
        return labels
    of_image = {name: np.isin(np.arange(NUM_CLASSES), list(ids)) for name, ids in image_classes.items()}
    unknown = np.full(NUM_CLASSES, np.nan)
    values = np.array([of_image.get(name, unknown) for name in table["image_id"]], np.float32).reshape(-1, NUM_CLASSES)
    set_by = np.where(np.isnan(values), np.int16(-1), np.int16(0))
    return LabelTable(labels.cells, values, set_by, labels.steps)


def soften(labels: LabelTable, share: float = 0.01, keep: tuple[str, ...] = ("from_grades",)) -> LabelTable:
    """Move each label y towards the other end by share x n, n the labels of the cell: y' = y (1 - e) + (1 - y) e.

    An image with more labels is less often right in each of its cells. Unknown values stay unknown.

    Args:
        labels: Labels so far.
        share: For each label of a cell, 0..1; e is at most .5.
        keep: Values that these rules set stay.

    Source: SYSTEMS 3 (Z): ".01 x labels".
    """
    count = (np.nan_to_num(labels.values) >= 0.5).sum(axis=1, keepdims=True)
    e = np.minimum(share * count, 0.5)
    values = labels.values * (1 - e) + (1 - labels.values) * e
    mask = ~np.isnan(labels.values) & ~labels.was_set_by(keep)
    return labels.with_step("soften", {"share": share, "keep": list(keep)}, {}, values, mask)


LEVELS = ((0.5, 0.7, 1.0), (0.5, 0.5, 0.75), (0.0, 0.25, 0.5))
"""(least probability of the image, least of the cell, label) for cells whose image has the label; else `LOWEST`."""
LOWEST = 0.25
ADDED = (0.9, 0.9, 0.5)
"""The same for cells whose image does not have the label."""


def five_levels(
    labels: LabelTable,
    image_probabilities: np.ndarray,
    cell_probabilities: np.ndarray,
    inputs: Mapping[str, str],
    keep: tuple[str, ...] = (),
    add: bool = False,
) -> LabelTable:
    """Replace labels by {1, .75, .5, .25, 0}: the higher, the surer networks are of the image and of the cell.

    All 19 classes, Negative included: team 1's networks answer and learn it like the others.

    Args:
        labels: Labels of images, copied to their cells; 0.5 or more = the image has the label, 0 = it has not.
        image_probabilities: float [N, 19]: of the cell's whole image, NaN where not known.
        cell_probabilities: float [N, 19]: of the cell.
        inputs: What the probabilities were read from.
        keep: Values that these rules set stay.
        add: Also give 0.5 where the image does not have the label but both are very sure.

    Raises:
        InputError: A label between 0 and 0.5, which does not say whether the image has it.

    Source: SYSTEMS 1h. The thresholds were not published; team 1 calls them not sensitive.
    """
    kept = labels.was_set_by(keep)
    between = (labels.values > 0) & (labels.values < 0.5) & ~kept
    if between.any():
        row, column = np.argwhere(between)[0]
        cell = labels.cells.iloc[row]
        found = (
            f"{labels.values[row, column]:.2g} for {CLASSES[column]!r} of image {cell['image_id']} cell {cell['cell']}"
        )
        fix = "begin with --data or the --labels of from_image; soften and drop_unlikely come after five_levels"
        raise InputError("the labels that five_levels begins with", found, "labels of images, 0 or 1", fix)
    known = ~np.isnan(image_probabilities) & ~np.isnan(cell_probabilities) & ~np.isnan(labels.values)
    positive = labels.values > 0
    values = np.where(positive, LOWEST, 0.0)
    for of_image, of_cell, level in reversed(LEVELS):
        reached = positive & (image_probabilities >= of_image) & (cell_probabilities >= of_cell)
        values = np.where(reached, level, values)
    if add:
        reached = ~positive & (image_probabilities >= ADDED[0]) & (cell_probabilities >= ADDED[1])
        values = np.where(reached, ADDED[2], values)
    return labels.with_step("five_levels", {"keep": list(keep), "add": add}, inputs, values, known & ~kept)

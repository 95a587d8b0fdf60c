"""The cell table that a build writes: one row a cell, with its labels, its measurements and its cleaning value."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hpa_tf import cell_table
from hpa_tf.classes import CLASSES, MITOTIC_SPINDLE, NUM_CLASSES
from hpa_tf.imaging import rules
from hpa_tf.imaging.cells import MEASURED
from tfrecords_builder import labels
from tfrecords_builder.sources import LabelledImage

PLACE = ("shard", "record", "offset")
"""Where a cell's record is: added when its shard is written."""
OWN_COLUMNS = (*cell_table.KEYS, *cell_table.VALUES, "fold", *PLACE, *MEASURED, "cleaning_value")
"""Columns that the cell table has anyway: columns of a label table need other names."""
MARKS = ("graded", "mitotic_lookalike", "field_number")
"""Columns that training would take for its own."""


def cells_table(
    images: Sequence[tuple[LabelledImage, pd.DataFrame]], fold: int, columns: Sequence[str]
) -> pd.DataFrame:
    """Return the cell table of whole images; its types do not depend on how many cells there are.

    Args:
        images: Each image with what is measured of all its cells: the outlier rule compares the cells of an image.
        fold: Fold of the images.
        columns: Columns of the label table that go along.
    """
    counts = [len(own) for _, own in images]
    values = [labels.from_image_labels(image.class_ids, len(own)) for image, own in images]
    values = np.concatenate([np.zeros((0, NUM_CLASSES), np.float32), *values])
    measured = {
        name: np.concatenate([np.zeros(0, kind), *(own[name].to_numpy() for _, own in images)])
        for name, kind in {"cell": np.int32, **MEASURED}.items()
    }
    numbers = measured.pop("cell")
    own = {"fold": np.full(len(numbers), fold, np.int32), **measured}
    image_ids = np.repeat([image.image_id for image, _ in images], counts) if images else []
    table = cell_table.from_values(image_ids, numbers, values, own)
    table["cleaning_value"] = rules.cell_values(table, rules.CLEANING_BORDER)
    for name in columns:
        column = [image.columns[name] for image, own in images for _ in range(len(own))]
        table[name] = pd.Series(column, dtype="str")
    return table


def rejected(table: pd.DataFrame) -> np.ndarray:
    """Tell which cells leave a training set, bool [N]. Source: METHODS 3, training set."""
    mitotic = table[CLASSES[MITOTIC_SPINDLE]].to_numpy()
    return ~rules.stay_in_training(table["cleaning_value"].to_numpy(), mitotic)


def count_cells(table: pd.DataFrame) -> dict[str, int]:
    """Count the cells, those with border value < 1, the outliers, and those that leave a training set."""
    border = rules.border_values(table, rules.CLEANING_BORDER)
    outlier = rules.outlier_factors(table, border)
    return {
        "found": len(table),
        "border": int((border < 1).sum()),
        "outlier": int((outlier < 1).sum()),
        "rejected": int(rejected(table).sum()),
    }

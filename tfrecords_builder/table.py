"""The cell table that a build writes: one row a cell, with its labels, its measurements and its cleaning value."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from hpa_tf import cell_table
from hpa_tf.classes import CLASSES, MITOTIC_SPINDLE, NUM_CLASSES
from hpa_tf.imaging import rules
from hpa_tf.imaging.cells import MEASURED
from tfrecords_builder import labels
from tfrecords_builder.sources import LabelledImage

_INT32 = ("top", "left", "bottom", "right", "height", "width", "bits")
_INT64 = ("cell_area", "nucleus_area", "nucleus_blue", "sum_red", "sum_green", "sum_blue", "sum_yellow")
_FLOAT64 = ("um_per_px", "border_ud", "border_lr")
PLACE = ("shard", "record", "offset")
"""Where a cell's record is: added when its shard is written."""
OWN_COLUMNS = (*cell_table.KEYS, *cell_table.VALUES, "fold", *PLACE, *MEASURED, "cleaning_value")
"""Columns that the cell table has anyway: columns of a label table need other names."""
MARKS = ("graded", "mitotic_lookalike", "field_number")
"""Columns that training would take for its own."""


def cells_table(
    images: Sequence[tuple[LabelledImage, list[dict[str, Any]]]], fold: int, columns: Sequence[str]
) -> pd.DataFrame:
    """Return the cell table of whole images; its types do not depend on how many cells there are.

    Args:
        images: Each image with the rows of all its cells: the outlier rule compares the cells of an image.
        fold: Fold of the images.
        columns: Columns of the label table that go along.
    """
    counts = [len(rows) for _, rows in images]
    measured = pd.DataFrame([row for _, rows in images for row in rows], columns=["cell", *MEASURED])
    values = [labels.from_image_labels(image.class_ids, len(rows)) for image, rows in images]
    values = np.concatenate([np.zeros((0, NUM_CLASSES), np.float32), *values])
    types = dict.fromkeys(_INT32, np.int32) | dict.fromkeys(_INT64, np.int64) | dict.fromkeys(_FLOAT64, np.float64)
    own = {"fold": np.full(len(measured), fold, np.int32)}
    own |= {name: measured[name].to_numpy(types[name]) for name in MEASURED}
    image_ids = np.repeat([image.image_id for image, _ in images], counts) if images else []
    table = cell_table.from_values(image_ids, measured["cell"], values, own)
    table["cleaning_value"] = rules.cell_values(table, rules.CLEANING_BORDER)
    for name in columns:
        column = [image.columns[name] for image, rows in images for _ in rows]
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

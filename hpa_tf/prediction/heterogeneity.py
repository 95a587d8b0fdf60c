"""heterogeneity.csv: how much the cells of each image differ from each other, and from the image's label.

A protein may be in one place in some cells and in another in their neighbours: what labels of whole images hide and
single cells show (as in Le et al. 2022). Only cells that the border and outlier rules leave alone are counted. A cell
differs from a location when its score for it is below half of its highest score: cells that show both of two
locations do not differ because one of them is first here and the other there.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from hpa_tf import cell_table
from hpa_tf.classes import CLASSES

FILE = "heterogeneity.csv"
LEAST_CELLS = 3
"""Images of fewer cells are not ranked: one cell would decide."""
_CLEARLY = 0.5
COLUMNS = (
    *("image_id", "cells", "first_locations", "commonest", "share_differing"),
    *("image_label", "share_outside_label", "labels_without_cell"),
)


def describe(table: pd.DataFrame, label: np.ndarray | None) -> dict:
    """Return an image's row.

    Args:
        table: Its cells: scores, and `value` of the rules.
        label: bool [19] of the image; None = not known.

    Returns:
        The `COLUMNS`: number of cells counted; their first locations with counts; the commonest one; the share of
        cells that differ from it (NaN without cells); the label; the share of cells that differ from each of its
        locations; and the labels that all cells differ from.
    """
    scores = cell_table.values(table)[(table["value"] == 1).to_numpy()]
    counts = np.bincount(scores.argmax(axis=1), minlength=len(CLASSES)) if len(scores) else np.zeros(len(CLASSES), int)
    order = [c for c in np.argsort(-counts, kind="stable") if counts[c]]
    shows = scores >= _CLEARLY * scores.max(axis=1, initial=0, keepdims=True)
    row = {
        "image_id": str(table["image_id"].iloc[0]) if len(table) else "",
        "cells": len(scores),
        "first_locations": ", ".join(f"{CLASSES[c]} {counts[c]}" for c in order),
        "commonest": CLASSES[order[0]] if order else "",
        "share_differing": 1 - shows[:, order[0]].mean() if order else np.nan,
        "image_label": "",
        "share_outside_label": np.nan,
        "labels_without_cell": "",
    }
    if label is not None:
        row["image_label"] = _names(label)
        if len(scores):
            row["share_outside_label"] = 1 - shows[:, label].any(axis=1).mean()
            row["labels_without_cell"] = _names(label & ~shows.any(axis=0))
    return row


def _names(which: np.ndarray) -> str:
    return ", ".join(CLASSES[c] for c in np.flatnonzero(which))


def ranked(rows: Sequence[Mapping], most: int) -> list[dict]:
    """Return the images whose cells differ most, from each other or from the label; those that agree are left out."""

    def worst(row: Mapping) -> float:
        return max(row["share_differing"], np.nan_to_num(row["share_outside_label"]))

    differing = [dict(row) for row in rows if row["cells"] >= LEAST_CELLS and worst(row) > 0]
    return sorted(differing, key=lambda row: (-worst(row), -row["cells"], row["image_id"]))[:most]

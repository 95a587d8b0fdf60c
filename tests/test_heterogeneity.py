"""Which images' cells differ: cases that can be counted by hand."""

import numpy as np
import pandas as pd

from hpa_tf import cell_table
from hpa_tf.classes import NUM_CLASSES
from hpa_tf.prediction import heterogeneity


def table(rows: list[dict[int, float]], value=None, image_id="a") -> pd.DataFrame:
    """Return a cell table with one row a cell: scores by class id, .01 elsewhere."""
    scores = np.full((len(rows), NUM_CLASSES), 0.01)
    for i, row in enumerate(rows):
        scores[i, list(row)] = list(row.values())
    values = {"value": np.ones(len(rows)) if value is None else np.array(value)}
    return cell_table.from_values([image_id] * len(rows), range(1, len(rows) + 1), scores, values)


def labels(*ids: int) -> np.ndarray:
    return np.isin(np.arange(NUM_CLASSES), ids)


def test_cells_that_show_two_locations_do_not_differ():
    row = heterogeneity.describe(table([{0: 0.9, 16: 0.8}, {0: 0.7, 16: 0.9}, {0: 0.9}, {0: 0.8, 16: 0.1}]), None)
    assert row["first_locations"] == "Nucleoplasm 3, Cytosol 1" and row["commonest"] == "Nucleoplasm"
    assert row["share_differing"] == 0 and row["image_label"] == "" and np.isnan(row["share_outside_label"])


def test_a_cell_that_is_elsewhere_differs():
    cells = table([{0: 0.9}, {0: 0.8}, {0: 0.9}, {16: 0.9, 0: 0.44}])
    row = heterogeneity.describe(cells, labels(16, 2))
    assert row["share_differing"] == 0.25 and row["share_outside_label"] == 0.75
    assert row["image_label"] == "Nucleoli, Cytosol" and row["labels_without_cell"] == "Nucleoli"
    row = heterogeneity.describe(table([{0: 0.9}, {16: 0.9, 0: 0.45}]), labels(0))
    assert row["share_differing"] == 0, "half of the highest is not below half"


def test_border_and_outlier_cells_are_not_counted():
    row = heterogeneity.describe(table([{0: 0.9}, {16: 0.9}, {16: 0.9}], value=[1, 0.5, 0.99]), labels(0))
    assert (row["cells"], row["share_differing"], row["share_outside_label"]) == (1, 0, 0)


def test_images_without_cells_have_a_row():
    row = heterogeneity.describe(table([]), labels(3))
    assert row["cells"] == 0 and np.isnan(row["share_differing"]) and row["image_label"] and not row["first_locations"]
    assert heterogeneity.ranked([row], 9) == []


def test_the_list_is_of_those_that_differ_most():
    def row(name, cells, share, outside=np.nan):
        return {"image_id": name, "cells": cells, "share_differing": share, "share_outside_label": outside}

    rows = [row("few", 2, 1.0), row("alike", 9, 0.0), row("b", 9, 0.5), row("a", 9, 0.5), row("c", 20, 0.5)]
    rows += [row("label", 5, 0.1, 0.9), row("none", 0, np.nan)]
    assert [one["image_id"] for one in heterogeneity.ranked(rows, 3)] == ["label", "c", "a"]

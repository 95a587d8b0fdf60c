"""`cells`: how well a cell table of predictions agrees with one of labels, cell by cell; no masks are needed.

Both tables name the same cells. Where masks differ, `score` is the right command: it matches them first.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score

from hpa_tf import cell_table, files, reporting
from hpa_tf.classes import CLASSES
from hpa_tf.errors import InputError
from hpa_tf.evaluation.bootstrap import check_draws, draw_images, interval
from hpa_tf.metrics import (
    area_under_curve,
    calibration_error,
    has_positive,
    mean_over_classes,
    soft_average_precision,
)
from hpa_tf.progress import progress


def average_precision(labels: np.ndarray, probabilities: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return each class's average precision as scikit-learn's, float64 [K]; NaN where no known label is >= .5."""
    positive = (labels >= 0.5) & known
    found = np.full(labels.shape[1], np.nan)
    for k in np.flatnonzero(positive.any(axis=0)):
        found[k] = average_precision_score(positive[known[:, k], k], probabilities[known[:, k], k])
    return found


def soft_label_average_precision(labels: np.ndarray, probabilities: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return what training measures, float64 [K]; NaN where no known label is >= .5."""
    return soft_average_precision(labels, probabilities, known & has_positive(labels, known))


_MEASURES = {"AP": average_precision, "AUC": area_under_curve, "soft_label_AP": soft_label_average_precision}
"""AP and AUC take labels >= .5 for positive, as the competition's metric does where masks match but for its envelope;
the soft-label AP takes labels as they are, and is higher: chance has about .3."""


@dataclass(frozen=True)
class Cells:
    """Compare predictions with labels of the same cells: AP, AUC and soft-label AP of each class, with intervals."""

    labels: str
    """Cell table (.parquet) of labels 0..1; missing ones are left out. AP and AUC take .5 and more for positive."""
    predictions: str
    """Cell table (.parquet) of predictions of the same cells."""
    out: str
    """Folder for cells.json and cells.csv."""
    bootstrap: int = 200
    """Resamples of the images for the 95 % intervals; 0 = none."""
    seed: int = 0
    """Seed of the resamples."""


@dataclass(frozen=True)
class Pairs:
    """Cells that both tables have.

    Attributes:
        labels: float64 [N, 19], 0 where not known.
        known: bool [N, 19].
        probabilities: float64 [N, 19].
        image: int64 [N], number of the cell's image.
        without_prediction: Labelled cells that are not predicted.
        without_label: Predicted cells that have no label.
    """

    labels: np.ndarray
    known: np.ndarray
    probabilities: np.ndarray
    image: np.ndarray
    without_prediction: int
    without_label: int


def run(options: Cells) -> None:
    """Compare, write the files, print the result.

    Raises:
        InputError: A table is missing or wrong, or the two have no cell in common.
    """
    check_draws(options.bootstrap, options.seed)
    files.make_folder(options.out)
    pairs = pair(options.labels, options.predictions)
    table = per_class(pairs, options.bootstrap, options.seed)
    files.write_json(files.join(options.out, "cells.json"), result(table, pairs, options))
    reporting.write_csv(table, files.join(options.out, "cells.csv"))
    print(summary(table, pairs))
    print(f"Written to {options.out}")


def pair(labels: str, predictions: str) -> Pairs:
    """Read two cell tables and join them by image and cell.

    Raises:
        InputError: See `run`; a prediction is missing for a class of a cell; or a cell of the one table has another
            box or area than in the other.
    """
    known, predicted = cell_table.read(labels), cell_table.read(predictions)
    cell_table.check_same_cells(known, predicted, predictions)
    columns = [*cell_table.KEYS, *cell_table.VALUES]
    both = known[columns].merge(predicted[columns], on=cell_table.KEYS, suffixes=("", " predicted"))
    if not len(both):
        found = f"no cell of {labels} (its first: {_first(known)}; here: {_first(predicted)})"
        raise InputError(predictions, found, "the same image ids and cell numbers", "give tables of the same masks")
    probabilities = both[[f"{name} predicted" for name in cell_table.VALUES]].to_numpy(float)
    if np.isnan(probabilities).any():
        row = both.iloc[np.argwhere(np.isnan(probabilities))[0, 0]]
        found = f"no value for a class of image {row['image_id']} cell {row['cell']}"
        raise InputError(predictions, found, "19 predictions a cell", "give a table that predict.py wrote")
    values = cell_table.values(both)
    return Pairs(
        labels=np.nan_to_num(values),
        known=~np.isnan(values),
        probabilities=probabilities,
        image=pd.factorize(both["image_id"])[0],
        without_prediction=len(known) - len(both),
        without_label=len(predicted) - len(both),
    )


def _first(table: pd.DataFrame) -> str:
    return f"image {table['image_id'].iloc[0]} cell {table['cell'].iloc[0]}" if len(table) else "none"


def per_class(pairs: Pairs, num_samples: int, seed: int) -> pd.DataFrame:
    """Return one row a class and one of their means: cells, positives, measures, their intervals, calibration."""
    shown = [*CLASSES, "mean"]
    positives = [*((pairs.labels >= 0.5) & pairs.known).sum(axis=0), np.nan]
    table = pd.DataFrame({"class": shown, "cells": [*pairs.known.sum(axis=0), len(pairs.image)], "positive": positives})
    data = (pairs.labels, pairs.probabilities, pairs.known)
    resampled = _resample(pairs, num_samples, seed)
    for name, measure in _MEASURES.items():
        values = measure(*data)
        table[name] = [*values, mean_over_classes(values)]
        if num_samples:
            ends = [interval(*column) for column in zip(resampled[name].T, table[name], strict=True)]
            table[f"{name}_low"], table[f"{name}_high"] = zip(*ends, strict=True)
    errors = calibration_error(*data)
    table["calibration_error"] = [*errors, mean_over_classes(errors)]
    return table


def _resample(pairs: Pairs, num_samples: int, seed: int) -> dict[str, np.ndarray]:
    """Return each measure on resamples of the images, float64 [S, 20]: 19 classes and their mean."""
    num_images = int(pairs.image.max()) + 1
    values: dict[str, list[list[float]]] = {name: [] for name in _MEASURES}
    if num_samples:
        for weights in progress(draw_images(num_images, num_samples, seed), unit="resample", desc="interval"):
            rows = np.repeat(np.arange(len(pairs.image)), weights[pairs.image])
            for name, measure in _MEASURES.items():
                one = measure(pairs.labels[rows], pairs.probabilities[rows], pairs.known[rows])
                values[name].append([*one, mean_over_classes(one)])
    return {name: np.array(rows) for name, rows in values.items()}


def result(table: pd.DataFrame, pairs: Pairs, options: Cells) -> dict:
    """Return what cells.json holds; what cannot be measured is null."""
    rows = table.set_index("class").to_dict(orient="index")
    clean = {name: {key: _number(value) for key, value in row.items()} for name, row in rows.items()}
    return {
        "classes": clean,
        "num_cells": len(pairs.image),
        "cells_without_prediction": pairs.without_prediction,
        "cells_without_label": pairs.without_label,
        "settings": {"bootstrap": options.bootstrap, "seed": options.seed},
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def summary(table: pd.DataFrame, pairs: Pairs) -> str:
    """Return the result as text, a row a class."""
    lines = [f"{'class':<42}{'cells':>7}{'positive':>10}{'AP':>8}{'AUC':>8}{'soft AP':>9}"]
    for number, row in enumerate(table.itertuples(index=False)):
        name = f"{number:>2} {row[0]}" if number < len(CLASSES) else row[0]
        positive = "" if math.isnan(row.positive) else f"{row.positive:.0f}"
        lines.append(
            f"{name:<42}{row.cells:>7}{positive:>10}{_shown(row.AP):>8}{_shown(row.AUC):>8}{_shown(row.soft_label_AP):>9}"
        )
    last = table.iloc[-1]
    if "AP_low" in table:
        ends = [f"{name} [{_shown(last[f'{name}_low'])}, {_shown(last[f'{name}_high'])}]" for name in _MEASURES]
        lines.append(f"95 % intervals of the means, images resampled: {', '.join(ends)}")
    if pairs.without_prediction or pairs.without_label:
        lines.append(
            f"not compared: {pairs.without_prediction} cells without a prediction, "
            f"{pairs.without_label} without a label"
        )
    return "\n".join(lines)


def _shown(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"

"""What explains a score: calibration, confusion between classes, and the score of groups of images and cells.

Calibration and confusion look at cells, not at masks: each detected cell is given the labels of the true cell that it
matches (IoU at or above the threshold); detected cells without a match are left out, the metric counts them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hpa_tf.classes import CLASSES, NUM_CLASSES
from hpa_tf.evaluation.bootstrap import bootstrap, draw_images, interval
from hpa_tf.evaluation.matching import ImageDetections, ImageMatches, ImageTruth, Overlaps
from hpa_tf.evaluation.metric import Evaluation, average_precision, mean_average_precision, precision_recall

NUM_BINS = 10


@dataclass(frozen=True)
class MatchedCells:
    """Detected cells that match a true cell.

    Attributes:
        image_ids: [N].
        mask_index: int64 [N], the mask in its image.
        areas: int64 [N] of the detected mask, px.
        labels: bool [N, 19] of the true cell.
        scores: float64 [N, 19]; NaN where a class was not claimed.
    """

    image_ids: np.ndarray
    mask_index: np.ndarray
    areas: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


def matched_cells(images: Iterable[tuple[ImageTruth, ImageDetections, Overlaps]], iou_threshold: float) -> MatchedCells:
    """Pair detected cells with true cells, each true cell once: with the mask of the highest IoU."""
    parts = []
    for truth, detections, overlaps in images:
        if 0 in overlaps.iou.shape:
            continue
        best_mask = overlaps.iou.argmax(axis=0)
        cells = np.flatnonzero((overlaps.iou.max(axis=0) >= iou_threshold) & ~truth.group_of)
        _, first = np.unique(best_mask[cells], return_index=True)
        cells = cells[first]
        masks = best_mask[cells]
        scores = np.full((len(detections.masks), NUM_CLASSES), np.nan)
        scores[detections.mask_index, detections.class_ids] = detections.confidences
        image_ids = np.full(len(cells), truth.image_id, object)
        parts.append((image_ids, masks, overlaps.detected_areas[masks], truth.labels[cells], scores[masks]))
    if not parts:
        empty = np.zeros(0, np.int64)
        return MatchedCells(
            empty.astype(object), empty, empty, np.zeros((0, NUM_CLASSES), bool), np.zeros((0, NUM_CLASSES))
        )
    return MatchedCells(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def reliability(labels: np.ndarray, scores: np.ndarray, num_bins: int = NUM_BINS) -> pd.DataFrame:
    """Return the reliability curve of one class: bins of equal width over scores 0..1.

    Args:
        labels: bool [N].
        scores: [N] in 0..1; NaN is left out.
        num_bins: Number of bins.

    Returns:
        One row a bin that holds cells: count, mean_score, share (of cells that have the class).
    """
    known = ~np.isnan(scores)
    labels, scores = labels[known], scores[known]
    bins = np.clip((scores * num_bins).astype(np.int64), 0, num_bins - 1)
    table = pd.DataFrame({"bin": bins, "score": scores, "label": labels})
    grouped = table.groupby("bin").agg(count=("score", "size"), mean_score=("score", "mean"), share=("label", "mean"))
    return grouped.reset_index()


def expected_calibration_error(curve: pd.DataFrame) -> float:
    """Return the mean distance between score and share, weighted by the cells of each bin; NaN without cells."""
    total = curve["count"].sum()
    if not total:
        return float("nan")
    return float((curve["count"] * (curve["mean_score"] - curve["share"]).abs()).sum() / total)


def calibration_table(labels: np.ndarray, stages: dict[str, np.ndarray]) -> pd.DataFrame:
    """Return the reliability curves of all classes at several stages.

    Args:
        labels: bool [N, 19].
        stages: Name of the stage (`before`, `after` post-processing) -> scores [N, 19].

    Returns:
        Columns stage, class_id, bin, count, mean_score, share, and the class's ece on each of its rows.
    """
    parts = []
    for stage, scores in stages.items():
        for class_id in range(NUM_CLASSES):
            curve = reliability(labels[:, class_id], scores[:, class_id])
            curve.insert(0, "stage", stage)
            curve.insert(1, "class_id", class_id)
            curve["ece"] = expected_calibration_error(curve)
            parts.append(curve)
    return pd.concat(parts, ignore_index=True)


def confusion(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return which classes are named for the cells of each class, float64 [19 true, 19 named].

    For a cell with n true classes the n classes with the highest scores are named, but none whose score is 0. Row c:
    of the cells that have class c, the share for which class c is named (the diagonal), and the share for which another
    class is named that the cell does not have. NaN for a class without cells.

    Args:
        labels: bool [N, 19].
        scores: [N, 19]; NaN where a class was not claimed.
    """
    rank = np.argsort(np.argsort(-np.nan_to_num(scores, nan=-np.inf), axis=1, kind="stable"), axis=1)
    named = (rank < labels.sum(axis=1, keepdims=True)) & (np.nan_to_num(scores) != 0)
    count = labels.sum(axis=0)[:, None]
    together = labels.astype(float).T @ (named & ~labels)
    np.fill_diagonal(together, (labels & named).sum(axis=0))
    return np.where(count > 0, together / np.maximum(count, 1), np.nan)


def group_scores(
    matches: Sequence[ImageMatches], groups: Sequence[str], num_samples: int = 200, seed: int = 0
) -> pd.DataFrame:
    """Score groups of images: the exact metric on each group alone.

    Args:
        matches: One an image.
        groups: The group of each image.
        num_samples: Resamples for the interval.
        seed: Seed of the resamples.

    Returns:
        Columns group, num_images, num_cells, num_classes (that have a true cell), mAP, low, high.
    """
    rows = []
    for group in sorted(set(groups), key=_order):
        own = [match for match, name in zip(matches, groups, strict=True) if name == group]
        evaluation = Evaluation(own)
        ap = evaluation.average_precisions()
        resampled = bootstrap(evaluation, draw_images(len(own), num_samples, seed)).mean_ap
        low, high = interval(resampled, mean_average_precision(ap))
        counts = {"num_images": len(own), "num_cells": sum(len(match.truth.cells) for match in own)}
        scores = {
            "num_classes": int((~np.isnan(ap)).sum()),
            "mAP": mean_average_precision(ap),
            "low": low,
            "high": high,
        }
        rows.append({"group": group, **counts, **scores})
    return pd.DataFrame(rows, columns=["group", "num_images", "num_cells", "num_classes", "mAP", "low", "high"])


def bin_names(values: np.ndarray, num_bins: int, unit: str) -> list[str]:
    """Name the quantile bin of each value, e.g. `2: 8 to 13 cells`; fewer bins where values repeat."""
    values = np.asarray(values)
    if not values.size:
        return []
    edges = np.unique(np.quantile(values, np.linspace(0, 1, num_bins + 1)))
    bins = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(len(edges) - 2, 0))
    names = {}
    for number in np.unique(bins):
        own = values[bins == number]
        names[number] = f"{number + 1}: {own.min():g} to {own.max():g} {unit}"
    return [names[number] for number in bins]


def _order(group: str) -> tuple[float, str]:
    """Return what sorts groups: the number of a bin, then the name."""
    number, colon, _ = group.partition(": ")
    return (int(number) if colon and number.isdecimal() else np.inf), group


def area_scores(cells: MatchedCells, num_bins: int = 4) -> pd.DataFrame:
    """Return the AP of matched cells by their area: the classes' ranking alone, without the masks' part.

    Returns:
        Columns group, num_cells, num_classes, mean_ap (over classes with a cell in the group), and chance: the same
        mean for random scores, the share of cells that have the class.
    """
    groups = np.array(bin_names(cells.areas, num_bins, "px"), object)
    rows = []
    for group in sorted(set(groups), key=_order):
        own = groups == group
        labels, scores = cells.labels[own], np.nan_to_num(cells.scores[own], nan=-np.inf)
        present = np.flatnonzero(labels.any(axis=0))
        ap = [ranked_average_precision(labels[:, c], scores[:, c]) for c in present]
        chance = labels[:, present].mean()
        numbers = {"num_cells": int(own.sum()), "num_classes": len(present)}
        rows.append({"group": group, **numbers, "mean_ap": float(np.mean(ap)), "chance": float(chance)})
    return pd.DataFrame(rows, columns=["group", "num_cells", "num_classes", "mean_ap", "chance"])


def ranked_average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the metric's AP of cells ranked by score, every cell its own true cell."""
    ranked = labels[np.argsort(-scores, kind="stable")]
    return average_precision(*precision_recall(ranked, labels.sum()))


def calibration_errors(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row a class: class_id, class and the ECE at each stage."""
    errors = table.pivot_table(index="class_id", columns="stage", values="ece", aggfunc="first", sort=False)
    errors.insert(0, "class", [CLASSES[class_id] for class_id in errors.index])
    return errors.reset_index()

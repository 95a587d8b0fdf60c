"""Figures of the evaluation, as PNG bytes; drawn without a display and without matplotlib's global state."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hpa_tf.classes import CLASSES, NUM_CLASSES
from hpa_tf.evaluation.metric import Evaluation
from hpa_tf.figures import to_png

_GRID = (4, 5)
_BLUE, _GREY, _RED = "#3568c9", "#999999", "#c23b3b"


def class_grid(title: str, x_label: str, y_label: str) -> tuple[Figure, list]:
    """Return a figure with one small plot a class, and the 19 axes."""
    figure = Figure(figsize=(15, 10.5))
    figure.subplots_adjust(left=0.05, right=0.99, bottom=0.07, top=0.92, wspace=0.08, hspace=0.22)
    axes = figure.subplots(*_GRID, sharex=True, sharey=True).ravel()
    for axis in axes[NUM_CLASSES:]:
        axis.set_axis_off()
    for class_id, axis in enumerate(axes[:NUM_CLASSES]):
        axis.set_title(f"{class_id} {CLASSES[class_id]}"[:34], fontsize=9)
        axis.tick_params(labelsize=8)
        axis.grid(color="#8884", linewidth=0.5)
    figure.suptitle(title)
    figure.supxlabel(x_label)
    figure.supylabel(y_label)
    return figure, list(axes[:NUM_CLASSES])


def precision_recall_curves(evaluation: Evaluation) -> bytes:
    """Draw precision against recall and its envelope, a plot a class."""
    figure, axes = class_grid("Precision and recall (line: envelope that AP integrates)", "recall", "precision")
    ap = evaluation.average_precisions()
    for class_id, axis in enumerate(axes):
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1.02)
        if np.isnan(ap[class_id]):
            axis.text(0.5, 0.5, "no true cell", ha="center", color=_GREY, fontsize=9)
            continue
        _, precision, recall = evaluation.curve(class_id)
        axis.text(0.03, 0.06, f"AP {ap[class_id]:.3f}", fontsize=9)
        if not len(precision):  # no detection: an empty curve
            continue
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        axis.plot(recall, precision, color=_GREY, linewidth=0.6)
        axis.step(np.concatenate([[0], recall]), np.concatenate([envelope[:1], envelope]), color=_BLUE, linewidth=1.4)
    return to_png(figure)


def differences(table: pd.DataFrame) -> bytes:
    """Draw an ablation table: each variant's difference to the baseline with its interval, and the paper's."""
    rows = table.iloc[1:]
    place = np.arange(len(rows))
    figure = Figure(figsize=(8.5, 1.6 + 0.34 * len(rows)), layout="constrained")
    axis = figure.subplots()
    axis.axvline(0, color=_GREY, linewidth=0.8)
    ends = np.abs(rows[["difference_low", "difference_high"]].to_numpy() - rows[["difference"]].to_numpy()).T
    axis.errorbar(rows["difference"], place, xerr=ends, fmt="o", color=_BLUE, capsize=3, label="here, 95 % interval")
    axis.plot(rows["paper_difference"], place, "D", color=_RED, markersize=5, linestyle="none", label="paper, Final 2")
    axis.set_yticks(place, rows["variant"], parse_math=False)
    axis.invert_yaxis()
    axis.grid(axis="x", color="#8884", linewidth=0.5)
    axis.set_xlabel(f"difference to the baseline's mAP of {table['mAP'].iloc[0]:.4f}")
    axis.legend(fontsize=8)
    return to_png(figure)


def reliability_curves(table: pd.DataFrame) -> bytes:
    """Draw the reliability curve of each class, a line a stage; dots grow with the number of cells."""
    figure, axes = class_grid("Calibration: share of cells that have the class, by score", "mean score", "share")
    for class_id, axis in enumerate(axes):
        axis.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle="--")
        axis.set_xlim(-0.02, 1.02)
        axis.set_ylim(-0.02, 1.02)
        for stage, curve in table[table["class_id"] == class_id].groupby("stage", sort=False):
            colour = _GREY if stage == "before" else _BLUE
            axis.plot(curve["mean_score"], curve["share"], color=colour, linewidth=1.2, label=stage)
            axis.scatter(curve["mean_score"], curve["share"], s=4 + 6 * np.log10(curve["count"]), color=colour)
    axes[0].legend(fontsize=8, loc="upper left")
    return to_png(figure)


def confusion_matrix(matrix: np.ndarray, counts: np.ndarray) -> bytes:
    """Draw how often each class is named for the cells of each class, [19, 19] in 0..1."""
    figure = Figure(figsize=(11.5, 9.5), layout="constrained")
    axis = figure.subplots()
    picture = axis.imshow(matrix, vmin=0, vmax=1, cmap="Blues")
    for true, named in np.argwhere(matrix >= 0.005):
        colour = "white" if matrix[true, named] > 0.55 else "black"
        text = f"{100 * matrix[true, named]:.0f}"
        axis.text(named, true, text, ha="center", va="center", fontsize=7.5, color=colour)
    axis.set_xticks(range(NUM_CLASSES), [name[:24] for name in CLASSES], rotation=55, ha="right", fontsize=8)
    labels = [f"{name[:24]} ({count})" for name, count in zip(CLASSES, counts, strict=True)]
    axis.set_yticks(range(NUM_CLASSES), labels, fontsize=8)
    axis.set_xlabel("named class")
    axis.set_ylabel("true class (cells)")
    figure.colorbar(picture, ax=axis, label="share of the true class's cells", shrink=0.7)
    return to_png(figure)


def group_bars(table: pd.DataFrame) -> bytes:
    """Draw the score of each group: its mAP with an interval, or its mean AP beside chance."""
    score = "mAP" if "mAP" in table else "mean_ap"
    place = np.arange(len(table))
    figure = Figure(figsize=(9, 1.3 + 0.36 * len(table)), layout="constrained")
    axis = figure.subplots()
    axis.barh(place, table[score], color=_BLUE, height=0.6)
    if "low" in table:
        ends = np.abs(table[["low", "high"]].to_numpy() - table[[score]].to_numpy()).T
        axis.errorbar(table[score], place, xerr=np.nan_to_num(ends), fmt="none", ecolor="black", capsize=3)
    if "chance" in table:
        axis.plot(table["chance"], place, "|", color=_RED, markersize=14, markeredgewidth=2, label="random scores")
        axis.legend(fontsize=8)
    axis.set_yticks(place, table["group"], parse_math=False)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.grid(axis="x", color="#8884", linewidth=0.5)
    axis.set_xlabel(
        "mAP (exact metric on these images), 95 % interval" if score == "mAP" else "mean AP of matched cells"
    )
    return to_png(figure)

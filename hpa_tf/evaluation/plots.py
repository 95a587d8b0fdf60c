"""Figures of the evaluation, as PNG bytes; drawn without a display and without matplotlib's global state."""

import io

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hpa_tf.classes import CLASSES, NUM_CLASSES
from hpa_tf.evaluation.metric import Evaluation

_GRID = (4, 5)
_BLUE, _GREY, _RED = "#3568c9", "#999999", "#c23b3b"


def to_png(figure: Figure) -> bytes:
    """Return a figure as PNG bytes; equal figures give equal bytes."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return stream.getvalue()


def class_grid(title: str, x_label: str, y_label: str) -> tuple[Figure, list]:
    """Return a figure with one small plot a class, and the 19 axes."""
    figure = Figure(figsize=(15, 10.5), layout="constrained")
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
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        axis.plot(recall, precision, color=_GREY, linewidth=0.6)
        axis.step(np.concatenate([[0], recall]), np.concatenate([envelope[:1], envelope]), color=_BLUE, linewidth=1.4)
        axis.text(0.03, 0.06, f"AP {ap[class_id]:.3f}", fontsize=9)
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
    axis.set_yticks(place, rows["variant"])
    axis.invert_yaxis()
    axis.grid(axis="x", color="#8884", linewidth=0.5)
    axis.set_xlabel(f"difference to the baseline's mAP of {table['mAP'].iloc[0]:.4f}")
    axis.legend(fontsize=8)
    return to_png(figure)

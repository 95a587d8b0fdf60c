"""Figures that more than one stage draws, as PNG bytes: without a display, and equal figures give equal bytes."""

import io

import pandas as pd
from matplotlib.figure import Figure

_BLUE = "#3568c9"


def to_png(figure: Figure) -> bytes:
    """Return a figure as PNG bytes; equal figures give equal bytes."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return stream.getvalue()


def training_curve(history: pd.DataFrame) -> bytes:
    """Draw training loss, and validation soft-label mAP where there is any, by epoch, as PNG.

    Args:
        history: Of history.csv: the columns epoch, loss and mAP.
    """
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    measured = history["mAP"].notna().any()
    axes = figure.subplots(1, 2) if measured else [figure.subplots()]
    shown = (("loss", "training loss"), ("mAP", "soft-label mAP, validation cells"))[: len(axes)]
    for axis, (name, label) in zip(axes, shown, strict=True):
        axis.plot(history["epoch"], history[name], marker="o", markersize=3, color=_BLUE)
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
    if measured:
        axes[1].set_ylim(0, 1.1 * history["mAP"].max() or 1)
    return to_png(figure)

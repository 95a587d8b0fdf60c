"""The table and the figures of the ladder, from the scores that its rows have written."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ladder_scores import NUCLEAR_MEMBRANE, SHOWN, Found, Scored, Scorer, Truth, closed, most_probable, shown
from matplotlib.figure import Figure

from hpa_tf import files
from hpa_tf.classes import CLASSES, NEGATIVE
from hpa_tf.evaluation.bootstrap import interval
from hpa_tf.evaluation.plots import to_png

PLAIN, BEST, COPIED = "plain image labels on crops", "bound: true cell labels", "bound: image labels copied"
COUNTED = (PLAIN, "Puzzle-CAM", "FCAN", "duo-branch", BEST)
DRAWN = {
    BEST: "#222222",
    "plain, mixed .6/.4 with the image's mean": "#c2571a",
    "plain x that duo-branch, mixed .6/.4": "#1a8ca3",
    PLAIN: "#3568c9",
    "duo-branch": "#2f8f5b",
    "FCAN": "#8a4fb5",
    "student of image x cell": "#b08900",
}
"""Rows whose curve against the budget is drawn, with its colour."""
_HEADER = ("budget", "row", "seeds", "mAP", "difference to plain", "gap closed", *SHOWN, "training s", "cells/s")


class Budget(Scorer):
    """The rows of one budget."""

    def __init__(self, folder: Path, names: Sequence[str], truth: Truth, num_samples: int):
        """Take the folder `budget-B`, the names of all rows, true labels and the number of resamples."""
        super().__init__(_read(folder, names), truth, num_samples)
        self.share = float(folder.name.partition("-")[2])

    def lines(self) -> list[str]:
        """Return the lines of the table."""
        return ["| " + " | ".join(self._cells(name)) + " |" for name in self.rows]

    def _cells(self, name: str) -> list[str]:
        """Return a line's cells; differences and shares are those of the seeds that all rows in them have."""
        row, facts = self.score(name), self.rows[name].facts
        training, asking, cells = (np.mean([one[key] for one in facts]) for key in ("training", "asking", "cells"))
        return [
            *(f"{self.share:g}", name, str(len(facts)), shown(row.mean, row.means)),
            self._difference(name),
            self._share_closed(name),
            *(f"{row.ap[c]:.3f}" for c in SHOWN.values()),
            *(f"{training:.0f}", f"{cells / asking:.0f}" if asking else ""),
        ]

    def _difference(self, name: str) -> str:
        seeds = self.common(name, PLAIN)
        if name == PLAIN or not seeds:
            return ""
        row, plain = self.score(name, seeds), self.score(PLAIN, seeds)
        return shown(row.mean - plain.mean, row.means - plain.means)

    def _share_closed(self, name: str) -> str:
        seeds = self.common(name, PLAIN, BEST)
        if name in (PLAIN, BEST) or not seeds:
            return ""
        return share_closed(*(self.score(one, seeds) for one in (name, PLAIN, BEST)))


def share_closed(row: Scored, plain: Scored, best: Scored) -> str:
    """Return the share of the gap that a row closes as text; "none" below plain, and where no gap is shown, that."""
    if row.mean <= plain.mean:
        return "none"
    low = np.quantile(best.means - plain.means, 0.025) if len(best.means) else best.mean - plain.mean
    return shown(*closed(row, plain, best)) if low > 0 else "no gap shown"


def write_table(out: str, names: list[str], truth: Truth, num_samples: int) -> str:
    """Write OUT/ladder.md, OUT/ladder_called.png and OUT/ladder_budgets.png, and return the text.

    Args:
        out: The ladder's folder.
        names: All rows, in the order of the table.
        truth: Of the test cells.
        num_samples: Resamples of the images.
    """
    folders = sorted(Path(out).glob("budget-*"), key=lambda path: float(path.name.partition("-")[2]))
    budgets = [budget for path in folders if (budget := Budget(path, names, truth, num_samples)).rows]
    head = (
        f"{len(truth.labels)} test cells of {truth.num_images} images. Brackets: 95 % over images. Seconds of two "
        "cores: of all trainings that a row rests on; cells a second while asking its networks. Differences and "
        "shares of the gap to true cell labels: of the seeds that all rows in them have."
    )
    lines = ["| " + " | ".join(_HEADER) + " |", "|" + "---|" * len(_HEADER)]
    text = "\n".join([head, "", *lines, *(line for budget in budgets for line in budget.lines()), ""])
    files.write_bytes(files.join(out, "ladder.md"), text.encode())
    if budgets:
        most = max(budgets, key=lambda one: (sum(name in one.rows for name in COUNTED), one.share))
        files.write_bytes(files.join(out, "ladder_called.png"), _figure_of_counts(most, truth))
        files.write_bytes(files.join(out, "ladder_budgets.png"), _figure_of_budgets(budgets))
    return text


def _read(folder: Path, names: Sequence[str]) -> dict[str, Found]:
    """Return what the rows have written, of all seeds that have them."""
    found = {}
    for name in names:
        places = {path.parents[2].name: path for path in folder.glob(f"seed-*/rows/{name.replace('/', '-')}/row.json")}
        places = dict(sorted(places.items()))
        if places:
            scores = {s: np.load(path.with_name("scores.npy"), allow_pickle=False) for s, path in places.items()}
            found[name] = Found(scores, [files.read_json(path) for path in places.values()])
    return found


def _figure_of_counts(budget: Budget, truth: Truth) -> bytes:
    """Draw how many test cells each row calls Nuclear membrane, and Negative, beside how many are; mean over seeds."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    names = [name for name in COUNTED if name in budget.rows][::-1]
    for axis, class_id in zip(figure.subplots(1, 2, sharey=True), (NUCLEAR_MEMBRANE, NEGATIVE), strict=True):
        counts = [
            np.mean([most_probable(scores, class_id) for scores in budget.rows[name].scores.values()]) for name in names
        ]
        axis.bar_label(axis.barh(names, counts, color="#3568c9"), fmt="%.0f", padding=3, fontsize=8)
        axis.axvline(int(truth.labels[:, class_id].sum()), color="#c23b3b", label="cells that truly are")
        axis.set_title(CLASSES[class_id])
        axis.margins(x=0.15)
        axis.set_xlabel("cells of which it is the most probable class")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", fontsize=8, frameon=False)
    return to_png(figure)


def _figure_of_budgets(budgets: Sequence[Budget]) -> bytes:
    """Draw the rows' mAP against the budget, with 95 % intervals over images, and image labels copied as a line."""
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axis = figure.subplots()
    for name, colour in DRAWN.items():
        there = [budget for budget in budgets if name in budget.rows]
        if not there:
            continue
        shares, scored = [budget.share for budget in there], [budget.score(name) for budget in there]
        axis.plot(shares, [row.mean for row in scored], "o-", color=colour, label=name)
        if len(scored[0].means):
            low, high = np.transpose([interval(row.means, row.mean) for row in scored])
            axis.fill_between(shares, low, high, color=colour, alpha=0.15, lw=0)
    copied = [budget.score(COPIED).mean for budget in budgets if COPIED in budget.rows]
    if copied:
        axis.axhline(copied[0], color="#555555", ls="--", lw=1, label=COPIED)
    axis.set(xscale="log", xlabel="budget: examples that a training sees, as a share of the full one", ylabel="mAP")
    shares = [budget.share for budget in budgets]
    axis.set_xticks(shares, [f"{share:g}" for share in shares])
    axis.minorticks_off()
    axis.set_ylim(0)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return to_png(figure)

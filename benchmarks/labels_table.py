"""The table and the figure of `labels.py`, from the scores that its rows have written."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from labels_rows import BY_NAME, CLASSES_GRADED, CONTROL, COUNTS, ORDERS, ROWS, SECOND_STAGE
from ladder_scores import Found, Scored, Scorer, Truth, score, shown
from matplotlib.figure import Figure

from hpa_tf.evaluation.bootstrap import interval
from hpa_tf.evaluation.plots import to_png

HEADER = ("labels", "seeds", "mAP", "difference", "of the seeds", "graded classes", "difference", "with border rule",
          "difference", "training s", "the rule")  # fmt: skip
_GRADED = list(CLASSES_GRADED)


class RuleScorer(Scorer):
    """Scores rows as they are, and with the rule of border and outlier cells."""

    def __init__(self, found: Mapping[str, Found], truth: Truth, value: np.ndarray, num_samples: int):
        """Take the rows; the truth and the border and outlier values [N] of the test cells; resamples of images."""
        super().__init__(found, truth, num_samples)
        lowered = {
            name: replace(row, scores={seed: scores * value[:, None] for seed, scores in row.scores.items()})
            for name, row in found.items()
        }
        self._lowered = Scorer(lowered, truth, num_samples)

    def score(self, name: str, seeds: Sequence[int] | None = None, with_rule: bool = False) -> Scored:
        """Score a row; `with_rule`: its scores times the cells' values, as in prediction."""
        return self._lowered.score(name, seeds) if with_rule else super().score(name, seeds)

    def difference(self, name: str, seeds: Sequence[int], pick: Callable, with_rule: bool = False) -> str:
        """Return the difference to the row's base with its interval, as text."""
        row, base = (pick(self.score(one, seeds, with_rule)) for one in (name, BY_NAME[name].base))
        return shown(row.mean - base.mean, row.means - base.means)

    def means(self, name: str, seeds: Sequence[int]) -> list[float]:
        """Return the mAP of each seed."""
        return [score(self._truth, [self.rows[name].scores[seed]], 0).mean for seed in seeds]


def everything(scored: Scored) -> Scored:
    """Return the APs of all classes."""
    return scored


def of_graded(scored: Scored) -> Scored:
    """Return the APs of the graded classes alone."""
    return Scored(scored.ap[_GRADED], scored.resampled[:, _GRADED])


def text_of(found: Mapping[str, Found], truth: Truth, value: np.ndarray, num_samples: int) -> tuple[str, bytes | None]:
    """Return the table, and the figure as PNG where the rows that it needs are there.

    Args:
        found: The rows that are there, by name.
        truth: Of the test cells.
        value: float [N], border and outlier value of each test cell as in prediction.
        num_samples: Resamples of the images.
    """
    scorer = RuleScorer(found, truth, value, num_samples)
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    names = [row.name for row in ROWS if row.name in found]
    lines += ["| " + " | ".join(_cells(name, scorer)) + " |" for name in names]
    graded = [name for name in names if " grades, " in name and name.startswith(SECOND_STAGE)]
    is_drawn = num_samples and CONTROL in found and graded
    return "\n".join(lines) + "\n", _figure(scorer) if is_drawn else None


def _cells(name: str, scorer: RuleScorer) -> list[str]:
    """Return a line of the table; differences are those of the seeds that both rows have."""
    row, base = scorer.rows[name], scorer.rows.get(BY_NAME[name].base)
    seeds = list(row.scores)
    both = [seed for seed in seeds if base is not None and base is not row and seed in base.scores]
    differences = ["", "", "", ""]
    if both:
        each = zip(scorer.means(name, both), scorer.means(BY_NAME[name].base, both), strict=True)
        differences = [
            scorer.difference(name, both, everything),
            ", ".join(f"{own - other:+.3f}" for own, other in each),
            scorer.difference(name, both, of_graded),
            scorer.difference(name, both, everything, with_rule=True),
        ]
    whole, lowered = scorer.score(name, seeds), scorer.score(name, seeds, with_rule=True)
    texts = [shown(one.mean, one.means) for one in (whole, of_graded(whole), lowered)]
    seconds = np.mean([facts["training"] for facts in row.facts])
    return [
        *(name, str(len(seeds)), texts[0], *differences[:2], texts[1], differences[2], texts[2], differences[3]),
        *(f"{seconds:.0f}", row.facts[0]["rule"]),
    ]


def _figure(scorer: RuleScorer) -> bytes:
    """Draw what a grade is worth: the gain over a second stage without grades, by the number of graded cells."""
    figure = Figure(figsize=(9, 4.0), layout="constrained")
    titles = ("all 19 classes", f"the {len(_GRADED)} graded classes")
    for axis, title, pick in zip(figure.subplots(1, 2), titles, (everything, of_graded), strict=True):
        for order, colour in zip(ORDERS, ("#3568c9", "#c2571a"), strict=True):
            names = {count: f"{SECOND_STAGE}{count} grades, {order}" for count in COUNTS}
            gains = {count: _gain(scorer, name, pick) for count, name in names.items() if name in scorer.rows}
            if gains:
                middle, low, high = np.transpose(list(gains.values()))
                axis.plot(list(gains), middle, "o-", color=colour, label=f"{order} order")
                axis.fill_between(list(gains), low, high, color=colour, alpha=0.15, lw=0)
        for rule, style in (("drop_unlikely", "--"), ("the truth", "-")):
            if SECOND_STAGE + rule in scorer.rows:
                gain = _gain(scorer, SECOND_STAGE + rule, pick)[0]
                axis.axhline(gain, color="#555", ls=style, lw=1, label=rule)
        axis.axhline(0, color="#555", ls=":", lw=1, label="no grades")
        axis.set(xscale="log", title=title, xlabel="cells graded of each of the classes", ylabel="gain in mAP")
        axis.set_xticks(COUNTS, [str(count) for count in COUNTS])
        axis.minorticks_off()
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    return to_png(figure)


def _gain(scorer: RuleScorer, name: str, pick: Callable) -> tuple[float, float, float]:
    """Return the gain over the second stage without grades, and its interval, of the seeds that both have."""
    both = scorer.common(name, CONTROL)
    row, base = (pick(scorer.score(one, both)) for one in (name, CONTROL))
    gain = row.mean - base.mean
    return gain, *interval(row.means - base.means, gain)

"""The table and the figure of the ladder, from the scores that its rows have written."""

from pathlib import Path

import numpy as np
from ladder_scores import NUCLEAR_MEMBRANE, SHOWN, Scored, Truth, called, closed, score, shown
from matplotlib.figure import Figure

from hpa_tf import files
from hpa_tf.classes import CLASSES, NEGATIVE
from hpa_tf.evaluation.plots import to_png

PLAIN, BEST = "plain image labels on crops", "bound: true cell labels"
COUNTED = (PLAIN, "Puzzle-CAM", "FCAN", BEST)
_HEADER = ("row", "seeds", "mAP", "difference to plain", *SHOWN, "gap closed", "training s", "cells/s")


def write_table(out: str, names: list[str], truth: Truth, num_samples: int) -> str:
    """Write OUT/ladder.md and OUT/ladder.png, and return the text.

    Args:
        out: The ladder's folder.
        names: All rows, in the order of the table.
        truth: Of the test cells.
        num_samples: Resamples of the images.
    """
    sections, counts = [], {}
    for folder in sorted(Path(out).glob("budget-*"), key=lambda path: float(path.name.partition("-")[2])):
        found = _read(folder, names)
        if found:
            sections += [f"## Budget {folder.name.partition('-')[2]}", "", *_section(found, truth, num_samples), ""]
            counts = {name: one["scores"][0] for name, one in found.items() if name in COUNTED}
    head = (
        f"{len(truth.labels)} test cells of {truth.num_images} images. Brackets: 95 % over images. Seconds of two "
        "cores: of all trainings that a row rests on; cells a second while asking its networks."
    )
    text = "\n".join([head, "", *sections])
    files.write_bytes(files.join(out, "ladder.md"), text.encode())
    if counts:
        files.write_bytes(files.join(out, "ladder.png"), _figure(counts, truth))
    return text


def _read(folder: Path, names: list[str]) -> dict[str, dict]:
    """Return scores and facts of each row, of all seeds that have it."""
    found: dict[str, dict] = {}
    for name in names:
        places = sorted(folder.glob(f"seed-*/rows/{name.replace('/', '-')}/row.json"))
        if places:
            facts = [files.read_json(path) for path in places]
            scores = [np.load(path.with_name("scores.npy"), allow_pickle=False) for path in places]
            found[name] = {"facts": facts, "scores": scores}
    return found


def _section(found: dict[str, dict], truth: Truth, num_samples: int) -> list[str]:
    scored = {name: score(truth, one["scores"], num_samples) for name, one in found.items()}
    lines = ["| " + " | ".join(_HEADER) + " |", "|" + "---|" * len(_HEADER)]
    for name, one in found.items():
        row, plain, best = scored[name], scored.get(PLAIN), scored.get(BEST)
        facts = {key: np.mean([fact[key] for fact in one["facts"]]) for key in ("training", "asking", "cells")}
        cells = [name, str(len(one["scores"])), shown(row.mean, row.means)]
        cells.append(_difference(row, plain) if plain and name != PLAIN else "")
        cells += [f"{row.ap[c]:.3f}" for c in SHOWN.values()]
        is_between = plain and best and name not in (PLAIN, BEST)
        cells.append(_share_closed(row, plain, best) if is_between else "")
        cells += [f"{facts['training']:.0f}", f"{facts['cells'] / facts['asking']:.0f}" if facts["asking"] else ""]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _difference(row: Scored, plain: Scored) -> str:
    return shown(row.mean - plain.mean, row.means - plain.means)


def _share_closed(row: Scored, plain: Scored, best: Scored) -> str:
    """Return the share of the gap that a row closes; where there is no gap to speak of, that."""
    low = np.quantile(best.means - plain.means, 0.025) if len(best.means) else best.mean - plain.mean
    return shown(*closed(row, plain, best)) if low > 0 else "no gap shown"


def _figure(scores: dict[str, np.ndarray], truth: Truth) -> bytes:
    """Draw how many test cells each row calls Nuclear membrane, and Negative, beside how many are."""
    figure = Figure(figsize=(9, 3.6))
    figure.subplots_adjust(left=0.24, right=0.98, bottom=0.16, top=0.88, wspace=0.08)
    names = [name for name in COUNTED if name in scores]
    for axis, class_id in zip(figure.subplots(1, 2, sharey=True), (NUCLEAR_MEMBRANE, NEGATIVE), strict=True):
        axis.barh(names[::-1], [called(scores[name], class_id) for name in names[::-1]], color="#3568c9")
        axis.axvline(int(truth.labels[:, class_id].sum()), color="#c23b3b", label="truly")
        axis.set_title(CLASSES[class_id])
        axis.set_xlabel("cells with a score of 0.5 or more")
        axis.legend(loc="lower right")
    return to_png(figure)

"""Is the bench as hard as reality? The reference training on it, beside the 50 best teams of the competition.

    python benchmarks/bench_calibration.py --out bench

Generates the bench (`hpa-tf generate bench`), trains EfficientNet-Lite0 from ImageNet weights at 64 px on its 900
images (6 epochs of 12,288 cells, 13 minutes on 2 free cores) twice: on the image labels, as the competition asks for,
and on the true labels of the cells, which is the ceiling. Scores both on the test set with the competition's metric.
Each step continues where a stopped one left; `--epochs` and `--cells` make it shorter.
"""

import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from scipy.stats import spearmanr

from hpa_tf import files
from hpa_tf.classes import CLASSES

REAL_AP = (68, 68, 63, 50, 57, 36, 25, 51, 49, 48, 63, 38, 33, 42, 55, 52, 44, 31, 34)
"""Private AP in %, mean over the 50 best teams, classes 0 to 18. Source: SYSTEMS 4."""
REAL_COPIED = 0.57
"""mAP of image labels copied to every cell, on 164 real images. Source: METHODS 5."""
_SCALE = ("--um-per-px", "0.32")


@dataclass(frozen=True)
class Options:
    """What is run."""

    out: str = "bench"
    """Folder to work in."""
    epochs: int = 6
    """Epochs of the reference training."""
    cells: int = 12_288
    """Cells of an epoch."""
    ceiling: bool = True
    """Also train on the cells' true labels."""


def run(*words: object) -> None:
    """Run an `hpa-tf` command; end with its exit code if it fails."""
    command = [str(word) for word in words]
    print(f"\n$ hpa-tf {shlex.join(command)}", flush=True)
    if code := subprocess.call([sys.executable, "-m", "hpa_tf.command_line", *command]):
        sys.exit(code)


def score(options: Options, labels: str) -> dict:
    """Train on `labels` ("image" or "cell"), predict the test set, and return its scores."""
    out = Path(options.out)
    test, folder = out / "test", out / f"{labels}_labels"
    training = ["--recipe", "cpu_lite0", "--recipe.optimization.epochs", options.epochs]
    training += ["--recipe.optimization.schedule.epochs", options.epochs, "--recipe.sampling.num-cells", options.cells]
    if labels == "cell":
        training += ["--labels", out / "train" / "truth.parquet"]
    run("train", "--data", out / "shards", "--out", folder / "run", *training)
    pictures = ("--images", test / "images", "--masks", test / "masks", "--report-images", 0, "--no-overlays")
    run("predict", "--run", folder / "run", *pictures, *_SCALE, "--out", folder / "predictions")
    truth = ("--truth-masks", test / "masks", "--truth-labels", test / "truth.parquet")
    submission = ("--submission", folder / "predictions" / "submission.csv", "--out", folder / "scores")
    run("score", *truth, "--image-labels", test / "train.csv", *submission)
    return files.read_json(folder / "scores" / "scores.json")


def table(weak: dict, ceiling: dict | None) -> str:
    """Return the comparison as a Markdown table and what follows from it."""
    lines = ["| class | 50 best teams | bench | 95 % interval | ceiling |", "|---|---|---|---|---|"]
    found = []
    for name, real in zip(CLASSES, REAL_AP, strict=True):
        ap, (low, high) = weak["AP"][name], weak["AP_interval"][name]
        top = f"{ceiling['AP'][name]:.2f}" if ceiling else ""
        lines.append(f"| {name} | {real / 100:.2f} | {ap:.2f} | {low:.2f} to {high:.2f} | {top} |")
        found.append(ap)
    differences = np.array(found) - np.array(REAL_AP) / 100
    low, high = weak["mAP_interval"]
    lines += [
        "",
        f"mean {weak['mAP']:.3f} [{low:.3f}, {high:.3f}] (50 best teams {np.mean(REAL_AP) / 100:.3f})",
        f"largest difference of a class {np.abs(differences).max():.2f} ({CLASSES[np.abs(differences).argmax()]})",
        f"classes off by more than .2: {[CLASSES[c] for c in np.flatnonzero(np.abs(differences) > 0.2)]}",
        f"rank correlation over classes {spearmanr(found, REAL_AP)[0]:.2f}",
        *(f"{name} {scores['mAP']:.3f}" for name, scores in weak["baselines"].items()),
        f"image labels copied, on real images {REAL_COPIED}",
    ]
    if ceiling:
        lines.append(f"ceiling: trained on true cell labels {ceiling['mAP']:.3f} {ceiling['mAP_interval']}")
    return "\n".join(lines)


def main(options: Options) -> None:
    """Run everything and print the table."""
    out = Path(options.out)
    run("generate", "bench", "--out", out)  # a moment where it is there; another bench is refused
    train = out / "train"
    sources = ("--images", train / "images", "--labels", train / "train.csv", "--masks", train / "masks", *_SCALE)
    run("build", *sources, "--encoding", "npy", "--out", out / "shards")
    weak = score(options, "image")
    ceiling = score(options, "cell") if options.ceiling else None
    text = table(weak, ceiling)
    print("\n" + text)
    files.write_bytes(out / "calibration.md", text.encode())


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

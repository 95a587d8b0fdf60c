"""The whole path on generated images, one command after the other, each printed as a user would type it.

Generated images with known truth -> shards -> network -> predictions -> score -> one page. Each step continues where
a stopped demo left.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hpa_tf import child_commands, files
from hpa_tf.errors import InputError

UM_PER_PX = "0.32"
TRAIN_SEED, TEST_SEED = "1", "2"


@dataclass(frozen=True)
class Demo:
    """Generate images, train, predict and score; writes report.html into the folder."""

    out: str = "demo"
    """Folder to write to; a demo that was stopped continues there."""
    recipe: str = "cpu_lite0"
    """Recipe to train: cpu_lite0 starts from ImageNet weights; cpu_b0 is EfficientNetB0 from random weights."""
    train_images: int = 240
    """Images to train on."""
    test_images: int = 48
    """Images to test on."""
    options: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """After `--`: further options of the training."""


def steps(demo: Demo) -> list[list[str]]:
    """Return the commands of the demo, without `hpa-tf`."""
    out = Path(demo.out)
    train, test, run = out / "train", out / "test", out / "run"
    generate = ["generate", "--size", "512", "--balance", "1"]
    scale = ["--um-per-px", UM_PER_PX]
    pictures = ["--images", test / "images", "--masks", test / "masks"]
    results = ["--predictions", out / "predictions", "--scores", out / "scores"]
    truth = ["--truth-labels", test / "truth.parquet"]
    commands = [
        [*generate, "--out", train, "--num-images", demo.train_images, "--seed", TRAIN_SEED],
        [*generate, "--out", test, "--num-images", demo.test_images, "--seed", TEST_SEED],
        ["build", "--images", train / "images", "--labels", train / "train.csv", "--masks", train / "masks", *scale]
        + ["--out", out / "shards"],
        ["train", "--data", out / "shards", "--out", run, "--recipe", demo.recipe, *demo.options],
        ["predict", "--run", run, *pictures, *scale, "--heat-maps", "--image-labels", test / "train.csv"]
        + ["--out", out / "predictions"],
        ["score", "--truth-masks", test / "masks", *truth, "--image-labels", test / "train.csv"]
        + ["--submission", out / "predictions" / "submission.csv", "--out", out / "scores"],
        ["heat", "--predictions", out / "predictions", *pictures, *truth, "--out", out / "heat"],
        ["page", "--run-folder", run, *results, *pictures, *truth, *scale, "--heat", out / "heat"]
        + ["--out", out / "report.html"],
    ]
    return [[str(word) for word in command] for command in commands]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit code of the step that failed, or 0."""
    demo = tyro.cli(Demo, args=files.expand_home(arguments), prog="hpa-tf demo")
    if demo.options and not demo.options[0].startswith("-"):  # said now, not by the training
        fix = "write a folder whose name has spaces in quotation marks"
        error = InputError(
            "hpa-tf demo", repr(demo.options[0]), "an option of the training, such as --recipe.seed 1", fix
        )
        print(error, file=sys.stderr)
        return 2
    start = time.monotonic()
    for command in steps(demo):
        if code := child_commands.run("hpa-tf demo", command):
            return code
    page = Path(demo.out, "report.html").resolve()
    print(f"\nDone in {(time.monotonic() - start) / 60:.1f} minutes. Open {page.as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

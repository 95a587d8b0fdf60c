"""The whole path on generated images, one command after the other, each printed as a user would type it.

Generated images with known truth -> shards -> network -> predictions -> score -> one page. Each step continues where
a stopped demo left.
"""

import shlex
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
_OWN = (
    *("--data", "--out", "--recipe", "--system", "--folds", "--show-sampling"),
    *("--out-of-fold", "--readout", "--fine-tune", "--member-weights"),
)
"""Options of the training that the demo gives itself, after which there is no one network to ask, or beside those."""


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


def check(demo: Demo) -> None:
    """Check, before the first image, what only the training would refuse, or the steps after it.

    Raises:
        InputError: A word is no option of the training, the demo gives the option itself, or the recipe is unknown or
            trains more than one network.
    """
    if demo.options and not demo.options[0].startswith("-"):
        fix = f"--out {shlex.quote(demo.options[0])}, if it is the folder; a name with spaces in quotation marks"
        expected = "an option of the training, such as --recipe.seed 1"
        raise InputError("hpa-tf demo", repr(demo.options[0]), expected, fix)
    for word in demo.options:
        if (option := word.partition("=")[0].replace("_", "-")) in _OWN:
            fix = f"give {option} before --" if option in ("--out", "--recipe") else f"leave {option} out"
            raise InputError("hpa-tf demo", f"{option} after --", "other options of the training of one network", fix)
    if demo.recipe != Demo.recipe:
        from hpa_tf.recipes import RECIPES, recipe_named
        from hpa_tf.recipes.relabel import is_relabelling

        if is_relabelling(recipe_named(demo.recipe)):
            names = ", ".join(recipe.name for recipe in RECIPES if not is_relabelling(recipe))
            raise InputError("--recipe", f"{demo.recipe}, one network for each class", f"one of {names}", "choose one")


def fields_of(name: str) -> list[str]:
    """Return what the build is told so that a recipe finds the fields of view that it sees."""
    if name == Demo.recipe:  # cells alone: known without TensorFlow
        return []
    from hpa_tf.recipes import recipe_named
    from hpa_tf.training.inputs import field_size

    size = field_size(recipe_named(name))
    return ["--fields", str(size)] if size else []


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
        + ["--out", out / "shards", *fields_of(demo.recipe)],
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
    if demo.recipe != Demo.recipe:
        from hpa_tf.quiet import import_tensorflow

        import_tensorflow()
    try:
        check(demo)
    except InputError as error:
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

"""Make the small network that finds cells: fields with known cells -> training -> its file. 10 minutes on 2 cores.

Each step continues where a stopped one left.
"""

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from hpa_tf import child_commands, files, interrupts
from hpa_tf.errors import HpaError, InputError
from hpa_tf.imaging.segmentation.small import WEIGHTS
from hpa_tf.make_starter import is_made

SETS = {
    "real": ("--difficulty", "real", "--seed", "81"),
    "easy": ("--seed", "82"),
}
"""The generated sets, and how they are asked for; 512 px, 0.32 um/px."""


@dataclass(frozen=True)
class MakeSmallSegmenter:
    """Generate fields, train, and write the network to the package's data. Needs the extra [onnx]."""

    out: str = "small-segmenter-build"
    """Folder to work in; one that was stopped continues there."""
    real_images: int = 480
    """Fields of real difficulty."""
    easy_images: int = 96
    """Easy fields."""
    steps: int = 1200
    """Steps of training, 8 tiles of 128 px each."""
    package: str = str(WEIGHTS)
    """File to write. The default replaces the network of the package, which `build` and `predict.py` then use."""

    def commands(self) -> list[list[str]]:
        """Return the commands that generate what is not there yet, without `hpa-tf`."""
        numbers = (self.real_images, self.easy_images)
        return [
            ["generate", "--out", str(Path(self.out) / name), "--num-images", str(number), *options]
            for (name, options), number in zip(SETS.items(), numbers, strict=True)
            if not is_made(Path(self.out) / name, number)
        ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all steps; return the exit code of the step that failed, or 0."""
    asked = tyro.cli(MakeSmallSegmenter, args=files.expand_home(arguments), prog="hpa-tf make-small-segmenter")
    try:
        if asked.steps < 1:
            raise InputError("--steps", asked.steps, "1 or more", "leave it out, or give a larger number")
        files.check_can_be_written("--package", asked.package)
        if importlib.util.find_spec("tf2onnx") is None:  # said now, not after the training
            raise InputError("tf2onnx", "it is not installed", "tf2onnx", "pip install 'hpa_tf[onnx]'")
        for command in asked.commands():
            if code := child_commands.run("hpa-tf make-small-segmenter", command):
                return code
        _train(asked)
    except HpaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _train(asked: MakeSmallSegmenter) -> None:
    from hpa_tf import quiet

    interrupts.keeps("fields and the last checkpoint are kept; the same command continues")
    quiet.import_tensorflow()
    from hpa_tf.segmenting.learning import Training, train, write_onnx

    folders = tuple(str(Path(asked.out) / name) for name in SETS)
    with files.full_disk_explained(asked.out):
        network = train(Training(folders, asked.out, asked.steps))
        write_onnx(network, asked.package)
    print(f"the small network is in {asked.package}")


if __name__ == "__main__":
    sys.exit(main())

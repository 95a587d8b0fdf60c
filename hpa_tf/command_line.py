"""`hpa-tf COMMAND ...`: every command of the project under one name; each is imported only when it is asked for."""

import difflib
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from hpa_tf import interrupts


@dataclass(frozen=True)
class Command:
    """A command and where it is.

    Attributes:
        does: One line for `hpa-tf --help`.
        module: Module whose `main(arguments)` runs it.
        first: Arguments that `main` gets before those of the command line.
        same_as: The command in a checkout of the repository.
        tensorflow: Whether it needs TensorFlow from the start.
    """

    does: str
    module: str
    first: tuple[str, ...]
    same_as: str
    tensorflow: bool = False


def _builder(name: str, does: str) -> Command:
    return Command(does, "tfrecords_builder.__main__", (name,), f"python -m tfrecords_builder {name}")


def _evaluation(name: str, does: str) -> Command:
    return Command(does, "hpa_tf.evaluation.__main__", (name,), f"python -m hpa_tf.evaluation {name}")


def _serving(name: str, does: str) -> Command:
    return Command(does, "hpa_tf.serving.__main__", (name,), f"python -m hpa_tf.serving {name}")


COMMANDS: dict[str, Command] = {
    "demo": Command("the whole path on generated images, with a report", "hpa_tf.demo", (), "make demo"),
    "segment": Command(
        "images -> masks of nuclei and cells", "hpa_tf.segmenting.__main__", (), "python -m hpa_tf.segmenting"
    ),
    "build": _builder("build", "images and labels -> shards of cells"),
    "verify": _builder("verify", "check every record of a data folder"),
    "repair": _builder("repair", "rebuild the bad shards of a data folder"),
    "inspect": _builder("inspect", "counts and a contact sheet of a data folder"),
    "index": _builder("index", "the table of whole fields, for shards of an earlier version"),
    "grade": Command(
        "grade single cells by hand in the browser", "hpa_tf.grading.command", (), "python -m hpa_tf.grading"
    ),
    "grades": _builder("grades", "journals of grades -> one table"),
    "label": _builder("label", "a rule: tables -> a table of soft labels"),
    "diff": _builder("diff", "what changed between two tables of labels"),
    "train": Command("train a network or a system", "hpa_tf.training.command", (), "python train.py", tensorflow=True),
    "predict": Command("images -> scores of each cell", "hpa_tf.prediction.command", (), "python predict.py"),
    "merge": Command(
        "join the parts of a prediction", "hpa_tf.prediction.merge", (), "python -m hpa_tf.prediction.merge"
    ),
    "score": _evaluation("score", "mAP of a submission against known cells"),
    "cells": _evaluation("cells", "AP and AUC of a cell table against labels of the same cells"),
    "check": _evaluation("check", "read a submission and say what is wrong with it"),
    "diagnose": _evaluation("diagnose", "which cells are wrong, and how"),
    "heat": _evaluation("heat", "whether heat maps lie on the protein"),
    "ablation": _evaluation("ablation", "what each step of a system is worth"),
    "outlines": _evaluation("outlines", "cells of a prediction as GeoJSON, for QuPath and napari"),
    "page": _evaluation("page", "one page about a run and its score"),
    "serve": _serving("serve", "answer over HTTP, with TensorFlow Serving's paths"),
    "onnx": _serving("onnx", "write a run as ONNX"),
    "bioimageio": _serving("bioimageio", "write a run as a bioimage.io package"),
    "make-starter": Command("make the starter network again", "hpa_tf.make_starter", (), "make starter"),
    "make-small-segmenter": Command(
        "make the small network that finds cells again",
        "hpa_tf.make_small_segmenter",
        (),
        "python -m hpa_tf.make_small_segmenter",
    ),
    "generate": Command("images with known truth", "hpa_tf.synthetic.__main__", (), "python -m hpa_tf.synthetic"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: that of the command, or 2 for a name that there is not."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(help_text())
        return 0
    name, *rest = arguments
    if name == "--version":
        from hpa_tf import __version__

        print(__version__)
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        fix = f"did you mean {near[0]!r}?" if near else "hpa-tf --help lists the commands"
        print(f"hpa-tf: found the command {name!r}; expected one of {', '.join(COMMANDS)}. Fix: {fix}", file=sys.stderr)
        return 2
    command = COMMANDS[name]
    if command.tensorflow:
        from hpa_tf.quiet import import_tensorflow

        import_tensorflow()
    return importlib.import_module(command.module).main([*command.first, *rest])


def help_text() -> str:
    """Return the text of `hpa-tf --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.does}  [{command.same_as}]" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "hpa-tf COMMAND [OPTIONS]: where in the cell is a protein? For each cell, learned from labels of images.",
            "",
            *lines,
            "",
            "In brackets: the same command in a checkout. hpa-tf COMMAND --help lists its options.",
        ]
    )


def program() -> int:
    """Run `main` as this process's program: Ctrl-C and SIGTERM end it with one line."""
    return interrupts.run(" ".join(["hpa-tf", *sys.argv[1:2]]), main)


if __name__ == "__main__":
    sys.exit(program())

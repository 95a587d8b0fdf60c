"""Command line: `python -m hpa_tf.segmenting --images DIR --out MASKS`, `... convert FILE`."""

import os
import sys
import threading
import time
from collections.abc import Sequence

from hpa_tf import interrupts
from hpa_tf.imaging.segmentation.child_process import PARENT_VARIABLE

PROGRAM = "python -m hpa_tf.segmenting"
EXIT_FAILURES, EXIT_INPUT = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code: 0, 1 if images were left out, 2 for bad input."""
    import tyro

    from hpa_tf import files, quiet
    from hpa_tf.errors import HpaError
    from hpa_tf.segmenting import published
    from hpa_tf.segmenting.convert import ConvertOptions, convert
    from hpa_tf.segmenting.options import Options
    from hpa_tf.segmenting.program import segment

    arguments = files.expand_home(arguments)
    try:
        if arguments[:1] == ["convert"]:
            asked = tyro.cli(ConvertOptions, args=arguments[1:], prog=f"{PROGRAM} convert")
            quiet.import_tensorflow()
            with files.full_disk_explained(asked.out):
                converted = convert(asked)
            sees = "sees yellow" if converted.yellow else "does not see yellow"
            print(f"{asked.file}: the {converted.network} network, which {sees}; its weights are in {asked.out}")
            return 0
        options = tyro.cli(Options, args=arguments, prog=PROGRAM, description=_description())
        options.check()
        if options.segmenter == "hpa":
            published.read_descriptions(options.weights_folder)  # at once, not after TensorFlow's start
            quiet.import_tensorflow()
        with files.full_disk_explained(options.out):
            outcome = segment(options)
    except HpaError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return EXIT_INPUT
    print(_summary(options.out, outcome))
    return EXIT_FAILURES if outcome.failures and not options.allow_failures else 0


def _description() -> str:
    return f"Write masks of nuclei and cells. `{PROGRAM} convert FILE` first converts the published weights."


def _summary(out: str, outcome) -> str:
    rate = f", {outcome.num_segmented / outcome.seconds:.2f} images/s" if outcome.num_segmented else ""
    lines = [f"{outcome.num_images} images, masks in {out}: {outcome.num_segmented} segmented now{rate}"]
    if outcome.num_segmented:
        lines.append(f"{outcome.num_cells} cells in them")
    if outcome.num_changed:
        lines.append(f"{outcome.num_changed} images or their settings changed since: old masks dropped")
    if outcome.failures:
        lines.append(f"{len(outcome.failures)} images left out: {out}/failures.csv")
    return "\n".join(lines)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone: a killed process cannot tell its children."""
    parent = os.environ.get(PARENT_VARIABLE, "")
    while parent == str(os.getppid()):
        time.sleep(0.5)
    if parent:
        os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(interrupts.run(PROGRAM, main))

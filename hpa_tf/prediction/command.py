"""The command line of `predict.py`: options, summary, exit codes."""

import sys
from collections.abc import Sequence

import tyro

from hpa_tf import files
from hpa_tf.errors import HpaError, counted, printable
from hpa_tf.prediction.options import Options
from hpa_tf.prediction.predict import predict
from hpa_tf.prediction.report import REPORT
from hpa_tf.prediction.stages import FAILURES, Outcome
from hpa_tf.prediction_folder import CELLS, SUBMISSION

EXIT_FAILURES, EXIT_INPUT = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0, 1 if images were skipped, 2 for bad input."""
    try:
        options = tyro.cli(Options, args=files.expand_home(arguments), prog="predict.py")
        with files.full_disk_explained(options.out):
            outcome = predict(options)
    except HpaError as error:
        return fail("predict.py", error)
    print(printable(summary(options, outcome)))
    return EXIT_FAILURES if outcome.failures and not options.allow_failures else 0


def fail(program: str, error: HpaError) -> int:
    """Print an error as one line; return the exit code."""
    print(f"{program}: {error}", file=sys.stderr)
    return EXIT_INPUT


def summary(options: Options, outcome: Outcome) -> str:
    """Say in a few lines what was done."""
    lines = [f"{counted(outcome.num_images, 'image')} in {options.out}: {outcome.num_predicted} predicted now"]
    if outcome.num_changed:
        what = f"{counted(outcome.num_changed, 'image')} changed (or masks or shards did)"
        lines.append(f"{what} since the last call: old results dropped")
    if outcome.num_cells:
        share = outcome.num_lowered / outcome.num_cells
        lines.append(f"{outcome.num_cells} cells, {share:.0%} of them lowered by a rule (column rule of {CELLS})")
    if outcome.failures:
        lines.append(f"{counted(len(outcome.failures), 'image')} skipped: {files.join(options.out, FAILURES)}")
    if not outcome.num_images:
        return "\n".join([*lines, "no image could be predicted, so there are no scores"])
    shown = f"look at {files.join(options.out, REPORT)}; " if options.report_images else ""
    lines.append(f"{shown}scores: {files.join(options.out, SUBMISSION)}, {files.join(options.out, CELLS)}")
    return "\n".join(lines)

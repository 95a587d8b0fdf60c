"""Command line: `python -m tfrecords_builder build|verify|repair|inspect`."""

import sys
from typing import Annotated

import tyro

from hpa_tf.errors import InputError
from tfrecords_builder.build import FAILURES_NAME, build
from tfrecords_builder.options import BuildOptions

_Command = Annotated[BuildOptions, tyro.conf.subcommand("build")]


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 for images left out or faults found, 2 for bad input."""
    try:
        command = tyro.extras.subcommand_cli_from_dict(
            {"build": _run_build}, args=arguments, prog="python -m tfrecords_builder"
        )
        return command
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run_build(options: tyro.conf.OmitArgPrefixes[BuildOptions]) -> int:
    """Build TFRecord shards of single cells."""
    from hpa_tf import files

    build(options)
    left_out = files.exists(files.join(options.out, FAILURES_NAME))
    return 1 if left_out and not options.allow_failures else 0


if __name__ == "__main__":
    sys.exit(main())

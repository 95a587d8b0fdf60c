"""Command line: `python -m tfrecords_builder build|verify|repair|inspect`. Runs TensorFlow-free."""

import os
import sys
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from hpa_tf import files
from hpa_tf.errors import InputError
from tfrecords_builder.options import BuildOptions


@dataclass(frozen=True)
class Verify:
    """Check every record of a data folder against its manifest and cell table; exit code 1 if there are faults."""

    folder: tyro.conf.Positional[str]
    """Data folder."""
    deep: bool = False
    """Also decode every picture and measure every cell again."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes."""


@dataclass(frozen=True)
class Repair:
    """Rebuild exactly the bad shards of a data folder from the inputs that it was built from."""

    folder: tyro.conf.Positional[str]
    """Data folder."""
    deep: bool = False
    """Find bad shards as verify --deep does."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Worker processes."""


@dataclass(frozen=True)
class Inspect:
    """Print counts and distributions of a data folder and draw a contact sheet with cells of each class."""

    folder: tyro.conf.Positional[str]
    """Data folder."""
    sheet: str | None = None
    """PNG to write; default: contact_sheet.png in the data folder."""


Command = (
    Annotated[BuildOptions, tyro.conf.subcommand("build")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Repair, tyro.conf.subcommand("repair")]
    | Annotated[Inspect, tyro.conf.subcommand("inspect")]
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return 0, 1 where images were left out or faults found, or 2 for bad input."""
    try:
        command = tyro.cli(Command, args=arguments, prog="python -m tfrecords_builder", description=__doc__)
        return _run(command)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return 130


def _run(command: BuildOptions | Verify | Repair | Inspect) -> int:
    if isinstance(command, BuildOptions):
        from tfrecords_builder.build import FAILURES_NAME, build

        build(command)
        return int(files.exists(files.join(command.out, FAILURES_NAME)) and not command.allow_failures)
    if isinstance(command, Verify):
        from tfrecords_builder.verify import report, verify

        faults = verify(command.folder, command.deep, command.workers)
        print(report(faults) or f"{command.folder}: intact")
        return int(bool(faults))
    if isinstance(command, Repair):
        from tfrecords_builder.repair import repair

        rebuilt = repair(command.folder, command.deep, command.workers)
        print(f"rebuilt: {', '.join(rebuilt) or 'nothing, no shard was bad'}")
        return 0
    from tfrecords_builder.inspect import describe, write_contact_sheet

    print(describe(command.folder))
    sheet = command.sheet or files.join(command.folder, "contact_sheet.png")
    write_contact_sheet(command.folder, sheet)
    print(f"contact sheet: {sheet}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

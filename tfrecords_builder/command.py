"""The commands build, verify, repair, inspect, index, label, diff and grades. They run without TensorFlow."""

import os
import shlex
import sys
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from hpa_tf import files, records
from hpa_tf.errors import HpaError, InputError
from hpa_tf.worker_processes import num_cores
from tfrecords_builder.options import BuildOptions


@dataclass(frozen=True)
class Verify:
    """Check every record of a data folder against its manifest and cell table; exit code 1 if there are faults."""

    folder: tyro.conf.Positional[str]
    """Data folder."""
    deep: bool = False
    """Also decode every picture and measure every cell again."""
    workers: int = field(default_factory=num_cores)
    """Processes."""


@dataclass(frozen=True)
class Repair:
    """Rebuild exactly the bad shards of a data folder from the inputs that it was built from."""

    folder: tyro.conf.Positional[str]
    """Data folder."""
    deep: bool = False
    """Find bad shards as verify --deep does."""
    workers: int = field(default_factory=num_cores)
    """Worker processes."""


@dataclass(frozen=True)
class Inspect:
    """Print counts and distributions of a data folder and draw a contact sheet with cells of each class."""

    folder: tyro.conf.Positional[str]
    """Data folder."""
    sheet: str | None = None
    """PNG to write; default: contact_sheet.png in the data folder."""


@dataclass(frozen=True)
class Label:
    """Make a table of labels by a rule: label --rule NAME --out labels.parquet ...; label --help lists the rules."""


@dataclass(frozen=True)
class Diff:
    """Say what changed between two tables of labels, by class; --data draws the cells that changed most."""

    before: tyro.conf.Positional[str]
    """Table of labels, or a data folder."""
    after: tyro.conf.Positional[str]
    """Table of labels."""
    data: str | None = None
    """Data folder of the cells, for the pictures."""
    sheet: str | None = None
    """PNG to write; default, with --data: AFTER.changes.png."""
    page: str | None = None
    """HTML page to write; default, with --data: AFTER.changes.html."""
    count: int = 8
    """Cells of a class in the pictures."""


@dataclass(frozen=True)
class Grades:
    """Write hand grades as one table: class, grader, image_id, cell, grade, repeat, seconds, time."""

    folder: tyro.conf.Positional[str]
    """Folder that the grading page wrote."""
    out: str
    """CSV or Parquet file to write."""


@dataclass(frozen=True)
class Index:
    """Write images.parquet, the table of whole fields of view, for a folder whose shards an earlier version wrote."""

    folder: tyro.conf.Positional[str]
    """Data folder."""


Command = (
    Annotated[BuildOptions, tyro.conf.subcommand("build")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Repair, tyro.conf.subcommand("repair")]
    | Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[Index, tyro.conf.subcommand("index")]
    | Annotated[Label, tyro.conf.subcommand("label")]
    | Annotated[Diff, tyro.conf.subcommand("diff")]
    | Annotated[Grades, tyro.conf.subcommand("grades")]
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return 0, 1 where images were left out or faults found, or 2 for bad input."""
    arguments = files.expand_home(arguments)
    try:
        with files.full_disk_explained("--out"):
            if arguments[:1] == ["label"]:  # its options depend on the rule
                from tfrecords_builder import label

                label.run(arguments[1:])
                return 0
            command = tyro.cli(Command, args=arguments, prog="python -m tfrecords_builder", description=__doc__)
            return _run(command)
    except HpaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(command: BuildOptions | Verify | Repair | Inspect | Index | Label | Diff | Grades) -> int:
    if isinstance(command, BuildOptions):
        from tfrecords_builder.build import FAILURES_NAME, build

        manifest = build(command)
        alone = " --recipe.validation-fold -1" if manifest.num_folds == 1 else ""
        following = f"python train.py --strategy mirrored --data {shlex.quote(command.out)}{alone}"
        print(f"Written to {command.out}. Next: {following}")
        return int(FAILURES_NAME in (manifest.checksums or {}) and not command.allow_failures)
    if isinstance(command, Verify):
        from tfrecords_builder.verify import report, verify

        faults = verify(command.folder, command.deep, command.workers)
        print(report(faults) or f"{command.folder}: intact")
        if faults:
            print(f"Fix: python -m tfrecords_builder repair {shlex.quote(command.folder)}")
        return int(bool(faults))
    if isinstance(command, Repair):
        from tfrecords_builder.repair import repair

        rebuilt = repair(command.folder, command.deep, command.workers)
        print(f"rebuilt: {', '.join(rebuilt) or 'nothing, no shard was bad'}")
        return 0
    if isinstance(command, Index):
        from tfrecords_builder.field_shards import index

        print(f"{len(index(command.folder))} fields of view")
        return 0
    if isinstance(command, Diff):
        return _diff(command)
    if isinstance(command, Grades):
        return _grades(command)

    from tfrecords_builder.inspect import describe, write_contact_sheet

    if command.sheet:
        files.check_can_be_written("--sheet", command.sheet)
    records.read_manifest(command.folder)  # before a picture's place is made in a folder that is not there
    sheet = command.sheet or files.join(command.folder, "contact_sheet.png")
    files.check_can_be_written("--sheet", sheet)
    print(describe(command.folder))
    write_contact_sheet(command.folder, sheet)
    print(f"contact sheet: {sheet}")
    return 0


def _diff(command: Diff) -> int:
    from hpa_tf.cell_table import check_same_cells
    from hpa_tf.label_rules import read_labels
    from tfrecords_builder import label_diff, label_start

    if command.data is None and (command.sheet or command.page):
        raise InputError("--data", "none", "the data folder of the cells", "give it: the pictures are drawn from it")
    for option, path in (("--sheet", command.sheet), ("--page", command.page)):
        if path:
            files.check_can_be_written(option, path)
    if command.count < 1:
        raise InputError("--count", str(command.count), "1 or more", "change it")
    is_data = files.exists(files.join(command.before, records.MANIFEST_NAME))
    before = label_start.from_data(command.before) if is_data else read_labels(command.before)
    after = read_labels(command.after)
    check_same_cells(before.cells, after.cells, command.after)
    sheet = command.sheet or f"{command.after}.changes.png"
    page = command.page or f"{command.after}.changes.html"
    for option, path in (("--sheet", sheet), ("--page", page)) if command.data is not None else ():
        files.check_can_be_written(option, path)
    print(label_diff.describe(before, after))
    if command.data is not None:
        title = f"Labels: {os.path.basename(command.before.rstrip('/'))} to {os.path.basename(command.after)}"
        label_diff.write_pictures(before, after, command.data, sheet, page, command.count, title)
        print(f"most changed cells: {sheet}, {page}")
    return 0


def _grades(command: Grades) -> int:
    from hpa_tf.identity import check_table
    from hpa_tf.label_rules import describe_grades, grades_of_folder
    from hpa_tf.reporting import write_csv

    if not command.out.endswith((".csv", ".parquet")):
        raise InputError("--out", command.out, "a name that ends in .csv or .parquet", "choose one of them")
    check_table("--out", command.out)
    table, journals, _ = grades_of_folder(command.folder, None)
    if command.out.endswith(".csv"):
        write_csv(table, command.out)
    else:
        with files.atomic_writer(command.out) as stream:
            table.to_parquet(stream, index=False)
    print(describe_grades(journals))
    print(f"{command.out}: {len(table)} grades")
    return 0

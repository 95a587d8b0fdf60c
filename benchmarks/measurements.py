"""Run benchmarks and write docs/measurements.md from what they print; also: `make measurements`.

    python benchmarks/measurements.py                    every table that needs no images of yours
    python benchmarks/measurements.py loader demo        some of them; the demo's three runs only by name
    python benchmarks/measurements.py --fields DIR       those on real fields of view with cell masks too
    python benchmarks/measurements.py --render           only the page, from the tables that are there

Each table is kept with its command, commit, date, processor and time in docs/measurements.json. A table that is of
another commit than the newest one says so in the page: run it again before you rely on it.
"""

import datetime
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

ROOT = Path(__file__).resolve().parents[1]
RECORDS, PAGE = ROOT / "docs" / "measurements.json", ROOT / "docs" / "measurements.md"
FIELDS = "FIELDS"
"""Stands for the folder of real fields of view in a command."""


@dataclass(frozen=True)
class Table:
    """A benchmark and what its table shows.

    Attributes:
        title: Heading in the page.
        command: Words after `python`; short enough that all tables together take about a quarter of an hour.
        needs: A file below the repository without which it is left out.
        long: Measured only when it is named.
    """

    title: str
    command: tuple[str, ...]
    needs: str | None = None
    long: bool = False


_DEMO = ("--run", "demo/run", "--images", "demo/test/images", "--masks", "demo/test/masks")
TABLES = {
    "start": Table("Starting a command", ("benchmarks/start.py",)),
    "loader": Table(
        "Loading: cells/s of each stage", ("benchmarks/loader.py", "--sizes", "128", "--cells", "32", "--steps", "10")
    ),
    "train_step": Table("A training step beside PyTorch + timm", ("benchmarks/train_step.py", "--rounds", "3")),
    "predict_overlap": Table("Prediction against its floor", ("benchmarks/predict.py", "overlap", "--repeats", "1")),
    "predict_runtimes": Table("Runtimes of prediction", ("benchmarks/predict.py", "runtimes", "--repeats", "2")),
    "predict_tta": Table("Test-time views", ("benchmarks/predict.py", "tta", "--repeats", "1", "--num-images", "8")),
    "serving": Table("The HTTP server under load", ("benchmarks/serving.py", "--requests", "100")),
    "synthetic": Table(
        "Generated fields of view",
        ("benchmarks/synthetic.py", "--images", "2", "--sizes", "512", "2048", "--segment", "10"),
    ),
    "metric": Table("Scoring a submission", ("benchmarks/metric.py", "--num-images", "60", "--original-images", "0")),
    "grading": Table(
        "The grading page in a browser",
        ("benchmarks/grading.py", "--cells", "10000", "--presses", "60", "--decisions", "1000"),
    ),
    "heat_maps": Table(
        "Heat maps: do they lie on the protein?",
        ("benchmarks/heat_maps.py", *_DEMO, "--truth-labels", "demo/test/truth.parquet"),
        needs="demo/run/result.json",
    ),
    "demo": Table("The demo", ("benchmarks/demo.py",), long=True),
    "segmentation": Table("Segmentation", ("benchmarks/segmentation.py", "--images", FIELDS)),
    "encoding": Table("Encodings of cells", ("benchmarks/encoding.py", "--images", FIELDS, "--masks", FIELDS)),
}


@dataclass(frozen=True)
class Record:
    """One table as it was measured.

    Attributes:
        command: What was run.
        commit: Of the code.
        date: Day and minute, UTC; the newest is that of the newest table.
        processor: Its name and the number of cores.
        seconds: Wall time of the command.
        output: What it printed.
    """

    command: str
    commit: str
    date: str
    processor: str
    seconds: float
    output: str


@dataclass(frozen=True)
class Options:
    """Run benchmarks and write docs/measurements.md."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Tables to measure; default: all that can be."""
    fields: str | None = None
    """Folder of real fields of view with cell masks, for the tables that need one."""
    render: bool = False
    """Write the page only."""


def main(options: Options) -> int:
    """Measure, keep, and write the page; return 1 if a benchmark failed."""
    unknown = set(options.names) - set(TABLES)
    if unknown:
        print(f"measurements: found {sorted(unknown)}; expected some of {', '.join(TABLES)}", file=sys.stderr)
        return 2
    records = read_records()
    failed = []
    for name, table in TABLES.items():
        if options.render or not is_wanted(name, table, options):
            continue
        record = measure(table, options.fields)
        if record is None:
            failed.append(name)
            continue
        records[name] = record
        RECORDS.write_text(json.dumps({key: asdict(one) for key, one in records.items()}, indent=1) + "\n")
    PAGE.write_text(render(records))
    if failed:
        print(f"measurements: these failed and keep their older table: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def is_wanted(name: str, table: Table, options: Options) -> bool:
    """Tell whether a table is measured; say why not where it was named."""
    lacks = "--fields DIR" if FIELDS in table.command and not options.fields else None
    if table.needs is not None and not (ROOT / table.needs).exists():
        lacks = f"{table.needs} (make demo)"
    if lacks and name in options.names:
        print(f"measurements: {name} needs {lacks}", file=sys.stderr)
    return lacks is None and (name in options.names or (not options.names and not table.long))


def read_records() -> dict[str, Record]:
    """Return the kept tables by name."""
    if not RECORDS.exists():
        return {}
    return {name: Record(**values) for name, values in json.loads(RECORDS.read_text()).items() if name in TABLES}


def measure(table: Table, fields: str | None) -> Record | None:
    """Run one benchmark; None if it failed."""
    print(f"== {table.title}: {' '.join(table.command)}", flush=True)
    start = time.monotonic()
    words = [fields if word == FIELDS else word for word in table.command]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    print(result.stdout)
    if result.returncode:
        return None
    return Record(
        command=f"python {' '.join(table.command)}",
        commit=_commit(),
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
        processor=f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        seconds=round(time.monotonic() - start, 1),
        output=result.stdout.strip("\n"),
    )


def _commit() -> str:
    """Return the short name of the commit; with + where files differ from it."""
    git = ["git", "-C", str(ROOT)]
    name = subprocess.check_output([*git, "rev-parse", "--short=7", "HEAD"], text=True).strip()
    changed = subprocess.check_output([*git, "status", "--porcelain", "--", "*.py"], text=True).strip()
    return name + ("+" if changed else "")


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = [
        line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
    ]
    return names[0] if names else platform.processor()


def render(records: dict[str, Record]) -> str:
    """Return the page."""
    lines = [
        "# Measurements",
        "",
        "Written by `benchmarks/measurements.py` (`make measurements`) from what the benchmarks print; do not edit.",
        "Other work on the same machine changes absolute times: rows of one table were measured side by side, so",
        "compare those.",
    ]
    newest = max(records.values(), key=lambda one: one.date).commit if records else ""
    for name, table in TABLES.items():
        if name not in records:
            continue
        one = records[name]
        stale = "" if one.commit == newest else f" **Of another commit than the newest table ({newest}).**"
        lines += ["", f"## {table.title}", "", f"`{one.command}` at {one.commit}, {one.date}, {one.processor}.{stale}"]
        lines += ["", "```", one.output, "```"]
    missing = [table.title for name, table in TABLES.items() if name not in records]
    if missing:
        lines += ["", f"Not measured yet: {'; '.join(missing)}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))

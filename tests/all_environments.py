"""Run everything that `make test` leaves out, each extra in an environment of its own; nothing is skipped in silence.

    python tests/all_environments.py [--only NAME ...]

`make test` has run the fast tests before and left its results. Here the slow tests run in the same environment, by two
workers; then the wheel is built and, two at a time, the tests of each extra run in a new environment that it is
installed into with that extra, and its commands in one of its own, from another folder; an environment that passed is
removed. What it prints is shown when it is done. At the end stands a table of every test that ran nowhere, with its
reason; one whose reason `allowed_skips.txt` does not list fails the run, and so does an extra that cannot be installed
or a test of it that does not pass.
"""

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS, RESULTS = ROOT / ".venv-extras", ROOT / ".test-results"
WHEELS = ENVIRONMENTS / "dist"
ALLOWED = ROOT / "tests" / "allowed_skips.txt"
MAKE = [sys.executable, "-m", "uv"]
INSTALL = [*MAKE, "pip", "install", "--quiet", "--python"]
TESTS_NEED = ("pytest==9.2.0", "hypothesis==6.170.15", "psutil==7.2.2")
SLOW = ("-m", "slow", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "--durations=15")
"""How the slow tests run: a file at a time in the order of conftest.py, the longest first."""
AT_ONCE = 2
"""Environments that are made and tested at the same time."""

Part = Callable[[IO | None], None]
"""Something to check: it writes to a file, and raises where it fails."""


@dataclass(frozen=True)
class Environment:
    """Extras that go together, and what is tested with them.

    Attributes:
        name: Of the environment's folder.
        extras: Extras of the project.
        tests: Arguments of pytest.
        without_dependencies: Packages that are installed without what they ask for.
        removed: Packages that others bring and that are taken away again.
    """

    name: str
    extras: tuple[str, ...]
    tests: tuple[str, ...]
    without_dependencies: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


EXTRAS = (  # the longest first; the extra [serve] is in [test]
    Environment(
        "bench",
        ("bench",),
        ("tests/test_backbones.py", "tests/test_torch_file_kinds.py", "-k", "timm or torch or swin_in"),
        without_dependencies=("timm==1.0.31",),
        removed=("triton",),  # its import crashes beside TensorFlow, and PyTorch does without it on a CPU
    ),
    Environment("remote", ("test-remote",), ("tests/test_builder_ecosystem.py", "-k", "store")),
    Environment(
        "beam", ("beam",), ("tests/test_prediction_beam.py", "tests/test_builder_ecosystem.py", "-k", "beam or runner")
    ),
    Environment("bioimageio", ("bioimageio",), ("tests/test_serving_bioimageio.py",)),
    Environment(
        "export",
        ("onnx", "openvino"),
        ("tests/test_serving.py", "tests/test_serving_views.py", "tests/test_small_segmenter.py")
        + ("-k", "runtime or onnx or no_small_one"),
    ),
    Environment("anndata", ("anndata",), ("tests/test_prediction_sources.py", "-k", "anndata")),
    Environment("tfds", ("tfds",), ("tests/test_builder_ecosystem.py", "-k", "tensorflow_datasets or metadata")),
)
PROGRAMS = {"chromium": "chromium", "chromedriver": "chromium-driver"}
BROWSER = ("tests/test_grading_browser.py", "tests/test_prediction_report.py")
"""Fast tests that need these programs: they run here where the fast run before did not find them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; return 1 if a test failed, an extra is missing or a skip is not allowed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=["slow", "wheel", *(one.name for one in EXTRAS)])
    only = parser.parse_args(arguments).only
    RESULTS.mkdir(exist_ok=True)
    if only is None:
        forget_results()
    failed = []
    if not all(map(shutil.which, PROGRAMS)):
        failed += install_programs()
        failed += run_here("browser", BROWSER)
    if only is None or "slow" in only:
        failed += run_here("slow", SLOW)
    parts: dict[str, Part] = {one.name: partial(check_environment, one) for one in EXTRAS}
    parts["wheel"] = check_commands
    wanted = {name: part for name, part in parts.items() if only is None or name in only}
    if wanted:
        call([*MAKE, "build", "--quiet", "--wheel", "--clear", "--out-dir", str(WHEELS), str(ROOT)], None)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for names in pool.map(shown, wanted, [partial(and_removed, name, part) for name, part in wanted.items()]):
            failed += names
    not_allowed = report(read_results()) if only is None else []
    print(f"\nfailed: {', '.join(failed) or 'none'}; skipped without leave: {len(not_allowed)}")
    return int(bool(failed or not_allowed))


def forget_results() -> None:
    """Remove the results of an earlier run, which would hide that a test did not run in this one.

    Those of the fast tests, which ran before, stay if no source is newer.
    """
    fast = RESULTS / "fast.xml"
    sources = [path for part in ("hpa_tf", "tfrecords_builder", "tests") for path in (ROOT / part).rglob("*.py")]
    for path in RESULTS.glob("*.xml"):
        if path != fast or path.stat().st_mtime < max(source.stat().st_mtime for source in sources):
            path.unlink()


def install_programs() -> list[str]:
    """Install the browser from Debian's packages; where that cannot be done, the tests that need it say so."""
    missing = [package for program, package in PROGRAMS.items() if not shutil.which(program)]
    apt = shutil.which("apt-get")
    if apt and os.geteuid() == 0:
        subprocess.call([apt, "update", "-qq"])
        subprocess.call([apt, "install", "-y", "-qq", "--no-install-recommends", *missing])
    return [name for name in PROGRAMS if not shutil.which(name)]


class Failed(Exception):
    """A part of the run did not pass; the message says why."""


def shown(name: str, part: Part, *, is_alone: bool = False) -> list[str]:
    """Run a part; what it prints is shown at once if it is alone, else at its end. Return its name if it failed."""
    start, log = time.monotonic(), RESULTS / f"{name}.log"
    with contextlib.nullcontext() if is_alone else open(log, "w") as output:
        try:
            part(output)
            verdict = "passed"
        except (Failed, subprocess.CalledProcessError) as error:
            verdict = f"FAILED: {error}"
    said = "" if is_alone else log.read_text(errors="replace")
    print(f"\n== {name}\n{said}== {name}: {verdict}, {time.monotonic() - start:.0f} s", flush=True)
    return [] if verdict == "passed" else [name]


def run_here(name: str, words: Sequence[str]) -> list[str]:
    """Run pytest in this environment; return the name if it failed."""
    return shown(name, partial(run_tests, name, [sys.executable, "-m", "pytest", *words]), is_alone=True)


def call(command: Sequence[str], output: IO | None, **options) -> None:
    """Run a command whose output goes to a file (None: where this program's goes); a code other than 0 raises."""
    subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=True, **{"cwd": ROOT, **options})


def run_tests(name: str, command: Sequence[str], output: IO | None) -> None:
    """Run pytest with its results kept under a name."""
    (RESULTS / f"{name}.xml").unlink(missing_ok=True)
    call([*command, "-q", f"--junitxml={RESULTS / name}.xml"], output)
    if not any(not reason for test, reason in results_in(RESULTS / f"{name}.xml")):
        raise Failed("no test ran")


def make_environment(name: str, extras: Sequence[str], output: IO | None) -> Path:
    """Make an environment and install the wheel with extras; return its folder of programs."""
    folder = ENVIRONMENTS / name
    (wheel,) = WHEELS.glob("*.whl")
    asked = f"{wheel}[{','.join(extras)}]" if extras else str(wheel)
    call([*MAKE, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], output)
    call([*INSTALL, str(folder / "bin" / "python"), asked], output)
    return folder / "bin"


def and_removed(name: str, part: Part, output: IO | None) -> None:
    """Check an environment and remove it, which is some GB; one that did not pass stays, to be looked at."""
    part(output)
    shutil.rmtree(ENVIRONMENTS / name)


def check_environment(environment: Environment, output: IO | None) -> None:
    """Make an environment and run its tests in it."""
    python = str(make_environment(environment.name, environment.extras, output) / "python")
    call([*INSTALL, python, *TESTS_NEED], output)
    if environment.without_dependencies:
        call([*INSTALL, python, "--no-deps", *environment.without_dependencies], output)
    if environment.removed:
        call([*MAKE, "pip", "uninstall", "--quiet", "--python", python, *environment.removed], output)
    run_tests(environment.name, [python, "-m", "pytest", "-m", "", *environment.tests], output)


def check_commands(output: IO | None) -> None:
    """Install the wheel into an empty environment, and use its commands from a folder that is not the checkout's."""
    programs = make_environment("wheel", (), output)
    python, program, elsewhere = str(programs / "python"), str(programs / "hpa-tf"), ENVIRONMENTS / "wheel/elsewhere"
    elsewhere.mkdir()
    there = {"cwd": elsewhere, "env": {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}}
    call([program, "generate", "--out", "made", "--num-images", "6", "--size", "512"], output, **there)
    data = ["--images", "made/images", "--labels", "made/train.csv", "--masks", "made/masks", "--um-per-px", "0.32"]
    call([program, "build", *data, "--out", "shards"], output, **there)
    call([program, "verify", "shards"], output, **there)
    for module in ("train", "predict"):
        if subprocess.call([python, "-c", f"import {module}"], stderr=subprocess.DEVNULL, **there) == 0:
            raise Failed(f"it puts a module named {module!r} into site-packages")


def results_in(path: Path) -> Iterator[tuple[str, str | None]]:
    """Yield (test, reason it was skipped for) of a results file; None for one that ran."""
    if not path.exists():
        return
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        skipped = case.find("skipped")
        yield f"{case.get('classname')}::{case.get('name')}", None if skipped is None else skipped.get("message", "")


def read_results() -> dict[str, str]:
    """Return the reason for each test that ran in no environment."""
    ran, skipped = set(), {}
    for path in sorted(RESULTS.glob("*.xml")):
        for test, reason in results_in(path):
            if reason is None:
                ran.add(test)
            else:
                skipped[test] = reason
    modules_that_ran = {test.split("::")[0] for test in ran}
    return {  # a module that is skipped whole has no test names
        test: reason
        for test, reason in skipped.items()
        if test not in ran and not (test.startswith("::") and test[2:] in modules_that_ran)
    }


def report(skipped: dict[str, str]) -> list[str]:
    """Print the table of skipped tests; return those whose reason is not allowed."""
    allowed = [
        re.compile(line.strip())
        for line in ALLOWED.read_text().splitlines()
        if line.strip() and not line.startswith("#")
    ]
    by_reason: dict[str, list[str]] = {}
    for test, reason in skipped.items():
        by_reason.setdefault(reason, []).append(test)
    print(f"\nRan nowhere: {len(skipped)} tests")
    not_allowed = []
    for reason, tests in sorted(by_reason.items()):
        good = any(pattern.search(reason) for pattern in allowed)
        verdict, more = "allowed" if good else "NOT ALLOWED", " ..." * (len(tests) > 1)
        print(f"  {len(tests):4d}  {verdict}: {reason}  ({tests[0]}{more})")
        not_allowed += [] if good else tests
    return not_allowed


if __name__ == "__main__":
    sys.exit(main())

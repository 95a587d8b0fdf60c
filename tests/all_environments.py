"""Run everything that `make test` leaves out, each extra in an environment of its own; nothing is skipped in silence.

    python tests/all_environments.py [--only NAME ...]

`make test` has run the fast tests before and left its results. Here the slow tests run in the same environment, then
the tests of each extra in a new one, then the built wheel in an empty one. At the end stands a table of every test
that ran nowhere, with its reason; one whose reason `allowed_skips.txt` does not list fails the run, and so does an
extra that cannot be installed or a test of it that does not pass.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS, RESULTS = ROOT / ".venv-extras", ROOT / ".test-results"
ALLOWED = ROOT / "tests" / "allowed_skips.txt"
MAKE = [sys.executable, "-m", "uv"]
TESTS_NEED = ("pytest==9.2.0", "hypothesis==6.170.15", "psutil==7.2.2")


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


EXTRAS = (  # the extra [serve] is in [test]
    Environment(
        "export",
        ("onnx", "openvino"),
        ("tests/test_serving.py", "tests/test_serving_views.py", "-k", "runtime or onnx"),
    ),
    Environment("bioimageio", ("bioimageio",), ("tests/test_serving_bioimageio.py",)),
    Environment("anndata", ("anndata",), ("tests/test_prediction_sources.py", "-k", "anndata")),
    Environment("beam", ("beam",), ("tests/test_prediction_beam.py", "tests/test_builder_ecosystem.py", "-k", "beam")),
    Environment("tfds", ("tfds",), ("tests/test_builder_ecosystem.py", "-k", "tensorflow_datasets or metadata")),
    Environment("remote", ("test-remote",), ("tests/test_builder_ecosystem.py", "-k", "store")),
    Environment(
        "bench",
        ("bench",),
        ("tests/test_backbones.py", "tests/test_torch_file_kinds.py", "-k", "timm or torch or swin_in"),
        without_dependencies=("timm==1.0.31",),
        removed=("triton",),  # its import crashes beside TensorFlow, and PyTorch does without it on a CPU
    ),
)
PROGRAMS = {"chromium": "chromium", "chromedriver": "chromium-driver"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; return 1 if a test failed, an extra is missing or a skip is not allowed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=None, help="slow, wheel or names of environments")
    only = parser.parse_args(arguments).only
    RESULTS.mkdir(exist_ok=True)
    failed = [] if shutil.which("chromedriver") else install_programs()
    if only is None or "slow" in only:
        failed += run("slow", [sys.executable, "-m", "pytest", "-m", "slow", "-n", "2", "--dist", "loadfile"])
    for environment in EXTRAS:
        if only is None or environment.name in only:
            failed += run_in(environment)
    if only is None or "wheel" in only:
        failed += check_wheel()
    not_allowed = report(read_results()) if only is None else []
    print(f"\nfailed: {', '.join(failed) or 'none'}; skipped without leave: {len(not_allowed)}")
    return int(bool(failed or not_allowed))


def install_programs() -> list[str]:
    """Install the browser from Debian's packages; where that cannot be done, the tests that need it say so."""
    missing = [package for program, package in PROGRAMS.items() if not shutil.which(program)]
    apt = shutil.which("apt-get")
    if apt and os.geteuid() == 0:
        subprocess.call([apt, "update", "-qq"])
        subprocess.call([apt, "install", "-y", "-qq", "--no-install-recommends", *missing])
    return [name for name in PROGRAMS if not shutil.which(name)]


def run(name: str, command: Sequence[str]) -> list[str]:
    """Run pytest with its results kept under a name; return the name if it failed."""
    start = time.monotonic()
    print(f"\n== {name}", flush=True)
    code = subprocess.call([*command, "-q", f"--junitxml={RESULTS / name}.xml"], cwd=ROOT)
    print(f"== {name}: {'passed' if code == 0 else f'ended with {code}'}, {time.monotonic() - start:.0f} s", flush=True)
    return [name] if code else []


def run_in(environment: Environment) -> list[str]:
    """Make an environment and run its tests in it."""
    folder = ENVIRONMENTS / environment.name
    python = folder / "bin" / "python"
    asked = f".[{','.join(environment.extras)}]"
    install = [*MAKE, "pip", "install", "--quiet", "--python", str(python)]
    codes = [
        subprocess.call([*MAKE, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], cwd=ROOT),
        subprocess.call([*install, "--editable", asked, *TESTS_NEED], cwd=ROOT),
    ]
    if environment.without_dependencies:
        codes.append(subprocess.call([*install, "--no-deps", *environment.without_dependencies], cwd=ROOT))
    if environment.removed:
        uninstall = [*MAKE, "pip", "uninstall", "--quiet", "--python", str(python), *environment.removed]
        codes.append(subprocess.call(uninstall, cwd=ROOT))
    if any(codes):
        print(f"== {environment.name}: {asked} could not be installed", flush=True)
        return [environment.name]
    failed = run(environment.name, [str(python), "-m", "pytest", "-m", "", *environment.tests])
    if not any(not reason for test, reason in results_in(RESULTS / f"{environment.name}.xml")):
        print(f"== {environment.name}: no test ran", flush=True)
        return [environment.name]
    return failed


def check_wheel() -> list[str]:
    """Build the wheel, install it into an empty environment, and use it from a folder that is not the checkout's."""
    print("\n== wheel", flush=True)
    folder = ENVIRONMENTS / "wheel"
    python, elsewhere = folder / "bin" / "python", folder / "elsewhere"
    wheels = folder / "dist"
    try:
        call = subprocess.check_call
        call([*MAKE, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
        call([*MAKE, "build", "--quiet", "--wheel", "--out-dir", str(wheels), str(ROOT)])
        call([*MAKE, "pip", "install", "--quiet", "--python", str(python), *map(str, wheels.glob("*.whl"))])
        elsewhere.mkdir()
        program = str(folder / "bin" / "hpa-tf")
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        there = {"cwd": elsewhere, "env": environment}
        call([program, "generate", "--out", "made", "--num-images", "6", "--size", "512"], **there)
        build = [
            "--images",
            "made/images",
            "--labels",
            "made/train.csv",
            "--masks",
            "made/masks",
            "--um-per-px",
            "0.32",
        ]
        call([program, "build", *build, "--out", "shards"], **there)
        call([program, "verify", "shards"], **there)
        for module in ("train", "predict"):
            found = subprocess.call([str(python), "-c", f"import {module}"], stderr=subprocess.DEVNULL, **there) == 0
            if found:
                print(f"== wheel: it puts a module named {module!r} into site-packages", flush=True)
                return ["wheel"]
    except subprocess.CalledProcessError as error:
        print(f"== wheel: {error}", flush=True)
        return ["wheel"]
    print("== wheel: passed", flush=True)
    return []


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

"""How long a user waits for nothing: `import hpa_tf`, `hpa-tf --help`, and the help of every command.

    python benchmarks/start.py [--repeats 3]

Each in a process of its own, after one that is not measured; wall time, shortest to longest, and processor time.
"""

import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from hpa_tf import command_line

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Options:
    """What is measured."""

    repeats: int = 3
    """Starts of each."""
    commands: tuple[str, ...] = ("build", "train", "predict", "score", "grade", "serve")
    """Commands whose help is measured."""


def measure(arguments: list[str], repeats: int) -> str:
    """Return a row: wall times of the shortest and the longest start, processor time of the mean one."""
    times = []
    subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - start)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / repeats
    return f"{min(times):6.2f} to {max(times):5.2f} {processor:11.2f}"


def main(options: Options) -> int:
    """Print the table; return 1 for a command that there is not."""
    unknown = set(options.commands) - set(command_line.COMMANDS)
    if unknown:
        print(f"start: found {sorted(unknown)}; expected some of {', '.join(command_line.COMMANDS)}", file=sys.stderr)
        return 2
    rows = {"import hpa_tf": ["-c", "import hpa_tf"], "hpa-tf --help": ["-m", "hpa_tf.command_line", "--help"]}
    rows |= {f"hpa-tf {name} --help": ["-m", "hpa_tf.command_line", name, "--help"] for name in options.commands}
    print(f"{'':<22} {'wall s':>15} {'processor s':>11}")
    for name, arguments in rows.items():
        print(f"{name:<22} {measure(arguments, options.repeats)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))

"""The demo from nothing, several times: mAP with its interval, its baselines, and the wall time of each run.

    python benchmarks/demo.py [--runs 3]

Four to five minutes a run on two cores that do nothing else.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Options:
    """What is measured."""

    runs: int = 3
    """Demos, one after the other."""


def main(options: Options) -> int:
    """Print a row a run; return 1 if one failed."""
    print(f"{'run':>3} {'minutes':>8} {'mAP':>6} {'95 % interval':>16} {'random':>7} {'copied':>7}")
    for number in range(1, options.runs + 1):
        with tempfile.TemporaryDirectory() as folder:
            out, start = Path(folder, "demo"), time.monotonic()
            command = [sys.executable, "-m", "hpa_tf.command_line", "demo", "--out", str(out)]
            if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
                return 1
            minutes = (time.monotonic() - start) / 60
            scores = json.loads((out / "scores" / "scores.json").read_text())
        low, high = scores["mAP_interval"]
        others = [f"{scores['baselines'][name]['mAP']:.3f}" for name in ("random", "image_labels_copied")]
        ends = f"{low:.3f} to {high:.3f}"
        print(f"{number:>3} {minutes:8.1f} {scores['mAP']:6.3f} {ends:>16} {others[0]:>7} {others[1]:>7}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))

"""A data folder with recognisable cells, a running grading page and a real browser, for the tests of the page."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from shards import one_hot, write_dataset

from hpa_tf import cell_table
from hpa_tf.classes import CLASSES
from hpa_tf.grading.command import Options, make_session
from hpa_tf.grading.server import GradingApp, make_server

ROOT = Path(__file__).parent.parent
CLASS = 11
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
BROWSER_FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]


def write_cells(folder: Path, num_cells: int = 60, **options):
    """Write a data folder whose first two thirds of cells have class 11, with scores, and return (table, scores)."""
    labels = np.stack([one_hot(CLASS) if i % 3 else one_hot(0) for i in range(num_cells)])
    table = write_dataset(folder, labels, **options)
    scores = np.full((num_cells, len(CLASSES)), np.nan, np.float32)
    scores[:, CLASS] = np.random.default_rng(5).permutation(num_cells) / num_cells
    predictions = cell_table.from_values(table["image_id"], table["cell"], scores)
    cell_table.write(predictions, folder.parent / "predictions.parquet", "predictions")
    return table, scores[:, CLASS]


@contextlib.contextmanager
def running_page(data: Path, out: Path, *options: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """Start the page as a user does; yield (process, address); kill it without a warning at the end."""
    command = [sys.executable, "-m", "hpa_tf.grading", "--data", str(data), "--out", str(out), "--class", str(CLASS)]
    command += ["--port", "0", "--grader", "anna", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    try:
        for line in process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:\d+/#\S+", line):
                yield process, found[0]
                return
        raise RuntimeError(f"the page did not start (exit code {process.wait()})")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def served_page(data: Path, out: Path, **options) -> Iterator[str]:
    """Serve the page from a thread of this process, which starts at once; yield its address."""
    session = make_session(Options(data=str(data), class_=str(CLASS), out=str(out), grader="anna", **options))
    app = GradingApp(session)
    server = make_server(app, 0)
    threading.Thread(target=server.run, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.effective_port}/#{app.token}"
    finally:
        server.close()
        session.writer.close()

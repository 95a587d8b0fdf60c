"""What a training tells people: progress bar, TensorBoard, history.csv, final table. Only the chief tells."""

import time
import warnings
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import pandas as pd
import tensorflow as tf
import tqdm

from hpa_tf import files, reporting
from hpa_tf.classes import CHANNELS, CLASSES
from hpa_tf.errors import HpaWarning
from hpa_tf.imaging.pictures import composite
from hpa_tf.progress import progress
from hpa_tf.run_folder import HISTORY, LOGS

NUM_PICTURES = 16
TIMES = ("seconds", "cells_per_second", "waiting")
"""Columns of the history that say how fast, not what: they differ between two equal trainings."""

Element = TypeVar("Element")


class Watch:
    """Wall time of an epoch, and the share of it that was spent waiting for data."""

    def __init__(self):
        self.start, self.cells = time.perf_counter(), 0
        self.waited: float | None = None  # nothing was waited for here: a graph may have fetched the data itself

    def waiting_for(self, iterator: Iterator[Element]) -> Element:
        """Return the iterator's next element; the wait is counted."""
        start = time.perf_counter()
        element = next(iterator)
        self.waited = (self.waited or 0.0) + time.perf_counter() - start
        return element

    def times(self) -> dict[str, float | None]:
        """Return the `TIMES` columns: seconds, cells per second, share of the time spent waiting (None = unknown)."""
        seconds = max(time.perf_counter() - self.start, 1e-9)
        waiting = None if self.waited is None else self.waited / seconds
        return dict(zip(TIMES, (seconds, self.cells / seconds, waiting), strict=True))


class Logs:
    """TensorBoard, history.csv and the progress bar of one run; silent when not the chief."""

    def __init__(self, folder: str, is_chief: bool, to_stdout: bool = True):
        self.folder, self.is_chief, self.to_stdout = folder, is_chief, to_stdout and is_chief
        writes = is_chief and (not files.is_remote(folder) or folder.startswith("gs://"))
        logs = files.join(folder, LOGS)
        self.board = tf.summary.create_file_writer(logs) if writes else tf.summary.create_noop_writer()

    def bar(self, description: str, total: int, done: int, unit: str = "cell") -> tqdm.tqdm:
        """Return a progress bar over `total` units of which `done` are done."""
        return progress(desc=description, total=total, initial=done, unit=unit, disable=not self.to_stdout)

    def scalars(self, step: int, values: dict[str, float | None]) -> None:
        """Write numbers to TensorBoard; NaN (a class without positives) and None (not known) are left out."""
        with self.board.as_default(step):
            for name, value in values.items():
                if isinstance(value, (int, float)) and np.isfinite(value):
                    tf.summary.scalar(name, value)

    def pictures(self, step: int, images: np.ndarray, channels: Sequence[str]) -> None:
        """Write the first augmented images of a batch to TensorBoard.

        Args:
            step: Steps taken so far.
            images: float32 [B, S, S, C] in 0..1; of bags [B, K, S, S, C].
            channels: Names of its channels; those that it has none of are black.
        """
        if self.is_chief:
            images = images.reshape(-1, *images.shape[-3:])[:NUM_PICTURES]
            shown = np.zeros((*images.shape[:3], len(CHANNELS)), np.uint8)
            for i, name in enumerate(channels):
                if name in CHANNELS:
                    shown[..., CHANNELS.index(name)] = images[..., i] * 255
            rgb = np.stack([composite(image) for image in shown])
            with self.board.as_default(step):
                tf.summary.image("augmented cells", rgb, max_outputs=NUM_PICTURES)

    def history(self, rows: Sequence[dict]) -> None:
        """Write history.csv, whole."""
        if self.is_chief:
            reporting.write_csv(pd.DataFrame(rows).apply(pd.to_numeric), files.join(self.folder, HISTORY))

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        if self.to_stdout:
            tqdm.tqdm.write(text)

    def close(self) -> None:
        """Flush TensorBoard's file."""
        self.board.close()


class Profiler:
    """Profiles steps 10 to 20 of this process for TensorBoard; the first ones trace and warm up."""

    FIRST, LAST = 10, 20

    def __init__(self, folder: str, enabled: bool):
        self.folder, self.steps, self.enabled, self.runs = files.join(folder, LOGS), 0, enabled, False

    def count(self, steps: int) -> None:
        """Start or stop the profile, `steps` steps after the last call."""
        self.steps += steps
        if self.runs and self.steps >= self.LAST:
            self.close()
        elif self.enabled and self.steps >= self.FIRST:
            tf.profiler.experimental.start(self.folder)
            self.enabled, self.runs = False, True

    def close(self) -> None:
        """Write the profile if one runs; warn if none began."""
        if self.runs:
            tf.profiler.experimental.stop()
            self.runs = False
        elif self.enabled:
            text = f"--profile: found {self.steps} steps; it begins after step {self.FIRST}: no profile was written"
            warnings.warn(text, HpaWarning, stacklevel=2)


def final_table(row: dict, cells: np.ndarray, num_checkpoints: int = 1) -> str:
    """Return the validation of one epoch as a table.

    Args:
        row: The epoch's history row.
        cells: [19] number of validation cells with each label.
        num_checkpoints: Those whose mean predicts; the epoch is the last of them.
    """

    def shown(name: str) -> str:
        return "-" if row[name] is None else f"{row[name]:.4f}"

    lines = [f"epoch {row['epoch']:<36} {'cells':>8} {'soft-label AP':>14}"]
    lines += [f"{name:<42} {count:>8} {shown(f'AP: {name}'):>14}" for name, count in zip(CLASSES, cells, strict=True)]
    lines.append(f"{'mean over the classes with cells':<42} {'':>8} {shown('mAP'):>14}")
    lines.append(f"AUC {shown('AUC')}, calibration error {shown('calibration_error')}")
    if num_checkpoints > 1:
        lines.append(f"this is the last epoch alone: the mean of {num_checkpoints} that predicts was not measured")
    return "\n".join(lines)

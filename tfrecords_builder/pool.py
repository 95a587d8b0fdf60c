"""Units of work in worker processes: an image that kills its worker is named, and with errors skipped left out."""

import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from hpa_tf.errors import InputError
from hpa_tf.worker_processes import Pool, WorkerDied, start_method
from tfrecords_builder.field_shards import run_unit
from tfrecords_builder.image import Settings
from tfrecords_builder.plan import Unit
from tfrecords_builder.unit import UnitResult

Progress = Callable[[int], None]
"""Told the number of cells of each finished image."""
_PRELOAD = ("tfrecords_builder.field_shards", "hpa_tf.imaging.segmentation.nuclei_of_cells")


def warm_up() -> None:
    """Start the process that workers are forked from, so that it imports while the plan is made."""
    start_method(_PRELOAD)


def run_units(
    units: Sequence[Unit], settings: Settings, num_workers: int, progress: Progress
) -> Iterator[tuple[Unit, UnitResult]]:
    """Yield each unit with its result as it is finished; largest first, so that no large one is left for the end.

    Raises:
        InputError: A unit failed, or an image killed its worker where errors are not skipped, or where its cells are
            done and only its field of view was missing.
    """
    if not units:
        return
    heard: queue.SimpleQueue[tuple[Unit, Any]] = queue.SimpleQueue()
    begun: dict[str, str | None] = {}
    poisoned: dict[str, InputError] = {}
    with Pool(min(num_workers, len(units)), _PRELOAD) as pool:

        def start(unit: Unit) -> None:
            arguments = (unit, settings, dict(poisoned))
            future = pool.submit(_run, *arguments, name=unit.name, heard=lambda *news: heard.put((unit, news)))
            future.add_done_callback(lambda done: heard.put((unit, done)))

        for unit in sorted(units, key=lambda unit: -len(unit.images)):
            start(unit)
        left = len(units)
        while left:
            unit, news = heard.get()
            if not isinstance(news, Future):
                image_id, num_cells = news
                begun[unit.name] = image_id if num_cells < 0 else None
                if num_cells >= 0:
                    progress(num_cells)
                continue
            try:
                result = news.result()
            except WorkerDied as error:
                poisoned |= _poison(begun.get(unit.name), error, unit, settings)
                start(unit)
                continue
            left -= 1
            yield unit, result


def _poison(image_id: str | None, error: WorkerDied, unit: Unit, settings: Settings) -> dict[str, InputError]:
    """Return the image that killed a worker and why; raise it where errors are not skipped, or its cells are done."""
    if image_id is None:
        raise error
    leave_out = (
        "remove it and its row, and give --on-change rebuild" if unit.fields_only else "build with --on-error skip"
    )
    fix = f"{error.fix}; or {leave_out}"
    named = InputError(f"image {image_id}", error.found, "an image that can be processed", fix)
    if unit.fields_only or not settings.skip_errors:
        raise named from error
    return {image_id: named}


def _run(unit: Unit, settings: Settings, poisoned: dict[str, InputError], report: Callable[..., None]) -> UnitResult:
    return run_unit(unit, settings, report, poisoned)

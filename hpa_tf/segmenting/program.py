"""The program: read ahead in worker processes, run the networks here, label and write in the worker processes.

At most a few fields a worker and two batches are under way at a time, so memory does not depend on how many there are.
"""

import collections
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd

from hpa_tf import files, folder_lock
from hpa_tf.errors import HpaWarning, InputError, counted
from hpa_tf.imaging.brightness import brightness_range, warn_of_full_scale
from hpa_tf.imaging.fields import Fault, FieldFiles, find_fields
from hpa_tf.imaging.segmentation import Masks
from hpa_tf.interrupts import keeps
from hpa_tf.parts import is_in_part, parse_part
from hpa_tf.prediction.workers import Workers
from hpa_tf.progress import progress
from hpa_tf.reporting import spreadsheet_safe, write_csv
from hpa_tf.segmenting import mask_folder
from hpa_tf.segmenting.fields import Field, Finisher
from hpa_tf.segmenting.options import Options

FAILURES = "failures.csv"
_COLUMNS = ["image_id", "where", "found", "expected", "fix"]


class Method(Protocol):
    """A way to segment: what runs in the workers before and after, and what runs here.

    Attributes:
        identity: What of it decides the masks, as JSON values.
        added: See `mask_folder.claim`.
        batch_size: Fields that `answer` takes at once.
        read: (files, stamp) -> field; runs in workers.
        label: (answer, field) -> masks; runs in workers.
    """

    identity: dict[str, Any]
    added: dict[str, Any]
    batch_size: int
    read: Callable[[FieldFiles, str], Field]
    label: Callable[[Any, Field], Masks]

    def answer(self, fields: Sequence[np.ndarray]) -> list[Any]:
        """Return the networks' answers for fields of one size."""
        ...


@dataclass
class Outcome:
    """What a run did: images in the folder, segmented now, with old masks that were dropped; cells, failures, time."""

    num_images: int = 0
    num_segmented: int = 0
    num_changed: int = 0
    num_cells: int = 0
    failures: list[tuple[str, InputError]] = field(default_factory=list)
    seconds: float = 0.0


def segment(options: Options) -> Outcome:
    """Write the masks of all fields of a folder that are not there yet.

    Raises:
        InputError: Bad options, weights or images, a folder of other masks, or one that another process writes to.
    """
    options.check()
    part = parse_part(options.shard)
    faults: list[Fault] | None = [] if options.on_error == "skip" else None
    found = find_fields(options.images, faults, options.layout.parse())
    fields = [one for one in found if is_in_part(one.image_id, *part)]
    outcome = Outcome(len(fields), failures=[one for one in faults or () if is_in_part(one[0], *part)])
    mask_folder.check_records(options.out, [one.image_id for one in fields])
    for folder in (options.out, files.join(options.out, mask_folder.STATE)):
        files.make_folder(folder)
    with folder_lock.locked(options.out), Workers(options.workers) as workers:
        method = make_method(options)
        done, corrected = mask_folder.done_images(options.out)
        is_other = mask_folder.is_of_other_settings(options.out, method.identity, method.added)
        if is_other and options.on_change == "rebuild":
            mask_folder.forget_all(options.out, done, corrected)
            outcome.num_changed = len(done)
            done, corrected = {}, set()
        mask_folder.claim(options.out, method.identity, bool(done), method.added)
        keeps("finished masks are kept; the same command continues")
        listed = files.list_stamps(options.images)
        scales = {"own_scale": options.um_per_px is None, "for_all": options.is_default_scale_for_all}
        stamps = {one.image_id: mask_folder.stamp_of(one, listed, **scales) for one in fields}
        drawn = mask_folder.drawn_images(options.out) if options.overlays else stamps.keys()
        own = (done.keys() & stamps.keys()) - corrected
        again = {image_id for image_id in own if done[image_id] != stamps[image_id] or image_id not in drawn}
        if kept := corrected & stamps.keys() | mask_folder.changed_among(options.out, again):
            text = (
                f"{options.out}: masks of {counted(len(kept), 'image')} were changed since they were written; they are"
            )
            how = "kept, without new overlays" if options.overlays else "kept"
            warnings.warn(f"{text} {how}; delete a mask to make those of its image anew", HpaWarning, stacklevel=2)
        again -= kept
        for image_id in again:
            if done[image_id] != stamps[image_id]:
                mask_folder.forget(options.out, image_id)
                outcome.num_changed += 1
        todo = [one for one in fields if one.image_id in again or one.image_id not in done]
        start = time.perf_counter()
        run = _Run(options, method, workers, outcome)
        run.run(todo, stamps)
        outcome.seconds = time.perf_counter() - start
        warn_of_full_scale(run.bits, brightness_range(np.array(run.brightness)), options.full_scale is not None)
        known = {one.image_id for one in found} | {image_id for image_id, _ in faults or ()}
        others = {image_id for image_id in known if not is_in_part(image_id, *part)}
        _write_failures(options.out, outcome.failures, others)
    return outcome


def make_method(options: Options) -> Method:
    """Return the way to segment that is asked for; imports what it needs.

    Raises:
        InputError: Its weights or package are missing.
    """
    if options.segmenter == "hpacellseg":
        from hpa_tf.segmenting.original import OriginalPackage

        return OriginalPackage(options)
    if options.segmenter == "small":
        from hpa_tf.segmenting.small_method import SmallMethod

        return SmallMethod(options)
    from hpa_tf.segmenting.hpa import HpaMethod

    return HpaMethod(options)


def batches(fields: Iterable[Field], size: int) -> Iterator[list[Field]]:
    """Yield fields of one shape together, at most `size`; at most twice as many wait for others of their shape."""
    waiting: dict[tuple[int, ...], list[Field]] = {}
    for one in fields:
        waiting.setdefault(one.seen.shape, []).append(one)
        largest = max(waiting, key=lambda shape: len(waiting[shape]))
        if len(waiting[largest]) == size or sum(map(len, waiting.values())) > 2 * size:
            yield waiting.pop(largest)
    yield from waiting.values()


class _Run:
    """A run over the fields that are left.

    Attributes:
        bits: Bits per channel of the fields that were read.
        brightness: The same fields' brightness, see `Field`.
    """

    def __init__(self, options: Options, method: Method, workers: Workers, outcome: Outcome):
        self._options, self._method, self._workers, self._outcome = options, method, workers, outcome
        self._finish = Finisher(method.label, options.out, options.overlays, options.max_pixels, options.full_scale)
        self.bits: set[int] = set()
        self.brightness: list[tuple[float, ...]] = []
        self._finishing: collections.deque[tuple[str, Future]] = collections.deque()

    def run(self, todo: Sequence[FieldFiles], stamps: dict[str, str]) -> None:
        """Segment these fields."""
        with progress(total=len(todo), desc="segmenting", unit="image") as self._bar:
            for group in batches(self._read(todo, stamps), self._method.batch_size):
                self._answer(group)
            while self._finishing:
                self._take()

    def _read(self, todo: Sequence[FieldFiles], stamps: dict[str, str]) -> Iterator[Field]:
        ahead: collections.deque[tuple[str, Future]] = collections.deque()
        limit = 2 * self._method.batch_size + self._workers.count
        for one in [*todo, *[None] * limit]:
            if one is not None:
                ahead.append((one.image_id, self._submit(one.image_id, self._method.read, one, stamps[one.image_id])))
            if ahead and (one is None or len(ahead) >= limit):
                image_id, future = ahead.popleft()
                read = self._result(image_id, future)
                if read is not None:
                    for text in read.warnings:
                        warnings.warn(text, HpaWarning, stacklevel=2)
                    self.bits.add(read.bits)
                    self.brightness.append(read.brightness)
                    yield read

    def _submit(self, image_id: str, function: Callable, *arguments: Any) -> Future:
        return self._workers.submit(function, *arguments, name=f"image {image_id}")

    def _answer(self, group: list[Field]) -> None:
        answers = self._method.answer([one.seen for one in group])
        for one, answer in zip(group, answers, strict=True):
            slim = replace(one, seen=np.empty(0), warnings=())
            self._finishing.append((one.files.image_id, self._submit(one.files.image_id, self._finish, slim, answer)))
        while len(self._finishing) > 2 * self._workers.count + self._method.batch_size:
            self._take()

    def _take(self) -> None:
        image_id, future = self._finishing.popleft()
        found = self._result(image_id, future)
        if found is not None:
            num_cells, texts = found
            for text in texts:
                warnings.warn(text, HpaWarning, stacklevel=2)
            self._outcome.num_segmented += 1
            self._outcome.num_cells += num_cells
            self._bar.update(1)

    def _result(self, image_id: str, future: Future) -> Any:
        """Return a worker's result; None for an image that is skipped."""
        try:
            return future.result()
        except InputError as error:
            if self._options.on_error == "fail":
                raise
            self._outcome.failures.append((image_id, error))
            self._bar.update(1)
            return None


def _write_failures(out: str, failures: list[Fault], others: Collection[str]) -> None:
    """Write the images that were left out, with those listed for other parts; no file where there are none.

    Args:
        out: Folder of masks.
        failures: Of this part.
        others: Images of the other parts.
    """
    path = files.join(out, FAILURES)
    rows = [(image_id, error.where, error.found, error.expected, error.fix) for image_id, error in failures]
    if others and files.exists(path):
        as_listed = set(map(spreadsheet_safe, others))
        rows += [row for row in _listed_failures(path) if row[0] in as_listed]
    if rows:
        write_csv(pd.DataFrame(sorted(rows), columns=_COLUMNS), path, marked=True)
    else:
        files.remove(path)


def _listed_failures(path: str) -> list[tuple[str, ...]]:
    try:
        with files.open_file(path) as stream:
            table = pd.read_csv(stream, dtype=str, keep_default_na=False)
        return list(table[_COLUMNS].itertuples(index=False, name=None))
    except (ValueError, KeyError) as error:  # no CSV, or other columns
        found = f"no such table ({str(error).splitlines()[0]})"
        fix = "remove it and run every part again"
        raise InputError(path, found, "the images that other parts left out", fix) from error

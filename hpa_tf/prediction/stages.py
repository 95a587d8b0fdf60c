"""The stages side by side: workers read and cut, the network runs here, workers finish; and what came of it.

Images go through in groups of `GROUP`, and a batch never crosses the end of a group: a row's last bits depend on its
place in its batch, so a group that is begun again after a kill must form the same batches to give the same bytes.
"""

import collections
import dataclasses
import warnings
from collections.abc import Iterator, Sequence, Set
from typing import TYPE_CHECKING

import pandas as pd

from hpa_tf import files, reporting
from hpa_tf.errors import HpaWarning, InputError, StoreError
from hpa_tf.prediction.finishing import Finisher
from hpa_tf.prediction.sources import FieldCells, Source
from hpa_tf.prediction.trained_on import LightCheck
from hpa_tf.prediction.workers import Inline, Workers
from hpa_tf.prediction_folder import CELLS
from hpa_tf.progress import progress
from hpa_tf.worker_processes import WorkerDied

if TYPE_CHECKING:  # TensorFlow: not in the workers
    from hpa_tf.prediction.inference import Predicted
    from hpa_tf.prediction.members import Network
    from hpa_tf.prediction.runtimes import Device

FAILURES = "failures.csv"
FAILURE_COLUMNS = ("image_id", "error")
GROUP = 32
"""Images in a group: at most so many are read again after a kill; the last batch of a group may not be full."""
SMALLER = "a smaller --batch-size (and another --out, where this one holds results), fewer --workers"
"""What takes less memory."""
_MANY_LOWERED = 0.5


@dataclasses.dataclass
class Outcome:
    """What a prediction did.

    Attributes:
        num_images: Images with results, those of an earlier call included.
        num_predicted: Images predicted by this call.
        num_changed: Images whose files changed since an earlier call: their results were dropped.
        num_cells: Their cells.
        num_lowered: Their cells with a value below 1.
        failures: (image id, error) of the skipped images.
        seconds: CPU time of reading, segmenting and cutting, s.
        brightness: Of each image that was read, see `sources.FieldCells`.
    """

    num_images: int = 0
    num_predicted: int = 0
    num_changed: int = 0
    num_cells: int = 0
    num_lowered: int = 0
    failures: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    seconds: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    brightness: list[tuple[float, ...] | None] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Failed:
    """An image that cannot be used, and why."""

    image_id: str
    error: InputError


@dataclasses.dataclass(frozen=True)
class How:
    """How images go through the networks, and what is kept of each.

    Attributes:
        batch_size: Cells a batch.
        tta: Views of each cell: "none", "2", "8" or "16"; None = what each network says.
        embeddings: Keep the first network's features.
        heat_maps: Keep its maps of every image.
        num_cards: The first so many images are in the report.
        skip: Leave images out that cannot be used, instead of raising the error.
    """

    batch_size: int
    tta: str | None
    embeddings: bool
    heat_maps: bool
    num_cards: int
    skip: bool


class Stages:
    """Predicts the images of a source that have no result yet.

    Args:
        how: How they go through.
        source: The images.
        done: Those that have a result.
        workers: What reads and finishes.
        finisher: Writes each image's results.
        light: Told of each image's brightness.
        show: Show progress.
    """

    def __init__(
        self,
        how: How,
        source: Source,
        done: Set[str],
        workers: Workers | Inline,
        finisher: Finisher,
        light: LightCheck,
        show: bool = True,
    ):
        self._how, self._source, self._workers, self._finisher = how, source, workers, finisher
        self._done, self._light, self._show = done, light, show
        self._finishing: collections.deque = collections.deque()
        self.outcome = Outcome()

    def run(self, networks: Sequence["Network"], device: "Device") -> Outcome:
        """Predict.

        Args:
            networks: What predicts.
            device: Where they run.

        Raises:
            InputError: An image cannot be used and failures are not skipped.
        """
        from hpa_tf.prediction.inference import predict_fields  # TensorFlow: not in the workers

        how, ids = self._how, self._source.image_ids
        in_report = set(ids[: how.num_cards])
        num_done = sum(image_id in self._done for image_id in ids)
        with progress(
            desc="predict", total=len(ids), initial=num_done, unit="image", disable=not self._show
        ) as self._bar:
            for one in predict_fields(
                self._fields(),
                networks,
                [device.run_of(network) for network in networks],
                how.batch_size,
                how.tta,
                with_embedding=how.embeddings,
                with_cards=lambda image_id: how.heat_maps or image_id in in_report,
                replicas=device.replicas,
            ):
                self._start_finishing(one)
            while self._finishing:
                self._finish()
        return self.outcome

    def _fields(self) -> Iterator[FieldCells | None]:
        """Yield the fields to predict, read ahead; None where a group ends."""
        groups = collections.deque(groups_to_do(self._source.image_ids, self._done))
        indices = [i for group in groups for i in group]
        tasks = ((self._source.load, self._source.task(i), self._source.image_ids[i]) for i in indices)
        loaded = self._workers.map(load, tasks, self._limit, worker_died)
        for i, field in zip(indices, loaded, strict=True):
            if isinstance(field, Failed):
                self._fail(field)
            else:
                for text in field.warnings:
                    warnings.warn(text, HpaWarning, stacklevel=2)
                self.outcome.seconds.update(field.seconds)
                self.outcome.brightness.append(field.brightness)
                self._light.add(field.brightness)
                yield field
            if i == groups[0][-1]:
                groups.popleft()
                self._light.check()
                yield None

    @property
    def _limit(self) -> int:
        return self._workers.count + 2

    def _fail(self, failed: Failed) -> None:
        if not self._how.skip:
            raise failed.error
        self.outcome.failures.append((failed.image_id, str(failed.error)))
        self._bar.write(f"skipped {failed.image_id}: {failed.error}")
        self._bar.update()

    def _start_finishing(self, one: "Predicted") -> None:
        """Hand a predicted field to a worker; wait when too many are under way."""
        image_id = one.field.image_id
        is_done = image_id in self._done  # in a group that was begun before
        if is_done or one.fault is not None:
            if one.field.picture is not None:
                one.field.picture.drop()
            if not is_done:
                self._fail(Failed(image_id, one.fault))
            return
        arguments = (one.field, one.probabilities, one.embedding, one.cards)
        future = self._workers.submit(self._finisher, *arguments, name=f"image {image_id}")
        self._finishing.append((image_id, len(one.field.table), future))
        while len(self._finishing) > self._limit or (self._finishing and self._finishing[0][-1].done()):
            self._finish()

    def _finish(self) -> None:
        image_id, num_cells, future = self._finishing.popleft()
        try:
            num_lowered = future.result()
        except WorkerDied as error:
            self._fail(Failed(image_id, error))
            return
        self.outcome.num_cells += num_cells
        self.outcome.num_lowered += num_lowered
        self.outcome.num_predicted += 1
        self._bar.update()


def groups_to_do(image_ids: Sequence[str], done: Set[str]) -> Iterator[range]:
    """Yield the groups, as indices of images, that have images without a result."""
    for start in range(0, len(image_ids), GROUP):
        group = range(start, min(start + GROUP, len(image_ids)))
        if any(image_ids[i] not in done for i in group):
            yield group


def report(outcome: Outcome, failures: str) -> None:
    """Write the table of failures, or remove that of an earlier run where nothing failed, and say what is unusual.

    Args:
        outcome: What came of the prediction.
        failures: The table.
    """
    if outcome.failures:
        table = pd.DataFrame(outcome.failures, columns=FAILURE_COLUMNS)
        reporting.write_csv(table, failures, marked=True)
    else:
        files.remove(failures)
    if outcome.num_cells and outcome.num_lowered / outcome.num_cells > _MANY_LOWERED:
        share = f"{outcome.num_lowered / outcome.num_cells:.0%}"
        text = f"{share} of the cells have a value below 1 (column rule of {CELLS} says why): check masks and channels"
        warnings.warn(text, HpaWarning, stacklevel=3)


def load(task: tuple) -> FieldCells | Failed:
    """Read one image in a worker; one that cannot be used, for whatever reason, comes back as `Failed`.

    Raises:
        OSError: There is no room for what is read.
        StoreError: The object store that it is on refuses.
    """
    read, what, image_id = task
    try:
        return read(what)
    except InputError as error:
        return Failed(image_id, error)
    except Exception as error:  # one image of 100,000 must not end the prediction
        if files.is_full(error) or isinstance(error, StoreError):  # which is not the image's fault
            raise
        found = f"{type(error).__name__}: {error}"
        fix = "look at its files and their permissions, or leave it out with --on-error skip"
        return Failed(image_id, InputError(f"image {image_id}", found, "an image that can be read", fix))


def worker_died(task: tuple, error: InputError) -> Failed:
    """Return what comes of an image that killed its worker."""
    image_id = task[2]
    return Failed(image_id, InputError(f"image {image_id}", error.found, "an image that can be read", error.fix))

"""Cells of many images -> batches of one shape, for each way in which the networks see them.

Examples run across images, and a batch is padded to its full size, so that a network sees one shape only. What several
networks see alike is prepared once. A thread prepares the next batch while the networks run.
"""

import queue
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from hpa_tf.imaging.squares import Square
from hpa_tf.prediction.members import Network
from hpa_tf.prediction.sources import FieldCells
from hpa_tf.views import AnyView
from hpa_tf.views.asking import records_of, rows_of_image

Inputs = Mapping[str, np.ndarray]
"""A network's inputs by name, each [B, ...]."""
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Stream:
    """What some of the networks see alike.

    Attributes:
        view: How they see an image.
        first: One of them: it prepares.
        square: How fields of view are shrunk for them; None for views of single cells.
        networks: Their numbers.
        size: Examples of a batch.
    """

    view: AnyView
    first: Network
    square: Square | None
    networks: tuple[int, ...]
    size: int


def streams_of(networks: Sequence[Network], batch_size: int, replicas: int = 1) -> list[Stream]:
    """Return what the networks see, those that see the same together, in their order.

    Args:
        networks: What predicts.
        batch_size: Cells of a batch: examples of K cells come batch_size / K at a time, at least one for each replica.
        replicas: Devices that share a batch.
    """
    alike: dict[tuple[AnyView, Square | None, int], list[int]] = {}
    for number, network in enumerate(networks):
        alike.setdefault((network.view, network.square, network.margin), []).append(number)
    streams = []
    for (view, square, _), numbers in alike.items():
        size = batch_size if view.num_cells == 1 else max(batch_size // view.num_cells, replicas)
        streams.append(Stream(view, networks[numbers[0]], square, tuple(numbers), size))
    return streams


@dataclass(frozen=True)
class Batch:
    """Examples of one stream, prepared; and the fields of view that come into sight with it.

    Attributes:
        stream: Number of the stream.
        inputs: The networks' inputs; empty where no example is in it.
        rows: int64 [E, K]: cells of the field of view for which each of the E examples answers; -1 = padding. The
            inputs' rows after these are padding.
        owners: For each example the number of its field of view, counted from the first one of all.
        started: Fields of view whose first example, or nothing, is in this batch, in order.
    """

    stream: int
    inputs: Inputs
    rows: np.ndarray
    owners: tuple[int, ...]
    started: tuple[FieldCells, ...]


class _Collected:
    """The examples of one stream that wait for a full batch."""

    def __init__(self, stream: Stream):
        self._stream = stream
        self._begin()

    def _begin(self) -> None:
        size, view = self._stream.size, self._stream.view
        specs = view.record_specs()
        self._records = {
            name: np.zeros((size * view.num_records, *spec.shape), spec.dtype) for name, spec in specs.items()
        }
        self._rows = np.full((size, view.num_cells), -1, np.int64)
        self.owners: list[int] = []

    @property
    def is_full(self) -> bool:
        return len(self.owners) == self._stream.size

    def add(self, owner: int, rows: np.ndarray, records: Sequence[Mapping[str, np.ndarray] | None]) -> None:
        """Prepare one example of a field of view."""
        place = len(self.owners)
        for i, record in enumerate(records, start=place * self._stream.view.num_records):
            if record is not None:
                for name, value in self._stream.first.prepare(**record).items():
                    self._records[name][i] = value.numpy()
        self._rows[place] = rows
        self.owners.append(owner)

    def take(self) -> tuple[Inputs, np.ndarray, tuple[int, ...]]:
        """Return inputs, rows and owners of what is there, and begin anew."""
        inputs = {name: np.asarray(value) for name, value in self._assembled().items()}
        found = inputs, self._rows[: len(self.owners)], tuple(self.owners)
        self._begin()
        return found

    def _assembled(self) -> Mapping[str, np.ndarray]:
        return self._stream.view.assemble(self._records, self._rows)


def batches(fields: Iterable[FieldCells | None], streams: Sequence[Stream]) -> Iterator[Batch]:
    """Prepare the cells of one field of view after the other, and group them.

    Args:
        fields: Their cells; None = no batch crosses this place.
        streams: What the networks see.
    """
    collected = [_Collected(stream) for stream in streams]
    started: list[FieldCells] = []

    def batch(number: int) -> Batch:
        found = Batch(number, *collected[number].take(), tuple(started))
        started.clear()
        return found

    def rest() -> Iterator[Batch]:
        yield from (batch(number) for number, one in enumerate(collected) if one.owners)
        if started:
            yield Batch(0, {}, np.zeros((0, 1), np.int64), (), tuple(started))
            started.clear()

    owner = -1
    for field in fields:
        if field is None:
            yield from rest()
            continue
        owner += 1
        started.append(replace(field, crops=(), regions=(), squares={}))
        cells = tuple(zip(field.crops, field.regions, strict=True))
        for number, stream in enumerate(streams):
            square = None if stream.square is None else field.squares[stream.square]
            for rows in rows_of_image(stream.view, len(field.table)):
                collected[number].add(owner, rows, records_of(stream.view, rows, cells, square))
                if collected[number].is_full:
                    yield batch(number)
    yield from rest()


def ahead(items: Iterable[_Item], depth: int = 2) -> Iterator[_Item]:
    """Yield `items`, made in a thread that runs up to `depth` items ahead."""
    made: queue.Queue = queue.Queue(depth)
    stopped = threading.Event()

    def put(entry: tuple[str, _Item | BaseException | None]) -> None:
        while not stopped.is_set():
            try:
                return made.put(entry, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put(("item", item))
                if stopped.is_set():
                    return
            put(("end", None))
        except BaseException as error:  # handed to the thread that reads
            put(("error", error))

    thread = threading.Thread(target=work, name="prepare", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = made.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        stopped.set()
        thread.join()

"""Cells of many images -> batches of one shape -> probabilities; each image is handed on when its last cell is done.

Batches run across images and are padded to the full size, so that the network sees one shape only. A thread prepares
the next batch while the network runs.
"""

import collections
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import tensorflow as tf

from hpa_tf.postprocessing import NUM_PREDICTED
from hpa_tf.prediction.cards import TILE_SIZE, Cards
from hpa_tf.prediction.members import Network
from hpa_tf.prediction.sources import FieldCells

Run = Callable[[np.ndarray], dict[str, np.ndarray]]
"""One network under a runtime: images float32 [B, S, S, 4] -> probabilities [B, 19] and, if it has them, embedding."""

_SHRUNK = 7 / 8


@dataclass(frozen=True)
class Predicted:
    """The networks' answers for one field of view.

    Attributes:
        field: The field, without its crops.
        probabilities: float32 [M, N, 18] of each network and cell, mean over the views.
        embedding: float32 [N, D] of the first network; None if not asked for.
        cards: What the report shows of each cell; None for a field that is not in the report.
    """

    field: FieldCells
    probabilities: np.ndarray
    embedding: np.ndarray | None = None
    cards: Cards | None = None


@dataclass(frozen=True)
class Batch:
    """`count` cells, prepared for each network.

    Attributes:
        images: float32 [B, S, S, 4] by preparation.
        count: Cells that are real; the rows after them are zeros.
        started: Fields whose first cell, or nothing, is in this batch, in order.
    """

    images: dict[int, np.ndarray]
    count: int
    started: tuple[FieldCells, ...]


def predict_fields(
    fields: Iterable[FieldCells | None],
    networks: Sequence[Network],
    runs: Sequence[Run],
    batch_size: int,
    tta: str = "none",
    with_embedding: bool = False,
    with_cards: Callable[[str], bool] = lambda image_id: False,
) -> Iterator[Predicted]:
    """Yield each field's probabilities, in order.

    Args:
        fields: Their cells; None = no batch crosses this place.
        networks: What is averaged later.
        runs: Each network under its runtime.
        batch_size: Cells a batch.
        tta: Views of each cell: "none", "2", "8" or "16".
        with_embedding: Keep the first network's features.
        with_cards: Tells of an image id whether the report shows its cells.
    """
    preparations = [_same_preparation(networks, network) for network in networks]
    waiting: collections.deque[_Collector] = collections.deque()
    for batch in _ahead(_batches(fields, networks, preparations, batch_size)):
        waiting.extend(_Collector(field, len(networks), with_cards(field.image_id)) for field in batch.started)
        answers = _answer(batch, runs, preparations, tta) if batch.count else {}
        if batch.count and any(collector.with_cards and collector.missing for collector in waiting):
            answers |= _cards(networks[0], batch.images[preparations[0]])
        if not with_embedding:
            answers.pop("embedding", None)
        row = 0
        for collector in waiting:
            row += collector.take(answers, row, batch.count)
        while waiting and not waiting[0].missing:
            yield waiting.popleft().result()


def _same_preparation(networks: Sequence[Network], network: Network) -> int:
    """Return the first network that prepares its cells as this one does."""
    wanted = network.served.recipe.view
    return next(i for i, other in enumerate(networks) if other.served.recipe.view == wanted)


def _batches(
    fields: Iterable[FieldCells | None], networks: Sequence[Network], preparations: Sequence[int], batch_size: int
) -> Iterator[Batch]:
    """Prepare cells one after the other and group them across fields."""
    distinct = sorted(set(preparations))
    size = {i: networks[i].served.size for i in distinct}

    def empty() -> dict[int, np.ndarray]:
        return {i: np.zeros((batch_size, size[i], size[i], 4), np.float32) for i in distinct}

    images, count, started = empty(), 0, []
    for field in fields:
        if field is None:
            if count or started:
                yield Batch(images, count, tuple(started))
                images, count, started = empty(), 0, []
            continue
        started.append(replace(field, crops=(), regions=()))
        for crop, region in zip(field.crops, field.regions, strict=True):
            tensors = tf.constant(crop), tf.constant(region)
            for i in distinct:
                images[i][count] = networks[i].served.prepare(*tensors).numpy()
            count += 1
            if count == batch_size:
                yield Batch(images, count, tuple(started))
                images, count, started = empty(), 0, []
    if count or started:
        yield Batch(images, count, tuple(started))


def _answer(batch: Batch, runs: Sequence[Run], preparations: Sequence[int], tta: str) -> dict[str, np.ndarray]:
    """Run every network on every view; `probabilities` [M, B, 18] is their mean over the views."""
    probabilities, embedding = [], None
    for number, (run, preparation) in enumerate(zip(runs, preparations, strict=True)):
        views = [run(view) for view in augmented(batch.images[preparation], tta)]
        probabilities.append(np.mean([view["probabilities"][:, :NUM_PREDICTED] for view in views], axis=0))
        if number == 0:
            embedding = views[0].get("embedding")
    answers = {"probabilities": np.stack(probabilities)}
    return answers if embedding is None else {**answers, "embedding": embedding}


def augmented(images: np.ndarray, tta: str) -> Iterator[np.ndarray]:
    """Yield the views of images [B, S, S, 4]: itself first, then flips and quarter turns, then those shrunk.

    Source: METHODS 4 (dihedral views); the shrunk ones are ours.
    """
    turns = {"none": 1, "2": 1, "8": 4, "16": 4}[tta]
    for base in (images, _shrunk(images)) if tta == "16" else (images,):
        for turn in range(turns):
            turned = np.rot90(base, turn, axes=(1, 2))
            yield np.ascontiguousarray(turned)
            if tta != "none":
                yield np.ascontiguousarray(turned[:, :, ::-1])


def _shrunk(images: np.ndarray) -> np.ndarray:
    """Shrink each image to 7/8 and pad it with zeros."""
    size = images.shape[1]
    inner = max(1, round(size * _SHRUNK))
    start = (size - inner) // 2
    small = np.zeros_like(images)
    for image, target in zip(images, small, strict=True):
        target[start : start + inner, start : start + inner] = cv2.resize(image, (inner, inner))
    return small


def _cards(network: Network, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return what the report shows of each cell: what the network sees, and where its first class comes from."""
    thumbnails = np.stack([cv2.resize(image, (TILE_SIZE,) * 2, interpolation=cv2.INTER_AREA) for image in images])
    cards = {"thumbnails": np.rint(thumbnails * 255).astype(np.uint8)}
    if not network.served.has_maps:
        return cards
    answer = network.served.signatures["activation_maps"](image=tf.constant(images))
    return {**cards, "heat": answer["heat"].numpy(), "heat_class": answer["class_id"].numpy()}


class _Collector:
    """Gathers one field's rows from the batches they are in."""

    def __init__(self, field: FieldCells, num_networks: int, with_cards: bool):
        self._field, self.with_cards = field, with_cards
        self.missing = len(field.table)
        self._parts: dict[str, list[np.ndarray]] = {}
        self._nothing = np.zeros((num_networks, 0, NUM_PREDICTED), np.float32)

    def take(self, answers: dict[str, np.ndarray], row: int, count: int) -> int:
        """Take rows from `row` on; return how many were taken."""
        taken = min(self.missing, count - row)
        for name, values in answers.items() if taken else ():
            if self.with_cards or name in ("probabilities", "embedding"):
                axis = (slice(None),) * (name == "probabilities")
                self._parts.setdefault(name, []).append(values[(*axis, slice(row, row + taken))])
        self.missing -= taken
        return taken

    def result(self) -> Predicted:
        """Return the whole field's answers."""
        whole = {name: np.concatenate(parts, axis=int(name == "probabilities")) for name, parts in self._parts.items()}
        probabilities, embedding = whole.pop("probabilities", self._nothing), whole.pop("embedding", None)
        return Predicted(self._field, probabilities, embedding, Cards(**whole) if self.with_cards else None)


def _ahead(items: Iterable[Any], depth: int = 2) -> Iterator[Any]:
    """Yield `items`, made in a thread that runs up to `depth` items ahead."""
    made: queue.Queue = queue.Queue(depth)
    stopped = threading.Event()

    def put(entry: tuple[str, Any]) -> None:
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

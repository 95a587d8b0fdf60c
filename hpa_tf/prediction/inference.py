"""Batches -> probabilities of cells; each image is handed on when the last network has answered for its last cell."""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import tensorflow as tf

from hpa_tf.classes import CHANNELS, NEGATIVE, NUM_CLASSES
from hpa_tf.errors import InputError
from hpa_tf.heat_map_files import cut_from_fields
from hpa_tf.imaging.squares import with_every_cell
from hpa_tf.prediction.batching import Inputs, ahead, batches, streams_of
from hpa_tf.prediction.cards import TILE_SIZE, Cards
from hpa_tf.prediction.members import Network
from hpa_tf.prediction.sources import FieldCells
from hpa_tf.recipes.recipe import Tta
from hpa_tf.views import Crop

Run = Callable[[Inputs], Mapping[str, np.ndarray]]
"""One network under a runtime: prepared inputs -> probabilities [B, 19] or [B, K or 1, 19], perhaps an embedding."""

_SHRUNK = 7 / 8


@dataclass(frozen=True)
class Predicted:
    """The networks' answers for one field of view.

    Attributes:
        field: The field, without its crops.
        probabilities: float32 [M, N, 19] of each member and cell, mean over the views of test time; Negative is NaN
            where a network does not answer it.
        embedding: float32 [N, D] of the first network; None if not asked for.
        cards: What the report shows of each cell; None for a field that is not in the report.
        faulty: Networks that answered something for a cell that is not a number.
    """

    field: FieldCells
    probabilities: np.ndarray
    embedding: np.ndarray | None = None
    cards: Cards | None = None
    faulty: tuple[str, ...] = ()

    @property
    def fault(self) -> InputError | None:
        """Why there can be no scores, if so."""
        if not self.faulty:
            return None
        found = f"answers of {' and '.join(self.faulty)} that are not a number"
        return InputError(f"image {self.field.image_id}", found, "probabilities", "--precision float32, or another run")


def predict_fields(
    fields: Iterable[FieldCells | None],
    networks: Sequence[Network],
    runs: Sequence[Run],
    batch_size: int,
    tta: Tta | None = None,
    with_embedding: bool = False,
    with_cards: Callable[[str], bool] = lambda image_id: False,
    replicas: int = 1,
) -> Iterator[Predicted]:
    """Yield each field's probabilities, in order.

    Args:
        fields: Their cells; None = no batch crosses this place.
        networks: What is averaged later, then the specialists, whose answers become columns of the table.
        runs: Each network under its runtime.
        batch_size: Cells a batch.
        tta: Views of each cell: "none", "2", "8" or "16"; None = what each network says.
        with_embedding: Keep the first network's features.
        with_cards: Tells of an image id whether the report shows its cells.
        replicas: Devices that share a batch.
    """
    streams = streams_of(networks, batch_size, replicas)
    waiting: collections.deque[_Collector] = collections.deque()
    num_done = 0
    for batch in ahead(batches(fields, streams)):
        for field in batch.started:
            waiting.append(_Collector(field, networks, len(streams), with_cards(field.image_id)))
        collectors = [waiting[owner - num_done] for owner in batch.owners]
        for number in streams[batch.stream].networks if collectors else ():
            probabilities, embedding = _answer(batch.inputs, runs[number], tta or networks[number].tta)
            if not networks[number].has_negative:
                probabilities[..., NEGATIVE] = np.nan
            shown = {} if embedding is None or not with_embedding else {"embedding": embedding}
            if number == 0 and any(collector.with_cards for collector in collectors):
                shown |= _cards(networks[0], batch.inputs, len(collectors))
            for place, (collector, rows) in enumerate(zip(collectors, batch.rows, strict=True)):
                collector.take(number, rows, probabilities[place])
                if number == 0:
                    collector.show(rows, {name: values[place] for name, values in shown.items()})
        for collector, rows in zip(collectors, batch.rows, strict=True):
            collector.missing -= int((rows >= 0).sum())
        while waiting and not waiting[0].missing:
            yield _with_columns(waiting.popleft().result(), networks)
            num_done += 1


def _with_columns(one: Predicted, networks: Sequence[Network]) -> Predicted:
    """Move the answers of specialists to columns of the field's table; of one's several checkpoints the mean."""
    if all(network.column is None for network in networks):
        return one
    columns: dict[str, np.ndarray] = {}
    for column in dict.fromkeys(network.column for network in networks if network.column is not None):
        own = [i for i, network in enumerate(networks) if network.column == column]
        (class_id,) = networks[own[0]].served.recipe.network.classes
        weights = [networks[i].weight for i in own]
        columns[column] = np.average(one.probabilities[own, :, class_id], axis=0, weights=weights)
    members = [i for i, network in enumerate(networks) if network.column is None]
    field = replace(one.field, table=one.field.table.assign(**columns))
    return replace(one, field=field, probabilities=one.probabilities[members])


def _answer(inputs: Inputs, run: Run, tta: Tta) -> tuple[np.ndarray, np.ndarray | None]:
    """Run a network on every view: probabilities [B, K or 1, 19], their mean over the views, and the first's features.

    Features: [B, K or 1, D]; None where it has none.
    """
    views = [run(view) for view in augmented(inputs, tta)]
    probabilities = np.mean([view["probabilities"] for view in views], axis=0)
    embedding = views[0].get("embedding")
    by_cell = [one if one is None or one.ndim == 3 else one[:, None] for one in (probabilities, embedding)]
    return by_cell[0], by_cell[1]


def augmented(inputs: Inputs, tta: Tta) -> Iterator[Inputs]:
    """Yield the views of prepared inputs: as they are first, then flips and quarter turns, then those shrunk.

    Masks move with the image; the other inputs stay.

    Source: METHODS 4 (dihedral views); the shrunk ones are ours.
    """
    turns = {"none": 1, "2": 1, "8": 4, "16": 4}[tta]
    for base in (inputs, _shrunk(inputs)) if tta == "16" else (inputs,):
        for turn in range(turns):
            yield _moved(base, turn, mirrored=False)
            if tta != "none":
                yield _moved(base, turn, mirrored=True)


def _moved(inputs: Inputs, turn: int, mirrored: bool) -> Inputs:
    """Return inputs whose image [.., S, S, C] and masks [.., S, S] are turned by quarters, then mirrored."""
    moved = dict(inputs)
    for name, (rows, columns) in {"image": (-3, -2), "masks": (-2, -1)}.items():
        if name in inputs:
            turned = np.rot90(inputs[name], turn, axes=(rows, columns))
            moved[name] = np.ascontiguousarray(np.flip(turned, axis=columns) if mirrored else turned)
    return moved


def _shrunk(inputs: Inputs) -> Inputs:
    """Shrink image and masks to 7/8 and pad them with zeros; cells that vanish keep a pixel."""
    size = inputs["image"].shape[-2]
    inner = max(1, round(size * _SHRUNK))
    start = (size - inner) // 2
    place = np.s_[start : start + inner, start : start + inner]
    small = {"image": np.zeros_like(inputs["image"])}
    pairs = [values.reshape(-1, *values.shape[-3:]) for values in (inputs["image"], small["image"])]
    for image, target in zip(*pairs, strict=True):
        target[place] = cv2.resize(image, (inner, inner)).reshape(inner, inner, -1)
    if "masks" in inputs:
        small["masks"] = np.zeros_like(inputs["masks"])
        for masks, target in zip(inputs["masks"], small["masks"], strict=True):
            target[place] = _masks_shrunk(masks, inner)
    return {**inputs, **small}


def _masks_shrunk(masks: np.ndarray, size: int) -> np.ndarray:
    """Return masks int32 [S, S] at another size, the nearest pixel of each; a cell that has pixels keeps one."""
    small = cv2.resize(masks.astype(np.uint16), (size, size), interpolation=cv2.INTER_NEAREST_EXACT)
    scale, lost = size / len(masks), np.setdiff1d(masks, small)
    centres = {int(k): tuple((np.argwhere(masks == k).mean(axis=0) + 0.5) * scale) for k in lost}
    return with_every_cell(small, centres, size)


def _cards(network: Network, inputs: Inputs, count: int) -> dict[str, np.ndarray]:
    """Return what the report shows of the cells of the first `count` examples of a batch, each [count, K or 1, ...].

    What the network sees, if that is crops in all channels, and where the first class of each comes from, if it can
    tell.
    """
    cards, crop = {}, network.crop
    if crop is not None and crop.channels == CHANNELS:
        images = inputs["image"][:count].reshape(-1, *inputs["image"].shape[-3:])
        small = [cv2.resize(image, (TILE_SIZE,) * 2, interpolation=cv2.INTER_AREA) for image in images]
        tiles = np.rint(np.stack(small) * 255).astype(np.uint8)
        cards["thumbnails"] = tiles.reshape(count, -1, *tiles.shape[1:])
    if network.served.has_maps:
        cards |= _heat(network, inputs, count)
    return cards


def _heat(network: Network, inputs: Inputs, count: int) -> dict[str, np.ndarray]:
    """Return the maps of the first `count` examples, [count, K or 1, h, w], and their classes.

    Examples of several cells go one by one: a gradient keeps the maps of all of their pieces in memory.
    """
    draw, specs = network.served.signatures["activation_maps"], network.view.specs()
    step = count if network.view.num_cells == 1 else 1
    answers = [
        draw(**{name: tf.constant(inputs[name][start : start + step]) for name in specs})
        for start in range(0, count, step)
    ]
    found = {
        name: np.concatenate([answer[key].numpy() for answer in answers])
        for name, key in {"heat": "heat", "heat_class": "class_id"}.items()
    }
    return {name: values[:, None] for name, values in found.items()} if isinstance(network.view, Crop) else found


class _Collector:
    """Gathers one field's cells from the batches they are in."""

    def __init__(self, field: FieldCells, networks: Sequence[Network], num_streams: int, with_cards: bool):
        self._field, self._networks, self.with_cards = field, networks, with_cards
        self._whole_fields = networks[0].view.reads == "fields"
        self._num_cells = len(field.table)
        self.missing = self._num_cells * num_streams
        self._probabilities = np.full((len(networks), self._num_cells, NUM_CLASSES), np.nan, np.float32)
        self._shown: dict[str, np.ndarray] = {}

    def take(self, network: int, rows: np.ndarray, probabilities: np.ndarray) -> None:
        """Take a network's probabilities [K or 1, 19] of the cells `rows` [K], -1 = padding."""
        self._probabilities[network, rows[rows >= 0]] = _of_cells(probabilities, rows)

    def show(self, rows: np.ndarray, shown: Mapping[str, np.ndarray]) -> None:
        """Take the first network's features and pictures of cells, each [K or 1, ...]."""
        for name, values in shown.items():
            if self.with_cards or name == "embedding":
                empty = np.zeros((self._num_cells, *values.shape[1:]), values.dtype)
                self._shown.setdefault(name, empty)[rows[rows >= 0]] = _of_cells(values, rows)

    def result(self) -> Predicted:
        """Return the whole field's answers."""
        embedding = self._shown.pop("embedding", None)
        if self._whole_fields and "heat" in self._shown:
            self._shown["heat"] = cut_from_fields(self._shown["heat"], self._field.table)
        if self._field.thumbnails is not None:
            self._shown["thumbnails"] = self._field.thumbnails
        cards = Cards(**self._shown) if self.with_cards else None
        faulty = tuple(
            network.name
            for network, found in zip(self._networks, self._probabilities, strict=True)
            if np.isnan(found[:, list(network.served.recipe.network.classes)]).any()
        )
        return Predicted(replace(self._field, thumbnails=None), self._probabilities, embedding, cards, faulty)


def _of_cells(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return values [K or 1, ...] of the cells that are there; one row is that of every cell."""
    return np.broadcast_to(values, (len(rows), *values.shape[1:]))[rows >= 0]

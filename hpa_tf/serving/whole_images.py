"""Requests about whole images: networks of bags and of fields of view, asked as `predict.py` asks them.

    fields of view: {"instances": [{"image": PNG, "masks": PNG}, ...]}: four channels as R, G, B, A, and the cell mask
    -> {"predictions": [{"cells": [their numbers in the mask], "probabilities": [[19 numbers], ...]}, ...]}
    bags: {"instances": [{"crop": [PNG, ...], "region": [PNG, ...]}, ...]}: all cells of one image
    -> {"predictions": [{"probabilities": [[19 numbers], ...]}, ...]}

Each PNG is {"b64": its bytes in base64}. What is asked may be of any size: it is shrunk and divided into examples here.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from hpa_tf.encoding import decode_picture
from hpa_tf.errors import InputError
from hpa_tf.imaging.cells import THIS_CELL, Box, check_region, find_boxes
from hpa_tf.imaging.segmentation.label_images import check_cells
from hpa_tf.imaging.squares import Shrunk, squares_of
from hpa_tf.serving.loading import Served
from hpa_tf.serving.png import NEEDS_REGION
from hpa_tf.serving.request import MAX_CELLS, PNG_MAGIC, instances, json_rows, picture
from hpa_tf.views.asking import records_of, rows_of_image, square_of

CELLS_A_BATCH = 16
"""Cells that are computed at a time: what a request takes of memory does not grow with it."""


class _Asked(NamedTuple):
    """One image, decoded.

    Attributes:
        cells: Crop [H, W, 4] and region map [H, W] of each cell; empty for a field of view.
        square: The field of view as the network sees it; None for a bag.
        numbers: Of the cells in the mask; for a bag 1 to N.
    """

    cells: list[tuple[np.ndarray, np.ndarray]]
    square: Shrunk | None
    numbers: list[int]


def predict(served: Served, payload: Any) -> dict[str, Any]:
    """Answer one request.

    Args:
        served: A run whose network sees bags or fields of view.
        payload: The request's JSON, or its bytes.

    Raises:
        ValueError: The request or a picture in it cannot be used; says why.
    """
    is_field = served.recipe.asked_view.reads == "fields"
    read = _read_field if is_field else _read_bag
    found = instances(payload)
    _check_number(sum(len(crops) for one in found if isinstance(crops := one.get("crop"), list)))
    asked = [read(served, one, f"instance {number}") for number, one in enumerate(found)]
    _check_number(sum(len(one.numbers) for one in asked))
    return {"predictions": [_answer(served, one) | ({"cells": one.numbers} if is_field else {}) for one in asked]}


def _check_number(cells: int) -> None:
    if cells > MAX_CELLS:
        raise ValueError(f"{cells} cells; expected at most {MAX_CELLS} in a request")


def _read_field(served: Served, instance: Mapping[str, Any], where: str) -> _Asked:
    if set(instance) != {"image", "masks"}:
        raise ValueError(f'{where}: found {sorted(instance)}; expected "image" and "masks"')
    image, masks = (_decoded(instance[name], f"{where}, {name}", name == "image") for name in ("image", "masks"))
    if image.shape[:2] != masks.shape:
        raise ValueError(f"{where}: an image of {image.shape[:2]} px and masks of {masks.shape} px; expected one size")
    try:
        check_cells(masks, f"{where}, masks")
    except InputError as error:
        raise ValueError(str(error)) from error
    found: list[tuple[int, Box]] = [
        (number, (rows.start, columns.start, rows.stop, columns.stop)) for number, (rows, columns) in find_boxes(masks)
    ]
    numbers, boxes = [number for number, _ in found], np.array([box for _, box in found]).reshape(-1, 4)
    square = square_of(served.recipe.asked_view, served.dataset)
    try:
        return _Asked([], squares_of(image, masks, numbers, boxes, [square])[square], numbers)
    except InputError as error:
        raise ValueError(f"{where}: {error}") from error


def _read_bag(served: Served, instance: Mapping[str, Any], where: str) -> _Asked:
    lists = {name: instance.get(name) for name in instance}
    if set(lists) not in ({"crop"}, {"crop", "region"}) or not all(isinstance(one, list) for one in lists.values()):
        raise ValueError(f'{where}: expected lists of PNGs as "crop" and, if there are region maps, as "region"')
    if len({len(one) for one in lists.values()}) > 1:
        raise ValueError(f"{where}: expected as many regions as crops")
    crops = [_decoded(one, f"{where}, crop {i}", True) for i, one in enumerate(lists["crop"])]
    regions = [_decoded(one, f"{where}, region {i}", False) for i, one in enumerate(lists.get("region", ()))]
    if crops and not regions and served.recipe.asked_view.cell.needs_region:
        raise ValueError(f"{where}: crops without regions; {NEEDS_REGION}")
    regions = regions or [np.full(crop.shape[:2], THIS_CELL, np.uint8) for crop in crops]
    try:
        regions = [check_region(region, f"{where}, region {i}").astype(np.uint8) for i, region in enumerate(regions)]
    except InputError as error:
        raise ValueError(str(error)) from error
    if any(crop.shape[:2] != region.shape for crop, region in zip(crops, regions, strict=True)):
        raise ValueError(f"{where}: a crop and its region differ in size")
    return _Asked(list(zip(crops, regions, strict=True)), None, list(range(1, len(crops) + 1)))


def _decoded(value: Any, where: str, is_colour: bool) -> np.ndarray:
    """Return the pixels of a picture in a request: [H, W, 4], or [H, W] of a mask."""
    data = picture(value, where)
    try:
        if not data.startswith(PNG_MAGIC):
            raise ValueError("no PNG")
        pixels = decode_picture(data)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if pixels.ndim != (3 if is_colour else 2):
        expected = "a PNG of 4 channels (R, G, B, Y as R, G, B, A)" if is_colour else "a grey PNG"
        raise ValueError(f"{where}: found {1 if pixels.ndim == 2 else pixels.shape[2]} channels; expected {expected}")
    return pixels


def _answer(served: Served, asked: _Asked) -> dict[str, Any]:
    """Return the probabilities of an image's cells, some examples at a time."""
    view = served.recipe.asked_view
    rows = rows_of_image(view, len(asked.numbers))
    found: list[list[float | None]] = [[0.0]] * len(asked.numbers)
    size = max(1, CELLS_A_BATCH // view.num_cells)
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        inputs = view.assemble(_prepared(served, some, asked), some)
        tensors = {name: tf.convert_to_tensor(value) for name, value in inputs.items()}
        answers = served.signatures["prepared"](**tensors)["probabilities"].numpy()
        for example, answer in zip(some, np.broadcast_to(answers, (*some.shape, answers.shape[-1])), strict=True):
            for row, values in zip(example.tolist(), json_rows(answer), strict=True):
                if row >= 0:
                    found[row] = values
    return {"probabilities": found}


def _prepared(served: Served, rows: np.ndarray, asked: _Asked) -> dict[str, np.ndarray]:
    """Return the prepared records of some examples, [E x num_records, ...]; zeros for padding."""
    specs = served.recipe.asked_view.record_specs()
    records = list(_records(served, rows, asked))
    return {
        name: np.stack([np.zeros(spec.shape, spec.dtype) if one is None else one[name] for one in records])
        for name, spec in specs.items()
    }


def _records(served: Served, rows: np.ndarray, asked: _Asked) -> Iterator[dict[str, np.ndarray] | None]:
    for example in rows:
        for record in records_of(served.recipe.asked_view, example, asked.cells, asked.square):
            if record is None:
                yield None
            else:
                yield {name: value.numpy() for name, value in served.prepare(**record).items()}

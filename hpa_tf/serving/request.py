"""A request's JSON to the PNG bytes of its cells, in TensorFlow Serving's two forms; limits before anything is decoded.

    by rows:    {"instances": [{"crop": {"b64": PNG}, "region": {"b64": PNG}}, ...]}, or {"b64": PNG} for a crop alone
    by columns: {"inputs": {"crop": [{"b64": PNG}, ...], "region": [...]}}, or a list for crops alone

Each may have a `signature_name`; what a request names beyond that is refused.
"""

import base64
import binascii
import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpa_tf.serving.png import MAX_CROP_PIXELS

MAX_INSTANCES = 256
"""Most cells in one request."""
MAX_REQUEST_PIXELS = 1 << 26
"""Largest sum of height x width over the pictures of one request, px: 256 crops of 512 x 512."""

SIGNATURES = {("crop",): "serving_default", ("crop", "region"): "crop_and_region"}
"""The signature that answers each set of inputs."""

_ROWS, _COLUMNS, _SIGNATURE = "instances", "inputs", "signature_name"
MAX_CELLS = 1024
"""Cells of bags and fields in a request."""
_MAX_MARKS = 8 * MAX_CELLS
"""Signs [ { , : of a request: 6 a cell with its region, and what stands around them."""
PNG_MAGIC, _SIZE = b"\x89PNG\r\n\x1a\n", slice(16, 24)


@dataclass(frozen=True)
class Request:
    """What a request asks.

    Attributes:
        signature: Name of the signature that answers it.
        pictures: PNG bytes of each cell, by input.
        by_columns: Whether it came as columns, and wants its answer so.
    """

    signature: str
    pictures: dict[str, list[bytes]]
    by_columns: bool


def parse(payload: Any) -> Request:
    """Return what a request asks.

    Args:
        payload: The request's JSON, or its bytes.

    Raises:
        ValueError: It is no request of the forms above, or too large; says what is wrong.
    """
    if isinstance(payload, bytes):
        payload = _json(payload)
    if not isinstance(payload, dict) or (_ROWS in payload) == (_COLUMNS in payload):
        raise ValueError(f'expected {{"{_ROWS}": [1 to {MAX_INSTANCES} cells]}} or {{"{_COLUMNS}": {{"crop": [...]}}}}')
    if unknown := sorted(payload.keys() - {_ROWS, _COLUMNS, _SIGNATURE}):
        raise ValueError(f"found {', '.join(map(repr, unknown))[:200]}; expected {_ROWS} or {_COLUMNS}, {_SIGNATURE}")
    by_columns = _COLUMNS in payload
    pictures = _columns(payload[_COLUMNS]) if by_columns else _rows(payload[_ROWS])
    signature = SIGNATURES[tuple(sorted(pictures))]
    asked = payload.get(_SIGNATURE, signature)
    if asked != signature:
        known = ", ".join(f"{name} (of {' and '.join(inputs)})" for inputs, name in SIGNATURES.items())
        raise ValueError(f"{_SIGNATURE} {str(asked)[:100]!r} for {' and '.join(sorted(pictures))}; expected {known}")
    _check_pixels((data for column in pictures.values() for data in column), MAX_CROP_PIXELS)
    return Request(signature, pictures, by_columns)


def json_rows(probabilities: np.ndarray) -> list[list[float | None]]:
    """Return probabilities [N, 19] as JSON values: null for a class that the network does not answer (NaN)."""
    return [[None if value != value else value for value in row] for row in probabilities.tolist()]


def instances(payload: Any) -> list[dict[str, Any]]:
    """Return the instances of a request by rows, each with its inputs by name.

    Args:
        payload: The request's JSON, or its bytes.

    Raises:
        ValueError: It is no such request.
    """
    if isinstance(payload, bytes):
        payload = _json(payload)
    if isinstance(payload, dict) and (others := sorted(payload.keys() - {_ROWS})):
        named = ", ".join(map(repr, others))[:200]
        raise ValueError(f"found {named}; networks of bags and of fields take {_ROWS} alone")
    found = payload.get(_ROWS) if isinstance(payload, dict) else None
    if not isinstance(found, list) or not 1 <= len(found) <= MAX_INSTANCES:
        raise ValueError(f'expected {{"{_ROWS}": [1 to {MAX_INSTANCES} images]}}')
    if not all(isinstance(one, dict) for one in found):
        raise ValueError(f'{_ROWS}: expected inputs by name, such as {{"image": {{"b64": base64 of a PNG}}, ...}}')
    values = [value if isinstance(value, list) else [value] for instance in found for value in instance.values()]
    _check_pixels(picture(one, _ROWS) for some in values for one in some)
    return found


def _json(data: bytes) -> Any:
    """Parse bytes as JSON once they are known not to hold more values than any request has.

    A value takes 2 bytes of text and up to 100 of memory; in a request nearly all bytes are base64.
    """
    if sum(data.count(mark) for mark in b"[{,:") > _MAX_MARKS:
        raise ValueError(f"more values than {MAX_CELLS} cells have; send fewer in a request")
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("lists in lists in lists") from error


def _rows(instances: Any) -> dict[str, list[bytes]]:
    if not isinstance(instances, list) or not 1 <= len(instances) <= MAX_INSTANCES:
        raise ValueError(f'expected {{"{_ROWS}": [1 to {MAX_INSTANCES} cells]}}')
    decoded = [_instance(instance, number) for number, instance in enumerate(instances)]
    names = {tuple(sorted(instance)) for instance in decoded}
    if len(names) > 1 or names.isdisjoint(SIGNATURES):
        expected = 'expected "crop", or "crop" and "region", in every instance'
        raise ValueError(f"instances with the inputs {sorted(names)}; {expected}")
    return {name: [instance[name] for instance in decoded] for name in next(iter(names))}


def _instance(instance: Any, number: int) -> dict[str, bytes]:
    if isinstance(instance, dict) and set(instance) == {"b64"}:
        instance = {"crop": instance}
    where = f"instance {number}"
    if not isinstance(instance, dict) or not instance:
        raise ValueError(f'{where}: expected {{"crop": {{"b64": base64 of a PNG}}}}')
    return {str(name): picture(value, where) for name, value in instance.items()}


def _columns(inputs: Any) -> dict[str, list[bytes]]:
    columns = inputs if isinstance(inputs, dict) and "b64" not in inputs else {"crop": inputs}
    if tuple(sorted(columns)) not in SIGNATURES:
        raise ValueError(f'inputs {sorted(columns)}; expected "crop", or "crop" and "region"')
    lists = [column for column in columns.values() if isinstance(column, list)]
    sizes = sorted({len(column) for column in lists})
    if len(lists) < len(columns) or len(sizes) > 1 or not 1 <= sizes[0] <= MAX_INSTANCES:
        raise ValueError(f"inputs: expected lists of 1 to {MAX_INSTANCES} pictures, as many regions as crops")
    return {
        name: [picture(value, f"{name} {number}") for number, value in enumerate(column)]
        for name, column in columns.items()
    }


def picture(value: Any, where: str) -> bytes:
    """Return the bytes of a picture in a request.

    Raises:
        ValueError: It is no base64.
    """
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (TypeError, KeyError, ValueError, binascii.Error) as error:
        raise ValueError(f'{where}: expected {{"b64": base64 of a PNG}}') from error


def _check_pixels(pictures: Iterable[bytes], decoded: float = math.inf) -> None:
    """Refuse pictures that are too large together; what is no PNG is refused where it would be decoded.

    Args:
        pictures: Their bytes.
        decoded: Most pixels of a picture that is decoded at all: larger ones are refused there.

    Raises:
        ValueError: The headers name too many pixels.
    """
    total = 0
    for data in pictures:
        if data.startswith(PNG_MAGIC) and len(data) >= _SIZE.stop:
            width, height = struct.unpack(">II", data[_SIZE])
            total += width * height if width * height <= decoded else 0
    if total > MAX_REQUEST_PIXELS:
        raise ValueError(f"pictures of {total} pixels together; expected at most {MAX_REQUEST_PIXELS} in a request")

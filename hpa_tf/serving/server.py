"""Serve a run over HTTP with TensorFlow Serving's REST paths, by kserve. Extra: [serve].

    POST /v1/models/NAME:predict  {"instances": [{"crop": {"b64": PNG}}, ...]}, each with or each without a "region"
    -> {"predictions": [{"probabilities": [19 numbers]}, ...]}

Only PNG crops are taken, in the SavedModel's own signatures: what is true of one server is true of the other.
"""

import asyncio
import base64
import binascii
import json
from typing import Any

import tensorflow as tf

from hpa_tf import serving
from hpa_tf.errors import InputError
from hpa_tf.memory import keep_freed_memory

MAX_INSTANCES = 256
"""Most cells in one request."""
DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8501

_SIGNATURES = {("crop",): "serving_default", ("crop", "region"): "crop_and_region"}


def parse_instances(payload: Any) -> dict[str, list[bytes]]:
    """Return the PNG bytes of a request, by input.

    Args:
        payload: The request's JSON; its bytes where the client did not say that it is JSON.

    Raises:
        ValueError: It is no request of the form above; says what is wrong.
    """
    if isinstance(payload, bytes):
        payload = json.loads(payload)
    instances = payload.get("instances") if isinstance(payload, dict) else None
    if not isinstance(instances, list) or not 1 <= len(instances) <= MAX_INSTANCES:
        raise ValueError(f'expected {{"instances": [1 to {MAX_INSTANCES} cells]}}')
    decoded = [_parse_instance(instance, number) for number, instance in enumerate(instances)]
    names = {tuple(sorted(instance)) for instance in decoded}
    if len(names) > 1 or names.isdisjoint(_SIGNATURES):
        expected = 'expected "crop", or "crop" and "region", in every instance'
        raise ValueError(f"instances with the inputs {sorted(names)}; {expected}")
    return {name: [instance[name] for instance in decoded] for name in next(iter(names))}


def _parse_instance(instance: Any, number: int) -> dict[str, bytes]:
    if isinstance(instance, dict) and set(instance) == {"b64"}:
        instance = {"crop": instance}
    try:
        return {name: base64.b64decode(value["b64"], validate=True) for name, value in instance.items()}
    except (AttributeError, TypeError, KeyError, ValueError, binascii.Error) as error:
        raise ValueError(f'instance {number}: expected {{"crop": {{"b64": base64 of a PNG}}}}') from error


def predict(served: serving.Served, payload: Any) -> dict[str, Any]:
    """Answer one request.

    Raises:
        ValueError: The request or a picture in it cannot be used; says why.
    """
    pictures = parse_instances(payload)
    signature = _SIGNATURES[tuple(sorted(pictures))]
    try:
        answer = served.signatures[signature](**{name: tf.constant(data) for name, data in pictures.items()})
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(_reason(error)) from error
    return {"predictions": [{"probabilities": row} for row in answer["probabilities"].numpy().tolist()]}


def _reason(error: tf.errors.OpError) -> str:
    """Return the one line of TensorFlow's message that speaks of the input."""
    lines = [line.strip() for line in str(error.message).splitlines()]
    return next((line for line in lines if line.startswith(("assertion failed", "Invalid PNG"))), lines[0])


def serve(run: str, name: str, host: str = DEFAULT_HOST, port: int = DEFAULT_PORT) -> None:
    """Serve a run until a signal ends the process.

    Args:
        run: Run folder.
        name: The model's name in the paths.
        host: Address to listen on; by default this machine alone.
        port: TCP port.

    Raises:
        InputError: The run cannot be served, or kserve is not installed.
    """
    try:
        import kserve
        from kserve.protocol.dataplane import DataPlane
        from kserve.protocol.model_repository_extension import ModelRepositoryExtension
        from kserve.protocol.rest.server import RESTServer
    except ImportError as error:
        raise InputError("kserve", "it is not installed", "kserve", "pip install 'hpa_tf[serve]'") from error
    keep_freed_memory()

    class Cells(kserve.Model):
        """The run as kserve wants it."""

        def __init__(self):
            super().__init__(name)
            self._served = serving.load(run)
            self.ready = True

        async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> dict[str, Any]:
            try:
                return await asyncio.to_thread(predict, self._served, payload)
            except ValueError as error:
                raise kserve.errors.InvalidInput(str(error)) from error

    repository = kserve.ModelRepository()
    repository.update(Cells())
    plane, extension = DataPlane(repository), ModelRepositoryExtension(repository)
    server = RESTServer("kserve.model_server:app", plane, extension, port)
    server.config.host = host  # kserve itself listens on every address
    server.run()

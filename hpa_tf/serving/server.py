"""Serve a run over HTTP with TensorFlow Serving's REST paths. Extra: [serve].

    POST /v1/models/NAME:predict  {"instances": [{"crop": {"b64": PNG}}, ...]}, each with or each without a "region"
    -> {"predictions": [{"probabilities": [19 numbers]}, ...]}
    GET /v1/models/NAME  -> whether it is up, as TensorFlow Serving says it

Of networks of single cells only PNG crops are taken, in the SavedModel's own signatures: what is true of one server is
true of the other. Networks of bags and of fields of view are asked about whole images: `whole_images` says how.
`request` says what a request may be, `web` what is refused before that. By default it listens on this machine alone; it
knows no passwords: who can reach it may ask it.
"""

import socket
from typing import Any

import tensorflow as tf

from hpa_tf import serving
from hpa_tf.errors import InputError
from hpa_tf.memory import keep_freed_memory
from hpa_tf.serving import whole_images
from hpa_tf.serving.png import NEEDS_REGION
from hpa_tf.serving.request import MAX_INSTANCES, MAX_REQUEST_PIXELS, Request, json_rows, parse
from hpa_tf.views import Crop
from hpa_tf.worker_processes import num_cores

__all__ = ["MAX_INSTANCES", "MAX_REQUEST_PIXELS", "predict", "serve"]


def predict(served: serving.Served, payload: Any) -> dict[str, Any]:
    """Answer one request.

    Args:
        served: The run.
        payload: The request's JSON, or its bytes.

    Returns:
        `predictions`, one row a cell; for a request by columns also `outputs`, as TensorFlow Serving gives them.

    Raises:
        ValueError: The request or a picture in it cannot be used; says why.
    """
    if not isinstance(served.recipe.asked_view, Crop):
        return whole_images.predict(served, payload)
    request = parse(payload)
    if served.recipe.asked_view.needs_region and "region" not in request.pictures:
        raise ValueError(f"crops without regions; {NEEDS_REGION}")
    starts = range(0, len(request.pictures["crop"]), whole_images.CELLS_A_BATCH)
    rows = [row for start in starts for row in _rows(served, request, start)]
    columns = {"outputs": {"probabilities": rows}} if request.by_columns else {}
    return {"predictions": [{"probabilities": row} for row in rows], **columns}


def _rows(served: serving.Served, request: Request, start: int) -> list[list[float | None]]:
    """Return the probabilities of one batch of a request's cells, as JSON values."""
    some = slice(start, start + whole_images.CELLS_A_BATCH)
    tensors = {name: tf.constant(data[some]) for name, data in request.pictures.items()}
    try:
        answer = served.signatures[request.signature](**tensors)
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(_reason(error)) from error
    return json_rows(answer["probabilities"].numpy())


def _reason(error: tf.errors.OpError) -> str:
    """Return the one line of TensorFlow's message that speaks of the input."""
    lines = [line.strip() for line in str(error.message).splitlines()]
    return next((line for line in lines if line.startswith(("assertion failed", "Invalid PNG"))), lines[0])


def serve(run: str, name: str, host: str, port: int, allow_hosts: tuple[str, ...] = ()) -> None:
    """Serve a run until a signal ends the process.

    Args:
        run: Run folder.
        name: The model's name in the paths.
        host: Address to listen on.
        port: TCP port; 0 = a free one.
        allow_hosts: Further names under which the server may be asked.

    Raises:
        InputError: The run cannot be served, the address cannot be had, a name is none, or a package is missing.
    """
    try:
        import uvicorn

        from hpa_tf.serving import web
    except ImportError as error:
        raise InputError(error.name, "it is not installed", error.name, "pip install 'hpa_tf[serve]'") from error
    try:
        web.check_name(name)
    except ValueError as error:
        raise InputError("--name", str(error), "letters, digits and _ . -", "choose another name") from error
    hosts = web.Hosts(host, allow_hosts)
    keep_freed_memory()
    with _listen(host, port) as listening:
        served = serving.load(run)
        app = web.application(name, lambda body: predict(served, body), num_cores())
        server = uvicorn.Server(web.configured(app, hosts))
        where = f"[{host}]" if ":" in host else host
        print(f"{run}: http://{where}:{listening.getsockname()[1]}/v1/models/{name}:predict", flush=True)
        server.run([listening])


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens, before the run is loaded.

    Raises:
        InputError: The address or port cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError, UnicodeError) as error:  # UnicodeError: a host that no name can be
        fix = "choose another --port, or stop what listens there; or mend --host"
        raise InputError("--host --port", f"{host} {port} ({error})", "an address to listen on", fix) from error

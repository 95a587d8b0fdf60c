"""What stands between the network and the model: the paths that serving needs, and nothing else answers.

A web page in a browser on this machine can send requests to 127.0.0.1, too. It gets no answer: its name is not among
the hosts (after DNS rebinding), its origin is another, and it cannot send JSON unasked. A request is refused by its
headers before its body is read; bodies are limited alone and together; a request that has not arrived whole in time
loses its connection, and so does one connection too many.
"""

import asyncio
import contextlib
import ipaddress
import re
import sys
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from hpa_tf.errors import InputError

MAX_BODY = 64 << 20
"""Largest body of a request, bytes."""
MAX_HELD = 4 * MAX_BODY
"""Most bytes of bodies held at once; what comes on top is told to come later."""
SECONDS_TO_SEND = 20.0
"""In which a request must have arrived whole, from its first byte (or the connection) to its last, s."""
MAX_CONNECTIONS = 512
"""Most open connections; one more is closed at once."""

_JSON = "application/json"
_NAME = re.compile(r"[\w.-]{1,100}", re.ASCII)
_HOST_NAME = re.compile(r"[\w.-]{1,253}", re.ASCII)
Answer = Callable[[bytes], dict[str, Any]]


class Hosts:
    """The names under which the server may be asked.

    Args:
        host: Address that it listens on.
        allowed: Further names.

    Raises:
        InputError: One of them is neither a name nor an address, and no request could have it.
    """

    def __init__(self, host: str, allowed: tuple[str, ...] = ()):
        for name in allowed:
            if not _HOST_NAME.fullmatch(name) and _address(name) is None:
                fix = "leave port, path and https:// out"
                raise InputError("--allow-host", repr(name), "a name or an address alone, such as gpu1.lab.org", fix)
        self._names = {"localhost", host.lower(), *(name.lower() for name in allowed)}
        address = _address(host)
        self._only_here = host.lower() == "localhost" or (address is not None and address.is_loopback)

    def has(self, name: str) -> bool:
        """Tell whether a name, without its port, is one of them; every address is where others may reach the server.

        A page on another server has that server's name here, whatever that name points to by now.
        """
        address = _address(name)
        if address is None:
            return name.lower() in self._names
        return address.is_loopback or name in self._names or not self._only_here


def _name_in(host: str) -> str:
    """Return the name or address in a Host header, without its port; nothing for one that is malformed."""
    with contextlib.suppress(ValueError):
        parts = urllib.parse.urlsplit(f"//{host}")
        if parts.netloc == host and parts.username is None and (parts.port is None or parts.port >= 0):
            return parts.hostname or ""
    return ""


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(name)
    return None


class Guard:
    """Refuses requests to other hosts, and those of web pages, before anything else sees them.

    Args:
        app: Answers the others.
        hosts: Names under which the server may be asked.
    """

    def __init__(self, app: ASGIApp, hosts: Hosts):
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or hand on one request."""
        if scope["type"] == "http" and (fault := self._fault(scope["headers"])):
            await _Refusal(*fault)(scope, receive, send)
        elif scope["type"] in ("http", "lifespan"):
            await self._app(scope, receive, send)

    def _fault(self, headers: list[tuple[bytes, bytes]]) -> tuple[int, str] | None:
        values = {
            name: [value.decode("latin-1") for key, value in headers if key == name]
            for name in (b"host", b"origin", b"sec-fetch-site")
        }
        host = values[b"host"][0] if len(values[b"host"]) == 1 else ""
        name = _name_in(host)
        if not self._hosts.has(name):
            shown = (name or host)[:100]
            return 421, f"host {shown!r} is not served here; start the server with --allow-host NAME to allow it"
        others = [origin for origin in values[b"origin"] if origin not in (f"http://{host}", f"https://{host}")]
        if others or any(site not in ("same-origin", "none") for site in values[b"sec-fetch-site"]):
            return 403, "requests of web pages from elsewhere are not answered"
        return None


def application(name: str, answer: Answer, at_once: int) -> Starlette:
    """Return the application: TensorFlow Serving's paths for one model.

    Args:
        name: The model's name.
        answer: Turns a request's body into the answer, in a thread; a ValueError says what is wrong with it; any
            other error is the server's own.
        at_once: Requests that are computed at the same time; others wait.
    """
    turn, held = asyncio.Semaphore(at_once), _Held()

    async def predict(request: Request) -> Response:
        kinds = request.headers.getlist("content-type")
        if len(kinds) != 1 or kinds[0].partition(";")[0].strip().lower() != _JSON:
            raise HTTPException(415, f"Content-Type {', '.join(kinds)[:100]!r}; expected {_JSON}")
        with held.room() as room:
            body = await _read(request, room)
            async with turn:
                try:
                    return JSONResponse(await asyncio.to_thread(answer, body))
                except ValueError as error:
                    return _error(400, str(error)[:900])
                except Exception as error:  # such as too little memory: a fault of this machine, said where it runs
                    kind = type(error).__name__
                    print(f"{name}: {kind}: {' '.join(str(error).split())[:500]}", file=sys.stderr, flush=True)
                    return _error(500, f"no answer could be computed ({kind}); the server's own output says more")

    async def status(request: Request) -> Response:
        state = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        return JSONResponse({"model_version_status": [state]})

    path = f"/v1/models/{name}"
    routes = [Route(f"{path}:predict", predict, methods=["POST"]), Route(path, status, methods=["GET"])]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _refuse, ClientDisconnect: _gone})
    app.router.redirect_slashes = False
    return app


def _error(code: int, text: str) -> JSONResponse:
    return JSONResponse({"error": text}, code)


class _Refusal(JSONResponse):
    """An answer to a request whose body may not have arrived: what still comes is read and dropped.

    A connection that is closed with bytes unread is reset, and a client that is still sending loses the answer.

    Args:
        code: HTTP's status.
        text: What is wrong.
        headers: Further headers.
        has_rest: Some of the body has not been read yet.
    """

    def __init__(self, code: int, text: str, headers: Mapping[str, str] | None = None, has_rest: bool = True):
        super().__init__({"error": text}, code, headers)
        self._has_rest = has_rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the whole answer, then read to the end of the request: its time to arrive is limited as ever."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": self._has_rest})
        while self._has_rest:
            message = await receive()
            self._has_rest = message["type"] == "http.request" and message.get("more_body", False)
            if not self._has_rest:
                await send({"type": "http.response.body", "body": b""})


async def _refuse(request: Request, error: HTTPException) -> Response:
    has_rest = getattr(request.state, "has_rest", True)
    return _Refusal(error.status_code, error.detail, error.headers, has_rest)


async def _gone(request: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=408)  # nobody reads it


class _Held:
    """Counts the bytes of bodies that are held."""

    def __init__(self):
        self._total = 0

    @contextlib.contextmanager
    def room(self):
        """Yield what counts one request's bytes; they are given back when the block ends."""
        own = 0

        def take(size: int) -> None:
            nonlocal own
            own, self._total = own + size, self._total + size
            if own > MAX_BODY:
                raise HTTPException(413, f"a body of more than {MAX_BODY} bytes: send fewer cells a request")
            if self._total > MAX_HELD:
                raise HTTPException(503, "too many requests at once: try again later", {"Retry-After": "5"})

        try:
            yield take
        finally:
            self._total -= own


async def _read(request: Request, take: Callable[[int], None]) -> bytes:
    """Return a request's body; one that is too large is refused by its header, or as soon as it grows too large."""
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > MAX_BODY:
        raise HTTPException(413, f"a body of {length} bytes; expected at most {MAX_BODY}: send fewer cells a request")
    parts, request.state.has_rest = [], True
    while request.state.has_rest:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        request.state.has_rest = message.get("more_body", False)
        take(len(message.get("body", b"")))
        parts.append(message.get("body", b""))
    return b"".join(parts)


class TimedProtocol(H11Protocol):
    """HTTP/1.1 of a connection that is closed when a request takes too long to arrive."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Start the time of the first request, or close one connection too many."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the time."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Start the time with a request's first bytes, stop it with its last."""
        super().data_received(data)
        arrived = self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete
        if arrived:
            self._stop()
        elif self._deadline is None:
            self._start()

    def _start(self) -> None:
        self._deadline = self.loop.call_later(SECONDS_TO_SEND, self.transport.abort)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def check_name(name: str) -> str:
    """Return a model's name if it can stand in a path.

    Raises:
        ValueError: It holds other characters than letters, digits and _ . -
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r}")
    return name


def configured(app: Starlette, hosts: Hosts) -> uvicorn.Config:
    """Return the server's settings."""
    return uvicorn.Config(
        Guard(app, hosts),
        http=TimedProtocol,
        ws="none",
        lifespan="off",
        log_level="critical",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=16 << 10,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
    )

"""HTTP for the grading page: on 127.0.0.1 only, for the page that holds the token, never for another site.

A request is refused unless its Host is this machine's loopback name (no other name can be pointed at this address), its
Origin, if it has one, is that same Host, and, for everything but the page's own files, it carries the token that the
program printed. Another site may open the page by a link, in a tab of its own, and ask for nothing. Cells are asked
for by their row in the table, so that no path ever comes from outside.
"""

import json
import secrets
from collections.abc import Callable
from importlib import resources
from typing import Any

import waitress
from werkzeug.exceptions import BadRequest, Conflict, Forbidden, HTTPException, InternalServerError, NotFound
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Request, Response

from hpa_tf.errors import HpaError, InputError
from hpa_tf.grade_decisions import GRADES
from hpa_tf.grading import pixels
from hpa_tf.grading.context import ContextPictures
from hpa_tf.grading.session import Conflict as SessionConflict
from hpa_tf.grading.session import Session

HOST = "127.0.0.1"
LOOPBACK_NAMES = (HOST, "localhost")
TOKEN_HEADER = "X-Grading-Token"
_MAX_BODY = 1 << 16
_FILES = {
    "": ("page.html", "text/html"),
    "page.css": ("page.css", "text/css"),
    "page.js": ("page.js", "text/javascript"),
    "cells.js": ("cells.js", "text/javascript"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_URLS = Map(
    [
        Rule("/api/state", endpoint="state", methods=["GET"]),
        Rule("/api/examples", endpoint="examples", methods=["GET"]),
        Rule("/api/graded", endpoint="graded", methods=["GET"]),
        Rule("/api/cell/<int:row>", endpoint="cell", methods=["GET"]),
        Rule("/api/context/<int:row>", endpoint="context", methods=["GET"]),
        Rule("/api/grade", endpoint="grade", methods=["POST"]),
        Rule("/api/correct", endpoint="correct", methods=["POST"]),
        Rule("/api/undo", endpoint="undo", methods=["POST"]),
    ]
)


class GradingApp:
    """The WSGI application of one session.

    Attributes:
        session: The session.
        token: What a request must carry.
    """

    def __init__(self, session: Session, max_size: int = 512):
        """Args: session: The session. max_size: Longest side of a cell's picture, px."""
        self.session, self.token = session, secrets.token_urlsafe(24)
        self._max_size, self._pictures = max_size, ContextPictures(session.cells)
        package = resources.files("hpa_tf.grading")
        self._files = {path: ((package / name).read_bytes(), kind) for path, (name, kind) in _FILES.items()}

    def __call__(self, environ: dict, start_response: Callable) -> Any:
        """Answer one request."""
        request = Request(environ)
        request.max_content_length = _MAX_BODY
        try:
            response = self._answer(request)
        except HTTPException as error:
            response = Response(f"{error.description}\n", error.code, content_type="text/plain; charset=utf-8")
        except SessionConflict as error:
            response = Response(f"{error}\n", Conflict.code, content_type="text/plain; charset=utf-8")
        except HpaError as error:
            response = Response(f"{error}\n", InternalServerError.code, content_type="text/plain; charset=utf-8")
        response.headers.update(_HEADERS)
        return response(environ, start_response)

    def _answer(self, request: Request) -> Response:
        check_origin(request)
        name = request.path.removeprefix("/")
        if request.method in ("GET", "HEAD") and name in self._files:
            data, kind = self._files[name]
            return Response(data, content_type=f"{kind}; charset=utf-8")
        if not secrets.compare_digest(request.headers.get(TOKEN_HEADER, "").encode(), self.token.encode()):
            raise Forbidden("No or a wrong token: open the address that the program printed when it was started last.")
        endpoint, values = _URLS.bind_to_environ(request.environ).match()
        return getattr(self, f"_{endpoint}")(request, **values)

    # -- reading ------------------------------------------------------------------------------------------------------

    def _state(self, request: Request) -> Response:
        return _json(self.session.state())

    def _examples(self, request: Request) -> Response:
        return _json(self.session.examples())

    def _graded(self, request: Request) -> Response:
        found = request.args
        grade = found.get("grade", type=int)
        offset, limit = found.get("offset", 0, int), min(found.get("limit", 48, int), 200)
        if offset < 0 or limit < 1:
            raise BadRequest(f"offset {offset}, limit {limit}: expected >= 0 and > 0")
        return _json(self.session.graded(found.get("action", ""), grade, found.get("text", ""), offset, limit))

    def _cell(self, request: Request, row: int) -> Response:
        self._check(row)
        image_id, cell = self.session.cells.key(row)
        extra = {"row": row, "image_id": image_id, "cell": cell, **self.session.label(row)}
        try:
            data = pixels.pack(
                self.session.cells.record(row), self.session.cells.brightness[row], self._max_size, extra
            )
        except ValueError as error:
            raise InternalServerError(f"image {image_id!r} cell {cell} cannot be shown: {error}") from error
        return Response(data, content_type="application/octet-stream")

    def _context(self, request: Request, row: int) -> Response:
        self._check(row)
        return Response(self._pictures.jpeg(row), content_type="image/jpeg")

    def _check(self, row: int) -> None:
        if row >= len(self.session.cells):
            raise NotFound(f"row {row}: the table has {len(self.session.cells)} cells")

    # -- deciding -----------------------------------------------------------------------------------------------------

    def _grade(self, request: Request) -> Response:
        found = _body(request, {"rows": list, "grade": (int, type(None)), "seconds": (int, float, type(None))})
        rows = found["rows"]
        if not rows or len(rows) > 100 or not all(type(row) is int and row >= 0 for row in rows):
            raise BadRequest("rows: expected 1 to 100 row numbers")
        seconds = found["seconds"]
        if seconds is not None and not 0 <= seconds < 1e6:
            raise BadRequest(f"seconds: found {seconds}; expected a time >= 0")
        self.session.grade(rows, _checked_grade(found["grade"]), seconds and round(float(seconds), 3))
        return _json(self.session.state())

    def _correct(self, request: Request) -> Response:
        found = _body(request, {"number": int, "grade": (int, type(None))})
        self.session.correct(found["number"], _checked_grade(found["grade"]))
        return _json(self.session.state())

    def _undo(self, request: Request) -> Response:
        _body(request, {})
        row = self.session.undo()
        return _json({**self.session.state(), "undone": row})


def check_origin(request: Request) -> None:
    """Refuse a request under another host name or from a page of another site, which may only link to the page.

    Raises:
        Forbidden: It is one.
    """
    host = request.environ.get("HTTP_HOST", "")
    if host.rpartition(":")[0] not in LOOPBACK_NAMES and host not in LOOPBACK_NAMES:
        raise Forbidden(f"Host {host[:100]!r}: open the page as http://{HOST}:PORT or http://localhost:PORT.")
    origin = request.headers.get("Origin")
    if origin is None and request.method not in ("GET", "HEAD"):
        raise Forbidden("No Origin: only the grading page may do this.")
    if origin is not None and origin != f"http://{host}":
        raise Forbidden(f"Origin {origin[:100]!r}: only the grading page may ask here.")
    if request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none") and not _is_opened(request):
        raise Forbidden("Asked for by a page of another site.")


def _is_opened(request: Request) -> bool:
    """Tell whether a link opens the page itself, as from a terminal in the browser: it holds nothing but its script."""
    asked = (request.method, request.path, *(request.headers.get(f"Sec-Fetch-{name}") for name in ("Mode", "Dest")))
    return asked == ("GET", "/", "navigate", "document")


def _body(request: Request, kinds: dict[str, type | tuple]) -> dict[str, Any]:
    if request.mimetype != "application/json":
        raise BadRequest(f"content type {request.mimetype[:100]!r}: expected application/json")
    found = request.get_json()
    if not isinstance(found, dict) or found.keys() != kinds.keys():
        raise BadRequest(f"expected the keys {sorted(kinds)}")
    for name, kind in kinds.items():
        if not isinstance(found[name], kind) or isinstance(found[name], bool):
            raise BadRequest(f"{name}: a value of another type")
    return found


def _checked_grade(grade: int | None) -> int | None:
    if grade is not None and grade not in GRADES:
        raise BadRequest(f"grade {grade}: expected one of {list(GRADES)}, or null to skip")
    return grade


def _json(value: Any) -> Response:
    return Response(json.dumps(value, allow_nan=False), content_type="application/json")


def make_server(app: GradingApp, port: int) -> Any:
    """Return a server that listens on 127.0.0.1; `run()` serves until the program is interrupted.

    Args:
        app: The application.
        port: Port; 0 = one that is free (`effective_port` says which).

    Raises:
        InputError: The port is taken.
    """
    try:
        return waitress.create_server(app, host=HOST, port=port, threads=6, ident=None,
                                      max_request_body_size=_MAX_BODY, clear_untrusted_proxy_headers=True)  # fmt: skip
    except OSError as error:
        raise InputError(
            "--port", f"{port}: {error.strerror}", "a free port", "choose another, or 0 for any"
        ) from error

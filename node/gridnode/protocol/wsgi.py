"""What an ASGI request is to a Flask application."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import unquote_to_bytes
from wsgiref.types import WSGIApplication

Scope = MutableMapping[str, Any]

#: environ key under which the whole body lies, so that it is not copied through ``wsgi.input``.
BODY = "gridnode.body"
#: environ key of the endpoint's name for metrics; set by the Flask application.
ENDPOINT = "gridnode.endpoint"
#: environ key set by the Flask application when its answer is to be sent chunk by chunk.
STREAM = "gridnode.stream"


def call(wsgi: WSGIApplication, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Call the application; the answer is a list, or an iterator if the application asked for it (:data:`STREAM`)."""
    result = wsgi(environ, start_response)
    if environ.get(STREAM):
        return result
    try:
        return list(result)
    finally:
        close = getattr(result, "close", None)
        if close is not None:
            close()


def make_environ(scope: Scope, body: bytes) -> dict[str, Any]:
    """The environ of a request whose whole body has come."""
    server = scope.get("server") or ("localhost", 0)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(scope["raw_path"].split(b"?")[0]).decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": str(server[0]),
        "SERVER_PORT": str(server[1] or 0),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": scope["client"][0] if scope.get("client") else "",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "CONTENT_LENGTH": str(len(body)),
        BODY: body,
    }
    for name, value in scope["headers"]:
        key = name.decode("latin-1").upper().replace("-", "_")
        if key == "CONTENT_LENGTH":
            continue
        key = key if key == "CONTENT_TYPE" else f"HTTP_{key}"
        text = value.decode("latin-1")
        environ[key] = f"{environ[key]},{text}" if key in environ else text
    return environ

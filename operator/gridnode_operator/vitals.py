"""``/metrics``, ``/healthz`` and ``/readyz`` of the operator, served by a thread of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

#: Why something is not as it should be; None if it is.
Check = Callable[[], str | None]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    timeout = 10  # seconds that a client may keep a thread

    def log_message(self, format: str, *args: Any) -> None:
        """A probe every few seconds is not worth a line."""


@contextmanager
def served(host: str, port: int, registry: CollectorRegistry, *, alive: Check, ready: Check) -> Iterator[int]:
    """Serve until the block ends.

    Yields:
        The port, for ``port`` 0.

    Raises:
        OSError: the port is taken.
    """
    metrics: Any = make_wsgi_app(registry)
    checks = {"/healthz": alive, "/readyz": ready}

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            page: Iterable[bytes] = metrics(environ, start_response)
            return page
        if path not in checks:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"There are /metrics, /healthz and /readyz.\n"]
        problem = checks[path]()
        status = "200 OK" if problem is None else "503 Service Unavailable"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{problem or 'ok'}\n".encode()]

    with make_server(host, port, app, server_class=_Server, handler_class=_QuietHandler) as server:
        thread = threading.Thread(target=server.serve_forever, name="vitals", daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()

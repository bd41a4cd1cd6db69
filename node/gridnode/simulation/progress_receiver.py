"""A stand-in for the master node: receives ``POST /model_progress`` and remembers how far each model is."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

_LONGEST_BODY = 64 * 1024


class ProgressReceiver:
    """An HTTP server on loopback, in a thread of this process, while the ``with`` block runs.

    Args:
        port: To listen on; 0 for any free one.

    Raises:
        OSError: the port is in use.
    """

    def __init__(self, port: int = 0) -> None:
        # By node and model, in the order in which they were last heard of.
        self._percents: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="progress-receiver", daemon=True
        )

    def start(self) -> None:
        """Receive from now on, until :meth:`close`."""
        self._thread.start()

    def close(self) -> None:
        """Stop receiving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Address to give the node as its master node."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def percent(self, model: str) -> int:
        """The last progress received for a model, of whichever node; 0 before the first."""
        with self._lock:
            return next((percent for (_, name), percent in reversed(self._percents.items()) if name == model), 0)

    def percents(self, node_id: str) -> dict[str, int]:
        """The last progress that a node has reported, by model."""
        with self._lock:
            return {model: percent for (node, model), percent in self._percents.items() if node == node_id}

    def _receive(self, event: dict[str, Any]) -> None:
        key = str(event.get("node_id", "")), event["model_id"]
        with self._lock:
            self._percents.pop(key, None)
            self._percents[key] = event["percent_complete"]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(200, b"Running")

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                if self.path != "/model_progress" or not 0 < length <= _LONGEST_BODY:
                    return self._answer(404, b'{"error": "only POST /model_progress is known here"}')
                event = _read_event(self.rfile.read(length))
                if event is None:
                    return self._answer(400, b'{"error": "percent_complete (int) and model_id (str) are needed"}')
                receiver._receive(event)
                return self._answer(200, b"{}")

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing: standard error is for the display."""

        return Handler


def _read_event(body: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(body)
    except ValueError:
        return None
    if not isinstance(event, dict) or not isinstance(event.get("model_id"), str):
        return None
    return event if isinstance(event.get("percent_complete"), int) else None

"""A stand-in for the master node: receives ``POST /model_progress`` and remembers how far each model is."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

_LONGEST_BODY = 64 * 1024


class ProgressReceiver:
    """An HTTP server on a free loopback port, in a thread of this process, while the ``with`` block runs."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="progress-receiver", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """Address to give the node as its master node."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def percent(self, model: str) -> int:
        """The last progress received for a model, 0 before the first."""
        with self._changed:
            return self._percent(model)

    def wait_for(self, model: str, percent: int, seconds: float) -> bool:
        """Wait until a model has come so far; False if it has not after ``seconds``."""
        deadline = time.monotonic() + seconds
        with self._changed:
            return self._changed.wait_for(lambda: self._percent(model) >= percent, max(deadline - time.monotonic(), 0))

    def _percent(self, model: str) -> int:
        percents = [event["percent_complete"] for event in self._events if event["model_id"] == model]
        return percents[-1] if percents else 0

    def _receive(self, event: dict[str, Any]) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

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

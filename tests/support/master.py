"""A master node as far as a node knows one: it takes progress events, and now and then it fails to."""

from __future__ import annotations

import json
import random
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class ProgressReceiver:
    """Accepts ``POST /model_progress`` on a port of its own, until closed.

    Attributes:
        failures: share of posts that get a 503, or are accepted without an answer (half of them each).
        events: every accepted post in the order of acceptance, repeated ones included.
    """

    failures: float = 0.0
    seed: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                fate = receiver.take(self.path, json.loads(body))
                if fate == "silence":
                    self.close_connection = True
                    return
                self.send_response(200 if fate == "accept" else 503)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing to the terminal."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, path: str, event: dict[str, Any]) -> str:
        """Decide what becomes of one post, and keep its event if it is accepted."""
        with self._lock:
            luck = self._random.random()
            if path != "/model_progress" or luck < self.failures / 2:
                return "refuse"
            self.events.append(event)
            return "silence" if luck < self.failures else "accept"

    def first_arrivals(self) -> dict[str, list[dict[str, Any]]]:
        """Events by model, each once, in the order in which they were first accepted."""
        seen: set[str] = set()
        arrived: dict[str, list[dict[str, Any]]] = defaultdict(list)
        with self._lock:
            for event in self.events:
                if event["event_id"] not in seen:
                    seen.add(event["event_id"])
                    arrived[event["model_id"]].append(event)
        return dict(arrived)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

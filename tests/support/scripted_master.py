"""A master node that answers as a test tells it to, on a port that it keeps when it is restarted."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; ``delay`` is in seconds, before the first byte of it."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Post:
    """A post that arrived, whatever it was answered."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    status: int


class ScriptedMaster:
    """Answers posts until the ``with`` block ends.

    Args:
        script: gives the reply to a post's body; 200 to everything by default.
    """

    def __init__(self, script: Callable[[dict[str, Any]], Reply] | None = None) -> None:
        self.script = script or (lambda _body: Reply())
        self.posts: list[Post] = []
        self._lock = threading.Lock()
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self.start()

    @property
    def url(self) -> str:
        """Address without a path."""
        return f"http://127.0.0.1:{self._port}"

    def accepted(self) -> list[dict[str, Any]]:
        """Bodies that were answered with 2xx, in the order of the answers."""
        with self._lock:
            return [post.body for post in self.posts if 200 <= post.status < 300]

    def start(self) -> None:
        """Listen, after :meth:`stop` on the same port as before."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), self._handler())
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening: connections are refused."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        master = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                reply = master.script(body)
                time.sleep(reply.delay)
                with master._lock:
                    master.posts.append(Post(self.path, dict(self.headers), body, reply.status))
                try:
                    self.send_response(reply.status)
                    for name, value in {"Content-Length": "0", **reply.headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                except OSError:
                    self.close_connection = True  # the client gave up

            def log_message(self, *_: object) -> None:
                """Nothing to the terminal."""

        return Handler

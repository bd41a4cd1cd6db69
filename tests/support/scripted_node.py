"""The management listener of a node that answers as a test tells it to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


@dataclass(frozen=True, slots=True)
class NodeReply:
    """An answer; ``declared`` is the Content-Length that it claims to have."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    declared: int | None = None


@dataclass(frozen=True, slots=True)
class NodeRequestSeen:
    """A request that arrived."""

    path: str
    headers: Mapping[str, str]


class ScriptedNode:
    """Answers GETs until the ``with`` block ends.

    Args:
        script: Gives the reply to a path with its query; 404 to everything by default.
    """

    def __init__(self, script: Callable[[str], NodeReply] | None = None) -> None:
        self.script = script or (lambda _path: NodeReply(404))
        self.seen: list[NodeRequestSeen] = []
        node = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                node.seen.append(NodeRequestSeen(self.path, dict(self.headers)))
                reply = node.script(self.path)
                self.send_response(reply.status)
                length = len(reply.body) if reply.declared is None else reply.declared
                for name, value in {"Content-Length": str(length), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.body)
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                """Nothing to the terminal."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

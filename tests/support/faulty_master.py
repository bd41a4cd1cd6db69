"""A way to a master node that can be out of order: what nodes send passes through it, or does not."""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, Self

Fault = Literal["none", "down", "slow", "error"]

_SLOW_SECONDS = 30.0


class FaultyWay:
    """Passes posts on to a port, until the ``with`` block ends.

    Args:
        port: Of the master node.

    Attributes:
        fault: What happens to posts now. ``down``: the connection ends without an answer. ``slow``: it is passed on,
            and answered after 30 s. ``error``: it is answered 500 and not passed on.
        posts: How many met each fault.
    """

    def __init__(self, port: int) -> None:
        self.fault: Fault = "none"
        self.posts: Counter[Fault] = Counter()
        self._port = port
        self._ending = threading.Event()
        way = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.close_connection = True
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = way.take(body, self.headers.get("Authorization", ""))
                if status is None:
                    return
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                except OSError:
                    pass  # whoever asked did not wait

            def log_message(self, *_: object) -> None:
                """Nothing to the terminal."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def take(self, body: bytes, authorization: str) -> int | None:
        """What becomes of one post: the status of its answer, None for no answer."""
        fault = self.fault
        self.posts[fault] += 1
        if fault == "down":
            return None
        if fault == "error":
            return 500
        status = self._pass_on(body, authorization)
        if fault == "slow":
            self._ending.wait(_SLOW_SECONDS)
        return status

    def _pass_on(self, body: bytes, authorization: str) -> int | None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        headers = {"Content-Type": "application/json", "Authorization": authorization}
        try:
            connection.request("POST", "/model_progress", body, headers)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._server.shutdown()
        self._server.server_close()

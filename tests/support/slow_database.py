"""A way to a database that can hang: connections stay open, and nothing comes back."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from types import TracebackType
from typing import Self

from sqlalchemy import make_url


class DatabaseProxy:
    """Forwards TCP connections to a PostgreSQL behind a Unix socket; usable as a context manager.

    Args:
        database_url: SQLAlchemy URL with the socket's directory and port in its query.
    """

    def __init__(self, database_url: str) -> None:
        url = make_url(database_url)
        self._target = f"{url.query['host']}/.s.PGSQL.{url.query['port']}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._flowing = threading.Event()
        self._flowing.set()
        self._closed = False
        port = self._listener.getsockname()[1]
        through = url.set(host="127.0.0.1", port=port, query={"sslmode": "disable", "gssencmode": "disable"})
        self.url = through.render_as_string(hide_password=False)

    def hang(self) -> None:
        """From now on nothing is forwarded. New connections are accepted, and get nothing either."""
        self._flowing.clear()

    def flow(self) -> None:
        """Forward again, and first what has been held back."""
        self._flowing.set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._flowing.set()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        with client, server, selectors.DefaultSelector() as selector, contextlib.suppress(OSError):
            self._flowing.wait()
            server.connect(self._target)
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while not self._closed:
                for key, _ in selector.select(timeout=0.5):
                    self._flowing.wait()
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    data = source.recv(65536)
                    if not data:
                        return
                    key.data.sendall(data)

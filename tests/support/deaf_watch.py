"""A way to an API server on which watches can fall silent, while all other requests go on being answered."""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import threading
from pathlib import Path
from typing import Self

from tests.support.cluster import ControlPlane
from tests.support.control_plane.certificates import CertificateAuthority
from tests.support.control_plane.connection import kubeconfig, write_private

_CHUNK = 65536


class WatchProxy:
    """Forwards to an API server; usable as a context manager.

    Args:
        control_plane: Where to.
        token: Of the user, who can't show a client certificate through a proxy.
        directory: For the proxy's certificate and the kubeconfig file.
    """

    def __init__(self, control_plane: ControlPlane, token: str, directory: Path) -> None:
        self._port = control_plane.port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._silent = threading.Event()
        self._closed = False
        authority = CertificateAuthority("watch-proxy-authority")
        files = authority.server("watch-proxy", ["127.0.0.1"]).write(directory, "watch-proxy")
        self._serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._serving.load_cert_chain(*files)
        self._upstream = ssl.create_default_context()
        self._upstream.check_hostname = False
        self._upstream.verify_mode = ssl.CERT_NONE
        self.kubeconfig = directory / "watch-proxy.kubeconfig"
        url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        write_private(self.kubeconfig, kubeconfig(url, authority.certificate, token))

    def silence(self) -> None:
        """From now on watches, old and new ones, tell nothing."""
        self._silent.set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, plain: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            plain,
            self._serving.wrap_socket(plain, server_side=True) as client,
            socket.create_connection(("127.0.0.1", self._port)) as upstream,
            self._upstream.wrap_socket(upstream) as server,
            selectors.DefaultSelector() as selector,
        ):
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            is_watch = False
            while not self._closed:
                for key, _ in selector.select(timeout=0.5):
                    source, target = key.fileobj, key.data
                    assert isinstance(source, ssl.SSLSocket)
                    data = source.recv(_CHUNK)
                    while source.pending():
                        data += source.recv(_CHUNK)
                    if not data:
                        return
                    if source is client:
                        is_watch = b"watch=true" in data
                    if not (source is server and is_watch and self._silent.is_set()):
                        target.sendall(data)

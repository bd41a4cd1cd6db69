"""Requests to an API server, without a client library between, and kubeconfig files for those that have one."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.control_plane.certificates import KeyPair


@dataclass(frozen=True, slots=True)
class ApiAnswer:
    """What an API server answered."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The body, which must be JSON."""
        return json.loads(self.body)


class Connection:
    """One user's way to one API server; each request has a TCP connection of its own, so threads may share this.

    Args:
        authority: the file that holds the certificate authority (PEM).
        certificate, key: files of the user's client certificate; none: requests bring a token or are anonymous.
        host: its address.
    """

    def __init__(
        self,
        port: int,
        authority: Path,
        certificate: Path | None = None,
        key: Path | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.port = port
        self.host = host
        self._tls = ssl.create_default_context(cafile=str(authority))
        if certificate is not None:
            self._tls.load_cert_chain(certificate, key)

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> ApiAnswer:
        """Send one request and read its whole answer; a body goes as JSON.

        Raises:
            OSError: nobody listens, or there was no answer in time.
            http.client.HTTPException: the connection ended before the answer did.
        """
        sent = None if body is None else json.dumps(body)
        sent_headers = {"Accept": "application/json", "Content-Type": "application/json", **(headers or {})}
        connection = http.client.HTTPSConnection(self.host, self.port, context=self._tls, timeout=timeout)
        with closing(connection):
            connection.request(method, path, body=sent, headers=sent_headers)
            response = connection.getresponse()
            return ApiAnswer(response.status, response.read())

    def lines(self, path: str, *, timeout: float = 30.0) -> Iterator[bytes]:
        """The lines of an answer that goes on, such as that of a watch, as they come.

        Args:
            timeout: seconds that the next line may take.

        Raises:
            OSError, http.client.HTTPException: as :meth:`request`.
        """
        connection = http.client.HTTPSConnection(self.host, self.port, context=self._tls, timeout=timeout)
        with closing(connection):
            connection.request("GET", path, headers={"Accept": "application/json"})
            response = connection.getresponse()
            while line := response.readline():
                yield line


def kubeconfig(url: str, authority: bytes, credentials: KeyPair | str, namespace: str = "default") -> str:
    """A kubeconfig file that needs no other file (JSON, which is YAML).

    Args:
        credentials: a client certificate, or a bearer token.
    """
    user = (
        {"token": credentials}
        if isinstance(credentials, str)
        else {
            "client-certificate-data": _base64(credentials.certificate),
            "client-key-data": _base64(credentials.key),
        }
    )
    cluster = {"server": url, "certificate-authority-data": _base64(authority)}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tests", "cluster": cluster}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "user", "namespace": namespace}}],
        "current-context": "tests",
    }
    return json.dumps(content, indent=1)


def write_private(path: Path, content: str) -> None:
    """Write a file that others can't read."""
    path.touch(mode=0o600)
    path.write_text(content, encoding="utf-8")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()

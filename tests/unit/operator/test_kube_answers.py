"""What the operator makes of answers that an API server gives only at bad moments."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import kubernetes.client
import pytest

from gridnode_operator.api import API_VERSION, KIND
from gridnode_operator.kube import ApiError, Cluster

GONE = {
    "kind": "Status",
    "reason": "NotFound",
    "message": "not found",
    "details": {"name": "demo", "kind": "gridnodes"},
}
UNKNOWN_KIND = {"kind": "Status", "reason": "NotFound", "message": "the server could not find the requested resource"}


class Server:
    """Answers everything with 404 and ``body``."""

    def __init__(self) -> None:
        self.body = b""
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(404)
                self.send_header("Content-Length", str(len(server.body)))
                self.end_headers()
                self.wfile.write(server.body)

            def log_message(self, format: str, *args: Any) -> None: ...

        self.http = HTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.http.shutdown()
    thread.join()
    made.http.server_close()


@pytest.fixture
def cluster(server: Server) -> Cluster:
    configuration = kubernetes.client.Configuration()
    configuration.host = f"http://127.0.0.1:{server.http.server_port}"
    return Cluster(configuration)


def test_object_that_is_not_there_is_none(server: Server, cluster: Cluster) -> None:
    server.body = json.dumps(GONE).encode()
    assert cluster.read(API_VERSION, KIND, "apps", "demo") is None


@pytest.mark.parametrize("body", [b"404 page not found\n", json.dumps(UNKNOWN_KIND).encode()], ids=["text", "status"])
def test_server_that_does_not_know_the_kind_does_not_say_that_it_is_gone(
    server: Server, cluster: Cluster, body: bytes
) -> None:
    """A server that has just started knows no custom resources for a moment: no GridNode must be forgotten for that."""
    server.body = body
    with pytest.raises(ApiError):
        cluster.read(API_VERSION, KIND, "apps", "demo")
    assert cluster.list(API_VERSION, KIND, "apps") == []

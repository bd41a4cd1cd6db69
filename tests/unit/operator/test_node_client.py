"""Asking nodes for their models: how often, and that those that hang hold up few."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from gridnode_operator import node_client
from gridnode_operator.node_client import NodeClient
from tests.support.gridnode_manifests import gridnode

TOKEN = "a-token-of-sixteen-or-more"


@pytest.fixture
def hanging() -> Iterator[str]:
    """The URL of something that takes connections and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_nodes_that_hang_hold_up_no_more_than_allowed(hanging: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_client, "_TIMEOUTS", (0.7, 0.7))
    begun = threading.Semaphore(0)

    def url(_: object) -> str:
        begun.release()
        return hanging

    client = NodeClient(interval=0.0, url=url, at_once=2)
    with ThreadPoolExecutor(2) as pool:
        stuck = [pool.submit(client.models, gridnode({}), TOKEN) for _ in range(2)]
        assert begun.acquire(timeout=5)
        assert begun.acquire(timeout=5)
        before = time.monotonic()
        assert client.models(gridnode({}), TOKEN) is None
        assert time.monotonic() - before < 0.5
        assert not any(each.done() for each in stuck)
        assert [each.result(10) for each in stuck] == [None, None]
    # They are over: the next is asked again.
    with ThreadPoolExecutor(1) as pool:
        last = pool.submit(client.models, gridnode({}), TOKEN)
        assert begun.acquire(timeout=5)
        assert last.result(10) is None

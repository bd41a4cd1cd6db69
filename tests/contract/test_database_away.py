"""Without its database a node answers 503 with Retry-After in bounded time, stays alive, and recovers by itself."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.device import HttpDevice, Session, WebSocketDevice, authenticate, join, report, report_of
from tests.support.ledger import read_ledger
from tests.support.node import NodeProcess, hosting_json
from tests.support.postgres import PostgresForTests
from tests.support.recordings import load_model
from tests.support.slow_database import DatabaseProxy
from tests.support.syft_messages import zero_diff

pytestmark = pytest.mark.integration

# Of the nodes here, and how long a request may then take at most until it is answered.
DEADLINE = 3.0
BOUND = 8.0


def test_database_away(durable_postgres: PostgresForTests, tmp_path: Path) -> None:
    """503 with Retry-After within a bounded time, alive meanwhile, and back to work on its own."""
    tiny = load_model("tiny").named("away", max_diffs=5)
    zero = zero_diff(tiny.model)
    later = hosting_json(tiny.named("hosted-while-away"))
    with durable_postgres.database() as url, NodeProcess(url, tmp_path, database_deadline=DEADLINE) as node:
        node.management.host(tiny)
        with closing(HttpDevice(node.device_port)) as device:
            session = join(device, tiny.name)
            worker = authenticate(device, tiny.name)

        durable_postgres.stop()
        try:
            request = {"worker_id": worker, "model": tiny.name, "version": "1.0"}
            for event, body in (("cycle-request", request), ("report", report_of(session, zero))):
                for _ in range(2):
                    assert_unavailable(node, event, body)
            with closing(WebSocketDevice(node.device_port)) as socket:
                assert socket.call("report", report_of(session, zero))["error"]
                assert socket.exchange({"type": "socket-ping"}) == {"alive": "True"}
            assert node.management.request("GET", "/healthz").status == 200
            assert node.management.request("GET", "/readyz").status == 503
            assert node.management.request("POST", "/model-centric/host-training", data=later).status == 503
        finally:
            durable_postgres.start()

        node.wait_until_ready(15.0)
        with closing(HttpDevice(node.device_port)) as device:
            report_until_counted(device, session, zero)
            assert report(device, session, zero) == {"status": "success"}
            join(device, tiny.name)
        assert read_ledger(url, tiny.name).cycles[0].reports == 1
        assert node.unforeseen_errors() == []


def test_database_that_hangs(postgres: PostgresForTests, tmp_path: Path) -> None:
    """Connections stay open and nothing comes back: that must not hang the node either."""
    tiny = load_model("tiny").named("hanging", max_diffs=5)
    zero = zero_diff(tiny.model)
    with (
        postgres.database() as url,
        DatabaseProxy(url) as proxy,
        NodeProcess(proxy.url, tmp_path, database_deadline=DEADLINE) as node,
    ):
        node.management.host(tiny)
        with closing(HttpDevice(node.device_port)) as device:
            session = join(device, tiny.name)
            worker = authenticate(device, tiny.name)

        proxy.hang()
        try:
            request = {"worker_id": worker, "model": tiny.name, "version": "1.0"}
            for event, body in (("cycle-request", request), ("report", report_of(session, zero))):
                assert_unavailable(node, event, body)
            assert node.management.request("GET", "/healthz").status == 200
        finally:
            proxy.flow()

        node.wait_until_ready(30.0)
        with closing(HttpDevice(node.device_port)) as device:
            report_until_counted(device, session, zero)
        assert read_ledger(url, tiny.name).cycles[0].reports == 1


def report_until_counted(device: HttpDevice, session: Session, diff: bytes, seconds: float = 5.0) -> None:
    """Report again while the answer is 503: one process of a node may know earlier than another that all is well."""
    deadline = time.monotonic() + seconds
    while (answer := device.post("report", report_of(session, diff))).status == 503:
        assert time.monotonic() < deadline, answer.body
        time.sleep(0.1)
    assert answer.json() == {"status": "success"}


def assert_unavailable(node: NodeProcess, event: str, body: dict[str, Any]) -> None:
    started = time.monotonic()
    with closing(HttpDevice(node.device_port, timeout=20)) as device:
        answer = device.post(event, body)
    assert time.monotonic() - started < BOUND
    assert answer.status == 503, f"{answer.status} {answer.body[:300]!r}"
    assert answer.json().keys() == {"error"}
    assert 0 < int(answer.headers["retry-after"]) <= 60

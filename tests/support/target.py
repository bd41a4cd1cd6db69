"""A node that bad input is thrown at, and how it must stand that."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.damage import MIB
from tests.support.device import PREFIX, HttpDevice, Session, WebSocketDevice, join, report
from tests.support.node import NodeProcess
from tests.support.recordings import Hosting, load_model
from tests.support.syft_messages import zero_diff

BODY_LIMIT = 4 * MIB
HEADER_SECONDS = 2.0
BODY_SECONDS = 3.0
# Seconds within which a request that arrived whole must be answered.
BOUND = 5.0
# What a node may have grown by after all bad input; allocators keep some of what was freed.
MEMORY_GROWTH = 192 * MIB

EVENTS = ("authenticate", "cycle-request", "report")


@dataclass(frozen=True, slots=True)
class Target:
    """A node with short timeouts, a small body limit, one report counted and one worker in the running cycle."""

    node: NodeProcess
    database_url: str
    hosting: Hosting
    session: Session


@contextmanager
def running_target(database_url: str, directory: Path) -> Iterator[Target]:
    """Start a target; in the end, it must not have grown, and no unforeseen error may stand in its log."""
    limits: dict[str, Any] = {
        "body_limit": BODY_LIMIT,
        "hosting_limit": 4 * BODY_LIMIT,
        "header_timeout": HEADER_SECONDS,
        "body_timeout": BODY_SECONDS,
        "request_rate_per_address": 0,
    }
    hosting = load_model("tiny").named("target", max_diffs=100)
    with NodeProcess(database_url, directory, **limits) as node:
        node.management.host(hosting)
        with closing(HttpDevice(node.device_port)) as device:
            session = join(device, hosting.name)
            report(device, join(device, hosting.name), zero_diff(hosting.model))
        memory = node.memory()
        yield Target(node, database_url, hosting, session)
        assert node.memory() - memory < MEMORY_GROWTH
        assert node.unforeseen_errors() == []


def spoiled(target: Target, event: str) -> dict[str, Any]:
    """A request that is well formed and can't change anything: its worker id is nobody's."""
    nobody = "00000000-0000-4000-8000-000000000000"
    name = target.hosting.name
    requests: dict[str, dict[str, Any]] = {
        "authenticate": {"model_name": name, "model_version": "1.0", "auth_token": None},
        "cycle-request": {"worker_id": nobody, "model": name, "version": "1.0", "ping": 1, "download": 1, "upload": 1},
        "report": {"worker_id": nobody, "request_key": target.session.request_key, "diff": "AAAA"},
    }
    return requests[event]


def assert_bounded(
    target: Target, event: str, body: bytes, headers: dict[str, str] | None = None, *, refused: bool = False
) -> None:
    """A request is answered below 500 and in time; ``refused``: with a 4xx. Only authenticate may say success."""
    started = time.monotonic()
    with closing(HttpDevice(target.node.device_port)) as device:
        answer = device.request("POST", PREFIX + event, body=body, headers=headers)
    assert time.monotonic() - started < BOUND
    assert answer.status < 500, f"{answer.status} {answer.body[:300]!r}"
    if refused or event == "report":
        assert answer.status >= 400, answer.body[:300]
    if event == "cycle-request" and answer.status == 200:
        assert answer.json()["status"] == "rejected"


def over_websocket(target: Target, message: Any, *, refused: bool = False) -> None:
    """A message is answered in time on a connection that stays usable, or ends the connection."""
    started = time.monotonic()
    with closing(WebSocketDevice(target.node.device_port)) as device:
        try:
            answer = device.exchange(message)
            assert time.monotonic() - started < BOUND
            if refused:
                assert "error" in answer.get("data", answer), answer
            assert device.exchange({"type": "socket-ping"}) == {"alive": "True"}
        except (ConnectionError, OSError):
            assert time.monotonic() - started < BOUND

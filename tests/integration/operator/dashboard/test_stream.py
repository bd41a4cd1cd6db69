"""The stream that open pages listen to: which rows have changed, to whom they belong, and for how long."""

from __future__ import annotations

import http.client
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gridnode_operator.master.nodes.provider import node_name
from tests.support.dashboard_client import DashboardClient
from tests.support.master_process import ADMIN, MasterProcess

pytestmark = pytest.mark.integration


@contextmanager
def stream(visitor: DashboardClient, query: str = "") -> Iterator[http.client.HTTPResponse]:
    """An open stream, from its first event on."""
    host = visitor.base.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=20)
    connection.request(
        "GET", f"/dashboard/stream?{query}", headers={"Cookie": f"gridnode_session={visitor.session_cookie}"}
    )
    response = connection.getresponse()
    try:
        assert response.status == 200
        assert response.getheader("Content-Type") == "text/event-stream"
        assert response.getheader("Content-Security-Policy") is not None
        assert next_event(response) == ("ready", {})
        yield response
    finally:
        connection.close()


def next_event(response: http.client.HTTPResponse) -> tuple[str, Any]:
    """The next event: its name and its data."""
    name = ""
    while True:
        line = response.readline().decode().rstrip("\n")
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            return name, json.loads(line.removeprefix("data: "))


def tell(master: MasterProcess, name: str, percent: int, node_id: str) -> int:
    """What a node posts; gives the row of its model."""
    event = {
        "percent_complete": percent, "model_id": name, "version": "1.0", "cycle": percent, "node_id": node_id,
        "event_id": str(uuid.uuid4()),
    }  # fmt: skip
    master.admin.post("/model_progress", event)
    row: int = master.admin.get("/api/v1/models", name=name)["items"][0]["id"]
    return row


def test_pages_are_told_which_rows_have_changed_and_no_more(master: MasterProcess, admin: DashboardClient) -> None:
    wanted, other = tell(master, "wanted", 1, "n"), tell(master, "other", 1, "n")
    with stream(admin, f"model={wanted}") as response:
        tell(master, "other", 2, "n")
        tell(master, "wanted", 2, "n")
        name, data = next_event(response)
        assert name == "changed"
        assert data == {"models": [wanted], "nodes": []}
    assert other != wanted


def test_owners_are_told_of_their_own_rows_only(empty_database_url: str, tmp_path: Path) -> None:
    with MasterProcess(empty_database_url, tmp_path, provider="local", nodes_dir=tmp_path / "nodes") as master:
        rows, visitors = {}, {}
        for owner in ("alice", "bobby"):
            key = master.key("notebook", owner=owner)
            body = {"model_id": f"of-{owner}", "dataset_id": "d", "features": [], "labels": []}
            master.anonymous.with_key(key).post("/create", body)
            visitors[owner] = DashboardClient(master.port).signed_in(key)
        with stream(visitors["alice"]) as response:
            for owner in ("bobby", "alice"):
                rows[owner] = tell(master, f"of-{owner}", 5, f"default/{node_name(owner, 'd')}")
            seen: set[int] = set()
            while rows["alice"] not in seen:
                seen |= set(next_event(response)[1].get("models", []))
            assert seen == {rows["alice"]}


def test_ended_session_opens_no_stream(master: MasterProcess) -> None:
    visitor = DashboardClient(master.port).signed_in(ADMIN)
    copy = DashboardClient(master.port)
    copy.session.cookies.set("gridnode_session", visitor.session_cookie or "")
    visitor.post("/logout")
    assert copy.get("/stream").status_code == 401

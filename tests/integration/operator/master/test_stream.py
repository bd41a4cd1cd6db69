"""Live progress as server-sent events: who sees what, how soon, and how many may watch at once."""

from __future__ import annotations

import http.client
import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from gridnode_operator.master.nodes.provider import node_name
from tests.support.master_process import ADMIN, MasterProcess

pytestmark = pytest.mark.integration


class Stream:
    """One open event stream."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response

    def next(self) -> tuple[str, Any]:
        """The next event: its name and its data."""
        name = ""
        while True:
            line = self._response.readline().decode().rstrip("\n")
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                return name, json.loads(line.removeprefix("data: "))

    def models(self, seconds: float = 15.0, percent: int | None = None) -> list[dict[str, Any]]:
        """Models of the next progress event that has some, or has one that is so far."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            name, data = self.next()
            models: list[dict[str, Any]] = data.get("models", []) if name == "progress" else []
            if models and (percent is None or percent in [model["percent"] for model in models]):
                return models
        raise AssertionError("no progress was told")


@contextmanager
def stream(master: MasterProcess, key: str = ADMIN, query: str = "") -> Iterator[Stream]:
    """Watch, from the first event on."""
    connection = http.client.HTTPConnection("127.0.0.1", master.port, timeout=20)
    try:
        connection.request("GET", f"/api/v1/stream{query}", headers={"Authorization": f"Bearer {key}"})
        response = connection.getresponse()
        assert response.status == 200
        assert response.getheader("Content-Type") == "text/event-stream"
        opened = Stream(response)
        assert opened.next() == ("ready", {})
        yield opened
    finally:
        connection.close()


def progress(master: MasterProcess, model: str, percent: int, node_id: str = "apps/demo") -> None:
    """What a node posts."""
    event = {
        "percent_complete": percent, "model_id": model, "version": "1.0", "cycle": percent, "cycles": 100,
        "node_id": node_id, "event_id": str(uuid.uuid4()),
    }  # fmt: skip
    master.admin.post("/model_progress", event)


def test_progress_is_told_within_seconds(shared_master: MasterProcess) -> None:
    with stream(shared_master) as watched:
        started = time.monotonic()
        progress(shared_master, "told", 71)
        (model,) = watched.models(percent=71)
        assert time.monotonic() - started < 5
        assert (model["name"], model["percent"], model["state"]) == ("told", 71, "active")
        progress(shared_master, "told", 72)
        assert [each["percent"] for each in watched.models(percent=72)] == [72]


def test_what_changed_just_before_the_first_look_is_told(shared_master: MasterProcess) -> None:
    progress(shared_master, "just-before", 73)
    with stream(shared_master) as watched:
        assert "just-before" in {each["name"] for each in watched.models(percent=73)}


def test_filters_pass_one_model_only(shared_master: MasterProcess) -> None:
    progress(shared_master, "wanted", 1)
    progress(shared_master, "unwanted", 1)
    (wanted,) = shared_master.admin.get("/api/v1/models", name="wanted")["items"]
    with stream(shared_master, query=f"?model={wanted['id']}") as watched:
        for percent in (2, 3):
            progress(shared_master, "unwanted", percent)
            progress(shared_master, "wanted", percent)
        assert {each["name"] for each in watched.models(percent=3)} == {"wanted"}


def test_owners_are_told_of_their_own_only(empty_database_url: str, tmp_path: Path) -> None:
    with MasterProcess(empty_database_url, tmp_path, provider="local", nodes_dir=tmp_path / "nodes") as master:
        keys = {owner: master.key("notebook", owner=owner) for owner in ("alice", "bob")}
        for owner, key in keys.items():
            body = {"model_id": f"model-of-{owner}", "dataset_id": "d", "features": [], "labels": []}
            master.anonymous.with_key(key).post("/create", body)
        with ExitStack() as stack:
            streams = {owner: stack.enter_context(stream(master, key)) for owner, key in keys.items()}
            for owner in keys:
                progress(master, f"model-of-{owner}", 5, node_id=f"default/{node_name(owner, 'd')}")
            for owner, watched in streams.items():
                assert {each["owner"] for each in watched.models(percent=5)} == {owner}
        for owner, key in keys.items():
            client = master.anonymous.with_key(key)
            other = "bob" if owner == "alice" else "alice"
            for path in ("models", "nodes", "events", "progress", "datasets", "overview"):
                shown = client.request("GET", f"/api/v1/{path}")
                assert shown.status == 200
                assert f"model-of-{other}".encode() not in shown.body
                assert node_name(other, "d").encode() not in shown.body
            foreign = master.admin.get("/api/v1/models", name=f"model-of-{other}")["items"][0]
            for path in ("", "/cycles", "/losses", "/checkpoints/latest"):
                assert client.request("GET", f"/api/v1/models/{foreign['id']}{path}").status == 404
            assert client.request("GET", f"/api/v1/nodes/{foreign['node']}").status == 404
            assert client.get("/api/v1/events", model=foreign["id"])["items"] == []
            assert client.get("/api/v1/events", node=foreign["node"])["items"] == []
            assert client.get("/api/v1/models", node=foreign["node"])["items"] == []


def test_a_hundred_viewers_take_no_threads_and_are_all_told(empty_database_url: str, tmp_path: Path) -> None:
    with MasterProcess(empty_database_url, tmp_path, threads=4) as master, ExitStack() as stack:
        process = psutil.Process(master.process_id())
        before = process.num_threads()
        streams = [stack.enter_context(stream(master)) for _ in range(120)]
        assert process.num_threads() <= before + 4
        progress(master, "watched", 42)
        assert [each.models(percent=42)[0]["percent"] for each in streams] == [42] * 120


def test_too_many_viewers_are_told_to_come_back(empty_database_url: str, tmp_path: Path) -> None:
    with (
        MasterProcess(empty_database_url, tmp_path, viewers=2) as master,
        stream(master),
    ):
        with stream(master):
            refused = master.admin.request("GET", "/api/v1/stream")
            assert (refused.status, refused.headers["content-type"]) == (503, "application/problem+json")
            assert "retry-after" in refused.headers
        deadline = time.monotonic() + 10
        while True:
            try:
                with stream(master):
                    break
            except AssertionError:
                # The one that left is noticed a moment later.
                assert time.monotonic() < deadline
                time.sleep(0.1)


def test_streams_end_when_the_master_node_stops(empty_database_url: str, tmp_path: Path) -> None:
    with MasterProcess(empty_database_url, tmp_path) as master, stream(master) as watched:
        ended = threading.Event()

        def read() -> None:
            while watched._response.readline():
                pass
            ended.set()

        threading.Thread(target=read, daemon=True).start()
        started = time.monotonic()
        assert master.stop() == 0
        assert time.monotonic() - started < 8
        assert ended.wait(5)

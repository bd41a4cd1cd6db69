"""Real nodes and a real master node: what the nodes know and what the master node shows are the same in the end."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.device import HttpDevice, join_when_open, report
from tests.support.master_process import MasterProcess
from tests.support.node import TOKEN, NodeProcess
from tests.support.postgres import PostgresForTests
from tests.support.recordings import Hosting, load_model
from tests.support.syft_messages import zero_diff

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

REPORTS = 2
STATIC = {"legacy_access": "true", "provider": "static"}


def wait_for(what: str, done: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What ``done`` gives once it gives something true."""
    deadline = time.monotonic() + seconds
    while not (found := done()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.1)
    return found


def hosting(name: str, cycles: int) -> Hosting:
    """A tiny model that trains for some cycles of two reports."""
    return load_model("tiny").named(name, num_cycles=cycles, min_diffs=REPORTS, max_diffs=REPORTS)


def train_cycle(port: int, model: Hosting, *, loss: float = 0.5) -> None:
    """Two phones, each for one report."""
    with closing(HttpDevice(port)) as device:
        for each in range(REPORTS):
            session = join_when_open(device, model.name)
            assert report(device, session, zero_diff(model.model), loss=loss + each, accuracy=0.5) == {
                "status": "success"
            }


def write_nodes_file(path: Path, nodes: list[NodeProcess], directory: Path) -> None:
    """The file of nodes that a master node with the static provider reads."""
    (directory / "token").write_text(TOKEN)
    listed = [
        {
            "node_id": f"node-{node.device_port}",
            "url": f"http://127.0.0.1:{node.device_port}",
            "management_url": f"http://127.0.0.1:{node.management_port}",
            "management_token_file": str(directory / "token"),
        }
        for node in nodes
    ]
    path.write_text(yaml.safe_dump({"nodes": listed}))


@pytest.fixture
def node_urls(postgres: PostgresForTests) -> Iterator[list[str]]:
    """Databases for two nodes."""
    with postgres.database() as one, postgres.database() as other:
        yield [one, other]


def test_old_flow_from_key_to_finished_model(
    postgres: PostgresForTests, empty_database_url: str, tmp_path: Path
) -> None:
    """What a notebook, an app and phones of 2020 do, in their order, through the front doors only."""
    model = hosting("heart-rate-model", cycles=2)
    with ExitStack() as stack:
        master = MasterProcess(empty_database_url, tmp_path, **STATIC, nodes_file=tmp_path / "nodes.yaml")
        node = NodeProcess(stack.enter_context(postgres.database()), tmp_path, master_url=master.url)
        write_nodes_file(tmp_path / "nodes.yaml", [node], tmp_path)
        stack.enter_context(master)
        stack.enter_context(node)
        notebook = master.anonymous
        key = notebook.post("/generate_key", {"user_id": "ann"})["api_key"]
        app = {"api_key": key}

        def info() -> Any:
            return notebook.request("POST", "/info", {"dataset_id": "heart-rate"}, headers=app).json()

        assert list(info()) == ["success"]
        assert notebook.post("/get_datasets", {"user_id": "ann"}) == {"datasets": ["heart-rate"]}
        assert list(info()) == ["wait"]
        creation = {
            "model_id": model.name, "dataset_id": "heart-rate", "features": ["bpm"], "labels": ["stress"],
        }  # fmt: skip
        ready = wait_for(
            "the node is ready",
            lambda: (answer := notebook.post("/create", creation))["status"] == "ready" and answer,
        )
        assert ready == {"status": "ready", "nodeURL": "127.0.0.1"}

        node.management.host(model)
        assert info() == {"models": [[model.name, "1.0", ["bpm"], ["stress"]]], "nodeURL": "127.0.0.1"}

        (heard,) = wait_for("the master node knows the model", lambda: master.admin.get("/api/v1/models")["items"])
        loss = {"acc": 0.5, "loss": 0.25, "model_id": model.name}
        assert notebook.request("POST", "/model_loss", loss, headers=app).json() == {"status": "success"}
        (said,) = master.admin.get(f"/api/v1/models/{heard['id']}/losses")["items"]
        assert (said["cycle"], said["devices"], said["loss"], said["accuracy"]) == (1, 1, 0.25, 0.5)
        train_cycle(node.device_port, model)
        wait_for("half of it is done", lambda: master.admin.get("/api/v1/progress")["items"][0]["percent"] == 50)
        assert len(info()["models"]) == 1
        train_cycle(node.device_port, model)
        wait_for("it is not listed any more", lambda: info() == {"models": [], "nodeURL": "127.0.0.1"})

        (finished,) = wait_for(
            "the final checkpoint is stored",
            lambda: master.admin.get("/api/v1/finished-models", state="stored")["items"],
        )
        content = master.anonymous.with_key(key).request("GET", f"/api/v1/finished-models/{finished['model']}/content")
        assert content.status == 200
        assert content.body == node.management.checkpoint(model.name)
        assert (content.headers["x-checkpoint"], finished["checkpoint"]) == ("3", 3)
        assert notebook.request("POST", "/delete", {"dataset_id": "heart-rate"}, headers=app).json() == {
            "status": "deleted"
        }
        assert "Traceback" not in master.log()


def test_both_sides_agree_after_the_master_node_was_killed_at_random(
    node_urls: list[str], empty_database_url: str, tmp_path: Path
) -> None:
    generator = random.Random(5)
    cycles = 6
    models = [hosting("one", cycles), hosting("two", cycles)]
    stopping = threading.Event()
    with ExitStack() as stack:
        master = MasterProcess(empty_database_url, tmp_path, **STATIC, nodes_file=tmp_path / "nodes.yaml")
        nodes = [NodeProcess(url, tmp_path, master_url=master.url, master_timeout=2) for url in node_urls]
        write_nodes_file(tmp_path / "nodes.yaml", nodes, tmp_path)
        stack.enter_context(master)
        for node in nodes:
            stack.enter_context(node)
            for model in models:
                node.management.host(model)

        kills = []

        def kill_now_and_then() -> None:
            while not stopping.wait(generator.uniform(0.5, 1.5)):
                master.kill()
                kills.append(1)
                stopping.wait(generator.uniform(0.1, 0.8))
                master.start()

        killer = threading.Thread(target=kill_now_and_then)
        killer.start()
        try:
            slowest = 0.0
            for cycle in range(cycles):
                while len(kills) < (cycle + 1) // 2:
                    time.sleep(0.05)
                for node in nodes:
                    for model in models:
                        started = time.monotonic()
                        train_cycle(node.device_port, model)
                        slowest = max(slowest, time.monotonic() - started)
                        time.sleep(generator.uniform(0, 0.3))
        finally:
            stopping.set()
            killer.join()
        master.wait_until_ready()
        assert len(kills) >= 3
        assert slowest < 10, "a cycle waited for the master node"

        def finished() -> bool:
            states = [each["state"] for each in master.admin.get("/api/v1/models")["items"]]
            return states == ["finished"] * 4

        wait_for("all models are finished at the master node", finished, seconds=120)
        wait_for(
            "all finished models are stored",
            lambda: len(master.admin.get("/api/v1/finished-models", state="stored")["items"]) == 4,
        )
        wait_for("all events are there", lambda: len(master.admin.get("/api/v1/events")["items"]) == 4 * cycles)
        assert_agreement(master, nodes, cycles)
        assert "Traceback" not in master.log()


def assert_agreement(master: MasterProcess, nodes: list[NodeProcess], cycles: int) -> None:
    """What the master node shows of each model is what its node says."""
    by_name = {f"node-{node.device_port}": node for node in nodes}
    for shown in master.admin.get("/api/v1/models")["items"]:
        node = by_name[shown["node_id"]]
        said = node.management.process(shown["name"])
        assert (shown["percent"], shown["completed_cycles"]) == (100, said["completed_cycles"])
        recorded = master.admin.get(f"/api/v1/models/{shown['id']}/cycles")["items"]
        assert [cycle["number"] for cycle in recorded] == list(range(1, cycles + 1))
        assert {cycle["state"] for cycle in recorded} == {"completed"}
        assert [cycle["reported"] for cycle in recorded] == [REPORTS] * cycles
        assert [cycle["loss"] for cycle in recorded] == [1.0] * cycles
        content = master.admin.request("GET", f"/api/v1/finished-models/{shown['id']}/content")
        assert content.body == node.management.checkpoint(shown["name"])
    events = master.admin.get("/api/v1/events")["items"]
    for node_id in by_name:
        for name in ("one", "two"):
            told = [each["cycle"] for each in reversed(events) if (each["node_id"], each["name"]) == (node_id, name)]
            assert told == list(range(1, cycles + 1)), "events arrived out of order, twice, or not at all"

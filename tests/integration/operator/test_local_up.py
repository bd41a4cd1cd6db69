"""``gridnode up`` and ``gridnode down`` on real processes: what a person does with them in two terminals."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg2
import pytest

from gridnode_operator.desired.names import database_names
from gridnode_operator.master.nodes.local import LocalProvider
from gridnode_operator.master.nodes.provider import NodeRequest
from gridnode_operator.master.nodes.template import NodeTemplate
from tests.support.device import HttpDevice, join, report_of
from tests.support.node import Management
from tests.support.recordings import Hosting, load_model
from tests.support.syft_messages import state_of, tensors_of
from tests.support.up import Up, manifest, names_of, run

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A run for all tests here that leave it running."""
    with Up(tmp_path_factory.mktemp("up"), manifest("one")) as started:
        yield started


@pytest.fixture
def up(running: Up) -> Up:
    """A run with the GridNode ``one`` and no other, ready."""
    running.write(manifest("one"))
    running.wait_until_ready("one")
    return running


def model(name: str) -> Hosting:
    tiny = load_model("tiny")
    plain = Hosting(tiny.model, tiny.plans, b"", tiny.client_config, {**tiny.server_config, "iterative_plan": False})
    return plain.named(name, num_cycles=5)


def schemas(up: Up) -> set[str]:
    """Schemas that exist, asked through the login of any GridNode."""
    with closing(psycopg2.connect(up.database_url("stays"))) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'gn_%'")
        return {name for (name,) in cursor.fetchall()}


def schema_of(name: str) -> str:
    return database_names("default", name).schema


def test_gridnodes_follow_the_file(up: Up) -> None:
    stays = manifest("stays")
    up.write(manifest("one"), stays)
    up.wait_until_ready("one", "stays")
    up.management("one").host(model("kept"))

    up.write(manifest("one", {"replicas": 2}), stays, manifest("gone", {"database": {"reclaimPolicy": "Delete"}}))
    up.wait_until_ready("one", "stays", "gone")
    up.wait_until(lambda _: up.gridnode("one")["ready_replicas"] == 2)
    assert schema_of("gone") in schemas(up)

    up.write(manifest("one"), stays)
    up.wait_until(lambda state: state["ready"] and names_of(state) == ["one", "stays"])
    up.wait_until(lambda _: up.gridnode("one")["ready_replicas"] == 1)
    assert schema_of("gone") not in schemas(up)

    up.write(stays)
    up.wait_until(lambda state: names_of(state) == ["stays"])
    assert {schema_of("one"), schema_of("stays")} <= schemas(up)
    up.write(stays, manifest("one"))
    up.wait_until_ready("one", "stays")
    up.wait_until(lambda _: "kept" in [each["name"] for each in up.gridnode("one")["models"]])
    assert "its models are kept (reclaimPolicy Retain)" in up.log()
    assert "its models are deleted (reclaimPolicy Delete)" in up.log()


def test_replicas_go_down_to_none_and_come_back(up: Up) -> None:
    for replicas in (3, 0, 1):
        up.write(manifest("one", {"replicas": replicas}))
        up.wait_until(lambda _, wanted=replicas: _has_replicas(up, wanted))  # type: ignore[misc]
        assert not up.gridnode("one").get("problem")


def _has_replicas(up: Up, wanted: int) -> bool:
    one = up.gridnode("one")
    return bool(one["replicas"] == one["ready_replicas"] == len(one["process_ids"]) == wanted)


def test_file_that_can_not_be_used_changes_nothing(up: Up) -> None:
    before = up.gridnode("one")

    bad: list[tuple[dict[str, Any], str]] = [
        ({"replica": 3}, "there is no field spec.replica; did you mean replicas?"),
        ({"replicas": 300}, "spec.replicas: Expected `int` <= 100"),
        ({"database": {"schema": "other"}}, "spec.database.schema can't be changed"),
    ]
    for spec, message in bad:
        up.write(manifest("one", spec), manifest("two"))
        up.wait_until(lambda _, message=message: message in up.log())  # type: ignore[misc]
    up.file.unlink()
    time.sleep(1)

    assert names_of(up.state) == ["one"]
    assert up.gridnode("one")["process_ids"] == before["process_ids"]


def test_master_node_makes_gridnodes_and_reads_how_they_are(up: Up) -> None:
    provider = LocalProvider(up.data.nodes, NodeTemplate(None))
    _wait_for(lambda: [each.node_id for each in provider.observe() if each.ready] == ["default/one"])

    made = provider.create(NodeRequest(name="made", dataset="digits", owner="somebody"))

    up.wait_until_ready("one", "made")
    _wait_for(lambda: all(each.ready for each in provider.observe()) and len(provider.observe()) == 2)
    access = provider.management(made)
    assert access is not None
    assert access.token is not None
    assert Management(urlsplit(access.url).port or 0, access.token).request("GET", "/processes").status == 200
    provider.delete(made)
    up.wait_until(lambda state: names_of(state) == ["one"])
    _wait_for(lambda: [each.node_id for each in provider.observe()] == ["default/one"])


def test_replicas_are_replaced_without_breaking_what_they_are_doing(up: Up) -> None:
    """A download that is read slowly and a report that is sent slowly both outlast the replica's service."""
    old = up.gridnode("one")["process_ids"]
    up.management("one").host(model("slow"))
    with SlowDownload(up.device_port("one")) as download, SlowReport(up.device_port("one"), "slow") as report:
        up.write(manifest("one", {"limits": {"connections": 5000}, "drainTimeoutSeconds": 20}))
        up.wait_until(lambda state: state["ready"] and not set(old) & set(up.gridnode("one")["process_ids"]))
        assert psutil.pid_exists(old[0]), "the old replica has ended before its requests did"
        assert report.finish() == {"status": "success"}
        assert download.finish() == download.size
        assert up.management("one").process("slow")["cycle"]["reports"] == 1
    _wait_for(lambda: not psutil.pid_exists(old[0]))


def test_replica_that_is_killed_comes_back(up: Up) -> None:
    [old] = up.gridnode("one")["process_ids"]

    psutil.Process(old).kill()

    up.wait_until(lambda state: state["ready"] and up.gridnode("one")["process_ids"] not in ([], [old]))
    assert "a replica ended by itself (code -9): starting another" in up.log()


def test_data_outlast_kill_and_stop(tmp_path: Path) -> None:
    with Up(tmp_path, manifest("one")) as up:
        up.wait_until_ready("one")
        check_that_data_outlast(up)


def check_that_data_outlast(up: Up) -> None:
    up.management("one").host(model("digits"))
    data = ["--data", str(up.data.path)]
    second = run("up", "-f", str(up.file), *data)
    assert second.returncode == 1
    assert f"another `gridnode up` (process {up.process_id}) uses {up.data.path}" in second.stderr

    left_alone = up.gridnode("one")["process_ids"]
    up.kill()
    assert all(psutil.pid_exists(each) for each in left_alone)
    up.start()
    up.wait_until(
        lambda state: state["ready"] and [each["name"] for each in up.gridnode("one")["models"]] == ["digits"]
    )
    assert not any(psutil.pid_exists(each) for each in left_alone)

    kept = run("down", *data, "--delete")
    assert (kept.returncode, up.alive()) == (1, True)
    assert "say --yes" in kept.stderr
    stopped = run("down", *data)
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert up.wait(5) == 0
    assert up.processes() == []
    assert up.data.path.is_dir()
    assert run("down", *data, "--delete", "--yes").returncode == 0
    assert not up.data.path.exists()


def test_ports_are_the_next_free_ones(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        service = {"exposure": {"service": {"port": port}}}
        with Up(tmp_path, manifest("one", service), manifest("two", service)) as up:
            up.stop()
            refused = run("up", "-f", str(up.file), "--data", str(up.data.path), "--port", str(port))
            assert (refused.returncode, f"port {port} in use" in refused.stderr) == (1, True)
            up.start("--master-port", "0")
            up.wait_until_ready("one", "two")
            first, second = up.device_port("one"), up.device_port("two")
            assert port < first < second
            assert f"one: port {port} is taken, phones are let in at {first}" in up.log()


class SlowDownload:
    """A speed test whose bytes are not read until the end."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        # Otherwise all of it would be on the way already.
        self._connection.connect()
        self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self._connection.request("GET", "/model-centric/speed-test?worker_id=slow&random=1")
        self._response = self._connection.getresponse()
        self.size = int(self._response.headers["Content-Length"])
        assert self.size > 1 << 25

    def finish(self) -> int:
        return len(self._response.read())

    def __enter__(self) -> SlowDownload:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


class SlowReport:
    """A phone's report whose second half is sent at the end."""

    def __init__(self, port: int, name: str) -> None:
        device = HttpDevice(port)
        session = join(device, name)
        device.close()
        tensors = tensors_of(load_model("tiny").model)
        self._body = json.dumps(report_of(session, state_of(tensors))).encode()
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._connection.putrequest("POST", "/model-centric/report")
        self._connection.putheader("Content-Length", str(len(self._body)))
        self._connection.putheader("Content-Type", "application/json")
        self._connection.endheaders(self._body[:100])

    def finish(self) -> dict[str, Any]:
        self._connection.send(self._body[100:])
        answer: dict[str, Any] = json.loads(self._connection.getresponse().read())
        return answer

    def __enter__(self) -> SlowReport:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def _wait_for(condition: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)

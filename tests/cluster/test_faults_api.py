"""The API server goes away, or etcd answers nothing, in the middle of reconciles; and the operator is told to stop."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from gridnode.db.revision import REVISION
from gridnode_operator.desired.names import database_names
from tests.support.cluster import ControlPlane
from tests.support.kubelet import Kubelet
from tests.support.operator_faults import catalog, log_in, quick_migration, url_in_secret
from tests.support.operator_process import GROUP_PATH, GridNodes, Object, OperatorProcess, wait_for
from tests.support.shared_database import SharedDatabase
from tests.support.slow_database import DatabaseProxy

# Each restart of an API server takes its time, and so does kopf's return to it.
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

_NAMES = [f"demo-{number}" for number in range(5)]
#: Seconds that Kubernetes gives a pod to end.
_GRACE = 30.0


class Liveness(threading.Thread):
    """Probes the operator twice a second, as a kubelet would more seldom."""

    def __init__(self, operator: OperatorProcess) -> None:
        super().__init__()
        self._operator = operator
        self._end = threading.Event()
        self.bad: list[tuple[int, str]] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()

    def run(self) -> None:
        while not self._end.wait(0.5):
            if (answer := self._operator.get("/healthz")) != (200, "ok\n"):
                self.bad.append(answer)


@pytest.fixture
def gridnodes(control_plane: ControlPlane, namespace: str) -> Iterator[GridNodes]:
    with Kubelet(control_plane, quick_migration):
        yield GridNodes(control_plane, namespace)


@pytest.fixture
def make_operator(gridnodes: GridNodes, shared: SharedDatabase, tmp_path: Path) -> Callable[..., OperatorProcess]:
    def make(url: str | None = None) -> OperatorProcess:
        settings = {"WATCH_NAMESPACES": gridnodes.namespace, "RESYNC_INTERVAL": "5"}
        path = gridnodes.control_plane.kubeconfig_path()
        return OperatorProcess(path, url or shared.admin_url, tmp_path, settings)

    return make


def whenever_it_answers(request: Callable[[], object]) -> None:
    """As a person would, until the API server takes it."""
    deadline = time.monotonic() + 60
    while True:
        try:
            request()
        except (OSError, http.client.HTTPException, AssertionError):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        else:
            return


def kill(control_plane: ControlPlane) -> None:
    control_plane.restart_api_server(kill=True)
    wait_until_served(control_plane)


def restart(control_plane: ControlPlane) -> None:
    control_plane.restart_api_server()
    wait_until_served(control_plane)


def pause_etcd(control_plane: ControlPlane) -> None:
    with control_plane.etcd_paused():
        time.sleep(6)
    wait_until_served(control_plane)


def wait_until_served(control_plane: ControlPlane) -> None:
    """The API server is ready a moment before it knows custom resources: 'storage is (re)initializing'."""
    wait_for(lambda: control_plane.request("GET", f"{GROUP_PATH}/gridnodes").status == 200)


@pytest.mark.parametrize("fault", [kill, restart, pause_etcd])
def test_faults_of_the_api_server(
    gridnodes: GridNodes,
    shared: SharedDatabase,
    make_operator: Callable[..., OperatorProcess],
    fault: Callable[[ControlPlane], None],
) -> None:
    control_plane = gridnodes.control_plane
    with make_operator() as operator, Liveness(operator) as liveness:
        for name in _NAMES:
            gridnodes.create(name, {"database": {"reclaimPolicy": "Delete"}})
        time.sleep(0.4)
        fault(control_plane)
        wait_for(lambda: all(is_ready(gridnodes, name) for name in _NAMES), operator.log_path.read_text, 90)
        for name in _NAMES:
            changed = {"replicas": 2, "image": "registry.example/gridnode:2", "database": {"rotate": "now"}}
            whenever_it_answers(lambda name=name, changed=changed: gridnodes.patch(name, {"spec": changed}))  # type: ignore[misc]
        fault(control_plane)
        wait_for(lambda: all(is_ready(gridnodes, name) for name in _NAMES), operator.log_path.read_text, 90)
        for name in _NAMES:
            assert log_in(url_in_secret(gridnodes, name)) == [(REVISION,)]
        for name in _NAMES:
            gridnodes.delete(name)
        fault(control_plane)
        wait_for(lambda: gridnodes.all(f"{GROUP_PATH}/gridnodes") == [], operator.log_path.read_text, 90)
    for name in _NAMES:
        assert not any(catalog(shared, database_names(gridnodes.namespace, name).owner).values())
    assert liveness.bad == []
    assert "Traceback" not in operator.log_path.read_text()


def is_ready(gridnodes: GridNodes, name: str) -> bool:
    resource: Object = gridnodes.get(f"{GROUP_PATH}/gridnodes", name) or {}
    is_new = (resource.get("status") or {}).get("observedGeneration") == resource["metadata"]["generation"]
    return is_new and gridnodes.condition("Ready", name)[0] == "True"


def seconds_to_stop(operator: OperatorProcess) -> float:
    began = time.monotonic()
    assert operator.stop() == 0, operator.log_path.read_text()[-3000:]
    return time.monotonic() - began


def test_stop_in_the_middle_of_reconciles(
    gridnodes: GridNodes, shared: SharedDatabase, make_operator: Callable[..., OperatorProcess]
) -> None:
    for number, name in enumerate(_NAMES):
        with make_operator() as operator:
            gridnodes.create(name)
            for other in _NAMES[:number]:
                gridnodes.patch(other, {"spec": {"database": {"rotate": str(number)}}})
            time.sleep(0.15 * number)
            assert seconds_to_stop(operator) < 10
        assert "Traceback" not in operator.log_path.read_text()
        # A Secret that is there works: a password is never set without being kept, or the other way round.
        for each in gridnodes.all("/api/v1/secrets"):
            if each["metadata"]["name"].endswith("-database"):
                url = url_in_secret(gridnodes, each["metadata"]["name"].removesuffix("-database"))
                assert log_in(url, "SELECT 1") == [(1,)]
    with make_operator() as operator:
        wait_for(lambda: all(is_ready(gridnodes, name) for name in _NAMES), operator.log_path.read_text)
        for name in _NAMES:
            assert log_in(url_in_secret(gridnodes, name)) == [(REVISION,)]


def test_stop_while_the_database_hangs(
    gridnodes: GridNodes, shared: SharedDatabase, make_operator: Callable[..., OperatorProcess]
) -> None:
    with DatabaseProxy(shared.admin_url) as proxy, make_operator(proxy.url) as operator:
        gridnodes.create("demo")
        wait_for(lambda: is_ready(gridnodes, "demo"), operator.log_path.read_text)
        proxy.hang()
        gridnodes.patch("demo", {"spec": {"replicas": 2}})
        wait_for(lambda: "gridnode_operator_queue_running 1.0" in operator.get("/metrics")[1], operator.get("/metrics"))
        assert seconds_to_stop(operator) < _GRACE
        assert "Traceback" not in operator.log_path.read_text()


def test_stop_while_the_api_server_hangs(
    gridnodes: GridNodes, make_operator: Callable[..., OperatorProcess]
) -> None:  # fmt: skip
    with make_operator() as operator:
        gridnodes.create("demo")
        wait_for(lambda: is_ready(gridnodes, "demo"), operator.log_path.read_text)
        with gridnodes.control_plane.etcd_paused():
            time.sleep(6)
            assert seconds_to_stop(operator) < _GRACE
        assert "Traceback" not in operator.log_path.read_text()

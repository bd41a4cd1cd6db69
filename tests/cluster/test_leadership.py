"""Several operators at once: one works, the others wait. And one that hears nothing any more says so."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from gridnode_operator.leadership import DURATION, INTERVAL
from tests.support.cluster import ControlPlane
from tests.support.deaf_watch import WatchProxy
from tests.support.kubelet import Kubelet
from tests.support.operator_faults import quick_migration
from tests.support.operator_process import GridNodes, OperatorProcess, wait_for
from tests.support.shared_database import SharedDatabase

pytestmark = [pytest.mark.cluster]

#: Longer than a Lease lasts: the next look at it, and a machine that has other things to do.
_TAKEOVER = DURATION + 2 * INTERVAL + 20.0

Start = Callable[[], OperatorProcess]


@pytest.fixture
def start(control_plane: ControlPlane, namespace: str, shared: SharedDatabase, tmp_path: Path) -> Iterator[Start]:
    """Starts an operator with a user of its own, so that the audit log tells them apart."""
    started: list[OperatorProcess] = []

    def start_another() -> OperatorProcess:
        user = control_plane.user(f"{namespace}-operator-{len(started)}", ["system:masters"])
        settings = {
            "LEADER_ELECTION": "true", "NAMESPACE": namespace, "WATCH_NAMESPACES": namespace, "RESYNC_INTERVAL": "5",
        }  # fmt: skip
        operator = OperatorProcess(user, shared.admin_url, tmp_path, settings)
        operator.start()
        started.append(operator)
        operator.wait_until_alive()
        return operator

    yield start_another
    for operator in started:
        operator.kill()


def leads(operator: OperatorProcess) -> bool:
    return operator.get("/readyz") == (200, "ok\n")


def seconds_until(condition: Callable[[], bool], what: str, limit: float) -> float:
    began = time.monotonic()
    wait_for(condition, what, limit)
    return time.monotonic() - began


@pytest.mark.timeout(240)
def test_one_works_and_another_takes_over(
    control_plane: ControlPlane, namespace: str, start: Start
) -> None:  # fmt: skip
    gridnodes = GridNodes(control_plane, namespace)

    def becomes_ready(name: str) -> None:
        gridnodes.create(name)
        wait_for(lambda: gridnodes.condition("Ready", name)[0] == "True", lambda: gridnodes.status(name))

    with Kubelet(control_plane, quick_migration):
        first = start()
        wait_for(lambda: leads(first))
        second = start()
        since = control_plane.audit_position()
        becomes_ready("one")
        assert not leads(second)
        assert control_plane.count_writes(user=f"{namespace}-operator-0", since=since) > 5
        assert control_plane.count_writes(user=f"{namespace}-operator-1", since=since) == 0

        first.kill()
        print("after a kill:", seconds_until(lambda: leads(second), "nobody takes over", _TAKEOVER))
        becomes_ready("two")

        third = start()
        time.sleep(INTERVAL)
        assert not leads(third)
        assert second.stop() == 0
        print("after SIGTERM:", seconds_until(lambda: leads(third), "the Lease was not released", INTERVAL + 3))
        becomes_ready("three")

        fourth = start()
        assert third.process is not None
        paused = psutil.Process(third.process.pid)
        paused.suspend()
        try:
            print("after SIGSTOP:", seconds_until(lambda: leads(fourth), "nobody takes over", _TAKEOVER))
        finally:
            paused.resume()
        assert third.process.wait(30) == 1
        assert "the Lease is lost" in third.log_path.read_text()
        assert leads(fourth)
        becomes_ready("four")
        assert fourth.process is not None
        assert fourth.process.poll() is None


class _Impatient(OperatorProcess):
    """An operator that compares what it was told with what is every five seconds, not every minute."""

    code = "import gridnode_operator.main as main; main._COMPARE_INTERVAL = 5.0; main.main()"

    def command(self) -> list[str]:
        return [sys.executable, "-c", self.code]


def test_operator_that_hears_nothing_is_not_alive(
    control_plane: ControlPlane, namespace: str, shared: SharedDatabase, tmp_path: Path
) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "operator"}}
    control_plane.expect("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", account)
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "operator"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": namespace}],
    }
    path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings"
    control_plane.expect("POST", path, binding)
    token = control_plane.create_service_account_token(namespace, "operator")
    gridnodes = GridNodes(control_plane, namespace)
    settings = {"WATCH_NAMESPACES": namespace, "RESYNC_INTERVAL": "600"}
    with WatchProxy(control_plane, token, tmp_path) as proxy, Kubelet(control_plane, quick_migration):
        with _Impatient(proxy.kubeconfig, shared.admin_url, tmp_path, settings) as operator:
            gridnodes.create("heard")
            wait_for(lambda: gridnodes.condition("Ready", "heard")[0] == "True", lambda: gridnodes.status("heard"))
            time.sleep(11)
            wait_for(lambda: operator.get("/healthz") == (200, "ok\n"), operator.log_path.read_text)
            proxy.silence()
            gridnodes.create("unheard")
            wait_for(lambda: operator.get("/healthz")[0] == 503, operator.log_path.read_text)
            assert "not heard" in operator.get("/healthz")[1]
            # It is looked after all the same, as far as comparing tells of it.
            wait_for(lambda: gridnodes.condition("DatabaseReady", "unheard")[0] == "True")
            assert operator.process is not None
            operator.process.send_signal(signal.SIGTERM)
            assert operator.process.wait(30) == 0
        with _Impatient(control_plane.kubeconfig_path(), shared.admin_url, tmp_path, settings) as operator:
            wait_for(lambda: gridnodes.condition("Ready", "unheard")[0] == "True", lambda: gridnodes.status("unheard"))
            wait_for(lambda: operator.get("/healthz") == (200, "ok\n"), operator.log_path.read_text)

"""Others write to the same objects all the time: what is the operator's is put back, and nobody is fought in haste."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from gridnode.db.revision import REVISION
from gridnode_operator.api import FINALIZER
from tests.support.cluster import ControlPlane
from tests.support.kubelet import Kubelet
from tests.support.operator_faults import log_in, quick_migration, url_in_secret
from tests.support.operator_process import GROUP_PATH, IMAGE, GridNodes, Object, OperatorProcess, wait_for
from tests.support.shared_database import SharedDatabase

pytestmark = [pytest.mark.cluster]

_MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}
_GRIDNODE = f"{GROUP_PATH}/gridnodes"
_DEPLOYMENT = "/apis/apps/v1/deployments"
_SERVICE = "/api/v1/services"


class Meddler(threading.Thread):
    """Makes changes in turn, until it is stopped.

    Args:
        changes: each makes one; what it raises does not matter.
        interval: Seconds between two of them.
    """

    def __init__(self, changes: Sequence[Callable[[], object]], interval: float) -> None:
        super().__init__()
        self._changes = changes
        self._interval = interval
        self._end = threading.Event()
        self.made = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()

    def run(self) -> None:
        while not self._end.wait(self._interval):
            try:
                self._changes[self.made % len(self._changes)]()
            except (OSError, http.client.HTTPException, AssertionError):
                continue
            finally:
                self.made += 1


class Meddling:
    """A GridNode that is ready, and ways to change what belongs to it."""

    def __init__(self, gridnodes: GridNodes) -> None:
        self.gridnodes = gridnodes

    def write(self, path: str, name: str, patch: Object, subresource: str = "") -> Callable[[], object]:
        """A change of one object."""
        full = self.gridnodes.path(path, name) + subresource
        return lambda: self.gridnodes.control_plane.expect("PATCH", full, patch, headers=_MERGE_PATCH)

    def remove(self, path: str, name: str) -> Callable[[], object]:
        """Deletes one object."""
        return lambda: self.gridnodes.control_plane.expect("DELETE", self.gridnodes.path(path, name))

    def get(self, path: str, name: str = "demo") -> Object:
        """One object."""
        found = self.gridnodes.get(path, name)
        assert found is not None
        return found

    def writes_per_second(self, seconds: float) -> float:
        """How often the operator writes from now on."""
        control_plane = self.gridnodes.control_plane
        since, began = control_plane.audit_position(), time.monotonic()
        time.sleep(seconds)
        writes = control_plane.count_writes(user_agent="gridnode-operator", since=since)
        return writes / (time.monotonic() - began)


@pytest.fixture
def meddling(
    control_plane: ControlPlane, namespace: str, shared: SharedDatabase, tmp_path: Path
) -> Iterator[Meddling]:  # fmt: skip
    settings = {"WATCH_NAMESPACES": namespace, "RESYNC_INTERVAL": "3"}
    gridnodes = GridNodes(control_plane, namespace)
    with (
        Kubelet(control_plane, quick_migration),
        OperatorProcess(control_plane.kubeconfig_path(), shared.admin_url, tmp_path, settings) as operator,
    ):
        gridnodes.create()
        wait_for(lambda: gridnodes.condition("Ready")[0] == "True", lambda: gridnodes.status())
        yield Meddling(gridnodes)
    assert "Traceback" not in operator.log_path.read_text()


def test_children_are_put_back(meddling: Meddling) -> None:
    other_image = {"spec": {"template": {"spec": {"containers": [{"name": "node", "image": "example/other:1"}]}}}}
    edits = [
        meddling.write(_SERVICE, "demo", {"spec": {"selector": {"app": "another"}}}),
        meddling.write(_DEPLOYMENT, "demo", {"spec": {"replicas": 5}}),
        meddling.write(_DEPLOYMENT, "demo", {"metadata": {"labels": {"gridnode.io/gridnode": "another"}}}),
        meddling.write(_DEPLOYMENT, "demo", other_image),
        meddling.write("/api/v1/secrets", "demo-database", {"data": {"url": "bm90IGEgdXJs"}}),
        meddling.write("/api/v1/serviceaccounts", "demo", {"automountServiceAccountToken": True}),
        meddling.remove(_SERVICE, "demo-management"),
    ]
    with Meddler(edits, 0.1) as meddler:
        rate = meddling.writes_per_second(10)
    print(f"{meddler.made} changes by others in 10 s, {rate:.1f} writes a second by the operator")
    # A child is put back once for each change, with a status for each at most.
    assert rate < 25

    def is_as_declared() -> bool:
        deployment, service = meddling.get(_DEPLOYMENT), meddling.gridnodes.get(_SERVICE, "demo")
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        return (
            service is not None
            and "app" not in service["spec"]["selector"]
            and (deployment["spec"]["replicas"], container["image"]) == (1, IMAGE)
            and meddling.gridnodes.get(_SERVICE, "demo-management") is not None
            and meddling.gridnodes.condition("Ready")[0] == "True"
        )

    wait_for(is_as_declared, lambda: meddling.gridnodes.status(), 60)
    assert log_in(url_in_secret(meddling.gridnodes)) == [(REVISION,)]
    wait_for(lambda: meddling.writes_per_second(4) == 0, "it goes on writing")


def test_field_of_another_manager_is_left_alone(meddling: Meddling) -> None:
    since = meddling.gridnodes.control_plane.audit_position()
    annotation = {"sidecar.example/injected": "yes"}
    meddling.write(_DEPLOYMENT, "demo", {"metadata": {"annotations": annotation}})()
    meddling.write(_SERVICE, "demo", {"metadata": {"labels": {"team": "vision"}}})()
    time.sleep(5)
    assert meddling.get(_DEPLOYMENT)["metadata"]["annotations"]["sidecar.example/injected"] == "yes"
    assert meddling.get(_SERVICE)["metadata"]["labels"]["team"] == "vision"
    assert meddling.gridnodes.control_plane.count_writes(user_agent="gridnode-operator", since=since) == 0


def test_status_is_put_back(meddling: Meddling) -> None:
    before = meddling.gridnodes.status()
    wrong = {"type": "Ready", "status": "False", "reason": "Wrong", "message": "", "observedGeneration": 1}
    moment = {"lastTransitionTime": "2024-05-01T00:00:00Z"}
    edits = [
        meddling.write(_GRIDNODE, "demo", {"status": {"conditions": [{**wrong, **moment}]}}, "/status"),
        meddling.write(_GRIDNODE, "demo", {"status": None}, "/status"),
        meddling.write(_GRIDNODE, "demo", {"status": {"url": "http://elsewhere.example"}}, "/status"),
    ]
    with Meddler(edits, 0.1):
        rate = meddling.writes_per_second(8)
    print(f"{rate:.1f} writes a second by the operator")
    assert rate < 12

    def without_times(status: Object) -> Any:
        conditions = [{**each, "lastTransitionTime": ""} for each in status.get("conditions") or []]
        return {**status, "conditions": conditions}

    wait_for(
        lambda: without_times(meddling.gridnodes.status()) == without_times(before),
        lambda: meddling.gridnodes.status(),
    )


def test_finalizer_is_put_back(meddling: Meddling) -> None:
    edits = [
        meddling.write(_GRIDNODE, "demo", {"metadata": {"finalizers": None}}),
        meddling.write(_GRIDNODE, "demo", {"metadata": {"finalizers": ["example.com/backup"]}}),
    ]
    with Meddler(edits, 0.2):
        rate = meddling.writes_per_second(6)
    assert rate < 15
    meddling.write(_GRIDNODE, "demo", {"metadata": {"finalizers": ["example.com/backup"]}})()
    wait_for(
        lambda: meddling.get(_GRIDNODE)["metadata"]["finalizers"] == ["example.com/backup", FINALIZER],
        lambda: meddling.get(_GRIDNODE)["metadata"],
    )
    meddling.write(_GRIDNODE, "demo", {"metadata": {"finalizers": [FINALIZER]}})()


def test_another_operator_that_disagrees_is_not_fought_in_haste(meddling: Meddling) -> None:
    """Two controllers that each put their value back would write as fast as they can."""

    def put_back() -> None:
        if meddling.get(_SERVICE)["spec"].get("sessionAffinity") != "ClientIP":
            meddling.write(_SERVICE, "demo", {"spec": {"sessionAffinity": "ClientIP"}})()
        if meddling.get(_SERVICE)["spec"]["selector"].get("app.kubernetes.io/name") != "another":
            meddling.write(_SERVICE, "demo", {"spec": {"selector": {"app.kubernetes.io/name": "another"}}})()

    with Meddler([put_back], 0.01):
        rate = meddling.writes_per_second(8)
    print(f"{rate:.1f} writes a second by the operator")
    assert rate < 20

"""The operator ends before any of its steps: the next one goes on, and what comes of it is the same.

All kills of one operation happen at once, each to a GridNode of its own, so that migrations and rollouts are waited for
together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest

from gridnode.db.revision import REVISION
from gridnode_operator.children import Checkpoint
from gridnode_operator.desired.names import database_names
from gridnode_operator.reconcile import Reconciler
from tests.support.cluster import ControlPlane
from tests.support.control_plane.namespaces import create_namespace, delete_namespace
from tests.support.kubelet import Kubelet
from tests.support.operator_faults import (
    Connect,
    Interruption,
    Patient,
    catalog,
    log_in,
    quick_migration,
    settle,
    snapshot,
    url_in_secret,
)
from tests.support.operator_process import GROUP_PATH, GridNodes, make_reconciler, wait_for
from tests.support.shared_database import SharedDatabase, SharedServer

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

_SPEC: dict[str, Any] = {"disruptionBudget": {"maxUnavailable": 1}}


class Ward:
    """GridNodes that are all treated alike, but interrupted at another step each; the first of them never."""

    def __init__(self, control_plane: ControlPlane, shared: SharedDatabase, namespace: str) -> None:
        self._control_plane = control_plane
        self.shared = shared
        self.gridnodes = GridNodes(control_plane, namespace)
        self.patients: list[Patient] = []

    def admit(self, count: int, policy: str = "Retain") -> None:
        """Have new GridNodes, at which nobody has looked yet."""
        self.discharge()
        for number in range(count):
            self.patients.append(Patient(f"demo-{number:02}", self._start_operator))
            self.gridnodes.create(self.patients[-1].name, {**_SPEC, "database": {"reclaimPolicy": policy}})

    def have(self, count: int) -> None:
        """Have GridNodes that are ready."""
        if len(self.patients) < count:
            self.admit(count)
        self.patients, others = self.patients[:count], self.patients[count:]
        self._delete(others)
        for patient in self.patients:
            patient.interrupt(Interruption(0))
        settle(self.patients, self.gridnodes.namespace)

    def discharge(self) -> None:
        """Have none."""
        self._delete(self.patients)
        self.patients = []

    def operate(
        self, change: Callable[[str], object], state: str = "Ready", *, stride: int = 1, statements: bool = False
    ) -> None:
        """Do something to all GridNodes, and end each one's operator at another step."""
        interruptions = [Interruption(number * stride, statements=statements) for number in range(len(self.patients))]
        for patient, interruption in zip(self.patients, interruptions, strict=True):
            patient.interrupt(interruption)
            change(patient.name)
        settle(self.patients, self.gridnodes.namespace, state)
        steps = interruptions[0].steps
        print(f"{len(steps)} steps: {', '.join(steps)}")
        assert not interruptions[0].happened
        assert len(steps) < len(interruptions) * stride, f"not each of the {len(steps)} steps was interrupted"
        # How often the rollout was looked at differs a little.
        assert sum(each.happened for each in interruptions) >= len(steps) // stride - 3

    def patch(self, spec: dict[str, Any]) -> Callable[[str], object]:
        """Changes some fields of a GridNode."""
        return lambda name: self.gridnodes.patch(name, {"spec": spec})

    def assert_alike(self) -> None:
        """Whether all are the same as the one that was not interrupted, and work."""
        first, *others = self.patients
        expected = snapshot(self.gridnodes, self.shared, first.name)
        for patient in others:
            found = snapshot(self.gridnodes, self.shared, patient.name)
            assert found == expected, f"{patient.name}, interrupted at step {patient.interruption.at}"
        for patient in self.patients:
            assert log_in(url_in_secret(self.gridnodes, patient.name)) == [(REVISION,)]
            assert len(self.logins(patient.name)) == 1

    def assert_gone(self, policy: str) -> None:
        """Whether nothing is left but what the policy says."""
        assert self.gridnodes.all(f"{GROUP_PATH}/gridnodes") == []
        kinds = ("/apis/apps/v1/deployments", "/apis/batch/v1/jobs")
        wait_for(lambda: not any(self.gridnodes.all(kind) for kind in kinds))
        for patient in self.patients:
            found = self.catalog(patient.name)
            assert self.logins(patient.name) == []
            if policy == "Delete":
                assert not any(found.values()), patient.interruption.at
            else:
                assert "released" in found["schemas"][0][2]
                assert "alembic_version" in found["tables"][0]
        self.patients = []

    def catalog(self, name: str) -> dict[str, list[list[str]]]:
        """What a GridNode has on the database server."""
        return catalog(self.shared, database_names(self.gridnodes.namespace, name).owner)

    def logins(self, name: str) -> list[str]:
        """A GridNode's logins on the database server."""
        return [role for role, *_ in self.catalog(name)["roles"] if role[-2:] in ("_a", "_b")]

    def _delete(self, patients: list[Patient]) -> None:
        for patient in patients:
            patient.interrupt(Interruption(0))
            self.gridnodes.patch(patient.name, {"spec": {"database": {"reclaimPolicy": "Delete"}}})
            self.gridnodes.delete(patient.name)
        settle(patients, self.gridnodes.namespace, "Gone")

    def _start_operator(self, checkpoint: Checkpoint, connect: Connect) -> Reconciler:
        return make_reconciler(self._control_plane, self.shared.admin_url, checkpoint=checkpoint, connect=connect)


@pytest.fixture(scope="module")
def ward(control_plane: ControlPlane, shared_server: SharedServer) -> Iterator[Ward]:
    namespace = create_namespace(control_plane)
    with shared_server.database() as shared, Kubelet(control_plane, quick_migration):
        yield Ward(control_plane, shared, namespace)
    delete_namespace(control_plane, namespace)


def test_create(ward: Ward) -> None:
    ward.admit(23)
    ward.operate(lambda name: None)
    ward.assert_alike()
    for patient in ward.patients:
        assert {"DatabaseReady", "Migrated", "Ready"} <= {reason for reason, _ in ward.gridnodes.events(patient.name)}


def test_update(ward: Ward) -> None:
    ward.have(19)
    image = "registry.example/gridnode:2"
    exposure = {"service": {"type": "NodePort"}, "ingress": {"host": "phones.example"}}
    ward.operate(ward.patch({"replicas": 2, "image": image, "exposure": exposure, "disruptionBudget": None}))
    ward.assert_alike()
    children = snapshot(ward.gridnodes, ward.shared, "demo-00")["children"]
    assert image in str(children["deployments/NAME"])
    assert children["services/NAME"]["spec"]["type"] == "NodePort"
    assert "ingresses/NAME" in children
    assert "poddisruptionbudgets/NAME" not in children
    assert len([key for key in children if key.startswith("jobs/")]) == 1


def test_rotate(ward: Ward) -> None:
    ward.have(14)
    before = {each.name: url_in_secret(ward.gridnodes, each.name) for each in ward.patients}
    ward.operate(ward.patch({"database": {"rotate": "now"}}))
    ward.assert_alike()
    for patient in ward.patients:
        assert url_in_secret(ward.gridnodes, patient.name) != before[patient.name]
        with pytest.raises(psycopg2.OperationalError, match="authentication failed"):
            log_in(before[patient.name])


def test_pause_and_go_on(ward: Ward) -> None:
    ward.have(12)
    ward.operate(ward.patch({"paused": True, "replicas": 3, "podTemplate": {"labels": {"tier": "edge"}}}), "Paused")
    deployments = ward.gridnodes.all("/apis/apps/v1/deployments")
    assert [each for each in deployments if each["spec"]["replicas"] == 3 or "edge" in str(each["spec"])] == []
    for patient in ward.patients:
        assert ward.gridnodes.condition("Ready", patient.name)[:2] == ("False", "Paused")
        assert ward.gridnodes.condition("DatabaseReady", patient.name)[0] == "True"
        assert ward.gridnodes.condition("Degraded", patient.name)[0] == "False"
    ward.operate(ward.patch({"paused": False}))
    ward.assert_alike()
    assert {each["spec"]["replicas"] for each in ward.gridnodes.all("/apis/apps/v1/deployments")} == {3}


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
def test_delete(ward: Ward, policy: str) -> None:
    ward.have(8)
    for patient in ward.patients:
        ward.gridnodes.patch(patient.name, {"spec": {"database": {"reclaimPolicy": policy}}})
    ward.operate(ward.gridnodes.delete, "Gone")
    ward.assert_gone(policy)


def test_between_statements(ward: Ward) -> None:
    """A sample: the database's own tests interrupt at every statement."""
    ward.admit(9, "Delete")
    ward.operate(lambda name: None, stride=5, statements=True)
    ward.assert_alike()
    ward.operate(ward.patch({"database": {"rotate": "now"}}), stride=5, statements=True)
    ward.assert_alike()
    ward.operate(ward.gridnodes.delete, "Gone", stride=5, statements=True)
    ward.assert_gone("Delete")

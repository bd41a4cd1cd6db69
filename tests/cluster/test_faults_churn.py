"""``kill -9`` of the operator at random moments, while people create, change and delete GridNodes all the time."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from gridnode.db.revision import REVISION
from gridnode_operator.desired.names import database_names
from tests.support.cluster import ControlPlane
from tests.support.kubelet import Kubelet
from tests.support.operator_faults import catalog, log_in, quick_migration, snapshot, url_in_secret
from tests.support.operator_process import GROUP_PATH, GridNodes, OperatorProcess, wait_for
from tests.support.shared_database import SharedDatabase

pytestmark = [pytest.mark.cluster]

_PATH = f"{GROUP_PATH}/gridnodes"
_NAMES = [f"demo-{number}" for number in range(6)]
#: What all of them are to be in the end.
_FINAL: dict[str, Any] = {
    "image": "registry.example/gridnode:9",
    "replicas": 2,
    "database": {"reclaimPolicy": "Delete"},
    "disruptionBudget": {"maxUnavailable": 1},
}


class People:
    """Who change GridNodes, and look at them."""

    def __init__(self, gridnodes: GridNodes, moments: random.Random) -> None:
        self.gridnodes = gridnodes
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._random = moments

    def change(self) -> None:
        """Do something to one of them."""
        name = self._random.choice(_NAMES)
        live = self.gridnodes.get(_PATH, name)
        if live is None:
            policy = self._random.choice(["Retain", "Delete"])
            self.gridnodes.create(name, {"database": {"reclaimPolicy": policy}})
            self.done["created"] += 1
            return
        if live["metadata"].get("deletionTimestamp"):
            return
        what, patch = self._random.choice([
            ("image", {"image": f"registry.example/gridnode:{self._random.randrange(4)}"}),
            ("replicas", {"replicas": self._random.randrange(3)}),
            ("exposure", {"exposure": {"ingress": {"host": "phones.example"}}}),
            ("exposure", {"exposure": {"ingress": None}}),
            ("rotated", {"database": {"rotate": str(self._random.random())}}),
            ("rotated", {"database": {"rotate": str(self._random.random())}}),
            ("paused", {"paused": True}),
            ("unpaused", {"paused": False}),
            ("unpaused", {"paused": False}),
            ("unpaused", {"paused": False}),
            ("deleted", None),
        ])  # fmt: skip
        self.done[what] += 1
        if patch is None:
            self.gridnodes.control_plane.request("DELETE", self.gridnodes.path(_PATH, name))
        else:
            headers = {"Content-Type": "application/merge-patch+json"}
            path = self.gridnodes.path(_PATH, name)
            self.gridnodes.control_plane.request("PATCH", path, {"spec": patch}, headers=headers)

    def look(self) -> None:
        """Whether those that are said to be ready are."""
        for live in self.gridnodes.all(_PATH):
            if _claims_to_be_ready(live):
                self._look_at(live)

    def _look_at(self, live: dict[str, Any]) -> None:
        name = live["metadata"]["name"]
        deployment = self.gridnodes.get("/apis/apps/v1/deployments", name)
        try:
            is_migrated = log_in(url_in_secret(self.gridnodes, name)) == [(REVISION,)]
        except (psycopg2.Error, AssertionError):
            is_migrated = False
        is_deployed = deployment is not None and (
            deployment["spec"]["template"]["spec"]["containers"][0]["image"] == live["status"]["image"]
        )
        again = self.gridnodes.get(_PATH, name) or {}
        is_same = again.get("metadata", {}).get("resourceVersion") == live["metadata"]["resourceVersion"]
        self.done["looked"] += 1
        if is_same and not (is_migrated and is_deployed):
            self.wrong.append(f"{name} is not ready: {live}")


def _claims_to_be_ready(live: dict[str, Any]) -> bool:
    status = live.get("status") or {}
    conditions = {each["type"]: each["status"] for each in status.get("conditions") or []}
    is_present = bool(live) and not live["metadata"].get("deletionTimestamp")
    return is_present and conditions.get("Ready") == "True" and (
        status["observedGeneration"] == live["metadata"]["generation"]
    )  # fmt: skip


@pytest.mark.timeout(0)
def test_killed_at_random(
    control_plane: ControlPlane, namespace: str, shared: SharedDatabase, tmp_path: Path, operator_kills: int
) -> None:
    moments = random.Random(operator_kills)
    gridnodes = GridNodes(control_plane, namespace)
    people = People(gridnodes, moments)
    settings = {"WATCH_NAMESPACES": namespace, "RESYNC_INTERVAL": "2"}
    operator = OperatorProcess(control_plane.kubeconfig_path(), shared.admin_url, tmp_path, settings)
    began, since = time.monotonic(), control_plane.audit_position()
    with Kubelet(control_plane, quick_migration):
        for _ in range(operator_kills):
            operator.start()
            operator.wait_until_alive()
            people.change()
            # Until something is being done, there is nothing to interrupt.
            wait_for(lambda: "gridnode_operator_reconciles_total{" in operator.get("/metrics")[1] or is_busy(operator))
            end = time.monotonic() + moments.uniform(0, 3.0)
            while time.monotonic() < end:
                people.change()
                for _ in range(2):
                    people.look()
                    time.sleep(moments.uniform(0, 0.4))
            operator.kill()
        writes = control_plane.count_writes(user_agent="gridnode-operator", since=since)
        seconds = time.monotonic() - began
        print(f"{operator_kills} kills in {seconds:.0f} s, {writes} writes by the operator, {dict(people.done)}")
        assert people.wrong == []
        _converge(gridnodes, shared, operator)
    assert "Traceback" not in operator.log_path.read_text()


def is_busy(operator: OperatorProcess) -> bool:
    return "gridnode_operator_queue_running 0.0" not in operator.get("/metrics")[1]


def _converge(gridnodes: GridNodes, shared: SharedDatabase, operator: OperatorProcess) -> None:
    """Let an operator work that nobody kills."""
    began = time.monotonic()
    with operator:
        wait_for(lambda: not any(map(_is_deleting, gridnodes.all(_PATH))), operator.log_path.read_text, 60)
        for name in _NAMES:
            if gridnodes.get(_PATH, name) is None:
                gridnodes.create(name, _FINAL)
            else:
                gridnodes.set_spec(name, _FINAL)
        gridnodes.create("demo-x", _FINAL)  # with which nothing ever happened
        names = [*_NAMES, "demo-x"]

        def are_ready() -> bool:
            return all(_claims_to_be_ready(gridnodes.get(_PATH, name) or {}) for name in names)

        def logins(name: str) -> int:
            roles = catalog(shared, database_names(gridnodes.namespace, name).owner)["roles"]
            return sum(role[-2:] in ("_a", "_b") for role, *_ in roles)

        wait_for(are_ready, lambda: [gridnodes.status(name) for name in names], 90)
        wait_for(lambda: all(logins(name) == 1 for name in names), lambda: [logins(name) for name in names], 60)
        expected = snapshot(gridnodes, shared, "demo-x")
        for name in _NAMES:
            assert snapshot(gridnodes, shared, name) == expected, name
            assert log_in(url_in_secret(gridnodes, name)) == [(REVISION,)]
        print(f"all as declared after {time.monotonic() - began:.1f} s")
        gridnodes.control_plane.expect("DELETE", gridnodes.path(_PATH))
        wait_for(lambda: gridnodes.all(_PATH) == [], operator.log_path.read_text, 60)
        for name in names:
            assert not any(catalog(shared, database_names(gridnodes.namespace, name).owner).values()), name


def _is_deleting(resource: dict[str, Any]) -> bool:
    return bool(resource["metadata"].get("deletionTimestamp"))

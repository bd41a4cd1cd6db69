"""The end of a GridNode: at any moment, with its namespace, and what becomes of its data."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
from sqlalchemy import make_url

from gridnode.db.revision import REVISION
from gridnode_operator.api import FINALIZER
from gridnode_operator.desired.names import database_names
from gridnode_operator.reconcile import Reconciler
from tests.support.cluster import ControlPlane
from tests.support.control_plane.namespaces import create_namespace
from tests.support.kubelet import Kubelet
from tests.support.operator_faults import CHILD_PATHS, catalog, log_in, quick_migration, url_in_secret
from tests.support.operator_process import (
    GROUP_PATH,
    GridNodes,
    OperatorProcess,
    make_reconciler,
    reconcile_until,
    wait_for,
)  # fmt: skip
from tests.support.shared_database import SharedDatabase, connect, run

pytestmark = [pytest.mark.cluster]


@pytest.fixture
def kubelet(control_plane: ControlPlane) -> Iterator[Kubelet]:
    with Kubelet(control_plane, quick_migration) as kubelet:
        yield kubelet


@pytest.fixture
def operator(
    control_plane: ControlPlane, namespace: str, shared: SharedDatabase, tmp_path: Path, kubelet: Kubelet
) -> Iterator[OperatorProcess]:
    settings = {"WATCH_NAMESPACES": namespace, "RESYNC_INTERVAL": "5"}
    with OperatorProcess(control_plane.kubeconfig_path(), shared.admin_url, tmp_path, settings) as started:
        yield started
    assert "Traceback" not in started.log_path.read_text()


@pytest.fixture
def reconciler(control_plane: ControlPlane, shared: SharedDatabase, kubelet: Kubelet) -> Reconciler:
    return make_reconciler(control_plane, shared.admin_url)


def is_gone(gridnodes: GridNodes, name: str = "demo") -> bool:
    return gridnodes.get(f"{GROUP_PATH}/gridnodes", name) is None


def owned(gridnodes: GridNodes, shared: SharedDatabase, name: str = "demo") -> dict[str, list[list[str]]]:
    return catalog(shared, database_names(gridnodes.namespace, name).owner)


def children(gridnodes: GridNodes) -> list[str]:
    return [
        each["metadata"]["name"]
        for path in CHILD_PATHS
        for each in gridnodes.all(path)
        if any(owner["kind"] == "GridNode" for owner in each["metadata"].get("ownerReferences") or [])
    ]


def is_ready(gridnodes: GridNodes, name: str = "demo") -> bool:
    return gridnodes.condition("Ready", name)[0] == "True"


@pytest.mark.timeout(180)
def test_at_any_moment_of_being_created(
    control_plane: ControlPlane, namespace: str, operator: OperatorProcess, shared: SharedDatabase
) -> None:
    gridnodes = GridNodes(control_plane, namespace)
    moments = random.Random(4)
    names = [f"demo-{number:02}" for number in range(16)]
    for number, name in enumerate(names):
        policy = "Delete" if number % 2 else "Retain"
        gridnodes.create(name, {"database": {"reclaimPolicy": policy}})
        time.sleep(moments.uniform(0, 0.5))
        # Some of them one or two steps before the last one.
        # Some at once, others some steps later.
        path = gridnodes.path(f"{GROUP_PATH}/gridnodes", names[max(0, number - moments.randrange(4))])
        control_plane.request("DELETE", path)
    control_plane.expect("DELETE", gridnodes.path(f"{GROUP_PATH}/gridnodes"))
    wait_for(lambda: gridnodes.all(f"{GROUP_PATH}/gridnodes") == [], operator.log_path.read_text, 60)
    wait_for(lambda: children(gridnodes) == [], lambda: children(gridnodes))
    for number, name in enumerate(names):
        found = owned(gridnodes, shared, name)
        assert not any(role[-2:] in ("_a", "_b") for role, *_ in found["roles"])
        assert number % 2 == 0 or not any(found.values()), (name, found)


def test_before_it_has_its_finalizer(control_plane: ControlPlane, namespace: str, shared: SharedDatabase) -> None:
    """Nobody would drop what is made for one that is gone already."""
    gridnodes = GridNodes(control_plane, namespace)

    def delete_first(step: str) -> None:
        if step == "add the finalizer":
            gridnodes.delete()

    gridnodes.create()
    reconciler = make_reconciler(control_plane, shared.admin_url, checkpoint=delete_first)
    assert reconciler.reconcile(namespace, "demo").state == "Gone"
    assert not any(owned(gridnodes, shared).values())
    assert gridnodes.all("/api/v1/secrets") == []


def test_with_its_namespace(
    control_plane: ControlPlane, shared: SharedDatabase, kubelet: Kubelet, tmp_path: Path
) -> None:
    doomed = create_namespace(control_plane, "doomed")
    gridnodes = GridNodes(control_plane, doomed)
    settings = {"WATCH_NAMESPACES": doomed, "RESYNC_INTERVAL": "5"}
    with OperatorProcess(control_plane.kubeconfig_path(), shared.admin_url, tmp_path, settings) as operator:
        gridnodes.create("kept")
        gridnodes.create("dropped", {"database": {"reclaimPolicy": "Delete"}})
        wait_for(lambda: is_ready(gridnodes, "kept") and is_ready(gridnodes, "dropped"))
        gridnodes.create("young", {"database": {"reclaimPolicy": "Delete"}})
        control_plane.expect("DELETE", f"/api/v1/namespaces/{doomed}")
        wait_for(lambda: control_plane.request("GET", f"/api/v1/namespaces/{doomed}").status == 404, seconds=60)
        assert operator.get("/healthz") == (200, "ok\n")
    assert "Traceback" not in operator.log_path.read_text()
    assert not any(owned(gridnodes, shared, "dropped").values())
    assert not any(owned(gridnodes, shared, "young").values())
    assert "released" in owned(gridnodes, shared, "kept")["schemas"][0][2]


def test_finalizer(control_plane: ControlPlane, namespace: str, reconciler: Reconciler, shared: SharedDatabase) -> None:
    gridnodes = GridNodes(control_plane, namespace)
    of_another = "example.com/backup"
    gridnodes.create("demo", {"database": {"reclaimPolicy": "Delete"}}, finalizers=[of_another])
    reconcile_until(reconciler, gridnodes, lambda: is_ready(gridnodes))
    live = gridnodes.get(f"{GROUP_PATH}/gridnodes", "demo")
    assert live is not None
    assert live["metadata"]["finalizers"] == [of_another, FINALIZER]
    gridnodes.delete()

    def is_left_to_the_other() -> bool:
        found = gridnodes.get(f"{GROUP_PATH}/gridnodes", "demo")
        return found is not None and found["metadata"]["finalizers"] == [of_another]

    reconcile_until(reconciler, gridnodes, is_left_to_the_other)
    assert not any(owned(gridnodes, shared).values())
    since = control_plane.audit_position()
    for _ in range(3):
        assert reconciler.reconcile(namespace, "demo").state == "Gone"
    assert control_plane.count_writes(user_agent="gridnode-operator", since=since) == 0
    gridnodes.patch("demo", {"metadata": {"finalizers": None}})
    assert is_gone(gridnodes)


def test_nothing_is_dropped_while_pods_run(
    control_plane: ControlPlane, namespace: str, reconciler: Reconciler, shared: SharedDatabase
) -> None:
    """A pod with a finalizer stands for one whose requests take their time to end."""
    gridnodes = GridNodes(control_plane, namespace)
    gridnodes.create("demo", {"database": {"reclaimPolicy": "Delete"}})
    reconcile_until(reconciler, gridnodes, lambda: is_ready(gridnodes))
    url = url_in_secret(gridnodes)
    [pod] = [each for each in gridnodes.all("/api/v1/pods") if "migrate" not in each["metadata"]["name"]]
    path = gridnodes.path("/api/v1/pods", pod["metadata"]["name"])
    headers = {"Content-Type": "application/merge-patch+json"}
    control_plane.expect("PATCH", path, {"metadata": {"finalizers": ["example.com/busy"]}}, headers=headers)
    gridnodes.delete()
    for _ in range(15):
        outcome = reconciler.reconcile(namespace, "demo")
        assert (outcome.state, outcome.problem) == ("Deleting", None)
        assert log_in(url) == [(REVISION,)]
        time.sleep(0.2)
    control_plane.expect("PATCH", path, {"metadata": {"finalizers": None}}, headers=headers)
    reconcile_until(reconciler, gridnodes, lambda: is_gone(gridnodes))
    assert not any(owned(gridnodes, shared).values())


def test_same_name_again_resumes_the_models(
    control_plane: ControlPlane, namespace: str, reconciler: Reconciler, shared: SharedDatabase
) -> None:
    gridnodes = GridNodes(control_plane, namespace)
    gridnodes.create()
    reconcile_until(reconciler, gridnodes, lambda: is_ready(gridnodes))
    before = url_in_secret(gridnodes)
    log_in(before, "CREATE TABLE models AS SELECT 42 AS value")
    gridnodes.delete()
    reconcile_until(reconciler, gridnodes, lambda: is_gone(gridnodes))
    assert "Released" in [reason for reason, _ in gridnodes.events()]
    with pytest.raises(psycopg2.OperationalError, match="authentication failed"):
        log_in(before)
    wait_for(lambda: children(gridnodes) == [])
    gridnodes.create()
    reconcile_until(reconciler, gridnodes, lambda: is_ready(gridnodes))
    assert url_in_secret(gridnodes) != before
    assert log_in(url_in_secret(gridnodes), "SELECT value FROM models") == [(42,)]
    assert [reason for reason, _ in gridnodes.events()].count("Adopted") == 1


def test_uid_that_never_left_needs_the_annotation(
    control_plane: ControlPlane, namespace: str, reconciler: Reconciler, shared: SharedDatabase
) -> None:
    """Somebody took the finalizer away, as after the loss of a cluster: nothing tells that the schema is free."""
    gridnodes = GridNodes(control_plane, namespace)
    gridnodes.create()
    reconcile_until(reconciler, gridnodes, lambda: is_ready(gridnodes))
    before = url_in_secret(gridnodes)
    log_in(before, "CREATE TABLE models AS SELECT 42 AS value")
    gridnodes.patch("demo", {"metadata": {"finalizers": None}})
    gridnodes.delete()
    wait_for(lambda: is_gone(gridnodes) and children(gridnodes) == [])
    gridnodes.create()
    outcome = reconciler.reconcile(namespace, "demo")
    assert outcome.problem == "SchemaInUse"
    assert gridnodes.condition("Ready")[:2] == ("False", "SchemaInUse")
    assert "gridnode.io/adopt" in gridnodes.condition("Ready")[2]
    assert gridnodes.all("/apis/apps/v1/deployments") == []
    assert log_in(before, "SELECT value FROM models") == [(42,)]
    gridnodes.patch("demo", {"metadata": {"annotations": {"gridnode.io/adopt": "true"}}})
    reconcile_until(reconciler, gridnodes, lambda: is_ready(gridnodes))
    assert log_in(url_in_secret(gridnodes), "SELECT value FROM models") == [(42,)]
    assert [reason for reason, _ in gridnodes.events()].count("Adopted") == 1


def test_late_end_of_an_earlier_one_leaves_the_later_ones_schema(
    control_plane: ControlPlane, namespace: str, reconciler: Reconciler, shared: SharedDatabase
) -> None:
    gridnodes = GridNodes(control_plane, namespace)
    spec = {"database": {"reclaimPolicy": "Delete", "schema": "shared_models"}}
    gridnodes.create("demo", spec)
    reconcile_until(reconciler, gridnodes, lambda: is_ready(gridnodes))
    log_in(url_in_secret(gridnodes), "CREATE TABLE models AS SELECT 42 AS value")
    gridnodes.create("other", spec)
    assert reconciler.reconcile(namespace, "other").problem == "SchemaTaken"
    assert f"{namespace}/demo" in gridnodes.condition("Ready", "other")[2]
    gridnodes.delete("other")
    reconcile_until(reconciler, gridnodes, lambda: is_gone(gridnodes, "other"), name="other")
    assert log_in(url_in_secret(gridnodes), "SELECT value FROM models") == [(42,)]


def test_neighbour_can_neither_read_nor_block(
    control_plane: ControlPlane, namespace: str, reconciler: Reconciler, shared: SharedDatabase
) -> None:
    """With nothing but what its own Secret holds."""
    gridnodes = GridNodes(control_plane, namespace)
    for name in ("victim", "intruder"):
        gridnodes.create(name, {"database": {"reclaimPolicy": "Delete"}})
        reconcile_until(reconciler, gridnodes, lambda name=name: is_ready(gridnodes, name), name=name)  # type: ignore[misc]
    url = url_in_secret(gridnodes, "victim")
    log_in(url, "CREATE TABLE models AS SELECT 42 AS value")
    names = database_names(namespace, "victim")
    login = str(make_url(url).username)
    attempts: list[Any] = [
        f"SELECT value FROM {names.schema}.models",
        f"LOCK TABLE {names.schema}.models IN ACCESS EXCLUSIVE MODE",
        f"DROP SCHEMA {names.schema} CASCADE",
        f"CREATE TABLE {names.schema}.mine (x int)",
        f"SET ROLE {names.owner}",
        f"ALTER ROLE {login} NOLOGIN",
        f"DROP ROLE {login}",
        f"GRANT {names.owner} TO CURRENT_USER",
        "CREATE ROLE another",
        "CREATE SCHEMA another",
    ]
    with closing(connect(url_in_secret(gridnodes, "intruder"))) as session:
        for statement in attempts:
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                run(session, f"BEGIN; {statement}")
            run(session, "ROLLBACK")
        # Whatever locks it can take keep nobody from rotating and deleting the other one.
        run(session, "BEGIN; LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE")
        gridnodes.patch("victim", {"spec": {"database": {"rotate": "now"}}})

        def is_rotated() -> bool:
            return url_in_secret(gridnodes, "victim") != url and is_ready(gridnodes, "victim")

        reconcile_until(reconciler, gridnodes, is_rotated, name="victim")
        gridnodes.delete("victim")
        reconcile_until(reconciler, gridnodes, lambda: is_gone(gridnodes, "victim"), name="victim")
        assert not any(owned(gridnodes, shared, "victim").values())
        # And its own transaction does not keep it itself.
        gridnodes.delete("intruder")
        reconcile_until(reconciler, gridnodes, lambda: is_gone(gridnodes, "intruder"), name="intruder")
        assert not any(owned(gridnodes, shared, "intruder").values())

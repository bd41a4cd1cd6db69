"""The database is away, hangs, or refuses: the status says so and what to do, and claims nothing that is not so."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gridnode.db.revision import REVISION
from gridnode_operator.convergence import Environment
from gridnode_operator.desired.names import database_names
from gridnode_operator.reconcile import Reconciler
from tests.support.cluster import ControlPlane
from tests.support.kubelet import Kubelet
from tests.support.operator_faults import catalog, log_in, quick_migration, url_in_secret
from tests.support.operator_process import (
    GROUP_PATH,
    IMAGE,
    GridNodes,
    OperatorProcess,
    make_reconciler,
    reconcile_until,
    wait_for,
)
from tests.support.shared_database import SharedDatabase
from tests.support.slow_database import DatabaseProxy

pytestmark = [pytest.mark.cluster]

_NOBODY = "postgresql://admin:opensesame@127.0.0.1:1/shared"


@pytest.fixture
def gridnodes(control_plane: ControlPlane, namespace: str) -> Iterator[GridNodes]:
    with Kubelet(control_plane, quick_migration):
        yield GridNodes(control_plane, namespace)


@pytest.fixture
def reconciler(gridnodes: GridNodes, shared: SharedDatabase) -> Reconciler:
    """With the database."""
    return make_reconciler(gridnodes.control_plane, shared.admin_url)


@pytest.fixture
def cut_off(gridnodes: GridNodes) -> Reconciler:
    """Without: nobody listens there."""
    return make_reconciler(gridnodes.control_plane, _NOBODY)


def becomes_ready(reconciler: Reconciler, gridnodes: GridNodes) -> None:
    def is_ready() -> bool:
        resource = gridnodes.get(f"{GROUP_PATH}/gridnodes", "demo") or {}
        is_new = (resource.get("status") or {}).get("observedGeneration") == resource["metadata"]["generation"]
        return is_new and gridnodes.condition("Ready")[0] == "True"

    reconcile_until(reconciler, gridnodes, is_ready)


def children(gridnodes: GridNodes) -> list[str]:
    paths = ("/apis/apps/v1/deployments", "/apis/batch/v1/jobs", "/api/v1/secrets")
    return [each["metadata"]["name"] for path in paths for each in gridnodes.all(path)]


def test_away_when_a_gridnode_is_created(
    gridnodes: GridNodes, reconciler: Reconciler, cut_off: Reconciler
) -> None:  # fmt: skip
    gridnodes.create()
    outcome = cut_off.reconcile(gridnodes.namespace, "demo")
    assert outcome.problem == "DatabaseUnavailable"
    for condition in ("DatabaseReady", "Ready"):
        status, reason, message = gridnodes.condition(condition)
        assert (status, reason) == ("False", "DatabaseUnavailable")
        assert "127.0.0.1:1" in message
        assert "opensesame" not in message
    assert gridnodes.condition("Degraded")[:2] == ("True", "DatabaseUnavailable")
    assert gridnodes.condition("Migrated")[0] == "False"
    assert children(gridnodes) == []
    assert [reason for reason, _ in gridnodes.events()] == ["DatabaseUnavailable"]
    becomes_ready(reconciler, gridnodes)
    assert gridnodes.condition("Degraded")[0] == "False"
    assert log_in(url_in_secret(gridnodes)) == [(REVISION,)]


def test_away_while_a_node_serves(gridnodes: GridNodes, reconciler: Reconciler, cut_off: Reconciler) -> None:
    gridnodes.create()
    becomes_ready(reconciler, gridnodes)
    before = url_in_secret(gridnodes)
    for _ in range(2):
        assert cut_off.reconcile(gridnodes.namespace, "demo").problem == "DatabaseUnavailable"
        assert gridnodes.condition("DatabaseReady")[:2] == ("False", "DatabaseUnavailable")
        assert gridnodes.condition("Ready")[:2] == ("False", "DatabaseUnavailable")
        assert gridnodes.condition("Available")[0] == "True"
    gridnodes.patch("demo", {"spec": {"image": "registry.example/gridnode:2", "database": {"rotate": "now"}}})
    cut_off.reconcile(gridnodes.namespace, "demo")
    assert gridnodes.condition("Ready")[0] == "False"
    assert url_in_secret(gridnodes) == before
    assert gridnodes.all("/apis/apps/v1/deployments")[0]["spec"]["template"]["spec"]["containers"][0]["image"] == IMAGE
    becomes_ready(reconciler, gridnodes)
    assert url_in_secret(gridnodes) != before
    assert log_in(url_in_secret(gridnodes)) == [(REVISION,)]
    # Told once, although it was seen again and again.
    assert [reason for reason, _ in gridnodes.events()].count("DatabaseUnavailable") == 1


def test_database_that_hangs(gridnodes: GridNodes, shared: SharedDatabase, reconciler: Reconciler) -> None:
    with DatabaseProxy(shared.admin_url) as proxy:
        through = make_reconciler(gridnodes.control_plane, proxy.url)
        gridnodes.create()
        proxy.hang()
        began = time.monotonic()
        outcome = through.reconcile(gridnodes.namespace, "demo")
        assert time.monotonic() - began < 20
        assert outcome.problem == "DatabaseUnavailable"
        assert gridnodes.condition("Ready")[:2] == ("False", "DatabaseUnavailable")
        proxy.flow()
        becomes_ready(through, gridnodes)
        proxy.hang()
        gridnodes.patch("demo", {"spec": {"replicas": 2}})
        through.reconcile(gridnodes.namespace, "demo")
        assert gridnodes.condition("Ready")[0] == "False"
        proxy.flow()
        becomes_ready(through, gridnodes)


def test_delete_policy_waits_for_the_database(
    gridnodes: GridNodes, shared: SharedDatabase, reconciler: Reconciler, cut_off: Reconciler
) -> None:
    gridnodes.create("demo", {"database": {"reclaimPolicy": "Delete"}})
    becomes_ready(reconciler, gridnodes)
    gridnodes.delete()
    reconcile_until(cut_off, gridnodes, lambda: gridnodes.condition("Degraded")[0] == "True")
    _, reason, message = gridnodes.condition("Degraded")
    assert reason == "DatabaseUnavailable"
    assert message.startswith("The schema can't be dropped, and so the GridNode stays: ")
    assert gridnodes.condition("Ready")[:2] == ("False", "Deleting")
    assert ("DatabaseUnavailable", message) in gridnodes.events()
    for _ in range(3):
        assert cut_off.reconcile(gridnodes.namespace, "demo").state == "Deleting"
    reconcile_until(reconciler, gridnodes, lambda: is_gone(gridnodes))
    assert not any(owned(gridnodes, shared).values())
    assert "Dropped" in [reason for reason, _ in gridnodes.events()]


def test_retain_policy_gives_up_waiting(gridnodes: GridNodes, shared: SharedDatabase, reconciler: Reconciler) -> None:
    gridnodes.create()
    becomes_ready(reconciler, gridnodes)
    log_in(url_in_secret(gridnodes), "CREATE TABLE models AS SELECT 42 AS value")
    impatient = make_reconciler(
        gridnodes.control_plane,
        _NOBODY,
        environment=Environment(default_image=IMAGE, schema_revision=REVISION, release_patience=3.0),
    )
    gridnodes.delete()
    began = time.monotonic()
    reconcile_until(impatient, gridnodes, lambda: gridnodes.condition("Degraded")[0] == "True")
    assert "The schema can't be released" in gridnodes.condition("Degraded")[2]
    reconcile_until(impatient, gridnodes, lambda: is_gone(gridnodes))
    assert time.monotonic() - began > 1
    [message] = [message for reason, message in gridnodes.events() if reason == "NotReleased"]
    assert "gridnode.io/adopt=true" in message
    # What the message says is true: a new one is refused, and with the annotation it has the models.
    wait_for(lambda: children(gridnodes) == [])
    gridnodes.create()
    reconcile_until(reconciler, gridnodes, lambda: gridnodes.condition("DatabaseReady")[1] == "SchemaInUse")
    assert gridnodes.condition("Ready")[:2] == ("False", "SchemaInUse")
    gridnodes.patch("demo", {"metadata": {"annotations": {"gridnode.io/adopt": "true"}}})
    becomes_ready(reconciler, gridnodes)
    assert log_in(url_in_secret(gridnodes), "SELECT value FROM models") == [(42,)]
    assert "Adopted" in [reason for reason, _ in gridnodes.events()]


def without_createrole(shared: SharedDatabase) -> str:
    shared.execute("ALTER ROLE {} NOCREATEROLE", shared.admin)
    return shared.admin_url


def with_a_wrong_password(shared: SharedDatabase) -> str:
    return shared.admin_url.replace(shared.password, "another-password")


def without_create_on_the_database(shared: SharedDatabase) -> str:
    shared.execute("ALTER DATABASE {} OWNER TO postgres", shared.name)
    return shared.admin_url


def of_a_database_that_is_not_there(shared: SharedDatabase) -> str:
    return shared.admin_url.replace(f"/{shared.name}?", "/not-there?")


@pytest.mark.parametrize(
    ("refusing", "reason", "says"),
    [
        (without_createrole, "NotPermitted", "Run: ALTER ROLE"),
        (with_a_wrong_password, "LoginRefused", "password authentication failed"),
        (without_create_on_the_database, "NotPermitted", "GRANT CREATE ON DATABASE"),
        (of_a_database_that_is_not_there, "LoginRefused", "does not exist"),
    ],
)
def test_refusing_database(
    gridnodes: GridNodes, shared: SharedDatabase, refusing: Callable[[SharedDatabase], str], reason: str, says: str
) -> None:
    refused = make_reconciler(gridnodes.control_plane, refusing(shared))
    gridnodes.create()
    assert refused.reconcile(gridnodes.namespace, "demo").problem == reason
    status, found, message = gridnodes.condition("DatabaseReady")
    assert (status, found) == ("False", reason)
    assert says in message
    assert shared.password not in str(gridnodes.status())
    assert "another-password" not in str(gridnodes.status())
    assert gridnodes.condition("Ready")[0] == "False"
    assert children(gridnodes) == []


def test_process_lives_through_it(
    control_plane: ControlPlane, namespace: str, shared: SharedDatabase, tmp_path: Path, gridnodes: GridNodes
) -> None:
    settings = {"WATCH_NAMESPACES": namespace, "RESYNC_INTERVAL": "2"}
    policy: dict[str, Any] = {"database": {"reclaimPolicy": "Delete"}}
    with DatabaseProxy(shared.admin_url) as proxy:
        with OperatorProcess(control_plane.kubeconfig_path(), proxy.url, tmp_path, settings) as operator:
            gridnodes.create("demo", policy)
            wait_for(lambda: gridnodes.condition("Ready")[0] == "True", lambda: gridnodes.status())
            server = shared.server.server
            server.pg_ctl("stop", "-m", "immediate", "-w")
            gridnodes.create("other", policy)
            try:
                wait_for(lambda: gridnodes.condition("DatabaseReady", "other")[1] == "DatabaseUnavailable")
                gridnodes.patch("demo", {"spec": {"replicas": 2}})
                wait_for(lambda: gridnodes.condition("Ready")[0] == "False", lambda: gridnodes.status())
                gridnodes.delete()
                wait_for(lambda: "can't be dropped" in gridnodes.condition("Degraded")[2], lambda: gridnodes.status())
                assert operator.get("/healthz") == (200, "ok\n")
            finally:
                server.pg_ctl("start", "-w", "-l", str(server.log_file))
            wait_for(lambda: gridnodes.condition("Ready", "other")[0] == "True", lambda: gridnodes.status("other"))
            wait_for(lambda: is_gone(gridnodes), lambda: gridnodes.status())
        assert "Traceback" not in operator.log_path.read_text()
    assert not any(owned(gridnodes, shared).values())


def is_gone(gridnodes: GridNodes) -> bool:
    return gridnodes.get(f"{GROUP_PATH}/gridnodes", "demo") is None


def owned(gridnodes: GridNodes, shared: SharedDatabase) -> dict[str, list[list[str]]]:
    return catalog(shared, database_names(gridnodes.namespace, "demo").owner)

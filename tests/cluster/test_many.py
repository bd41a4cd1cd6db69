"""Many GridNodes at once, and one operator."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.cluster import ControlPlane
from tests.support.kubelet import Kubelet
from tests.support.operator_faults import CHILD_PATHS, quick_migration
from tests.support.operator_process import GROUP_PATH, GridNodes, OperatorProcess, wait_for
from tests.support.shared_database import SharedDatabase

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

_COUNT = 50
#: Of one GridNode from nothing to ready: its finalizer, 7 children, 3 Events and some states in between.
_MOST_WRITES = 20
_PATH = f"{GROUP_PATH}/gridnodes"


def test_applied_and_deleted_at_once(
    control_plane: ControlPlane, namespace: str, shared: SharedDatabase, tmp_path: Path
) -> None:
    gridnodes = GridNodes(control_plane, namespace)
    settings = {"WATCH_NAMESPACES": namespace}
    names = [f"demo-{number:02}" for number in range(_COUNT)]
    with (
        Kubelet(control_plane, quick_migration),
        OperatorProcess(control_plane.kubeconfig_path(), shared.admin_url, tmp_path, settings) as operator,
    ):
        since, began = control_plane.audit_position(), time.monotonic()
        for name in names:
            gridnodes.create(name, {"database": {"reclaimPolicy": "Delete"}})
        wait_for(lambda: ready(gridnodes) == _COUNT, lambda: ready(gridnodes), 150)
        report(control_plane, "from nothing to ready", since, began)
        writes = control_plane.count_writes(user_agent="gridnode-operator", since=since)
        assert writes <= _MOST_WRITES * _COUNT
        schemas = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'gn\\_%'"
        assert shared.execute(schemas) == [(_COUNT,)]
        print(f"{operator.memory() / 2**20:.0f} MiB")

        since = control_plane.audit_position()
        time.sleep(5)
        assert control_plane.count_writes(user_agent="gridnode-operator", since=since) == 0

        since, began = control_plane.audit_position(), time.monotonic()
        control_plane.expect("DELETE", gridnodes.path(_PATH))
        wait_for(lambda: gridnodes.all(_PATH) == [], lambda: len(gridnodes.all(_PATH)), 150)
        report(control_plane, "from ready to gone", since, began)
        assert shared.execute(schemas) == [(0,)]
        logins = "SELECT rolname FROM pg_roles WHERE rolcanlogin AND starts_with(rolname, '{}')"
        assert shared.execute(logins.format(f"gn_{namespace.replace('-', '_')}_")) == []
        wait_for(lambda: not owned_children(gridnodes), lambda: owned_children(gridnodes))
        assert operator.get("/healthz") == (200, "ok\n")
    assert "Traceback" not in operator.log_path.read_text()


def ready(gridnodes: GridNodes) -> int:
    return sum(
        condition["status"] == "True"
        for each in gridnodes.all(_PATH)
        for condition in (each.get("status") or {}).get("conditions") or []
        if condition["type"] == "Ready"
    )


def owned_children(gridnodes: GridNodes) -> list[str]:
    return [
        each["metadata"]["name"]
        for path in CHILD_PATHS
        for each in gridnodes.all(path)
        if any(owner["kind"] == "GridNode" for owner in each["metadata"].get("ownerReferences") or [])
    ]


def report(control_plane: ControlPlane, what: str, since: int, began: float) -> None:
    seconds = time.monotonic() - began
    writes = control_plane.audit_log.writes(user_agent="gridnode-operator", since=since)
    kinds: dict[str, int] = {}
    for each in writes:
        key = f"{each.verb} {each.object.resource}/{each.object.subresource}".rstrip("/")
        kinds[key] = kinds.get(key, 0) + 1
    each_writes = ", ".join(f"{count / _COUNT:.2f} {key}" for key, count in sorted(kinds.items()))
    print(f"{_COUNT} GridNodes {what}: {seconds:.1f} s, {len(writes) / _COUNT:.2f} writes each ({each_writes})")

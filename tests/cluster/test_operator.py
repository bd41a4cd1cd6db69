"""The operator as a process on a real API server: from a manifest to a ready node, and back to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import ControlPlane
from tests.support.kubelet import Kubelet
from tests.support.operator_process import GROUP_PATH, GridNodes, OperatorProcess, wait_for
from tests.support.shared_database import SharedDatabase

pytestmark = [pytest.mark.cluster]


@pytest.fixture
def operator(
    control_plane: ControlPlane, namespace: str, shared: SharedDatabase, tmp_path: Path
) -> Iterator[OperatorProcess]:
    """An operator that looks after the test's namespace."""
    settings = {"WATCH_NAMESPACES": namespace, "RESYNC_INTERVAL": "5"}
    with OperatorProcess(control_plane.kubeconfig_path(), shared.admin_url, tmp_path, settings) as started:
        yield started


def test_manifest_becomes_a_ready_node_and_goes_again(
    control_plane: ControlPlane, namespace: str, operator: OperatorProcess, shared: SharedDatabase
) -> None:
    gridnodes = GridNodes(control_plane, namespace)
    with Kubelet(control_plane):
        gridnodes.create("demo", {"replicas": 2, "database": {"reclaimPolicy": "Delete"}})
        wait_for(lambda: gridnodes.condition("Ready")[0] == "True", lambda: gridnodes.status())
        print(control_plane.kubectl("get", "gn", "-n", namespace, "-o", "wide"))
        print(control_plane.kubectl("describe", "gn", "demo", "-n", namespace))
        print(control_plane.kubectl("get", "all,secret,sa", "-n", namespace))
        gridnodes.delete("demo")
        wait_for(lambda: gridnodes.get(f"{GROUP_PATH}/gridnodes", "demo") is None, operator.log_path.read_text)
        wait_for(lambda: not gridnodes.all("/apis/apps/v1/deployments"))
    assert shared.execute("SELECT 1 FROM pg_namespace WHERE nspname LIKE 'gn_%'") == []

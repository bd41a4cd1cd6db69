"""The operator as its own ServiceAccount, with the rights of :mod:`gridnode_operator.rbac` and no others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gridnode_operator import rbac
from gridnode_operator.leadership import NAME as LEASE_NAME
from tests.support.cluster import ControlPlane
from tests.support.control_plane.audit import AuditEvent
from tests.support.control_plane.namespaces import create_namespace, delete_namespace
from tests.support.kubelet import Kubelet
from tests.support.operator_faults import quick_migration
from tests.support.operator_process import GROUP_PATH, GridNodes, OperatorProcess, wait_for
from tests.support.optional_apis import optional_apis
from tests.support.shared_database import SharedDatabase

pytestmark = [pytest.mark.cluster]

_ACCOUNT = "operator"
_MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}
#: What every user may do, by system:basic-user and system:discovery.
_OF_EVERYBODY = re.compile(r"selfsubject\w+\.auth\w+\.k8s\.io")
#: In the table, but not to be seen in the log: what is applied needs the right to create, and is logged as a patch.
_NOT_SEEN = {("gridnodes/finalizers", "update"), ("services", "delete")}
_CHILDREN_OF_ALL_KINDS: dict[str, Any] = {
    "autoscaling": {"minReplicas": 1, "maxReplicas": 2},
    "exposure": {"ingress": {"host": "phones.example"}},
    "networkPolicy": {"enabled": True},
    "disruptionBudget": {"maxUnavailable": 1},
    "monitoring": {"enabled": True},
    "database": {"adminSecretRef": {"name": "shared-server", "key": "url"}, "reclaimPolicy": "Delete"},
}


@dataclass
class Install:
    """An operator with a ServiceAccount."""

    control_plane: ControlPlane
    namespace: str
    kubeconfig: Path
    since: int

    @property
    def user(self) -> str:
        return f"system:serviceaccount:{self.namespace}:{_ACCOUNT}"

    def may(self, namespace: str) -> dict[str, set[str]]:
        """What kubectl says that the operator may do in a namespace, by resource (and name)."""
        config = ("--kubeconfig", str(self.kubeconfig))
        lines = self.control_plane.kubectl(*config, "auth", "can-i", "--list", "-n", namespace).splitlines()
        found: dict[str, set[str]] = {}
        for line in lines[1:]:
            resource, urls, names, verbs = re.fullmatch(
                r"(\S*) +\[(.*?)\] +\[(.*?)\] +\[(.*?)\]", line
            ).groups()  # type: ignore[union-attr] # fmt: skip
            if not urls and not _OF_EVERYBODY.fullmatch(resource):
                found.setdefault(resource + f" {names}".rstrip(), set()).update(verbs.split())
        return found

    def requests(self) -> list[AuditEvent]:
        """All that the operator asked for."""
        events = self.control_plane.audit_events(self.since)
        return [each for each in events if each.user.username == self.user]


@pytest.fixture
def second_namespace(control_plane: ControlPlane) -> Iterator[str]:
    name = create_namespace(control_plane)
    yield name
    delete_namespace(control_plane, name)


@pytest.fixture
def operator_namespace(control_plane: ControlPlane) -> Iterator[str]:
    name = create_namespace(control_plane, "operator")
    yield name
    delete_namespace(control_plane, name)


def install(control_plane: ControlPlane, namespace: str, watched: Sequence[str], shared: SharedDatabase) -> Install:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": _ACCOUNT}}
    control_plane.expect("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", account)
    for manifest in rbac.manifests(_ACCOUNT, namespace, watched):
        within = manifest["metadata"].get("namespace")
        place = f"/namespaces/{within}" if within else ""
        path = f"/apis/rbac.authorization.k8s.io/v1{place}/{manifest['kind'].lower()}s"
        control_plane.expect("POST", path, manifest)
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "shared-server", "labels": {"gridnode.io/database-admin": "true"}},
        "stringData": {"url": shared.admin_url},
    }
    control_plane.expect("POST", f"/api/v1/namespaces/{namespace}/secrets", secret)
    kubeconfig = control_plane.service_account_kubeconfig(namespace, _ACCOUNT)
    return Install(control_plane, namespace, kubeconfig, control_plane.audit_position())


def uninstall_cluster_role(control_plane: ControlPlane) -> None:
    for kind in ("clusterroles", "clusterrolebindings"):
        control_plane.expect("DELETE", f"/apis/rbac.authorization.k8s.io/v1/{kind}/{rbac.NAME}")


def table(rules: Sequence[rbac.Rule]) -> dict[str, set[str]]:
    """Rules as kubectl shows them."""
    found: dict[str, set[str]] = {}
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                base, slash, subresource = resource.partition("/")
                shown = f"{base}.{group}{slash}{subresource}" if group else resource
                key = f"{shown} {' '.join(rule.get('resourceNames', []))}".rstrip()
                found.setdefault(key, set()).update(rule["verbs"])
    return found


def live_and_die(gridnodes: GridNodes, name: str) -> None:
    """All that a GridNode can go through: every kind of child, a failed migration, a rotation, and its end."""
    spec = _CHILDREN_OF_ALL_KINDS
    gridnodes.create(name, spec)
    wait_for(lambda: gridnodes.condition("Ready", name)[0] == "True", lambda: gridnodes.status(name))
    control_plane, namespace = gridnodes.control_plane, gridnodes.namespace
    token = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "token"},
        "stringData": {"token": "a-token-of-sixteen-or-more"},
    }
    control_plane.expect("POST", f"/api/v1/namespaces/{namespace}/secrets", token)
    parent = {"name": "public", "namespace": "gateways"}
    changed: dict[str, Any] = {
        "database": {**spec["database"], "rotate": "now"},
        "exposure": {"httpRoute": {"parentRefs": [parent], "hostnames": ["phones.example"]}},
        "managementTokenSecretRef": {"name": "token", "key": "token"},
        "podTemplate": {"serviceAccountName": "default"},
    }
    gridnodes.set_spec(name, changed)
    wait_for(
        lambda: "Rotated" in [reason for reason, _ in gridnodes.events(name)] and is_ready(gridnodes, name),
        lambda: gridnodes.status(name),
    )
    gridnodes.set_spec(name, {**changed, "exposure": {}, "image": "registry.example/broken:1"})
    wait_for(lambda: gridnodes.condition("Migrated", name)[1] == "Migrating", lambda: gridnodes.status(name))
    for job in gridnodes.all("/apis/batch/v1/jobs"):  # Kubernetes would try it for more than a minute
        path = gridnodes.path("/apis/batch/v1/jobs", job["metadata"]["name"])
        control_plane.expect("PATCH", path, {"spec": {"backoffLimit": 0}}, headers=_MERGE_PATCH)
    wait_for(lambda: gridnodes.condition("Migrated", name)[1] == "MigrationFailed", lambda: gridnodes.status(name))
    gridnodes.delete(name)
    wait_for(lambda: gridnodes.get(f"{GROUP_PATH}/gridnodes", name) is None, lambda: gridnodes.status(name))


def is_ready(gridnodes: GridNodes, name: str) -> bool:
    resource = gridnodes.get(f"{GROUP_PATH}/gridnodes", name) or {}
    status = resource.get("status") or {}
    is_new = status.get("observedGeneration") == resource["metadata"]["generation"]
    return is_new and gridnodes.condition("Ready", name)[0] == "True"


def assert_nothing_was_refused(installed: Install, *namespaces: str) -> None:
    """Only in ``namespaces``, if given: those that other tests have left are on their way out, and take nothing new."""
    asked = [each for each in installed.requests() if not namespaces or each.object.namespace in ("", *namespaces)]
    refused = [each for each in asked if each.response.code in (401, 403)]
    assert [f"{each.verb} {each.request_uri}" for each in refused] == []


def settings(installed: Install, watched: Sequence[str] = ()) -> dict[str, str]:
    names = {"WATCH_NAMESPACES": ",".join(watched)} if watched else {}
    return {"NAMESPACE": installed.namespace, "LEADER_ELECTION": "true", "RESYNC_INTERVAL": "5", **names}


@pytest.mark.timeout(240)
def test_some_namespaces(
    control_plane: ControlPlane, namespace: str, second_namespace: str, operator_namespace: str,
    shared: SharedDatabase, tmp_path: Path,
) -> None:  # fmt: skip
    watched = [namespace, second_namespace]
    installed = install(control_plane, operator_namespace, watched, shared)
    with optional_apis(control_plane), Kubelet(control_plane, quick_migration):
        operator = OperatorProcess(
            installed.kubeconfig, shared.admin_url, tmp_path, settings(installed, watched)
        )  # fmt: skip
        with operator:
            live_and_die(GridNodes(control_plane, namespace), "demo")
            GridNodes(control_plane, second_namespace).create("demo")
            second = GridNodes(control_plane, second_namespace)
            wait_for(lambda: is_ready(second, "demo"), lambda: second.status())
        assert "Traceback" not in operator.log_path.read_text()
        assert "permission" not in operator.log_path.read_text()
    assert_nothing_was_refused(installed)
    assert_rights_are_used(installed)
    assert installed.may(namespace) == table(rbac.gridnode_rules())
    assert installed.may(operator_namespace) == table(rbac.own_rules())
    assert installed.may("default") == {}
    for path in ("/api/v1/secrets", "/api/v1/namespaces/default/secrets", f"{GROUP_PATH}/gridnodes"):
        assert f" {path}" not in {f" {each.request_uri.partition('?')[0]}" for each in installed.requests()}


def assert_rights_are_used(installed: Install) -> None:
    """Whether each right was needed, but for those that the log can't show."""
    asked = set()
    for each in installed.requests():
        resource = f"{each.object.resource}/{each.object.subresource}".rstrip("/")
        asked.add((resource, each.verb))
    granted = {
        (resource, verb)
        for rule in [*rbac.gridnode_rules(), *rbac.own_rules()]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    applied = {resource for resource, verb in granted if verb == "patch"}
    not_seen = _NOT_SEEN | {(resource, "create") for resource in applied}
    assert granted - asked - not_seen == set()


@pytest.mark.timeout(240)
def test_whole_cluster(
    control_plane: ControlPlane, namespace: str, operator_namespace: str, shared: SharedDatabase, tmp_path: Path
) -> None:
    installed = install(control_plane, operator_namespace, [], shared)
    try:
        with (
            Kubelet(control_plane, quick_migration),
            OperatorProcess(installed.kubeconfig, shared.admin_url, tmp_path, settings(installed)) as operator,
            optional_apis(control_plane),
        ):
            # The kinds came later than the operator, which is told of their children all the same.
            live_and_die(GridNodes(control_plane, namespace), "demo")
        assert "Traceback" not in operator.log_path.read_text()
        assert_nothing_was_refused(installed, namespace, operator_namespace)
        everywhere = table(rbac.cluster_rules())
        assert installed.may(namespace) == everywhere
        own = {**everywhere}
        for key, verbs in table(rbac.own_rules()).items():
            own[key] = own.get(key, set()) | verbs
        assert installed.may(operator_namespace) == own
    finally:
        uninstall_cluster_role(control_plane)


def test_lease_of_another_program_is_out_of_reach(
    control_plane: ControlPlane, operator_namespace: str, namespace: str, shared: SharedDatabase
) -> None:
    installed = install(control_plane, operator_namespace, [namespace], shared)
    config = ("--kubeconfig", str(installed.kubeconfig), "-n", operator_namespace)

    def can(*question: str) -> bool:
        try:
            return control_plane.kubectl(*config, "auth", "can-i", *question).strip() == "yes"
        except AssertionError:  # kubectl says no with its exit code as well
            return False

    assert can("update", f"leases/{LEASE_NAME}")
    assert not can("update", "leases/of-another-program")
    assert not can("list", "secrets")

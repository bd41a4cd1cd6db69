"""What users of such operators ask for most, one test for each, as they would try it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.cluster import ControlPlane
from tests.support.kubelet import Kubelet
from tests.support.one_gridnode import OneGridNode, environment, one_gridnode
from tests.support.operator_faults import log_in, quick_migration, url_in_secret
from tests.support.operator_process import GROUP_PATH
from tests.support.shared_database import SharedDatabase

pytestmark = [pytest.mark.cluster]

MERGE = {"Content-Type": "application/merge-patch+json"}


@pytest.fixture
def demo(control_plane: ControlPlane, namespace: str, shared: SharedDatabase) -> Iterator[OneGridNode]:
    with one_gridnode(control_plane, namespace, shared) as one:
        yield one


def template(one: OneGridNode) -> Any:
    """The pod template of the Deployment."""
    deployment = one.child("Deployment")
    assert deployment is not None
    return deployment["spec"]["template"]


def pod_uids(one: OneGridNode) -> set[str]:
    """All pods that there are of the node."""
    found = one.gridnodes.all("/api/v1/pods")
    return {each["metadata"]["uid"] for each in found if "node" in each["metadata"]["labels"].values()}


def test_spec_edits_reach_the_children_of_a_ready_gridnode(demo: OneGridNode) -> None:
    demo.create()
    demo.until_ready()
    before = pod_uids(demo)
    demo.gridnodes.patch("demo", {"spec": {"image": "registry.example/gridnode:2", "replicas": 2}})
    demo.until_ready()
    assert template(demo)["spec"]["containers"][0]["image"] == "registry.example/gridnode:2"
    assert demo.gridnodes.status()["image"] == "registry.example/gridnode:2"
    after = pod_uids(demo)
    assert len(after) == 2
    assert not after & before


def test_upgraded_operator_restarts_no_pod(
    demo: OneGridNode, control_plane: ControlPlane, shared: SharedDatabase
) -> None:
    """Another release of the operator knows another schema revision: it migrates, and leaves pods of the same image."""
    image = {"image": "registry.example/gridnode@sha256:" + "0" * 64}
    demo.create({**image, "replicas": 2})
    demo.until_ready()
    before, pods = template(demo), pod_uids(demo)
    job = demo.child("Job")
    assert job is not None
    upgraded = OneGridNode(
        control_plane,
        demo.gridnodes.namespace,
        shared.admin_url,
        known=environment(schema_revision="9999", default_image="registry.example/gridnode:next", resync_interval=9.0),
    )
    upgraded.until_ready()
    assert template(upgraded) == before
    assert pod_uids(upgraded) == pods
    assert len(pods) == 2
    new_job = upgraded.child("Job")
    assert new_job is not None
    assert new_job["metadata"]["name"] != job["metadata"]["name"]
    assert "9999" in new_job["metadata"]["name"]


def test_upgraded_operator_gives_its_image_to_those_that_name_none(
    demo: OneGridNode, control_plane: ControlPlane, shared: SharedDatabase
) -> None:
    demo.create()
    demo.until_ready()
    known = environment(default_image="registry.example/gridnode:next")
    upgraded = OneGridNode(control_plane, demo.gridnodes.namespace, shared.admin_url, known=known)
    upgraded.until(lambda: upgraded.gridnodes.status().get("image") == "registry.example/gridnode:next")
    upgraded.until_ready()


@pytest.mark.parametrize("reference", ["token", "master", "variable"])
def test_pods_restart_when_their_secret_changes(demo: OneGridNode, reference: str) -> None:
    """Also a Secret of the user's own; and only the keys that the pods read."""
    key = {"name": "mine", "key": "read"}
    demo.create_secret("mine", {"read": "a-token-of-sixteen-or-more", "not-read": "1"})
    specs: dict[str, dict[str, Any]] = {
        "token": {"managementTokenSecretRef": key},
        "master": {"master": {"url": "http://m.example:5001", "keySecretRef": key}},
        "variable": {"podTemplate": {"env": [{"name": "PROXY", "valueFrom": {"secretKeyRef": key}}]}},
    }
    demo.create(specs[reference])
    demo.until_ready()
    before, pods = template(demo), pod_uids(demo)
    path = demo.gridnodes.path("/api/v1/secrets", "mine")
    demo.control_plane.expect("PATCH", path, {"stringData": {"not-read": "2"}}, headers=MERGE)
    assert demo.changes() == []
    demo.control_plane.expect("PATCH", path, {"stringData": {"read": "another-token-of-sixteen"}}, headers=MERGE)
    assert demo.changes() == ["apply Deployment demo"]
    demo.until_ready()
    assert template(demo)["metadata"]["annotations"] != before["metadata"]["annotations"]
    assert template(demo)["spec"] == before["spec"]
    assert not pod_uids(demo) & pods
    # The value is nowhere to be read, not even as a hash that somebody could try words on.
    assert "another" not in str(demo.child("Deployment"))


def test_pods_wait_for_a_secret_that_is_missing_and_start_when_it_comes(demo: OneGridNode) -> None:
    demo.create({"managementTokenSecretRef": {"name": "later", "key": "token"}})
    demo.until(lambda: demo.condition("Ready")[1] == "SecretMissing")
    assert "later" in demo.condition("Ready")[2]
    assert demo.child("Deployment") is None
    demo.create_secret("later", {"token": "a-token-of-sixteen-or-more"})
    demo.until_ready()


def test_optional_secret_may_be_missing(demo: OneGridNode) -> None:
    """A variable whose Secret is optional keeps no pod from starting, and restarts it when the Secret comes."""
    reference = {"name": "perhaps", "key": "url", "optional": True}
    demo.create({"podTemplate": {"env": [{"name": "PROXY", "valueFrom": {"secretKeyRef": reference}}]}})
    demo.until_ready()
    assert demo.changes() == []
    before = template(demo)
    demo.create_secret("perhaps", {"other": "x"})
    assert demo.changes() == []
    path = demo.gridnodes.path("/api/v1/secrets", "perhaps")
    demo.control_plane.expect("PATCH", path, {"stringData": {"url": "http://proxy.example"}}, headers=MERGE)
    assert demo.changes() == ["apply Deployment demo"]
    assert template(demo)["metadata"] != before["metadata"]
    demo.until_ready()
    demo.control_plane.expect("DELETE", path)
    assert demo.changes() == ["apply Deployment demo"]
    assert template(demo) == before


def test_labels_affinity_and_spread_reach_the_pods(demo: OneGridNode) -> None:
    """The pods themselves, not only the template; and the spread counts this GridNode's pods."""
    spread = {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}
    term = {"matchExpressions": [{"key": "kubernetes.io/arch", "operator": "In", "values": ["arm64"]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}
    demo.create({
        "podTemplate": {
            "labels": {"team": "vision", "app.kubernetes.io/name": "not-yours"},
            "affinity": affinity,
            "topologySpreadConstraints": [spread],
        }
    })  # fmt: skip
    demo.until_ready()
    for pod in demo.gridnodes.all("/api/v1/pods"):
        assert pod["metadata"]["labels"]["team"] == "vision"
        assert pod["metadata"]["labels"]["app.kubernetes.io/name"] == "gridnode"
        assert pod["spec"]["affinity"] == affinity
    [constraint] = template(demo)["spec"]["topologySpreadConstraints"]
    deployment = demo.child("Deployment")
    assert deployment is not None
    assert constraint == {**spread, "labelSelector": deployment["spec"]["selector"]}


def test_changed_labels_change_no_selector(demo: OneGridNode) -> None:
    """A Deployment's selector can't be changed; so labels that users give are in none."""
    demo.create({"podTemplate": {"labels": {"team": "vision"}}})
    demo.until_ready()
    before = demo.child("Deployment")
    demo.set_spec({"podTemplate": {"labels": {"group": "speech"}}})
    demo.until_ready()
    after = demo.child("Deployment")
    assert before is not None
    assert after is not None
    assert after["spec"]["selector"] == before["spec"]["selector"]
    assert after["metadata"]["uid"] == before["metadata"]["uid"]


def test_restricted_namespace_accepts_all_pods(demo: OneGridNode) -> None:
    """Pod Security at its strictest, with every part of the spec that changes pods; no pod is refused or warned of."""
    path = f"/api/v1/namespaces/{demo.gridnodes.namespace}"
    strictest = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    demo.control_plane.expect("PATCH", path, {"metadata": {"labels": strictest}}, headers=MERGE)
    demo.create({
        "replicas": 2,
        "podTemplate": {
            "volumes": [{"name": "v", "emptyDir": {}}],
            "volumeMounts": [{"name": "v", "mountPath": "/data"}],
        },
    })  # fmt: skip
    demo.until_ready()
    assert len(demo.gridnodes.all("/api/v1/pods")) == 3
    refused = {"metadata": {"name": "root"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    assert demo.control_plane.request("POST", f"{path}/pods", refused).status == 403
    # What a user asks for in spite of it is refused, and the status says by whom and why.
    demo.set_spec({"replicas": 2, "podTemplate": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}})
    demo.until(lambda: demo.condition("Degraded")[0] == "True")
    assert "PodSecurity" in demo.condition("Degraded")[2]
    assert demo.condition("Available")[0] == "True"


def test_pause_keeps_the_operator_from_everything_but_the_status(
    demo: OneGridNode, control_plane: ControlPlane
) -> None:
    demo.create()
    demo.until_ready()
    demo.set_spec({"paused": True, "image": "registry.example/gridnode:2"})
    demo.patch_child("Service", {"spec": {"type": "NodePort"}})
    control_plane.expect("DELETE", demo.gridnodes.path("/api/v1/serviceaccounts", "demo"))
    since = control_plane.audit_position()
    for _ in range(2):
        demo.reconcile()
    writes = control_plane.audit_log.writes(user_agent="gridnode-operator", since=since)
    assert {(each.object.resource, each.object.subresource) for each in writes} <= {
        ("gridnodes", "status"),
        ("events", ""),
    }
    assert demo.condition("Ready")[:2] == ("False", "Paused")
    service = demo.child("Service")
    assert service is not None
    assert service["spec"]["type"] == "NodePort"
    demo.set_spec({"image": "registry.example/gridnode:2"})
    demo.until_ready()
    assert demo.child("ServiceAccount") is not None


def test_paused_gridnode_can_be_deleted(demo: OneGridNode) -> None:
    demo.create()
    demo.until_ready()
    demo.set_spec({"paused": True})
    demo.reconcile()
    demo.gridnodes.delete()
    demo.until(lambda: demo.gridnodes.get(f"{GROUP_PATH}/gridnodes", "demo") is None)


def kstatus(resource: dict[str, Any] | None) -> str:
    """What kstatus, and so Flux and kpt, make of any custom resource; Argo CD's rule for these is about the same."""
    if resource is None:
        return "NotFound"
    metadata, status = resource["metadata"], resource.get("status") or {}
    if metadata.get("deletionTimestamp"):
        return "Terminating"
    if status.get("observedGeneration", metadata["generation"]) != metadata["generation"]:
        return "InProgress"
    conditions = {each["type"]: each["status"] for each in status.get("conditions") or []}
    if conditions.get("Reconciling") == "True":
        return "InProgress"
    if conditions.get("Stalled") == "True":
        return "Failed"
    if "Ready" in conditions:
        return "Current" if conditions["Ready"] == "True" else "InProgress"
    return "Current"


def test_gitops_tools_see_when_it_is_ready(demo: OneGridNode, control_plane: ControlPlane) -> None:
    """Never Current between a change of the spec and its end; by what kstatus looks at, and by ``kubectl wait``."""

    def seen() -> str:
        return kstatus(demo.gridnodes.get(f"{GROUP_PATH}/gridnodes", "demo"))

    demo.create({"replicas": 2})
    history = []
    demo.reconcile()
    demo.until(lambda: history.append(seen()) or history[-1] == "Current")  # type: ignore[func-returns-value]
    assert set(history[:-1]) <= {"InProgress"}
    resource = demo.gridnodes.get(f"{GROUP_PATH}/gridnodes", "demo")
    assert resource is not None
    assert resource["status"]["observedGeneration"] == resource["metadata"]["generation"]
    for each in resource["status"]["conditions"]:
        assert each["observedGeneration"] == resource["metadata"]["generation"]
        assert set(each) == {"type", "status", "reason", "message", "lastTransitionTime", "observedGeneration"}
    wait = ("wait", "--for=condition=Ready", "gn/demo", "-n", demo.gridnodes.namespace, "--timeout=5s")
    assert "condition met" in control_plane.kubectl(*wait)
    # Before the operator has looked at the new spec, and while it is at it.
    demo.set_spec({"replicas": 2, "processesPerPod": 3})
    assert seen() == "InProgress"
    demo.reconcile()
    history = [seen()]
    assert history == ["InProgress"]
    demo.until(lambda: history.append(seen()) or history[-1] == "Current")  # type: ignore[func-returns-value]
    deployment = demo.child("Deployment")
    assert deployment is not None
    assert deployment["status"]["updatedReplicas"] == 2
    demo.gridnodes.delete()
    assert seen() == "Terminating"


def test_many_tenants_on_one_server_cannot_read_each_other(
    control_plane: ControlPlane, namespace: str, shared: SharedDatabase
) -> None:
    """With the very URLs that their pods get."""
    with Kubelet(control_plane, quick_migration):
        one, other = (OneGridNode(control_plane, namespace, shared.admin_url, name) for name in ("one", "other"))
        for each in (one, other):
            each.create()
        for each in (one, other):
            each.until_ready()
        schema = other.gridnodes.status("other")["database"]["schema"]
        for statement in (
            f'SELECT * FROM "{schema}".alembic_version',
            f'CREATE TABLE "{schema}".x ()',
            f'DROP SCHEMA "{schema}" CASCADE',
            f'SET ROLE "{schema}"',
        ):
            with pytest.raises(Exception, match=r"permission denied|must be owner|does not exist"):
                log_in(url_in_secret(one.gridnodes, "one"), statement)


def test_node_is_given_no_right_on_the_api_server(demo: OneGridNode) -> None:
    demo.create()
    demo.until_ready()
    assert template(demo)["spec"]["automountServiceAccountToken"] is False
    user = f"system:serviceaccount:{demo.gridnodes.namespace}:demo"
    allowed = demo.control_plane.kubectl("auth", "can-i", "--list", f"--as={user}", "-n", demo.gridnodes.namespace)
    assert "secrets" not in allowed
    assert "pods" not in allowed


def test_passwords_are_in_secrets_and_nowhere_else(demo: OneGridNode) -> None:
    demo.create({"database": {"rotate": "1"}})
    demo.until_ready()
    url = demo.secret_value("-database", "url")
    token = demo.secret_value("-management", "token")
    assert url is not None
    assert token is not None
    password = url.partition("//")[2].partition("@")[0].partition(":")[2]
    assert len(password) > 20
    everything = demo.control_plane.kubectl(
        "get", "gn,deploy,rs,po,job,svc,sa,cm,events", "-n", demo.gridnodes.namespace, "-o", "json"
    )
    for secret in (password, token):
        assert secret not in everything
        assert base64.b64encode(secret.encode()).decode() not in everything

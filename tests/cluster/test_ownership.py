"""Whose is what: hand edits of children are put back, other managers' fields stay, others' objects are not touched."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gridnode_operator.api import APPLIED_ANNOTATION, SECRETS_HASH_ANNOTATION
from gridnode_operator.desired import CHILD_KINDS
from gridnode_operator.desired.names import child_names
from tests.support.cluster import ControlPlane
from tests.support.kubelet import Kubelet
from tests.support.one_gridnode import APPLY, JSON_PATCH, KIND_PATHS, MERGE, OneGridNode, one_gridnode
from tests.support.operator_faults import quick_migration
from tests.support.operator_process import GridNodes, OperatorProcess, wait_for
from tests.support.optional_apis import optional_apis
from tests.support.shared_database import SharedDatabase

pytestmark = [pytest.mark.cluster]

AGENT = "gridnode-operator"
BY_HAND = "eA=="
ALL_KINDS: dict[str, Any] = {
    "autoscaling": {"minReplicas": 2, "maxReplicas": 5},
    "exposure": {"ingress": {"host": "demo.example", "annotations": {"a.example/b": "1"}}},
    "networkPolicy": {"enabled": True},
    "monitoring": {"enabled": True, "labels": {"release": "a"}},
    "disruptionBudget": {"maxUnavailable": 1},
    "podTemplate": {"labels": {"team": "vision"}, "env": [{"name": "A", "value": "1"}]},
}
ROUTED: dict[str, Any] = {
    "exposure": {"httpRoute": {"parentRefs": [{"name": "public", "namespace": "gw"}], "hostnames": ["demo.example"]}}
}


@pytest.fixture(scope="module", autouse=True)
def apis(control_plane: ControlPlane) -> Iterator[None]:
    with optional_apis(control_plane):
        yield


@pytest.fixture
def demo(control_plane: ControlPlane, namespace: str, shared: SharedDatabase) -> Iterator[OneGridNode]:
    with one_gridnode(control_plane, namespace, shared) as one:
        yield one


#: By kind (and the suffix of its name): patches as a person would make them. Values that are changed, fields that are
#: removed, keys that are added to what is one value as a whole.
EDITS: dict[tuple[str, str], list[Any]] = {
    ("ServiceAccount", ""): [{"automountServiceAccountToken": True}, {"automountServiceAccountToken": None}],
    ("Secret", "-database"): [{"data": {"url": BY_HAND}}, {"data": None}],
    ("Secret", "-management"): [{"metadata": {"labels": {"gridnode.io/gridnode": None}}}],
    ("Secret", "-master"): [{"data": {"key": BY_HAND}}, {"data": {"key": None}}],
    ("Service", ""): [
        {"spec": {"selector": {"added": "by-hand"}}},
        {"spec": {"selector": {"app.kubernetes.io/name": "other"}}},
        {"spec": {"type": "NodePort"}},
        {"spec": {"ports": [{"name": "http", "port": 81, "targetPort": 1}]}},
        {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}},
    ],
    ("Service", "-management"): [{"spec": {"type": "LoadBalancer"}}, {"spec": {"selector": None}}],
    ("Deployment", ""): [
        {"spec": {"strategy": {"rollingUpdate": {"maxUnavailable": 1}}}},
        {"spec": {"template": {"metadata": {"labels": {"team": "other"}}}}},
        {"spec": {"template": {"metadata": {"labels": {"team": None}}}}},
        {"spec": {"template": {"spec": {"securityContext": {"runAsNonRoot": False}}}}},
        {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 7}}}},
        {"metadata": {"annotations": {"gridnode.io/applied": None}}},
        [{"op": "replace", "path": "/spec/template/spec/containers/0/ports/0/containerPort", "value": 1}],
        [{"op": "remove", "path": "/spec/template/spec/containers/0/readinessProbe"}],
    ],
    ("HorizontalPodAutoscaler", ""): [{"spec": {"maxReplicas": 50}}, {"spec": {"minReplicas": 1}}],
    ("Ingress", ""): [
        {"spec": {"rules": [{"host": "evil.example"}]}},
        {"spec": {"rules": [{"host": "demo.example"}, {"host": "x.example"}]}},
        {"metadata": {"annotations": {"a.example/b": "2"}}},
        {"metadata": {"annotations": {"a.example/b": None}}},
    ],
    ("HTTPRoute", ""): [{"spec": {"hostnames": ["evil.example"]}}, {"spec": {"parentRefs": [{"name": "other"}]}}],
    ("NetworkPolicy", ""): [
        {"spec": {"podSelector": {"matchLabels": {"added": "by-hand"}}}},
        {"spec": {"ingress": None}},
        {"spec": {"policyTypes": ["Ingress", "Egress"]}},
    ],
    ("PodMonitor", ""): [
        {"spec": {"podMetricsEndpoints": []}},
        {"spec": {"selector": {"matchLabels": {"added": "by-hand"}}}},
        {"metadata": {"labels": {"release": "b"}}},
    ],
    ("PodDisruptionBudget", ""): [{"spec": {"maxUnavailable": 0}}, {"spec": {"selector": {"matchLabels": {"a": "b"}}}}],
}


def declared(one: OneGridNode) -> dict[str, Any]:
    """All children without what differs after every write, and of a new password only that there is one."""
    children = copy.deepcopy(one.children())
    for each in children.values():
        if each["kind"] == "Secret":
            each["data"] = {key: value != BY_HAND for key, value in each["data"].items()}
        if each["kind"] == "Deployment":
            each["metadata"]["annotations"].pop(APPLIED_ANNOTATION)
            each["spec"]["template"]["metadata"]["annotations"].pop(SECRETS_HASH_ANNOTATION)
        for key in ("managedFields", "resourceVersion", "generation"):
            each["metadata"].pop(key, None)
        each["metadata"].get("annotations", {}).pop("deployment.kubernetes.io/revision", None)
        each.get("spec", {}).pop("replicas", None)
        each.pop("status", None)
        # Of a Service whose type was another for a while.
        for port in each.get("spec", {}).get("ports") or []:
            if isinstance(port, dict):
                port.pop("nodePort", None)
    return children


def until_there(one: OneGridNode, kinds: set[str]) -> None:
    """Until there are children of all these kinds, and nothing is left to be done."""
    one.until(lambda: kinds <= {name.split("/")[0] for name in one.children()} and not one.changes())


def test_hand_edits_are_put_back(demo: OneGridNode) -> None:
    demo.create(ALL_KINDS)
    tried = set()
    for spec in (ALL_KINDS, ROUTED):
        demo.set_spec(spec)
        kinds = {"HTTPRoute"} if spec is ROUTED else {kind for kind, _ in EDITS} - {"HTTPRoute"}
        until_there(demo, kinds)
        before = declared(demo)
        for (kind, suffix), patches in EDITS.items():
            if kind not in kinds:
                continue
            for patch in patches:
                demo.patch_child(kind, patch, JSON_PATCH if isinstance(patch, list) else MERGE, suffix=suffix)
                more = ["apply Deployment demo"] if suffix == "-database" else []  # for there is a new password
                assert demo.changes() == [f"apply {kind} demo{suffix}", *more], patch
                assert declared(demo) == before, (kind, patch)
                assert demo.changes() == [], (kind, patch)
            tried.add(kind)
    assert tried == set(KIND_PATHS) - {"Job"}


def test_running_operator_puts_hand_edits_and_deletions_back_by_itself(
    control_plane: ControlPlane, namespace: str, shared: SharedDatabase, tmp_path: Path
) -> None:
    """It watches every kind of child; nothing here waits for the resync, which is an hour away."""
    settings = {"WATCH_NAMESPACES": namespace, "RESYNC_INTERVAL": "3600", "MASTER_URL": "http://m.example:5001"}
    gridnodes = GridNodes(control_plane, namespace)
    one = OneGridNode(control_plane, namespace, shared.admin_url)
    running = OperatorProcess(
        control_plane.kubeconfig_path(), shared.admin_url, tmp_path, {**settings, "MASTER_KEY": "key"}
    )
    with Kubelet(control_plane, quick_migration), running as operator:
        gridnodes.create("demo", ALL_KINDS)
        gridnodes.create("routed", ROUTED)
        routed = OneGridNode(control_plane, namespace, shared.admin_url, "routed")
        wait_for(lambda: gridnodes.condition("Exposed")[0] and one.child("HorizontalPodAutoscaler"), gridnodes.status)
        wait_for(lambda: routed.child("HTTPRoute") is not None and routed.child("Deployment") is not None)
        before = declared(one), declared(routed)
        for (kind, suffix), patches in EDITS.items():
            (routed if kind == "HTTPRoute" else one).patch_child(kind, patches[0], suffix=suffix)
        wait_for(lambda: (declared(one), declared(routed)) == before, operator.log_path.read_text)
        for kind, suffix in EDITS:
            if kind != "Secret":
                name = f"{'routed' if kind == 'HTTPRoute' else 'demo'}{suffix}"
                control_plane.expect("DELETE", gridnodes.path(KIND_PATHS[kind], name))
        wait_for(lambda: set(declared(one)) == set(before[0]), operator.log_path.read_text)
        wait_for(lambda: set(declared(routed)) == set(before[1]), operator.log_path.read_text)


@pytest.mark.parametrize("spec", [ALL_KINDS, ROUTED], ids=["all", "routed"])
def test_deleted_children_are_made_again(demo: OneGridNode, spec: dict[str, Any]) -> None:
    demo.create(spec)
    demo.until(lambda: demo.child("Deployment") is not None and not demo.changes())
    for name in list(demo.children()):
        kind, _, object_name = name.partition("/")
        path = demo.gridnodes.path(KIND_PATHS[kind], object_name)
        uid = demo.children()[name]["metadata"]["uid"]
        demo.control_plane.expect("DELETE", f"{path}?propagationPolicy=Background")

        def is_there_again(name: str = name, uid: str = uid) -> bool:
            found = demo.children().get(name)
            return found is not None and bool(found["metadata"]["uid"] != uid)

        demo.until(is_there_again)
    demo.until(lambda: not demo.changes() and demo.condition("Migrated")[0] == "True")
    assert demo.condition("DatabaseReady")[0] == "True"


def test_lost_labels_and_owner_come_back(demo: OneGridNode) -> None:
    """Without our labels it is in no list; it is found by its name, and is ours by its owner reference. So is what is
    in it: a new password or token would restart the pods.
    """
    demo.create(ALL_KINDS)
    demo.until(lambda: demo.child("HorizontalPodAutoscaler") is not None and not demo.changes())
    before, secrets = declared(demo), secrets_of(demo)
    for kind, suffix in EDITS:
        if kind == "HTTPRoute":
            continue
        demo.patch_child(kind, [{"op": "remove", "path": "/metadata/labels"}], JSON_PATCH, suffix=suffix)
    applied = demo.changes()
    assert len(applied) == len(EDITS) - 1
    assert declared(demo) == before
    assert secrets_of(demo) == secrets
    assert demo.changes() == []


def secrets_of(one: OneGridNode) -> dict[str, Any]:
    return {name: child["data"] for name, child in one.children().items() if child["kind"] == "Secret"}


def test_what_lost_its_owner_is_somebody_elses(demo: OneGridNode) -> None:
    """Whoever takes the owner reference away keeps the object, and the GridNode says what is in its way."""
    demo.create()
    demo.until_ready()
    demo.patch_child("Service", [{"op": "remove", "path": "/metadata/ownerReferences"}], JSON_PATCH)
    version = version_of(demo, "Service")
    for _ in range(2):
        demo.reconcile()
    assert version_of(demo, "Service") == version
    assert demo.condition("Ready")[:2] == ("False", "NameTaken")
    demo.control_plane.expect("DELETE", demo.gridnodes.path(KIND_PATHS["Service"], "demo"))
    demo.until_ready()


def version_of(one: OneGridNode, kind: str, suffix: str = "") -> str:
    child = one.child(kind, suffix)
    assert child is not None
    version: str = child["metadata"]["resourceVersion"]
    return version


TAKEN: dict[tuple[str, str], dict[str, Any]] = {
    ("ServiceAccount", ""): {},
    ("Secret", "-database"): {"stringData": {"url": "postgresql://evil:evil@127.0.0.1:1/x"}},
    ("Secret", "-management"): {"stringData": {"token": "known-to-somebody-else"}},
    ("Secret", "-master"): {"stringData": {"key": "x"}},
    ("Service", ""): {"spec": {"ports": [{"port": 1}]}},
    ("Service", "-management"): {"spec": {"ports": [{"port": 1}]}},
    ("Deployment", ""): {
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        }
    },
    ("HorizontalPodAutoscaler", ""): {
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "other"},
            "maxReplicas": 1,
        }
    },
    ("Ingress", ""): {"spec": {"rules": [{"host": "other.example"}]}},
    ("HTTPRoute", ""): {"spec": {"hostnames": ["other.example"]}},
    ("NetworkPolicy", ""): {"spec": {"podSelector": {}}},
    ("PodMonitor", ""): {"spec": {"selector": {}}},
    ("PodDisruptionBudget", ""): {"spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"a": "b"}}}},
}


#: Those that keep the pods from being made, the route, which excludes an Ingress, and all others.
TOGETHER = {
    "needed by pods": [key for key in TAKEN if key[0] in ("Secret", "ServiceAccount")],
    "route": [("HTTPRoute", "")],
    "others": [key for key in TAKEN if key[0] not in ("Secret", "ServiceAccount", "HTTPRoute")],
}


@pytest.mark.parametrize("together", TOGETHER)
@pytest.mark.parametrize("labelled", [False, True], ids=["foreign", "with our labels"])
def test_objects_of_somebody_else_are_refused_and_not_touched(demo: OneGridNode, together: str, labelled: bool) -> None:
    labels = {"gridnode.io/gridnode": "demo", "app.kubernetes.io/managed-by": AGENT} if labelled else {}
    keys = TOGETHER[together]
    for kind, suffix in keys:
        version = next(api_version for api_version, each in CHILD_KINDS if each == kind)
        metadata = {"name": f"demo{suffix}", "labels": labels}
        body = {"apiVersion": version, "kind": kind, "metadata": metadata, **TAKEN[kind, suffix]}
        demo.control_plane.expect("POST", demo.gridnodes.path(KIND_PATHS[kind]), body)
    theirs = {key: demo.child(*key) for key in keys}
    demo.create(ROUTED if together == "route" else ALL_KINDS)

    def is_told() -> bool:
        message = demo.condition("Degraded")[2]
        return all(f"There is a {kind} demo{suffix} that" in message for kind, suffix in keys)

    demo.until(is_told, lambda: demo.condition("Degraded"))
    assert demo.condition("Ready")[:2] == ("False", "NameTaken")
    demo.reconcile()
    for key, before in theirs.items():
        after = demo.child(*key)
        assert after is not None
        assert before is not None
        assert after["metadata"]["uid"] == before["metadata"]["uid"]
        assert not any(each["manager"] == AGENT for each in after["metadata"].get("managedFields", []))
    demo.gridnodes.delete()
    demo.until(lambda: demo.gridnodes.get("/apis/gridnode.io/v1alpha1/gridnodes", "demo") is None)
    assert all(demo.child(*key) is not None for key in keys)


def test_pods_of_somebody_elses_secret_never_start(demo: OneGridNode) -> None:
    """Someone who may create Secrets must not be able to name the node's database, or to know its token."""
    demo.create_secret("demo-database", {"url": "postgresql://evil:evil@127.0.0.1:1/x"})
    demo.create()
    demo.until(lambda: demo.condition("Ready")[1] == "NameTaken")
    assert demo.child("Deployment") is None
    assert demo.child("Job") is None


# Fields of others


def test_autoscalers_replicas_are_left_alone(demo: OneGridNode) -> None:
    demo.create({"autoscaling": {"minReplicas": 1, "maxReplicas": 5}})
    demo.until(lambda: demo.child("HorizontalPodAutoscaler") is not None and not demo.changes())
    scale(demo, 4)
    for _ in range(2):
        assert demo.changes() == []
    assert replicas(demo) == 4
    # Also when the operator writes the Deployment for another reason.
    demo.set_spec({"autoscaling": {"minReplicas": 1, "maxReplicas": 6}, "processesPerPod": 3})
    demo.until(lambda: not demo.changes())
    assert replicas(demo) == 4


def test_pods_keep_their_number_when_an_autoscaler_takes_over_and_when_it_goes(demo: OneGridNode) -> None:
    demo.create({"replicas": 3})
    demo.until_ready()
    version = version_of(demo, "Deployment")
    demo.set_spec({"autoscaling": {"minReplicas": 2, "maxReplicas": 5}})
    demo.until(lambda: demo.child("HorizontalPodAutoscaler") is not None and not demo.changes())
    assert history(demo, version) <= {3}
    scale(demo, 5)
    assert demo.changes() == []
    demo.set_spec({"replicas": 4})
    demo.until(lambda: replicas(demo) == 4)
    assert history(demo, version) == {3, 5, 4}
    assert demo.child("HorizontalPodAutoscaler") is None
    assert demo.changes() == []
    # And all over again, for the fields have had several owners by now.
    version = version_of(demo, "Deployment")
    demo.set_spec({"autoscaling": {"minReplicas": 2, "maxReplicas": 5}})
    demo.until(lambda: demo.child("HorizontalPodAutoscaler") is not None and not demo.changes())
    demo.set_spec({"replicas": 2})
    demo.until(lambda: replicas(demo) == 2 and not demo.changes())
    assert history(demo, version) <= {4, 2}


def history(one: OneGridNode, version: str) -> set[int]:
    """Every number of pods that the Deployment has asked for since a version of it."""
    path = one.gridnodes.path(KIND_PATHS["Deployment"])
    answer = one.control_plane.request("GET", f"{path}?watch=1&resourceVersion={version}&timeoutSeconds=1")
    events = [json.loads(line) for line in answer.body.splitlines()]
    assert {each["type"] for each in events} <= {"ADDED", "MODIFIED"}, events
    return {each["object"]["spec"]["replicas"] for each in events}


def replicas(one: OneGridNode) -> int:
    deployment = one.child("Deployment")
    assert deployment is not None
    number: int = deployment["spec"]["replicas"]
    return number


def scale(one: OneGridNode, number: int) -> None:
    """As an autoscaler does."""
    path = one.gridnodes.path(KIND_PATHS["Deployment"], child_names(one.name).base)
    found = one.control_plane.expect("GET", f"{path}/scale")
    changed = {**found, "spec": {"replicas": number}}
    agent = {"User-Agent": "horizontal-pod-autoscaler"}
    one.control_plane.expect("PUT", f"{path}/scale", changed, headers=agent)


def test_sidecar_of_another_manager_stays(demo: OneGridNode) -> None:
    demo.create({"podTemplate": {"annotations": {"a": "1"}, "volumes": [{"name": "v", "emptyDir": {}}]}})
    demo.until_ready()
    sidecar = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "demo", "annotations": {"injector.example/done": "yes"}, "labels": {"theirs": "yes"}},
        "spec": {
            "template": {
                "metadata": {"annotations": {"injector.example/in": "pod"}},
                "spec": {
                    "containers": [
                        {"name": "sidecar", "image": "sidecar:1"},
                        {"name": "node", "env": [{"name": "THEIRS", "value": "1"}]},
                    ],
                    "volumes": [{"name": "theirs", "emptyDir": {}}],
                },
            }
        },
    }
    demo.patch_child("Deployment", sidecar, APPLY, query="?fieldManager=injector")
    assert demo.changes() == []
    assert_has(demo, sidecar)
    demo.set_spec({"processesPerPod": 3, "podTemplate": {"annotations": {"a": "2"}}})
    demo.until(lambda: not demo.changes())
    assert_has(demo, sidecar)
    deployment = demo.child("Deployment")
    assert deployment is not None
    template = deployment["spec"]["template"]
    assert template["metadata"]["annotations"]["a"] == "2"
    assert [volume["name"] for volume in template["spec"]["volumes"]] == ["gridnode-tmp", "theirs"]
    # What the operator owns is taken back, and nothing else.
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "node", "image": "theirs:1"}]}}}}
    demo.patch_child("Deployment", patch, {"Content-Type": "application/strategic-merge-patch+json"})
    assert demo.changes() == ["apply Deployment demo"]
    assert_has(demo, sidecar)


def assert_has(one: OneGridNode, sidecar: dict[str, Any]) -> None:
    deployment = one.child("Deployment")
    assert deployment is not None
    pod = deployment["spec"]["template"]
    assert {each["name"] for each in pod["spec"]["containers"]} == {"node", "sidecar"}
    node = next(each for each in pod["spec"]["containers"] if each["name"] == "node")
    assert node["image"] == "registry.example/gridnode:1"
    assert {"name": "THEIRS", "value": "1"} in node["env"]
    assert "theirs" in {each["name"] for each in pod["spec"]["volumes"]}
    assert pod["metadata"]["annotations"]["injector.example/in"] == "pod"
    assert deployment["metadata"]["labels"]["theirs"] == "yes"


def test_others_labels_annotations_and_finalizers_stay_on_every_child(demo: OneGridNode) -> None:
    demo.create(ALL_KINDS)
    demo.until(lambda: demo.child("HorizontalPodAutoscaler") is not None and not demo.changes())
    theirs = {"metadata": {"labels": {"backup.example/x": "y"}, "annotations": {"backup.example/x": "y"}}}
    kinds = [key for key in EDITS if key[0] != "HTTPRoute"]
    for kind, suffix in kinds:
        demo.patch_child(kind, theirs, MERGE, suffix=suffix)
    assert demo.changes() == []
    demo.set_spec({**ALL_KINDS, "exposure": {"ingress": {"host": "other.example"}, "service": {"port": 80}}})
    demo.until(lambda: not demo.changes())
    for kind, suffix in kinds:
        child = demo.child(kind, suffix)
        assert child is not None
        assert child["metadata"]["labels"]["backup.example/x"] == "y"
        assert child["metadata"]["annotations"]["backup.example/x"] == "y"


def test_kubectl_scale(demo: OneGridNode) -> None:
    demo.create({"replicas": 1})
    demo.until_ready()
    namespace = demo.gridnodes.namespace
    demo.control_plane.kubectl("scale", "gn", "demo", "--replicas=3", "-n", namespace)
    demo.until(lambda: replicas(demo) == 3)
    demo.until_ready()
    scale_of = demo.control_plane.expect(
        "GET", demo.gridnodes.path("/apis/gridnode.io/v1alpha1/gridnodes", "demo") + "/scale"
    )
    assert scale_of["spec"]["replicas"] == 3
    assert scale_of["status"]["replicas"] == 3
    selected = demo.control_plane.kubectl(
        "get", "pods", "-n", namespace, "-l", scale_of["status"]["selector"], "-o", "name"
    )
    assert len(selected.split()) == 3
    with pytest.raises(AssertionError, match="should be less than or equal to 100"):
        demo.control_plane.kubectl("scale", "gn", "demo", "--replicas=101", "-n", namespace)

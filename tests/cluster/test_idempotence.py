"""Nothing is written when nothing has changed, counted by the API server's audit log; and what is read is bounded."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gridnode.db.migrate import upgrade
from gridnode_operator.api import DATABASE_ADMIN_LABEL
from gridnode_operator.desired import CHILD_KINDS, desired_children
from gridnode_operator.desired.names import database_names
from tests.support.cluster import ControlPlane
from tests.support.gridnode_manifests import ALTERNATIVES, EVERYTHING, context, gridnode
from tests.support.kubelet import Kubelet
from tests.support.one_gridnode import APPLY, KIND_PATHS, MERGE, OneGridNode
from tests.support.operator_faults import quick_migration
from tests.support.operator_process import GridNodes, OperatorProcess, wait_for
from tests.support.optional_apis import optional_apis
from tests.support.shared_database import SharedDatabase

pytestmark = [pytest.mark.cluster]

AGENT = "gridnode-operator"
#: Reads of one reconcile: the GridNode, a list of each kind of child, the optional APIs, and Secrets that pods read.
READS_AT_MOST = 1 + len(CHILD_KINDS) + 2 + 8
PRIORITY_CLASSES = "/apis/scheduling.k8s.io/v1/priorityclasses"
MINIMAL: dict[str, Any] = {}
GROWING = {key: value for key, value in ALTERNATIVES.items() if key != "paused"}


@pytest.fixture(scope="module", autouse=True)
def apis(control_plane: ControlPlane) -> Iterator[None]:
    """All that a GridNode may have, and a PriorityClass that EVERYTHING names."""
    name = EVERYTHING["podTemplate"]["priorityClassName"]
    control_plane.expect("POST", PRIORITY_CLASSES, {"metadata": {"name": name}, "value": 1000})
    with optional_apis(control_plane):
        yield
    control_plane.expect("DELETE", f"{PRIORITY_CLASSES}/{name}")


def everything(one: OneGridNode, second: SharedDatabase) -> dict[str, Any]:
    """EVERYTHING, with all that it names."""
    one.create_secret("second-server", {"url": second.admin_url}, labels={DATABASE_ADMIN_LABEL: "true"})
    one.create_secret("master-login", {"token": "x"})
    one.create_secret("management-login", {"token": "a-token-of-sixteen-or-more"})
    one.create_secret("proxy", {"url": "http://proxy.example"})
    account = {"metadata": {"name": EVERYTHING["podTemplate"]["serviceAccountName"]}}
    one.control_plane.expect("POST", one.gridnodes.path("/api/v1/serviceaccounts"), account)
    return EVERYTHING


@pytest.mark.parametrize("spec", [MINIMAL, EVERYTHING, GROWING], ids=["minimal", "everything", "alternatives"])
def test_second_reconcile_writes_nothing(
    control_plane: ControlPlane, namespace: str, shared: SharedDatabase, spec: dict[str, Any]
) -> None:
    one = OneGridNode(control_plane, namespace, shared.admin_url, operator_namespace=namespace)

    def migrate(environment: dict[str, str]) -> None:
        # The login of EVERYTHING has no password, and its certificates are nowhere.
        schema = spec.get("database", {}).get("schema") or database_names(namespace, "demo").schema
        upgrade(shared.server.server.url_of(shared.name), schema=schema)

    one.create(everything(one, shared) if spec is EVERYTHING else spec)
    with Kubelet(control_plane, migrate):
        # An Ingress or HTTPRoute that no controller answers for is no reason not to be ready.
        if spec is EVERYTHING:
            one.until(lambda: one.child("Deployment") is not None and not one.steps)
            give_address(one, "Ingress")
            give_address(one, "Service")
        one.until_ready()
        since = control_plane.audit_position()
        for _ in range(3):
            assert one.reconcile().problem is None
        assert control_plane.audit_log.writes(user_agent=AGENT, since=since) == []
        assert one.steps == []
        reads = [each for each in control_plane.audit_events(since) if each.user_agent == AGENT]
        assert {each.verb for each in reads} == {"get", "list"}
        assert len(reads) <= 3 * READS_AT_MOST, Counter((each.verb, each.object.resource) for each in reads)
        # Another operator begins with nothing but what it reads.
        again = OneGridNode(control_plane, namespace, shared.admin_url, operator_namespace=namespace)
        since = control_plane.audit_position()
        again.reconcile()
        again.reconcile()
        assert control_plane.audit_log.writes(user_agent=AGENT, since=since) == []


def give_address(one: OneGridNode, kind: str) -> None:
    """What a load balancer's controller writes."""
    child = one.child(kind)
    assert child is not None
    path = one.gridnodes.path(KIND_PATHS[kind], child["metadata"]["name"])
    patch = {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}
    one.control_plane.expect("PATCH", f"{path}/status", patch, headers=MERGE)


def test_paused_gridnode_is_never_written(control_plane: ControlPlane, namespace: str, shared: SharedDatabase) -> None:
    one = OneGridNode(control_plane, namespace, shared.admin_url)
    one.create(ALTERNATIVES)
    assert one.reconcile().state in ("Paused", "Degraded")
    since = control_plane.audit_position()
    one.reconcile()
    one.reconcile()
    assert control_plane.audit_log.writes(user_agent=AGENT, since=since) == []
    assert one.children() == {}


@pytest.mark.parametrize("state", ["migrating", "pods that don't get ready"])
def test_waiting_writes_nothing(
    control_plane: ControlPlane, namespace: str, shared: SharedDatabase, state: str
) -> None:
    one = OneGridNode(control_plane, namespace, shared.admin_url)
    one.create()
    with Kubelet(control_plane, quick_migration) as kubelet:
        if state == "migrating":
            kubelet.hold()
            one.until(lambda: one.condition("Migrated")[1] == "Migrating" and not one.steps)
        else:
            one.until_ready()
            kubelet.hold()
            one.set_spec({"processesPerPod": 3})
            one.until(lambda: one.condition("Ready")[1] == "PodsNotReady" or one.condition("Ready")[1] == "RollingOut")
            one.until(lambda: not one.steps and len(one.gridnodes.all("/api/v1/pods")) == 3)
            one.until(lambda: not one.steps)
        since = control_plane.audit_position()
        for _ in range(3):
            one.reconcile()
        assert control_plane.audit_log.writes(user_agent=AGENT, since=since) == []
        kubelet.release()
        one.until_ready()


def test_running_operator_writes_nothing_while_nothing_changes_nor_when_it_is_restarted(
    control_plane: ControlPlane, namespace: str, shared: SharedDatabase, tmp_path: Path
) -> None:
    gridnodes = GridNodes(control_plane, namespace)
    settings = {"WATCH_NAMESPACES": namespace, "RESYNC_INTERVAL": "2"}
    specs = {"minimal": MINIMAL, "growing": GROWING, "scaled": {"replicas": 2, "networkPolicy": {"enabled": True}}}
    operator = OperatorProcess(control_plane.kubeconfig_path(), shared.admin_url, tmp_path, settings)

    def reconciles() -> float:
        for line in operator.get("/metrics")[1].splitlines():
            if line.startswith('gridnode_operator_reconciles_total{result="ok"}'):
                return float(line.split()[-1])
        return 0.0

    with Kubelet(control_plane, quick_migration):
        for name, spec in specs.items():
            gridnodes.create(name, spec)
        with operator:
            wait_for(lambda: all(gridnodes.condition("Ready", name)[0] == "True" for name in specs), specs)
            # The autoscaler's controller looks every 15 seconds.
            wait_for(lambda: gridnodes.status("growing")["readyReplicas"] == 2, lambda: gridnodes.status("growing"))
            time.sleep(1)  # for the last words of the rollout
            since, before = control_plane.audit_position(), reconciles()
            wait_for(lambda: reconciles() >= before + 2 * len(specs), operator.log_path.read_text)
            assert control_plane.audit_log.writes(user_agent=AGENT, since=since) == []
        since = control_plane.audit_position()
        with operator:
            wait_for(lambda: reconciles() >= 2 * len(specs), operator.log_path.read_text)
            assert control_plane.audit_log.writes(user_agent=AGENT, since=since) == []
            reads = [each for each in control_plane.audit_events(since) if each.user_agent == AGENT]
            assert len(reads) <= (reconciles() + 2 * len(specs)) * READS_AT_MOST


@pytest.mark.parametrize("spec", [MINIMAL, EVERYTHING, GROWING], ids=["minimal", "everything", "alternatives"])
def test_server_accepts_every_manifest_as_it_is(
    control_plane: ControlPlane, namespace: str, spec: dict[str, Any]
) -> None:
    """The manifests of the builders' snapshots: no unknown field, nothing that the server would refuse or warn of."""
    accept(control_plane, desired_children(gridnode(spec, namespace=namespace), context()))


def test_server_accepts_manifests_of_a_long_name(control_plane: ControlPlane, namespace: str) -> None:
    node = gridnode(EVERYTHING, name="0.very-" + "long-" * 49 + "x", namespace=namespace)
    accept(control_plane, desired_children(node, context()))
    accept(control_plane, desired_children(gridnode(GROWING, name="9" * 253, namespace=namespace), context()))


def accept(control_plane: ControlPlane, manifests: list[dict[str, Any]]) -> None:
    """Have the server check manifests, as an apply and as a creation, without storing them."""
    strict = "dryRun=All&fieldValidation=Strict&fieldManager=tests"
    for manifest in manifests:
        kind, metadata = manifest["kind"], manifest["metadata"]
        prefix, _, plural = KIND_PATHS[kind].rpartition("/")
        path = f"{prefix}/namespaces/{metadata['namespace']}/{plural}"
        created = control_plane.expect("POST", f"{path}?{strict}", manifest)
        applied = control_plane.expect(
            "PATCH", f"{path}/{metadata['name']}?{strict}&force=true", manifest, headers=APPLY
        )
        for found in (created, applied):
            assert found["metadata"]["name"] == metadata["name"]
            assert contains(found, manifest), kind
            assert len(metadata["name"]) <= 63


def contains(found: Any, wanted: Any) -> bool:
    """Whether everything that is wanted has arrived; quantities may be written otherwise."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(contains(found.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(contains, found, wanted))
    return bool(found == wanted or (not wanted and found is None))


HOSTILE_PODS: dict[str, dict[str, Any]] = {
    "empty values": {
        "env": [{"name": "A", "value": ""}, {"name": "B"}],
        "labels": {"empty": ""},
        "annotations": {"empty": ""},
        "nodeSelector": {"empty": ""},
        "affinity": {"nodeAffinity": {}, "podAffinity": {}},
        "tolerations": [{"operator": "Exists", "key": ""}, {"key": "a", "value": ""}],
        "volumes": [{"name": "v", "emptyDir": {"medium": ""}}, {"name": "h", "configMap": {"name": "c", "items": []}}],
        "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "", "readOnly": False}],
    },
    "unicode": {
        "annotations": {"a": "größer 日本語 🦜 \u202e \u0000".replace("\u0000", "\t\n'\"")},
        "env": [{"name": "A", "value": "größer 日本語 🦜\n$(B) $$(C) {{ x }} # : - *"}],
    },
    "numbers": {
        "volumes": [
            {"name": "a", "emptyDir": {"sizeLimit": 1073741824}},
            {"name": "b", "emptyDir": {"sizeLimit": "1024Mi"}},
            {"name": "c", "secret": {"secretName": "s", "defaultMode": 0, "items": [{"key": "k", "path": "p"}]}},
        ],
        "env": [
            {"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1000m"}}},
            {"name": "B", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": 1}}},
            {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
            {"name": "D", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
        "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0}],
    },
    "filled in by the server": {
        "volumes": [
            {
                "name": "a",
                "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}, {"secret": {"name": "s"}}]},
            },
            {"name": "b", "downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "metadata.name"}}]}},
            {
                "name": "c",
                "ephemeral": {
                    "volumeClaimTemplate": {
                        "spec": {
                            "accessModes": ["ReadWriteOnce"],
                            "resources": {"requests": {"storage": "1024Mi"}, "limits": {"storage": "2048Mi"}},
                        }
                    }
                },
            },
            {"name": "d", "csi": {"driver": "d.example", "volumeAttributes": {"a": ""}}},
        ],
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "a", "whenUnsatisfiable": "ScheduleAnyway"},
            {"maxSkew": 1, "topologyKey": "a", "whenUnsatisfiable": "DoNotSchedule"},
        ],
        "affinity": {
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 1, "podAffinityTerm": {"topologyKey": "a", "labelSelector": {}, "namespaces": []}}
                ]
            }
        },
    },
    "own tmp": {
        "volumes": [{"name": "scratch", "emptyDir": {}}],
        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}, {"name": "scratch", "mountPath": "/data"}],
    },
}
QUANTITIES: list[dict[str, Any]] = [
    {"requests": {"cpu": "1000m", "memory": "1024Mi"}, "limits": {"cpu": 2, "memory": 2147483648}},
    {"requests": {"cpu": "0.5", "memory": "1e9"}, "limits": {"cpu": "1.50", "ephemeral-storage": "1.5Gi"}},
    {"requests": {}, "limits": {"memory": "1Gi", "nvidia.com/gpu": "1"}},
    {"requests": {"cpu": 0, "memory": "1000000Ki", "hugepages-2Mi": "4Mi"}, "limits": {"hugepages-2Mi": "4096Ki"}},
    {"requests": {"cpu": "100u", "memory": "123456789m"}},
    {"requests": {"memory": "7E", "cpu": "1.0001"}},
    {"limits": {"memory": "1e18", "cpu": "00.10"}},
]


def test_odd_values_are_applied_once(control_plane: ControlPlane, namespace: str, shared: SharedDatabase) -> None:
    """Whatever the API server makes of a value, it is not taken for a change that is to be put back for ever."""
    one = OneGridNode(control_plane, namespace, shared.admin_url)
    one.create()
    with Kubelet(control_plane, quick_migration):
        one.until_ready()
        specs = [*({"podTemplate": each} for each in HOSTILE_PODS.values()), *({"resources": q} for q in QUANTITIES)]
        for spec in specs:
            one.set_spec(copy.deepcopy(spec))
            one.until(lambda: "apply Deployment demo" in one.steps)
            assert one.condition("Degraded")[1] != "NotApplied", one.condition("Degraded")
            since = control_plane.audit_position()
            assert one.changes() == [], spec
            writes = control_plane.audit_log.writes(user_agent=AGENT, since=since)
            assert {each.object.resource for each in writes} <= {"gridnodes", "events"}, spec

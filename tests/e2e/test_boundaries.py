"""Who may reach what over the network, and who may do what with the API server: what is documented, and no more."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytest
import yaml

from tests.support.chart import CHART, NAMESPACE, RELEASE
from tests.support.real_cluster.release import RESTRICTED, GridNodeUnderTest
from tests.support.real_cluster.target import Target, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

#: Group, resource, verb and name; the name is empty where all are meant.
Right = tuple[str, str, str, str]
FOREIGN = "elsewhere"
_PROGRAM = """
import json, socket, sys
reached = {}
for address in sys.argv[1:]:
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
        reached[address] = True
    except OSError as error:
        reached[address] = False
        print(address, error, file=sys.stderr)
print(json.dumps(reached))
"""


@pytest.fixture
def foreign_namespace(target: Target) -> Iterator[str]:
    """A namespace that has nothing to do with GridNode."""
    target.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": FOREIGN, "labels": RESTRICTED}})
    yield FOREIGN
    target.kubectl("delete", "namespace", FOREIGN, "--wait=false")


def test_a_foreign_pod_reaches_what_is_for_phones_and_nothing_else(
    keyboard: GridNodeUnderTest, foreign_namespace: str
) -> None:
    device = f"{keyboard.name}.{keyboard.namespace}.svc:5000"
    management = f"{keyboard.name}-management.{keyboard.namespace}.svc:5050"
    database = f"{RELEASE}-database.{NAMESPACE}.svc:5432"
    found = reached(keyboard, foreign_namespace, {}, device, management, database)
    assert found == {device: True, management: False, database: False}


def test_the_operator_s_pods_reach_the_management_port(keyboard: GridNodeUnderTest) -> None:
    management = f"{keyboard.name}-management.{keyboard.namespace}.svc:5050"
    labels = {"app.kubernetes.io/name": "gridnode-operator"}
    assert reached(keyboard, NAMESPACE, labels, management) == {management: True}


def reached(keyboard: GridNodeUnderTest, namespace: str, labels: dict[str, str], *addresses: str) -> Any:
    """Which addresses a pod can connect to."""
    target = keyboard.target
    image = keyboard.target.get("gn", keyboard.name, keyboard.namespace)["status"]["image"]
    secure = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {"name": "probe", "image": image, "command": ["python", "-c", _PROGRAM, *addresses]}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "probe", "namespace": namespace, "labels": labels},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            # Rules for a new address are there a moment after it.
            "initContainers": [{**container, "name": "pause", "command": ["sleep", "5"], "securityContext": secure}],
            "containers": [{**container, "securityContext": secure}],
        },
    }
    target.apply(pod)
    try:
        wait_for("the pod has tried", lambda: phase(target, namespace) in ("Succeeded", "Failed"), 90)
        said = target.kubectl("logs", "probe", "-n", namespace, "-c", "probe")
        assert phase(target, namespace) == "Succeeded", said
        return json.loads(said.splitlines()[-1])
    finally:
        target.kubectl("delete", "pod", "probe", "-n", namespace, "--grace-period=0", "--force")


def phase(target: Target, namespace: str) -> str:
    """Whether the pod has ended."""
    found: str = target.get("pod", "probe", namespace)["status"]["phase"]
    return found


def test_the_operator_may_do_what_is_documented_and_no_more(keyboard: GridNodeUnderTest) -> None:
    documented = yaml.safe_load((CHART / "files" / "operator-rules.yaml").read_text(encoding="utf-8"))
    account = f"system:serviceaccount:{NAMESPACE}:{RELEASE}-operator"
    anywhere = rights(documented["cluster"])
    assert rights_of(keyboard.target, account, keyboard.namespace) == anywhere
    assert rights_of(keyboard.target, account, NAMESPACE) == anywhere | rights(documented["own"])


def test_a_node_may_do_nothing(keyboard: GridNodeUnderTest) -> None:
    account = f"system:serviceaccount:{keyboard.namespace}:{keyboard.name}"
    assert rights_of(keyboard.target, account, keyboard.namespace) == set()


def test_helm_test_passes(keyboard: GridNodeUnderTest) -> None:
    said = keyboard.release.helm("test", "--logs", "--timeout=100s")
    assert "is trained: 2 cycles, 8 reports" in said
    assert "trial" not in keyboard.target.kubectl("get", "gn", "-A")


def rights_of(target: Target, account: str, namespace: str) -> set[Right]:
    """What `kubectl auth can-i --list` shows for an account, but for what everybody may do."""
    everybody = listed(target, "system:serviceaccount:default:default", namespace)
    return listed(target, account, namespace) - everybody


def listed(target: Target, account: str, namespace: str) -> set[Right]:
    """All that an account may do in a namespace."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    said = target.kubectl(
        "create", "--validate=false", "-f", "-", "-o", "json", f"--as={account}", given=json.dumps(review)
    )
    return rights(json.loads(said)["status"]["resourceRules"])


def rights(rules: Iterable[Mapping[str, Any]]) -> set[Right]:
    """Rules of a role, one by one."""
    return {
        (group, resource, verb, name)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames") or [""]
    }

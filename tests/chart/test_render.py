"""What helm makes of the chart, without a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from gridnode_operator import rbac
from gridnode_operator.desired.context import DesiredContext, NodeSecrets
from gridnode_operator.master.settings import load_master_settings
from gridnode_operator.settings import load_settings
from tests.support.chart import (
    CHART,
    COMBINATIONS,
    NAMESPACE,
    ROOT,
    HelmRefused,
    Manifest,
    one,
    run_helm,
    template,
)
from tests.support.helm.build import MAJORS, Major

pytestmark = [pytest.mark.cluster]

SNAPSHOT = Path(__file__).parent / "default.yaml"
GENERATED = "(generated)"


def containers(manifests: list[Manifest]) -> list[tuple[str, Manifest, Manifest]]:
    """Name, pod's spec and container of everything that runs."""
    found = []
    for each in manifests:
        spec = each["spec"] if each["kind"] == "Pod" else each.get("spec", {}).get("template", {}).get("spec")
        for container in (spec or {}).get("containers", []):
            found.append((f"{each['kind']}/{each['metadata']['name']}", spec, container))
    return found


@pytest.mark.parametrize("major", MAJORS)
def test_lint_finds_nothing(major: Major) -> None:
    assert "0 chart(s) failed" in run_helm("lint", "--strict", str(CHART), major=major)


@pytest.mark.parametrize("name", COMBINATIONS)
def test_combination_renders_alike_in_helm_3_and_helm_4(name: str) -> None:
    rendered = [without_generated(template(COMBINATIONS[name], major=major)) for major in MAJORS]
    assert rendered[0] == rendered[1]
    names = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in rendered[0]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", COMBINATIONS)
def test_pods_conform_to_restricted_and_show_no_secret_in_their_environment(name: str) -> None:
    found = containers(template(COMBINATIONS[name]))
    assert found
    for where, spec, container in found:
        assert spec["securityContext"]["runAsNonRoot"] is True, where
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert spec["enableServiceLinks"] is False, where
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }, where
        assert container["resources"]["requests"], where
        for variable in container.get("env", []):
            assert "secretKeyRef" not in variable.get("valueFrom", {}), where


def test_defaults_are_as_recorded() -> None:
    assert snapshot() == SNAPSHOT.read_text(encoding="utf-8"), (
        "If the change is meant: python -m tests.chart.record, and look at the difference."
    )


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"operatr": {}}, "operatr"),
        ({"operator": {"replicas": 2}}, "replicas"),
        ({"operator": {"workers": 0}}, "workers"),
        ({"operator": {"workers": "many"}}, "workers"),
        ({"operator": {"logLevel": "loud"}}, "logLevel"),
        ({"operator": {"resources": {"limit": {}}}}, "limit"),
        ({"images": {"operator": {"digest": "sha256:12"}}}, "digest"),
        ({"images": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"watchNamespaces": ["Team_A"]}, "watchNamespaces"),
        ({"watchNamespaces": "team-a"}, "watchNamespaces"),
        ({"database": {"embedded": {"enabled": "yes"}}}, "enabled"),
        ({"database": {"embedded": {"size": "big"}}}, "size"),
        ({"database": {"url": "postgresql://u:p@h/d"}}, "url"),
        ({"master": {"service": {"port": 70000}}}, "port"),
        ({"master": {"database": {"schema": "pg catalog"}}}, "schema"),
        ({"master": {"external": {"url": "master:5001"}}}, "url"),
        ({"monitoring": {"podMonitor": {"interval": "often"}}}, "interval"),
        ({"test": {"timeout": 1}}, "timeout"),
    ],
)
def test_schema_refuses_what_is_no_value(values: Mapping[str, Any], complaint: str) -> None:
    with pytest.raises(HelmRefused, match=complaint):
        template(values)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"database": {"embedded": {"enabled": True}, "existingSecret": {"name": "x"}}}, "exclude each other"),
        ({"master": {"external": {"url": "https://master.example"}}}, "master.enabled to false"),
        ({"master": {"ingress": {"enabled": True}}}, "needs master.ingress.host"),
        ({"master": {"oidc": {"issuer": "https://i.example"}}}, "needs master.oidc.existingSecret"),
        ({"master": {"oidc": {"issuer": "https://i.example", "existingSecret": "x"}}}, "nobody may sign in"),
        (
            {"master": {"oidc": {"issuer": "https://i.example", "existingSecret": "x", "groups": ["sre"]}}},
            "needs master.publicUrl",
        ),
        ({"master": {"httpRoute": {"enabled": True, "hostnames": ["a"]}}}, "needs master.httpRoute.parentRefs"),
        (
            {
                "master": {
                    "ingress": {"enabled": True, "host": "a"},
                    "httpRoute": {"enabled": True, "hostnames": ["a"], "parentRefs": [{"name": "b"}]},
                }
            },
            "exclude each other",
        ),
        ({"master": {"replicas": 2}}, "set master.storage.url"),
        ({"watchNamespaces": ["a"], "master": {"namespace": "b"}}, "not in watchNamespaces"),
    ],
)  # fmt: skip
def test_values_that_contradict_each_other_are_refused_with_what_to_do(
    values: Mapping[str, Any], complaint: str
) -> None:
    with pytest.raises(HelmRefused, match=complaint):
        template(values)


def test_roles_of_the_operator_are_those_that_it_is_tested_with() -> None:
    for watched in ((), ("team-a", "team-b")):
        manifests = template({"watchNamespaces": list(watched)})
        ours = {
            key(each): each["rules"]
            for each in manifests
            if "rules" in each and "-operator" in each["metadata"]["name"]
        }
        tested = {
            key(each): each["rules"]
            for each in rbac.manifests("gridnode-operator", NAMESPACE, watched)
            if "rules" in each
        }
        assert ours == tested


def test_install_for_some_namespaces_gives_no_right_beyond_them_but_to_list_gridnodes() -> None:
    manifests = template({"watchNamespaces": ["team-a"], "rbac": {"aggregate": False}}, hooks=False)
    cluster_roles = [each for each in manifests if each["kind"] == "ClusterRole"]
    rules = [rule for each in cluster_roles for rule in each["rules"]]
    assert rules == [{"apiGroups": ["gridnode.io"], "resources": ["gridnodes"], "verbs": ["get", "list"]}]
    bound = {each["metadata"]["namespace"] for each in manifests if each["kind"] == "RoleBinding"}
    assert bound == {"team-a", NAMESPACE}


@pytest.mark.parametrize("name", COMBINATIONS)
def test_settings_of_operator_and_master_node_can_be_read(name: str, tmp_path: Path) -> None:
    """A variable's name that is wrong would be ignored by the process."""
    manifests = template(COMBINATIONS[name])
    known = {f"GRIDNODE_OPERATOR_{field.upper()}" for field in load_settings({}).__slots__}
    known |= {f"GRIDNODE_MASTER_{field.upper()}" for field in load_master_settings({}).__slots__}
    for where, spec, container in containers(manifests):
        environment = {}
        for variable in container.get("env", []):
            if variable["name"].startswith("GRIDNODE_"):
                assert variable["name"].removesuffix("_FILE") in known, where
                environment[variable["name"]] = variable.get("value", "a-namespace")
        for file in [variable for variable in environment if variable.endswith("_FILE")]:
            assert mounted_from_a_secret(spec, container, environment[file]), (where, file)
            path = tmp_path / file
            path.write_text("postgresql://u:p@h/d" if "DATABASE" in file else "k" * 48)
            environment[file] = str(path)
        load_settings(environment)
        load_master_settings(environment)


def test_operator_finds_the_master_node_and_may_be_reached_by_no_other_name() -> None:
    manifests = template({"master": {"service": {"port": 80}}})
    [container] = one(manifests, "Deployment", "gridnode-operator")["spec"]["template"]["spec"]["containers"]
    urls = [each["value"] for each in container["env"] if each["name"] == "GRIDNODE_OPERATOR_MASTER_URL"]
    assert urls == [f"http://gridnode-master.{NAMESPACE}.svc:80"]
    service = one(manifests, "Service", "gridnode-master")
    assert service["spec"]["ports"][0]["port"] == 80
    labels = one(manifests, "Deployment", "gridnode-master")["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()


def test_pods_of_the_release_are_let_in_by_the_network_policies_of_nodes() -> None:
    """They reach the management port: the operator asks for progress, the master node fetches checkpoints."""
    expected = DesiredContext(
        default_image="", schema_revision="", secrets=NodeSecrets(database_url="", management_token="")
    ).operator_labels
    manifests = template()
    for kind, name in (
        ("Deployment", "gridnode-operator"),
        ("Deployment", "gridnode-master"),
        ("Pod", "gridnode-test"),
    ):
        found = one(manifests, kind, name)
        labels = found["metadata"]["labels"] if kind == "Pod" else found["spec"]["template"]["metadata"]["labels"]
        assert expected.items() <= labels.items(), name


def test_labels_of_the_chart_win_over_those_that_are_given() -> None:
    manifests = template(COMBINATIONS["all that pods may be given"])
    deployment = one(manifests, "Deployment", "gridnode-operator")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels["sidecar"] == "no"
    assert labels["team"] == "phones"
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_image_names() -> None:
    manifests = template(COMBINATIONS["private registry"])
    [operator] = one(manifests, "Deployment", "gridnode-operator")["spec"]["template"]["spec"]["containers"]
    assert operator["image"] == f"registry.example:5000/mirror/gridnode/operator@sha256:{'0' * 64}"
    [node] = [each["value"] for each in operator["env"] if each["name"] == "GRIDNODE_OPERATOR_IMAGE"]
    assert node == "registry.example:5000/mirror/gridnode/node:2"


def test_release_of_another_name_does_not_collide() -> None:
    text = run_helm("template", "blue", str(CHART), "--namespace", NAMESPACE)
    names = {each["metadata"]["name"] for each in yaml.safe_load_all(text) if each}
    assert {"blue-gridnode-operator", "blue-gridnode-master"} <= names
    other = {each["metadata"]["name"] for each in template()}
    assert names & other == {"gridnodes.gridnode.io"}


def test_crd_is_that_of_the_checkout_and_stays_when_wished() -> None:
    original = yaml.safe_load((ROOT / "crds" / "gridnodes.gridnode.io.yaml").read_text(encoding="utf-8"))
    for keep in (True, False):
        crd = one(template({"crds": {"keep": keep}}), "CustomResourceDefinition", "gridnodes.gridnode.io")
        assert crd["spec"] == original["spec"]
        assert crd["metadata"].get("annotations", {}) == ({"helm.sh/resource-policy": "keep"} if keep else {})
    assert not [each for each in template({"crds": {"install": False}}) if each["kind"] == "CustomResourceDefinition"]


def snapshot() -> str:
    """What the defaults make, without the CRD."""
    manifests = [each for each in without_generated(template()) if each["kind"] != "CustomResourceDefinition"]
    return yaml.safe_dump_all(manifests, sort_keys=False)


def key(manifest: Manifest) -> tuple[str, str | None, str]:
    """Kind, namespace and name."""
    return manifest["kind"], manifest["metadata"].get("namespace"), manifest["metadata"]["name"]


def mounted_from_a_secret(spec: Manifest, container: Manifest, path: str) -> bool:
    """Whether a file of a container comes from a Secret's key."""
    folder, _, file = path.rpartition("/")
    volumes = [mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == folder]
    secrets = [volume.get("secret") for volume in spec["volumes"] if volume["name"] in volumes]
    return any(item["path"] == file for secret in secrets if secret for item in secret["items"])


def without_generated(manifests: list[Manifest]) -> list[Manifest]:
    """The same without random texts."""
    for each in manifests:
        if each["kind"] == "Secret":
            each["data"] = dict.fromkeys(each["data"], GENERATED)
    return manifests

"""The master node's provider on a real API server: GridNodes that it makes, sees and removes."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import ApiClient, CoreV1Api, CustomObjectsApi, V1ObjectMeta, V1Secret

from gridnode_operator.api import GROUP, PLURAL, VERSION
from gridnode_operator.master.errors import ProviderFailed
from gridnode_operator.master.nodes.kubernetes import KubernetesProvider
from gridnode_operator.master.nodes.provider import ManagementAccess, NodeRequest
from gridnode_operator.master.nodes.template import NodeTemplate
from tests.support.cluster import ADMIN, ControlPlane

pytestmark = pytest.mark.cluster

REQUEST = NodeRequest(name="dataset-steps-1", dataset="steps", owner="ann")


@pytest.fixture
def provider(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> KubernetesProvider:
    """One whose GridNodes have two replicas and a host of their own."""
    template = tmp_path / "spec.yaml"
    template.write_text("replicas: 2\nexposure: {ingress: {host: '{name}.example.org'}}\n")
    return KubernetesProvider(
        NodeTemplate(template), namespace=namespace, kubeconfig=control_plane.kubeconfig_path(ADMIN)
    )


@pytest.fixture
def gridnodes(cluster_client: ApiClient, namespace: str) -> Iterator[CustomObjectsApi]:
    """The API of GridNodes; removes what a test leaves."""
    api = CustomObjectsApi(cluster_client)
    yield api
    for each in listed(api, namespace):
        api.delete_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, each["metadata"]["name"])


def listed(gridnodes: CustomObjectsApi, namespace: str) -> list[dict[str, Any]]:
    """All GridNodes of the namespace."""
    found: Any = gridnodes.list_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL)
    items: list[dict[str, Any]] = found["items"]
    return items


def make_secret(client: ApiClient, namespace: str, name: str, token: str) -> None:
    """A Secret as the operator makes it for a node's management port."""
    data: dict[str, bytes | str] = {"token": base64.b64encode(token.encode()).decode()}
    CoreV1Api(client).create_namespaced_secret(namespace, V1Secret(metadata=V1ObjectMeta(name=name), data=data))


def read(gridnodes: CustomObjectsApi, namespace: str, name: str = REQUEST.name) -> dict[str, Any]:
    """A GridNode as it is."""
    found: Any = gridnodes.get_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, name)
    gridnode: dict[str, Any] = found
    return gridnode


def make(gridnodes: CustomObjectsApi, namespace: str, name: str) -> None:
    """A GridNode that somebody else made."""
    manifest = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "GridNode", "metadata": {"name": name}, "spec": {}}
    gridnodes.create_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, manifest)


def test_create_makes_the_gridnode_once(
    provider: KubernetesProvider, gridnodes: CustomObjectsApi, namespace: str
) -> None:
    assert provider.create(REQUEST) == f"{namespace}/dataset-steps-1"
    made = read(gridnodes, namespace)
    assert made["spec"]["replicas"] == 2
    assert made["spec"]["exposure"]["ingress"]["host"] == "dataset-steps-1.example.org"
    assert made["metadata"]["annotations"]["gridnode.io/owner"] == "ann"
    assert provider.create(REQUEST) == f"{namespace}/dataset-steps-1"
    assert read(gridnodes, namespace)["metadata"]["uid"] == made["metadata"]["uid"]


def test_gridnode_of_somebody_else_is_left_alone(
    provider: KubernetesProvider, gridnodes: CustomObjectsApi, namespace: str
) -> None:
    make(gridnodes, namespace, REQUEST.name)
    with pytest.raises(ProviderFailed, match="did not make"):
        provider.create(REQUEST)
    with pytest.raises(ProviderFailed, match="not made by a master node"):
        provider.delete(f"{namespace}/{REQUEST.name}")
    assert read(gridnodes, namespace)


def test_delete_is_repeatable(provider: KubernetesProvider, gridnodes: CustomObjectsApi, namespace: str) -> None:
    provider.create(REQUEST)
    provider.delete(f"{namespace}/{REQUEST.name}")
    provider.delete(f"{namespace}/{REQUEST.name}")
    assert listed(gridnodes, namespace) == []


def test_status_is_observed(provider: KubernetesProvider, gridnodes: CustomObjectsApi, namespace: str) -> None:
    provider.create(REQUEST)
    (fresh,) = [node for node in provider.observe() if node.node_id.startswith(f"{namespace}/")]
    assert (fresh.ready, fresh.url, list(fresh.conditions)) == (False, None, [])
    condition = {
        "type": "Ready", "status": "True", "reason": "Ready", "message": "All is well.",
        "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1,
    }  # fmt: skip
    status = {
        "url": "https://dataset-steps-1.example.org", "conditions": [condition], "replicas": 2, "readyReplicas": 2,
    }  # fmt: skip
    gridnodes.patch_namespaced_custom_object_status(GROUP, VERSION, namespace, PLURAL, REQUEST.name, {"status": status})
    (node,) = [node for node in provider.observe() if node.node_id.startswith(f"{namespace}/")]
    assert (node.ready, node.url) == (True, "https://dataset-steps-1.example.org")
    assert (node.replicas, node.ready_replicas, list(node.conditions)) == (2, 2, [condition])


def test_management_is_the_nodes_service_with_the_token_of_its_secret(
    provider: KubernetesProvider, cluster_client: ApiClient, namespace: str
) -> None:
    provider.create(REQUEST)
    node_id = f"{namespace}/{REQUEST.name}"
    with pytest.raises(ProviderFailed, match="token can't be read"):
        provider.management(node_id)
    make_secret(cluster_client, namespace, f"{REQUEST.name}-management", "opensesame")
    assert provider.management(node_id) == ManagementAccess(
        url=f"http://{REQUEST.name}-management.{namespace}.svc:5050", token="opensesame"
    )
    assert provider.management(f"{namespace}/nothing") is None
    assert provider.management("no-namespace") is None


def test_long_name_is_found_by_its_shortened_id(
    provider: KubernetesProvider, gridnodes: CustomObjectsApi, namespace: str, cluster_client: ApiClient
) -> None:
    name = "n" * 250
    make(gridnodes, namespace, name)
    (node,) = [node for node in provider.observe() if node.node_id.startswith(f"{namespace}/")]
    assert len(node.node_id) < 250
    base = node.node_id.removeprefix(f"{namespace}/")
    make_secret(cluster_client, namespace, f"{base}-management", "t")
    access = provider.management(node.node_id)
    assert access is not None
    assert access.url == f"http://{base}-management.{namespace}.svc:5050"


def test_other_namespaces_than_those_watched_are_left_alone(
    control_plane: ControlPlane, gridnodes: CustomObjectsApi, namespace: str, cluster_client: ApiClient
) -> None:
    make(gridnodes, namespace, "one")
    make_secret(cluster_client, namespace, "one-management", "opensesame")

    def provider(*watched: str) -> KubernetesProvider:
        kubeconfig = control_plane.kubeconfig_path(ADMIN)
        return KubernetesProvider(NodeTemplate(None), namespace="default", watched=watched, kubeconfig=kubeconfig)

    def sees(provider: KubernetesProvider) -> bool:
        return f"{namespace}/one" in [node.node_id for node in provider.observe()]

    assert (sees(provider()), sees(provider(namespace)), sees(provider("kube-system"))) == (True, True, False)
    assert provider(namespace).management(f"{namespace}/one") is not None
    assert provider("kube-system").management(f"{namespace}/one") is None


def test_api_server_that_is_away_is_told_in_time(control_plane: ControlPlane, tmp_path: Path) -> None:
    config = tmp_path / "kubeconfig"
    config.write_text(
        control_plane.kubeconfig_path(ADMIN).read_text().replace(control_plane.url, "https://127.0.0.1:9")
    )
    provider = KubernetesProvider(NodeTemplate(None), namespace="default", kubeconfig=config)
    started = time.monotonic()
    with pytest.raises(ProviderFailed, match="does not answer"):
        provider.observe()
    assert time.monotonic() - started < 5

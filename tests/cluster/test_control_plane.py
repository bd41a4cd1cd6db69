"""The control plane of the tests does what a real one does, so that tests on it mean something."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes
import psutil
import pytest
import urllib3
from kubernetes.client import ApiClient, Configuration

from tests.support.cluster import ControlPlane
from tests.support.control_plane.build import kubernetes_version
from tests.support.control_plane.namespaces import create_namespace, delete_namespace

pytestmark = pytest.mark.cluster


def crd(plural: str, kind: str) -> dict[str, Any]:
    """A CustomResourceDefinition in example.com, with one field."""
    size = {"type": "integer", "default": 3, "maximum": 9}
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"size": size}}}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"kind": kind, "plural": plural, "singular": kind.lower()}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": names, "versions": [version]},
    }


def eventually(promise: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Wait until a promise holds."""
    deadline = time.monotonic() + seconds
    while not promise():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def deployment(name: str, replicas: int = 2) -> dict[str, Any]:
    """A Deployment that asks for pods of any image."""
    labels = {"app": name}
    container = {"name": "main", "image": "example.com/nothing:1"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


def config_map(name: str, **metadata: Any) -> dict[str, Any]:
    """A ConfigMap that holds nothing of interest."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, **metadata},
        "data": {"key": "value"},
    }  # fmt: skip


def who_am_i(configuration: Configuration) -> Any:
    """The user that the API server sees."""
    with ApiClient(configuration) as client:
        authentication: Any = kubernetes.client.AuthenticationV1Api(client)
        return authentication.create_self_subject_review({}).status.user_info


def items(control_plane: ControlPlane, path: str) -> list[dict[str, Any]]:
    """What a list holds."""
    found: list[dict[str, Any]] = control_plane.expect("GET", path)["items"]
    return found


def test_api_server_answers_with_its_version(control_plane: ControlPlane, cluster_client: ApiClient) -> None:
    answered: Any = kubernetes.client.VersionApi(cluster_client).get_code()
    # Binaries that somebody has brought along may be of another release.
    brought = "KUBEBUILDER_ASSETS" in os.environ
    assert re.fullmatch(r"v1\.\d+\.\d+" if brought else re.escape(kubernetes_version()), answered.git_version)
    assert answered.git_version.startswith(f"v{answered.major}.{answered.minor}.")
    if not brought:
        assert f"Client Version: {kubernetes_version()}" in control_plane.kubectl("version", "--client")


def test_custom_resource_is_defaulted_and_validated(
    control_plane: ControlPlane, cluster_client: ApiClient, namespace: str
) -> None:
    control_plane.install_crds([crd("widgets", "Widget")])
    api: Any = kubernetes.client.CustomObjectsApi(cluster_client)
    widget = {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "first"}, "spec": {}}
    created = api.create_namespaced_custom_object("example.com", "v1", namespace, "widgets", widget)
    assert created["spec"] == {"size": 3}
    too_large = {**widget, "metadata": {"name": "second"}, "spec": {"size": 10}}
    with pytest.raises(kubernetes.client.ApiException, match=r"spec\.size") as refused:
        api.create_namespaced_custom_object("example.com", "v1", namespace, "widgets", too_large)
    assert refused.value.status == 422


def test_namespace_ends_whatever_finalizers_are_left(control_plane: ControlPlane) -> None:
    name = create_namespace(control_plane)
    gridnode = {
        "apiVersion": "gridnode.io/v1alpha1",
        "kind": "GridNode",
        "metadata": {"name": "held", "finalizers": ["gridnode.io/database"]},
        "spec": {},
    }
    control_plane.expect("POST", f"/apis/gridnode.io/v1alpha1/namespaces/{name}/gridnodes", gridnode)
    delete_namespace(control_plane, name)
    eventually(lambda: control_plane.request("GET", f"/api/v1/namespaces/{name}").status == 404, "it is gone")


def test_gridnodes_are_served_from_the_beginning(control_plane: ControlPlane, namespace: str) -> None:
    assert control_plane.kubectl("get", "gridnodes", "--namespace", namespace, "--output", "name") == ""
    assert "Replicas" in control_plane.kubectl("explain", "gridnodes.spec").title()


def test_deployment_gets_replica_set_and_pods(cluster_client: ApiClient, namespace: str) -> None:
    apps: Any = kubernetes.client.AppsV1Api(cluster_client)
    core: Any = kubernetes.client.CoreV1Api(cluster_client)
    apps.create_namespaced_deployment(namespace, deployment("web"))
    eventually(lambda: len(core.list_namespaced_pod(namespace).items) == 2, "two pods")
    (replica_set,) = apps.list_namespaced_replica_set(namespace).items
    assert replica_set.spec.replicas == 2
    assert replica_set.metadata.owner_references[0].name == "web"
    apps.patch_namespaced_deployment("web", namespace, {"spec": {"replicas": 1}})
    eventually(lambda: len(core.list_namespaced_pod(namespace).items) == 1, "one pod")


def test_children_go_with_their_owner(control_plane: ControlPlane, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"

    def delete_owner_and_wait(owner: dict[str, Any], at: str, seconds: float) -> None:
        name = owner["metadata"]["name"]
        reference = {**{key: owner[key] for key in ("apiVersion", "kind")}, "uid": owner["metadata"]["uid"]}
        control_plane.expect("POST", path, config_map("child", ownerReferences=[{**reference, "name": name}]))
        control_plane.expect("DELETE", f"{at}/{name}")
        gone = f"the child of {owner['kind']} is gone"
        eventually(lambda: control_plane.request("GET", f"{path}/child").status == 404, gone, seconds)

    control_plane.expect("POST", path, config_map("other"))
    # Once this one's child is gone, the garbage collector has looked for resources, and won't by itself for a while.
    delete_owner_and_wait(control_plane.expect("POST", path, config_map("parent")), path, 20)
    control_plane.install_crds([crd("gadgets", "Gadget")])
    gadgets = f"/apis/example.com/v1/namespaces/{namespace}/gadgets"
    gadget = {"apiVersion": "example.com/v1", "kind": "Gadget", "metadata": {"name": "parent"}}
    delete_owner_and_wait(control_plane.expect("POST", gadgets, gadget), gadgets, 5)
    assert "other" in {item["metadata"]["name"] for item in items(control_plane, path)}


def test_writes_are_counted(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.user("writer", ["system:masters"])
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    since = control_plane.audit_position()
    control_plane.expect("POST", path, config_map("one"), user="writer")
    control_plane.expect("POST", f"{path}?dryRun=All", config_map("two"), user="writer")
    control_plane.expect("GET", path, user="writer")
    refused = control_plane.request("POST", path, config_map("one"), user="writer")
    control_plane.expect("POST", path, config_map("three"))
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}},
    }
    control_plane.expect("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review, user="writer")

    assert refused.status == 409
    writes = control_plane.audit_log.writes(user="writer", since=since)
    assert [(write.verb, write.object.resource, write.response.code) for write in writes] == [
        ("create", "configmaps", 201),
        ("create", "configmaps", 409),
    ]
    assert writes[0].object.namespace == namespace
    reads = [event for event in control_plane.audit_events(since) if event.user.username == "writer"]
    assert "list" in {event.verb for event in reads}


def test_writes_are_told_apart_by_user_agent(control_plane: ControlPlane, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    since = control_plane.audit_position()
    for number in range(30):
        agent = {"User-Agent": f"agent-{number % 3}/1.0"}
        control_plane.expect("POST", path, config_map(f"from-{number}"), headers=agent)
    assert control_plane.count_writes(user_agent="agent-1/", since=since) == 10
    assert control_plane.count_writes(user="admin", since=since) == 30
    assert control_plane.count_writes(user="admin", since=control_plane.audit_position()) == 0


def test_user_may_do_what_rbac_grants_and_no_more(control_plane: ControlPlane, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    control_plane.user("reader", ["readers"])
    assert control_plane.request("GET", path, user="reader").status == 403
    control_plane.kubectl(
        "create", "rolebinding", "readers", "--clusterrole=view", "--group=readers", f"--namespace={namespace}"
    )
    eventually(lambda: control_plane.request("GET", path, user="reader").status == 200, "the binding is in force")
    assert control_plane.request("POST", path, config_map("mine"), user="reader").status == 403
    assert control_plane.request("GET", "/api/v1/configmaps", user="reader").status == 403


def test_official_client_speaks_as_the_user_of_a_kubeconfig(control_plane: ControlPlane) -> None:
    configuration = control_plane.configuration(control_plane.user("somebody", ["some", "people"]))
    found = who_am_i(configuration)
    assert found.username == "somebody"
    assert set(found.groups) == {"some", "people", "system:authenticated"}


def test_service_account_token_is_accepted(
    control_plane: ControlPlane, cluster_client: ApiClient, namespace: str
) -> None:
    core: Any = kubernetes.client.CoreV1Api(cluster_client)
    core.create_namespaced_service_account(namespace, {"metadata": {"name": "operator"}})
    configuration = control_plane.configuration(control_plane.service_account_kubeconfig(namespace, "operator"))
    assert who_am_i(configuration).username == f"system:serviceaccount:{namespace}:operator"


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_restarted_api_server_has_its_data(control_plane: ControlPlane, namespace: str, kill: bool) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    control_plane.expect("POST", path, config_map("kept"))
    process = control_plane.api_server.pid
    control_plane.restart_api_server(kill=kill)
    assert control_plane.api_server.pid != process
    assert control_plane.expect("GET", f"{path}/kept")["data"] == {"key": "value"}
    # Controllers come back by themselves.
    control_plane.expect("POST", f"/apis/apps/v1/namespaces/{namespace}/deployments", deployment("after", replicas=1))
    pods = f"/api/v1/namespaces/{namespace}/pods"
    eventually(lambda: len(items(control_plane, pods)) == 1, "the Deployment's pod", seconds=60)


def test_requests_wait_for_a_paused_etcd_and_end_when_it_goes_on(
    control_plane: ControlPlane, cluster_client: ApiClient, namespace: str
) -> None:
    core: Any = kubernetes.client.CoreV1Api(cluster_client)
    created: list[str] = []

    def create() -> None:
        created.append(core.create_namespaced_config_map(namespace, config_map("late")).metadata.name)

    with control_plane.etcd_paused():
        with pytest.raises(urllib3.exceptions.ReadTimeoutError):
            core.create_namespaced_config_map(namespace, config_map("early"), _request_timeout=1)
        waiting = threading.Thread(target=create)
        waiting.start()
        time.sleep(0.5)
        assert created == []
    waiting.join(30)
    assert created == ["late"]
    assert core.read_namespaced_config_map("late", namespace).data == {"key": "value"}


def test_second_control_plane_runs_beside_the_first_with_a_scheduler(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    with ControlPlane(tmp_path, scheduler=True) as second:
        name = create_namespace(second)
        second.expect("POST", f"/apis/apps/v1/namespaces/{name}/deployments", deployment("web", replicas=1))

        def says_why() -> bool:
            conditions = [
                condition
                for pod in items(second, f"/api/v1/namespaces/{name}/pods")
                for condition in pod["status"].get("conditions", [])
            ]
            return any(condition.get("reason") == "Unschedulable" for condition in conditions)

        eventually(says_why, "the scheduler has looked at the pod")
        processes = [process.pid for process in (second.etcd, second.api_server, second.controller_manager)]
        assert set(second.memory()) == {"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}
    assert not any(psutil.pid_exists(pid) for pid in processes)
    assert not (tmp_path / "etcd").exists()
    assert control_plane.request("GET", "/readyz").status == 200

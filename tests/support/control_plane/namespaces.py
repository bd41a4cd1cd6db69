"""Namespaces of tests: usable when they are given, and gone in the end whatever is left in them."""

from __future__ import annotations

import itertools
import time

from tests.support.cluster import ControlPlane

_numbers = itertools.count(1)
_MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}


def create_namespace(control_plane: ControlPlane, prefix: str = "test") -> str:
    """A new namespace in which pods can be created at once: it has its default ServiceAccount.

    Returns:
        its name.
    """
    name = f"{prefix}-{next(_numbers)}"
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    control_plane.expect("POST", "/api/v1/namespaces", namespace)
    deadline = time.monotonic() + 30
    while control_plane.request("GET", f"/api/v1/namespaces/{name}/serviceaccounts/default").status != 200:
        assert time.monotonic() < deadline, f"{name} got no default ServiceAccount"
        time.sleep(0.02)
    return name


def delete_namespace(control_plane: ControlPlane, name: str) -> None:
    """Delete a namespace, without waiting for its end.

    Custom resources lose their finalizers: those who would have handled them may have ended with the test.
    """
    control_plane.expect("DELETE", f"/api/v1/namespaces/{name}")
    for crd in control_plane.expect("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions")["items"]:
        spec = crd["spec"]
        if spec["scope"] != "Namespaced":
            continue
        version = next(version["name"] for version in spec["versions"] if version["storage"])
        path = f"/apis/{spec['group']}/{version}/namespaces/{name}/{spec['names']['plural']}"
        for resource in control_plane.expect("GET", path)["items"]:
            if resource["metadata"].get("finalizers"):
                # It may be gone by now.
                control_plane.request(
                    "PATCH",
                    f"{path}/{resource['metadata']['name']}",
                    {"metadata": {"finalizers": None}},
                    headers=_MERGE_PATCH,
                )

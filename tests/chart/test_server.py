"""A real API server takes everything that the chart makes, in every combination, without a warning."""

from __future__ import annotations

import pytest

from tests.support.chart import COMBINATIONS, NAMESPACE, PROMETHEUS_RULE_CRD, RELEASE, apply_dry, template
from tests.support.cluster import ControlPlane
from tests.support.optional_apis import HTTP_ROUTE_CRD, POD_MONITOR_CRD

pytestmark = [pytest.mark.cluster]

_LEVELS = ("enforce", "warn", "audit")


@pytest.fixture(scope="module")
def server(control_plane: ControlPlane) -> ControlPlane:
    """With all optional APIs, and namespaces under Pod Security 'restricted'."""
    control_plane.install_crds([HTTP_ROUTE_CRD, POD_MONITOR_CRD, PROMETHEUS_RULE_CRD])
    labels = {f"pod-security.kubernetes.io/{level}": "restricted" for level in _LEVELS}
    for name in (NAMESPACE, "team-a", "team-b"):
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        control_plane.expect("POST", "/api/v1/namespaces", namespace)
    # A pod is only taken if its account is there, which a dry run does not make.
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": f"{RELEASE}-test"}}
    control_plane.expect("POST", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", account)
    return control_plane


@pytest.mark.parametrize("name", COMBINATIONS)
def test_server_takes_every_object_without_a_warning(server: ControlPlane, name: str) -> None:
    assert apply_dry(server, template(COMBINATIONS[name])) == ""


def test_a_pod_that_is_not_restricted_would_be_noticed(server: ControlPlane) -> None:
    manifests = template()
    for each in manifests:
        if each["kind"] == "Deployment":
            del each["spec"]["template"]["spec"]["securityContext"]["seccompProfile"]
    assert "would violate PodSecurity" in apply_dry(server, manifests)

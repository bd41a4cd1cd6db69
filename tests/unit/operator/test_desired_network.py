"""Services, Ingress, HTTPRoute and NetworkPolicy: phones reach the device port, and nobody management from outside."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.gridnode_manifests import ALTERNATIVES, EVERYTHING, children, pod_spec


def ports_of(made: dict[str, Any]) -> dict[str, int]:
    (container,) = pod_spec(made["Deployment/demo"])["containers"]
    return {port["name"]: port["containerPort"] for port in container["ports"]}


@pytest.mark.parametrize("spec", [{}, EVERYTHING, ALTERNATIVES])
def test_services_lead_to_ports_of_the_pods(spec: dict[str, Any]) -> None:
    made = children(spec)
    for name, target in (("Service/demo", "device"), ("Service/demo-management", "management")):
        (port,) = made[name]["spec"]["ports"]
        assert port["targetPort"] == target
        assert target in ports_of(made)
        pods = made["Deployment/demo"]["spec"]["template"]["metadata"]["labels"]
        assert made[name]["spec"]["selector"].items() <= pods.items()


@pytest.mark.parametrize("spec", [{}, EVERYTHING, ALTERNATIVES])
def test_management_stays_in_the_cluster(spec: dict[str, Any]) -> None:
    made = children(spec)
    assert made["Service/demo-management"]["spec"]["type"] == "ClusterIP"
    exposed = [manifest for manifest in made.values() if manifest["kind"] in ("Ingress", "HTTPRoute")]
    assert "management" not in str([manifest["spec"] for manifest in exposed])
    outside = [
        manifest["metadata"]["name"]
        for manifest in made.values()
        if manifest["kind"] == "Service" and manifest["spec"]["type"] != "ClusterIP"
    ]
    assert outside in ([], ["demo"])


def test_ingress_and_route_lead_to_the_device_service() -> None:
    made = children(EVERYTHING)
    (path,) = made["Ingress/demo"]["spec"]["rules"][0]["http"]["paths"]
    service = made[f"Service/{path['backend']['service']['name']}"]
    assert path["backend"]["service"]["port"]["name"] == service["spec"]["ports"][0]["name"]
    assert (path["path"], path["pathType"]) == ("/", "Prefix")

    made = children({**ALTERNATIVES, "exposure": {**ALTERNATIVES["exposure"], "service": {"port": 8080}}})
    (backend,) = made["HTTPRoute/demo"]["spec"]["rules"][0]["backendRefs"]
    assert backend == {"name": "demo", "port": 8080}
    assert made["Service/demo"]["spec"]["ports"][0]["port"] == 8080


def test_an_ingress_without_certificate_is_plain_http() -> None:
    spec = children({"exposure": {"ingress": {"host": "demo.example"}}})["Ingress/demo"]["spec"]
    assert spec.keys() == {"rules"}


def test_devices_come_from_anywhere_and_management_from_the_operator_only() -> None:
    policy = children({"networkPolicy": {"enabled": True}}, operator_namespace="control")["NetworkPolicy/demo"]["spec"]
    device, management = policy["ingress"]
    assert device == {"ports": [{"port": "device", "protocol": "TCP"}]}
    assert management["ports"] == [{"port": "management", "protocol": "TCP"}]
    assert management["from"] == [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "control"}},
            "podSelector": {"matchLabels": {"app.kubernetes.io/name": "gridnode-operator"}},
        }
    ]
    assert policy["policyTypes"] == ["Ingress"]
    more = children(EVERYTHING)["NetworkPolicy/demo"]["spec"]["ingress"][1]["from"]
    assert more[1:] == EVERYTHING["networkPolicy"]["managementFrom"]

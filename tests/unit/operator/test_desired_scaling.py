"""HorizontalPodAutoscaler, PodDisruptionBudget and PodMonitor: they mean the node's pods."""

from __future__ import annotations

from tests.support.gridnode_manifests import ALTERNATIVES, EVERYTHING, children, pod_spec


def test_the_autoscaler_scales_the_deployment() -> None:
    made = children(ALTERNATIVES)
    spec = made["HorizontalPodAutoscaler/demo"]["spec"]
    deployment = made[f"{spec['scaleTargetRef']['kind']}/{spec['scaleTargetRef']['name']}"]
    assert deployment["apiVersion"] == spec["scaleTargetRef"]["apiVersion"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 8)
    # Percentages are of the request: without one the autoscaler has nothing to go by.
    assert "cpu" in pod_spec(deployment)["containers"][0]["resources"]["requests"]


def test_the_disruption_budget_counts_the_nodes_pods() -> None:
    for spec, bound in ((EVERYTHING, {"maxUnavailable": 1}), (ALTERNATIVES, {"minAvailable": 1})):
        made = children(spec)
        budget = dict(made["PodDisruptionBudget/demo"]["spec"])
        assert budget.pop("selector") == made["Deployment/demo"]["spec"]["selector"]
        assert budget == {**bound, "unhealthyPodEvictionPolicy": "AlwaysAllow"}
    none = children({"disruptionBudget": {"maxUnavailable": 0}})["PodDisruptionBudget/demo"]["spec"]
    assert none["maxUnavailable"] == 0


def test_prometheus_scrapes_with_the_management_token() -> None:
    made = children({"monitoring": {"enabled": True}})
    (endpoint,) = made["PodMonitor/demo"]["spec"]["podMetricsEndpoints"]
    assert endpoint["authorization"] == {"type": "Bearer", "credentials": {"name": "demo-management", "key": "token"}}
    assert (endpoint["port"], endpoint["path"]) == ("management", "/metrics")
    assert made["PodMonitor/demo"]["spec"]["selector"] == made["Deployment/demo"]["spec"]["selector"]
    (endpoint,) = children(EVERYTHING)["PodMonitor/demo"]["spec"]["podMetricsEndpoints"]
    assert endpoint["authorization"]["credentials"] == {"name": "management-login", "key": "token"}

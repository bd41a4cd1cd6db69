"""Prometheus in the cluster, configured as docs/monitoring.md tells those who have no Prometheus operator.

Debian's is built without discovery in Kubernetes, so the pods are looked up here, with the labels that it would find.
"""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from tests.support.real_cluster.images import PROMETHEUS
from tests.support.real_cluster.release import RESTRICTED, GridNodeUnderTest
from tests.support.real_cluster.target import Target

NAMESPACE = "monitoring"
_ROOT = Path(__file__).parents[3]
_ALERTS = _ROOT / "helm" / "gridnode" / "files" / "alerts.yaml"


class Prometheus:
    """One that scrapes some GridNodes every second."""

    def __init__(self, target: Target, gridnodes: list[GridNodeUnderTest]) -> None:
        self._target = target
        self._gridnodes = gridnodes

    def install(self) -> None:
        """Create it, and wait until it answers."""
        labels = {"app": "prometheus"}
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["/etc/prometheus/alerts.yaml"],
            "scrape_configs": [_documented(each) for each in self._gridnodes],
        }
        files = {"prometheus.yml": json.dumps(config), "alerts.yaml": _ALERTS.read_text(encoding="utf-8")}
        for each in self._gridnodes:
            files[f"{each.name}-token"] = each.release.secret(f"{each.name}-management", "token", each.namespace)
            files[f"{each.name}.json"] = json.dumps(self._discover(each))
        self._target.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": RESTRICTED}},
            {"apiVersion": "v1", "kind": "Secret", "metadata": _named(), "stringData": files},
            {"apiVersion": "v1", "kind": "Pod", "metadata": {**_named(), "labels": labels}, "spec": _pod()},
        )
        self._target.kubectl("wait", "pod/prometheus", "-n", NAMESPACE, "--for=condition=Ready", "--timeout=60s")

    def query(self, expression: str) -> list[Any]:
        """The series that an expression gives now."""
        found: list[Any] = self._get(f"query?query={quote(expression)}")["result"]
        return found

    def alerts(self) -> set[str]:
        """Names of the alerts that are pending or fire."""
        return {each["labels"]["alertname"] for each in self._get("alerts")["alerts"]}

    def targets(self) -> list[Any]:
        """What it scrapes."""
        found: list[Any] = self._get("targets?state=active")["activeTargets"]
        return found

    def remove(self) -> None:
        """Take it away again."""
        self._target.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=60s")

    def _discover(self, gridnode: GridNodeUnderTest) -> list[Any]:
        """A target for each port of each pod, as ``role: pod`` finds them."""
        pods = self._target.items("pods", gridnode.namespace, f"gridnode.io/gridnode={gridnode.name}")
        return [
            {
                "targets": [f"{pod['status']['podIP']}:{port['containerPort']}"],
                "labels": {
                    "__meta_kubernetes_namespace": gridnode.namespace,
                    "__meta_kubernetes_pod_name": pod["metadata"]["name"],
                    "__meta_kubernetes_pod_container_name": container["name"],
                    "__meta_kubernetes_pod_container_port_name": port["name"],
                },
            }
            for pod in pods
            for container in pod["spec"]["containers"]
            for port in container.get("ports") or []
        ]

    def _get(self, path: str) -> Any:
        with (
            self._target.forwarded("pod/prometheus", NAMESPACE, 9090) as url,
            urllib.request.urlopen(f"{url}/api/v1/{path}", timeout=30) as answer,
        ):
            return json.loads(answer.read())["data"]


def _documented(gridnode: GridNodeUnderTest) -> Any:
    """The scrape configuration of the documentation for one GridNode, without its discovery."""
    text = (_ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    found = re.search(r"```yaml\n(scrape_configs:.*?)```", text, re.DOTALL)
    assert found is not None, "docs/monitoring.md shows no scrape_configs any more"
    shown = found[1].replace("apps", gridnode.namespace).replace("demo", gridnode.name)
    [job] = yaml.safe_load(shown)["scrape_configs"]
    assert job.pop("kubernetes_sd_configs"), "it finds pods in Kubernetes"
    return {**job, "file_sd_configs": [{"files": [f"/etc/prometheus/{gridnode.name}.json"]}]}


def _named() -> dict[str, str]:
    return {"name": "prometheus", "namespace": NAMESPACE}


def _pod() -> dict[str, Any]:
    return {
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "prometheus",
                "image": PROMETHEUS,
                "imagePullPolicy": "IfNotPresent",
                "args": ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/data"],
                "ports": [{"name": "http", "containerPort": 9090}],
                "readinessProbe": {"httpGet": {"path": "/-/ready", "port": "http"}, "periodSeconds": 1},
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [
                    {"name": "config", "mountPath": "/etc/prometheus"},
                    {"name": "data", "mountPath": "/data"},
                ],
            }
        ],
        "volumes": [{"name": "config", "secret": {"secretName": "prometheus"}}, {"name": "data", "emptyDir": {}}],
    }

"""The PodMonitor of the Prometheus operator."""

from __future__ import annotations

from gridnode_operator.api import GridNode
from gridnode_operator.desired.context import POD_MONITOR_API, DesiredContext
from gridnode_operator.desired.environment import management_secret_key
from gridnode_operator.desired.labels import Manifest, metadata, selector_labels
from gridnode_operator.desired.names import child_names


def build_pod_monitor(gridnode: GridNode, context: DesiredContext) -> Manifest | None:
    """None where the spec wants none, or the cluster has no such API."""
    wanted = gridnode.spec.monitoring
    if not wanted.enabled or POD_MONITOR_API not in context.available_apis:
        return None
    token = management_secret_key(gridnode)
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": metadata(gridnode, child_names(gridnode.name).base, more_labels=wanted.labels),
        "spec": {
            "selector": {"matchLabels": selector_labels(gridnode)},
            "podMetricsEndpoints": [
                {
                    "port": "management",
                    "path": "/metrics",
                    "interval": wanted.interval,
                    "authorization": {"type": "Bearer", "credentials": {"name": token.name, "key": token.key}},
                }
            ],
        },
    }

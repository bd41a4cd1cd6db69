"""The HorizontalPodAutoscaler."""

from __future__ import annotations

from gridnode_operator.api import GridNode
from gridnode_operator.desired.context import DesiredContext
from gridnode_operator.desired.labels import Manifest, metadata
from gridnode_operator.desired.names import child_names


def build_autoscaler(gridnode: GridNode, context: DesiredContext) -> Manifest | None:
    """Scales the Deployment on CPU use. None where the spec says how many pods there are."""
    wanted = gridnode.spec.autoscaling
    if wanted is None:
        return None
    name = child_names(gridnode.name).base
    target = {"type": "Utilization", "averageUtilization": wanted.target_cpu_utilization_percentage}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata(gridnode, name),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": wanted.min_replicas,
            "maxReplicas": wanted.max_replicas,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        },
    }

"""The PodDisruptionBudget."""

from __future__ import annotations

from gridnode_operator.api import GridNode
from gridnode_operator.desired.context import DesiredContext
from gridnode_operator.desired.labels import Manifest, metadata, selector_labels
from gridnode_operator.desired.names import child_names


def build_disruption_budget(gridnode: GridNode, context: DesiredContext) -> Manifest | None:
    """None where the spec has none."""
    wanted = gridnode.spec.disruption_budget
    if wanted is None:
        return None
    bounds = {"minAvailable": wanted.min_available, "maxUnavailable": wanted.max_unavailable}
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(gridnode, child_names(gridnode.name).base),
        "spec": {
            **{name: pods for name, pods in bounds.items() if pods is not None},
            "selector": {"matchLabels": selector_labels(gridnode)},
            # Pods that serve nobody (the database is away, say) must not keep a machine from being drained.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }

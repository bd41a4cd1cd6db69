"""The NetworkPolicy: devices from anywhere, management from the operator and the places that the spec names."""

from __future__ import annotations

from typing import Any

from gridnode_operator.api import GridNode
from gridnode_operator.desired.context import DesiredContext
from gridnode_operator.desired.labels import Manifest, metadata, selector_labels
from gridnode_operator.desired.names import child_names


def build_network_policy(gridnode: GridNode, context: DesiredContext) -> Manifest | None:
    """None where the spec wants none. Probes come from the pod's machine, which no policy keeps out."""
    wanted = gridnode.spec.network_policy
    if not wanted.enabled:
        return None
    operator: dict[str, Any] = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": context.operator_namespace}},
        "podSelector": {"matchLabels": dict(context.operator_labels)},
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(gridnode, child_names(gridnode.name).base),
        "spec": {
            "podSelector": {"matchLabels": selector_labels(gridnode)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"ports": [{"port": "device", "protocol": "TCP"}]},
                {
                    "from": [operator, *wanted.management_from],
                    "ports": [{"port": "management", "protocol": "TCP"}],
                },
            ],
        },
    }

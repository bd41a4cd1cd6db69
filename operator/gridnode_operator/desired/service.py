"""The Services: one that phones reach, and one for management that stays in the cluster."""

from __future__ import annotations

from gridnode_operator.api import GridNode
from gridnode_operator.desired.context import DesiredContext
from gridnode_operator.desired.environment import MANAGEMENT_PORT
from gridnode_operator.desired.labels import Manifest, metadata, selector_labels
from gridnode_operator.desired.names import child_names


def build_device_service(gridnode: GridNode, context: DesiredContext) -> Manifest:
    """The Service of the device port."""
    exposure = gridnode.spec.exposure.service
    name = child_names(gridnode.name).base
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(gridnode, name, annotations=exposure.annotations),
        "spec": {
            "type": exposure.type,
            "selector": selector_labels(gridnode),
            "ports": [{"name": "http", "port": exposure.port, "targetPort": "device", "protocol": "TCP"}],
        },
    }


def build_management_service(gridnode: GridNode, context: DesiredContext) -> Manifest:
    """The Service of the management port, never reachable from outside the cluster."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(gridnode, child_names(gridnode.name).management_service),
        "spec": {
            "type": "ClusterIP",
            "selector": selector_labels(gridnode),
            "ports": [{"name": "http", "port": MANAGEMENT_PORT, "targetPort": "management", "protocol": "TCP"}],
        },
    }

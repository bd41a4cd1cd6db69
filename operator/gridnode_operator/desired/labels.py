"""Labels of a GridNode's children, and what all their metadata has in common.

The selector labels are few and never change, for Kubernetes lets nobody change a Deployment's selector. They hold the
GridNode's name rather than its uid, so that a GridNode that was restored from a backup finds its children again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from gridnode_operator.api import API_VERSION, GROUP, KIND, GridNode
from gridnode_operator.desired.names import child_names

Manifest = dict[str, Any]
Component = Literal["node", "migration"]

#: On every child; its value is the GridNode's name, shortened if need be.
GRIDNODE_LABEL: Final = f"{GROUP}/gridnode"
MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
MANAGER: Final = "gridnode-operator"


def owner_labels(gridnode: GridNode) -> dict[str, str]:
    """Labels by which all children of one GridNode are listed."""
    return {GRIDNODE_LABEL: child_names(gridnode.name).base, MANAGED_BY_LABEL: MANAGER}


def selector_labels(gridnode: GridNode) -> dict[str, str]:
    """Labels by which the node's pods are selected; those of migrations don't have them."""
    return {
        "app.kubernetes.io/name": "gridnode",
        "app.kubernetes.io/instance": child_names(gridnode.name).base,
        "app.kubernetes.io/component": "node",
    }


def selector_text(gridnode: GridNode) -> str:
    """The selector as autoscalers read it from the scale subresource."""
    return ",".join(f"{key}={value}" for key, value in sorted(selector_labels(gridnode).items()))


def labels(gridnode: GridNode, component: Component = "node") -> dict[str, str]:
    """Labels of a child."""
    return {**selector_labels(gridnode), "app.kubernetes.io/component": component, **owner_labels(gridnode)}


def metadata(
    gridnode: GridNode,
    name: str,
    *,
    component: Component = "node",
    more_labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Manifest:
    """Metadata of a child: it belongs to the GridNode and goes with it."""
    made: Manifest = {
        "name": name,
        "namespace": gridnode.namespace,
        "labels": {**(more_labels or {}), **labels(gridnode, component)},
        "ownerReferences": [owner_reference(gridnode)],
    }
    if annotations:
        made["annotations"] = dict(annotations)
    return made


def owner_reference(gridnode: GridNode) -> Manifest:
    """The reference by which Kubernetes deletes a child after its GridNode."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": gridnode.name,
        "uid": gridnode.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def is_owned_by(manifest: Mapping[str, Any], gridnode: GridNode) -> bool:
    """Whether a live object is a child of this GridNode, and of no other that had its name."""
    references = manifest.get("metadata", {}).get("ownerReferences") or []
    return any(each.get("controller") and each.get("uid") == gridnode.uid for each in references)

"""The Gateway API HTTPRoute for the device Service."""

from __future__ import annotations

from gridnode_operator.api import GridNode, ParentRef
from gridnode_operator.desired.context import HTTP_ROUTE_API, DesiredContext
from gridnode_operator.desired.labels import Manifest, metadata
from gridnode_operator.desired.names import child_names
from gridnode_operator.desired.pods import without_empty


def build_http_route(gridnode: GridNode, context: DesiredContext) -> Manifest | None:
    """None where the spec wants none, or the cluster has no such API."""
    wanted = gridnode.spec.exposure.http_route
    if wanted is None or HTTP_ROUTE_API not in context.available_apis:
        return None
    name = child_names(gridnode.name).base
    backend = {"name": name, "port": gridnode.spec.exposure.service.port}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": metadata(gridnode, name),
        "spec": {
            "parentRefs": [_parent_ref(parent) for parent in wanted.parent_refs],
            "hostnames": list(wanted.hostnames),
            "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "backendRefs": [backend]}],
        },
    }


def _parent_ref(parent: ParentRef) -> Manifest:
    return without_empty({"name": parent.name, "namespace": parent.namespace, "sectionName": parent.section_name})

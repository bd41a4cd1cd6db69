"""The Ingress for the device Service."""

from __future__ import annotations

from gridnode_operator.api import GridNode
from gridnode_operator.desired.context import DesiredContext
from gridnode_operator.desired.labels import Manifest, metadata
from gridnode_operator.desired.names import child_names


def build_ingress(gridnode: GridNode, context: DesiredContext) -> Manifest | None:
    """One host, all paths. None where the spec wants none."""
    wanted = gridnode.spec.exposure.ingress
    if wanted is None:
        return None
    name = child_names(gridnode.name).base
    backend = {"service": {"name": name, "port": {"name": "http"}}}
    spec: Manifest = {
        "rules": [{"host": wanted.host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]
    }
    if wanted.class_name is not None:
        spec["ingressClassName"] = wanted.class_name
    if wanted.tls_secret_name is not None:
        spec["tls"] = [{"hosts": [wanted.host], "secretName": wanted.tls_secret_name}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": metadata(gridnode, name, annotations=wanted.annotations),
        "spec": spec,
    }

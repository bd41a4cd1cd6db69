"""The pods' ServiceAccount: without rights, for the node doesn't talk to the API server."""

from __future__ import annotations

from gridnode_operator.api import GridNode
from gridnode_operator.desired.context import DesiredContext
from gridnode_operator.desired.labels import Manifest, metadata
from gridnode_operator.desired.names import child_names


def service_account_name(gridnode: GridNode) -> str:
    """The account that the pods run as."""
    return gridnode.spec.pod_template.service_account_name or child_names(gridnode.name).base


def build_service_account(gridnode: GridNode, context: DesiredContext) -> Manifest | None:
    """None where the spec names an existing one."""
    if gridnode.spec.pod_template.service_account_name is not None:
        return None
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(gridnode, service_account_name(gridnode)),
        "automountServiceAccountToken": False,
    }

"""A short look at a GridNode that was as declared when it was last reconciled, and of which nothing was told since.

A whole reconcile lists the children of every kind and asks the database for the schema and the login. At rest that is
most of what an operator costs the API server, and nearly always for nothing: the watches tell of children that change,
and a database server that is away is away for all. So most of the looks that only time asks for are short ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gridnode_operator.api import FINALIZER, GridNode, InvalidSpec, ModelsStatus, parse
from gridnode_operator.convergence import Outcome
from gridnode_operator.desired.environment import MANAGEMENT_TOKEN_KEY, has_foreign_secrets
from gridnode_operator.desired.labels import is_owned_by
from gridnode_operator.desired.names import child_names
from gridnode_operator.kube import Cluster, Object
from gridnode_operator.node_client import NodeClient
from gridnode_operator.status import BUDGET_REASON, with_models
from gridnode_operator.tenants import Tenants, secret_value

#: Conditions and what they are on a GridNode that a short look is enough for.
_AS_DECLARED: Final = {"Ready": "True", "Available": "True", "Progressing": "False"}


class Glance:
    """Takes short looks.

    Args:
        cluster: The API server.
        tenants: The database servers.
        nodes: Asks the nodes about their models.
        interval: Seconds until the next look.
    """

    def __init__(self, cluster: Cluster, tenants: Tenants, nodes: NodeClient, *, interval: float) -> None:
        self._cluster = cluster
        self._tenants = tenants
        self._nodes = nodes
        self._interval = interval

    def look(self, resource: Object) -> tuple[dict[str, Any], Outcome] | None:
        """See whether everything is still as declared, and how far the models are.

        Args:
            resource: The GridNode as the API server gave it.

        Returns:
            The status to be written, and what the queue has to know; None if the GridNode needs a whole reconcile.

        Raises:
            ApiError: the API server failed.
        """
        conditions = {each["type"]: each for each in (resource.get("status") or {}).get("conditions") or []}
        if not _is_as_declared(resource, conditions):
            return None
        try:
            gridnode = parse(resource)
        except InvalidSpec:
            return None
        # Nobody tells of Secrets that are not the GridNode's own.
        if gridnode.spec.paused or has_foreign_secrets(gridnode) or not self._tenants.answers(gridnode):
            return None
        is_warned = conditions["Degraded"]["status"] == "True"
        if is_warned != (self._tenants.budget_warning(gridnode) is not None):
            return None
        status = with_models(resource["status"], self._models(gridnode))
        state = "Degraded" if is_warned else "Ready"
        return status, Outcome(state=state, after=self._interval, settled=True)

    def _models(self, gridnode: GridNode) -> ModelsStatus | None:
        if not self._nodes.is_due(gridnode):
            return None
        secret = self._cluster.read("v1", "Secret", gridnode.namespace, child_names(gridnode.name).management_secret)
        token = secret_value(secret, MANAGEMENT_TOKEN_KEY)
        if secret is None or token is None or not is_owned_by(secret, gridnode):
            return None
        return self._nodes.models(gridnode, token)


def _is_as_declared(resource: Object, conditions: Mapping[str, Mapping[str, Any]]) -> bool:
    metadata, status = resource["metadata"], resource.get("status") or {}
    degraded = conditions.get("Degraded", {})
    return (
        not metadata.get("deletionTimestamp")
        and FINALIZER in (metadata.get("finalizers") or [])
        and status.get("observedGeneration") == metadata["generation"]
        and all(conditions.get(name, {}).get("status") == value for name, value in _AS_DECLARED.items())
        and (degraded.get("status") == "False" or degraded.get("reason") == BUDGET_REASON)
    )

"""The one level-based loop: read what is, compute what should be, apply the difference, write the status.

Every event, child and timer leads here. Nothing is remembered that a restart would miss, each step may be repeated, and
a reconcile that changes nothing writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from gridnode_operator.api import API_VERSION, FINALIZER, KIND, GridNode, InvalidSpec, parse
from gridnode_operator.children import Checkpoint, Children
from gridnode_operator.convergence import Convergence, Environment, Outcome, Tools
from gridnode_operator.deletion import Deletion
from gridnode_operator.desired import CHILD_KINDS
from gridnode_operator.desired.context import HTTP_ROUTE_API, POD_MONITOR_API
from gridnode_operator.glance import Glance
from gridnode_operator.inventory import Inventory
from gridnode_operator.kube import Cluster, Object
from gridnode_operator.node_client import NodeClient
from gridnode_operator.status import Observed, compute_invalid_status, compute_status
from gridnode_operator.tenants import Tenants
from gridnode_operator.transitions import transitions

#: Seconds for which the answer holds whether the server knows an optional kind.
_KINDS_HOLD: Final = 60.0
#: Seconds between two looks at a GridNode whose pods are stopping.
_STOPPING: Final = 1.0

_OPTIONAL_APIS: Final = (HTTP_ROUTE_API, POD_MONITOR_API)


class Reconciler:
    """Reconciles GridNodes, several at once but each of them only once.

    Args:
        cluster: The API server.
        tenants: The database servers.
        nodes: Asks the nodes about their models.
        environment: See :class:`Environment`.
        checkpoint: Called with the name of each step before it is done; for tests that interrupt.
    """

    def __init__(
        self,
        *,
        cluster: Cluster,
        tenants: Tenants,
        nodes: NodeClient,
        environment: Environment,
        checkpoint: Checkpoint = lambda step: None,
    ) -> None:
        self._cluster = cluster
        self._tenants = tenants
        self._nodes = nodes
        self._checkpoint = checkpoint
        self._tools = Tools(
            cluster=cluster, tenants=tenants, nodes=nodes, environment=environment, checkpoint=checkpoint
        )
        self._deletion = Deletion(cluster, tenants, checkpoint, patience=environment.release_patience)
        self._glance = Glance(cluster, tenants, nodes, interval=environment.resync_interval)
        self._apis: tuple[float, frozenset[str]] = (0.0, frozenset())
        #: To be told of changes of children.
        self.inventory = Inventory()

    def glance(self, namespace: str, name: str) -> Outcome | None:
        """Look whether one GridNode, of which nothing was told since it was as declared, is so still.

        Returns:
            None if it needs a whole reconcile.

        Raises:
            ApiError: the API server failed.
        """
        resource = self._cluster.read(API_VERSION, KIND, namespace, name)
        seen = None if resource is None else self._glance.look(resource)
        if resource is None or seen is None:
            return None
        status, outcome = seen
        self._write_status(resource, status)
        return outcome

    def reconcile(self, namespace: str, name: str) -> Outcome:
        """Bring one GridNode as far as it gets now.

        Raises:
            ApiError: the API server failed half-way; the next reconcile goes on from there.
        """
        resource = self._cluster.read(API_VERSION, KIND, namespace, name)
        if resource is None:
            self._forget(f"{namespace}/{name}")
            return Outcome(state="Gone", after=None)
        if resource["metadata"].get("deletionTimestamp"):
            return self._delete(resource)
        try:
            gridnode = parse(resource)
        except InvalidSpec as error:
            self._write_status(resource, compute_invalid_status(resource, error, datetime.now(UTC)))
            return Outcome(state="Invalid", after=None, problem="InvalidSpec")
        self._tenants.count(gridnode)
        apis = self._available_apis()
        kinds = [each for each in CHILD_KINDS if "/".join(each) in apis or "/".join(each) not in _OPTIONAL_APIS]
        if not gridnode.spec.paused and FINALIZER not in gridnode.finalizers:
            self._checkpoint("add the finalizer")
            kept = self._cluster.set_finalizers(resource, [*gridnode.finalizers, FINALIZER])
            if kept is None:  # deleted a moment ago: a schema that was made now would never be dropped
                self._forget(gridnode.key)
                return Outcome(state="Gone", after=None)
            resource = kept
        listed, changes = self.inventory.to_list(gridnode.key, kinds)
        children = Children(self._cluster, gridnode, listed, self._checkpoint)
        status, outcome = Convergence(self._tools, resource, gridnode, children, apis).run()
        self._write_status(resource, status)
        self.inventory.remember(gridnode.key, kinds, children.seen(), changes, listed=len(listed))
        return outcome

    def _delete(self, resource: Object) -> Outcome:
        if FINALIZER not in (resource["metadata"].get("finalizers") or []):
            self._forget(f"{resource['metadata']['namespace']}/{resource['metadata']['name']}")
            return Outcome(state="Gone", after=None)
        gridnode = _to_delete(resource)
        kinds = [each for each in CHILD_KINDS if "/".join(each) not in _OPTIONAL_APIS]
        waiting = self._deletion.go_on(resource, gridnode, Children(self._cluster, gridnode, kinds, self._checkpoint))
        if waiting is None:
            self._forget(gridnode.key)
            return Outcome(state="Gone", after=None)
        observed = Observed(migration_job_name="", problems=[waiting.problem] if waiting.problem else [])
        self._write_status(resource, compute_status(gridnode, observed, datetime.now(UTC)))
        problem = waiting.problem.reason if waiting.problem else None
        return Outcome(state="Deleting", after=_STOPPING, problem=problem)

    def _forget(self, key: str) -> None:
        self._tenants.forget(key)
        self._nodes.forget(key)
        self.inventory.forget(key)

    def _available_apis(self) -> frozenset[str]:
        expires, apis = self._apis
        if time.monotonic() >= expires:
            asked = [(api, *api.rsplit("/", 1)) for api in _OPTIONAL_APIS]
            apis = frozenset(api for api, version, kind in asked if self._cluster.serves(version, kind))
            self._apis = (time.monotonic() + _KINDS_HOLD, apis)
        return apis

    def _write_status(self, resource: Object, status: Mapping[str, Any]) -> None:
        """Write what has changed, after the Events about it: one that is interrupted between is told again."""
        before = resource.get("status") or {}
        patch = merge_patch(before, status)
        if not patch:
            return
        for kind, reason, message in transitions(before, status):
            self._checkpoint(f"post the Event {reason}")
            self._cluster.post_event(resource, kind, reason, message)
        self._checkpoint("write the status")
        self._cluster.patch_status(resource, patch)


def merge_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON merge patch (RFC 7386) that makes ``before`` into ``after``; empty if they are equal."""
    patch: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            if changed := merge_patch(old, value):
                patch[key] = changed
        elif value != old or key not in before:
            patch[key] = value
    return patch


def _to_delete(resource: Object) -> GridNode:
    """Also one whose spec can't be worked with must be deletable; its data is then left as it is."""
    try:
        return parse(resource)
    except InvalidSpec:
        return parse({**resource, "spec": {}})

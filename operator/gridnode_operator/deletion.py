"""The end of a GridNode: its pods, then its share of the database, then its finalizer; Kubernetes deletes the rest."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from gridnode_operator.api import FINALIZER, GridNode
from gridnode_operator.children import Checkpoint, Children
from gridnode_operator.database import DatabaseError
from gridnode_operator.desired.deployment import stop_seconds
from gridnode_operator.desired.labels import selector_text
from gridnode_operator.kube import Cluster, Object
from gridnode_operator.status import Problem
from gridnode_operator.tenants import Tenants

#: Kinds whose pods use the database.
_WITH_PODS: Final = ("HorizontalPodAutoscaler", "Deployment", "Job")


@dataclass(frozen=True, slots=True)
class Waiting:
    """The GridNode is still there.

    Attributes:
        problem: Why; None if it only takes its time.
    """

    problem: Problem | None = None


class Deletion:
    """Deletes GridNodes, a step at a time; each step may be repeated.

    Args:
        cluster: The API server.
        tenants: The database servers.
        checkpoint: See :class:`.reconcile.Reconciler`.
        patience: Seconds after which a GridNode whose data stays goes without the database's consent.
    """

    def __init__(self, cluster: Cluster, tenants: Tenants, checkpoint: Checkpoint, *, patience: float) -> None:
        self._cluster = cluster
        self._tenants = tenants
        self._checkpoint = checkpoint
        self._patience = patience

    def go_on(self, resource: Object, gridnode: GridNode, children: Children) -> Waiting | None:
        """Do what can be done now.

        Returns:
            None once nothing keeps the GridNode any more.

        Raises:
            ApiError: the API server failed; to be repeated.
        """
        for child in children.all():
            if child["kind"] in _WITH_PODS and not child["metadata"].get("deletionTimestamp"):
                children.delete(child)
        seconds = _seconds_since(gridnode.deleted_at)
        if self._has_pods(gridnode) and seconds < stop_seconds(gridnode):
            return Waiting()
        self._checkpoint("leave the database")
        try:
            done = self._tenants.leave(gridnode)
        except DatabaseError as error:
            is_kept = gridnode.spec.database.reclaim_policy == "Delete"
            if is_kept or seconds < self._patience:
                return Waiting(Problem(error.reason, _why(gridnode, error)))
            self._cluster.post_event(resource, "Warning", "NotReleased", _why(gridnode, error))
            done = ()
        if done:
            is_dropped = gridnode.spec.database.reclaim_policy == "Delete"
            message = "The schema is dropped." if is_dropped else "The schema is kept for a GridNode of the same name."
            self._cluster.post_event(resource, "Normal", "Dropped" if is_dropped else "Released", message)
        self._checkpoint("remove the finalizer")
        self._cluster.set_finalizers(resource, [each for each in gridnode.finalizers if each != FINALIZER])
        return None

    def _has_pods(self, gridnode: GridNode) -> bool:
        return bool(self._cluster.list("v1", "Pod", gridnode.namespace, selector_text(gridnode)))


def _why(gridnode: GridNode, error: DatabaseError) -> str:
    if gridnode.spec.database.reclaim_policy == "Delete":
        return f"The schema can't be dropped, and so the GridNode stays: {error.message}"
    return (
        f"The schema can't be released: {error.message} Its data stays. "
        "A later GridNode of this name needs the annotation gridnode.io/adopt=true."
    )


def _seconds_since(moment: datetime | None) -> float:
    return (datetime.now(UTC) - moment).total_seconds() if moment is not None else 0.0

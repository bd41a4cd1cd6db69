"""How far a Deployment has got, read from the object alone. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gridnode_operator.api import GridNode
from gridnode_operator.desired.labels import is_owned_by


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """What a Deployment's status says.

    Attributes:
        wanted: Pods that there should be.
        exists: Whether there is a Deployment of this GridNode.
        image: Of the pod template.
        pods: Pods that there are, old ones included.
        ready: Pods that are ready, old ones included.
        available: Pods in service, old ones included.
        unfinished: Reason and message why not all pods are of the newest template and in service; None if they are.
        failure: Reason and message of what keeps it from getting further; None if nothing does.
    """

    wanted: int
    exists: bool = True
    image: str | None = None
    pods: int = 0
    ready: int = 0
    available: int = 0
    unfinished: tuple[str, str] | None = None
    failure: tuple[str, str] | None = None


def observe_rollout(gridnode: GridNode, deployment: Mapping[str, Any] | None) -> Rollout:
    """Judge a Deployment, as ``kubectl rollout status`` does and more strictly."""
    if deployment is None or not is_owned_by(deployment, gridnode):
        why = "There is no Deployment yet." if deployment is None else "The Deployment belongs to somebody else."
        return Rollout(wanted=_least(gridnode), exists=False, unfinished=("NoDeployment", why))
    spec, status = deployment["spec"], deployment.get("status") or {}
    wanted = int(spec.get("replicas", 1))
    return Rollout(
        wanted=wanted,
        image=spec["template"]["spec"]["containers"][0].get("image"),
        pods=_count(status, "replicas"),
        ready=_count(status, "readyReplicas"),
        available=_count(status, "availableReplicas"),
        unfinished=_why_unfinished(gridnode, deployment, wanted),
        failure=_failure(status),
    )


def _why_unfinished(gridnode: GridNode, deployment: Mapping[str, Any], wanted: int) -> tuple[str, str] | None:
    metadata, status = deployment["metadata"], deployment.get("status") or {}
    if metadata.get("deletionTimestamp"):
        return "DeploymentDeleted", "The Deployment is being deleted."
    if status.get("observedGeneration", 0) < metadata.get("generation", 1):
        return "RollingOut", "Kubernetes has not looked at the newest Deployment yet."
    if gridnode.replicas is not None and gridnode.replicas != wanted:
        return "Scaling", f"The Deployment has {wanted} replicas; {gridnode.replicas} are wanted."
    pods, updated, available = (_count(status, f"{kind}eplicas") for kind in ("r", "updatedR", "availableR"))
    if updated < wanted:
        return "RollingOut", f"{updated} of {wanted} pods are of the newest template."
    if pods > updated:
        return "RollingOut", f"{pods - updated} pods of an older template are still there."
    if updated > wanted:
        return "Scaling", f"{updated - wanted} pods too many are still there."
    if available < wanted or _count(status, "readyReplicas") < wanted:
        return "PodsNotReady", f"{min(available, _count(status, 'readyReplicas'))} of {wanted} pods are in service."
    return None


def _failure(status: Mapping[str, Any]) -> tuple[str, str] | None:
    conditions = {each["type"]: each for each in status.get("conditions") or []}
    progressing, failing = conditions.get("Progressing", {}), conditions.get("ReplicaFailure", {})
    if failing.get("status") == "True":
        return failing.get("reason") or "ReplicaFailure", f"Pods can't be made: {failing.get('message', '')}"
    if progressing.get("status") == "False" and progressing.get("reason") == "ProgressDeadlineExceeded":
        return "RolloutStuck", f"New pods don't come into service: {progressing.get('message', '')}"
    return None


def _least(gridnode: GridNode) -> int:
    autoscaling = gridnode.spec.autoscaling
    return gridnode.spec.replicas if autoscaling is None else autoscaling.min_replicas


def _count(status: Mapping[str, Any], key: str) -> int:
    return int(status.get(key) or 0)

"""Desired state: pure functions from a GridNode and a context to the manifests of its children, one file per kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from gridnode_operator.api import GridNode
from gridnode_operator.desired.context import DesiredContext, NodeSecrets, secret_hash
from gridnode_operator.desired.deployment import build_deployment
from gridnode_operator.desired.hpa import build_autoscaler
from gridnode_operator.desired.httproute import build_http_route
from gridnode_operator.desired.ingress import build_ingress
from gridnode_operator.desired.labels import Manifest
from gridnode_operator.desired.migration_job import build_migration_job
from gridnode_operator.desired.networkpolicy import build_network_policy
from gridnode_operator.desired.pdb import build_disruption_budget
from gridnode_operator.desired.podmonitor import build_pod_monitor
from gridnode_operator.desired.secret import build_database_secret, build_management_secret, build_master_secret
from gridnode_operator.desired.service import build_device_service, build_management_service
from gridnode_operator.desired.serviceaccount import build_service_account

__all__ = [
    "CHILD_KINDS",
    "DesiredContext",
    "Manifest",
    "NodeSecrets",
    "desired_children",
    "secret_hash",
    "waits_for_migration",
]

#: In the order in which they are applied: what pods need, who may reach them, the migration, the pods.
_BUILDERS: Final[tuple[Callable[[GridNode, DesiredContext], Manifest | None], ...]] = (
    build_service_account,
    build_database_secret,
    build_management_secret,
    build_master_secret,
    build_network_policy,
    build_device_service,
    build_management_service,
    build_ingress,
    build_http_route,
    build_disruption_budget,
    build_pod_monitor,
    build_migration_job,
    build_deployment,
    build_autoscaler,
)

#: ``(apiVersion, kind)`` of everything that may be a child: what is listed to find those no longer wanted.
CHILD_KINDS: Final = (
    ("v1", "ServiceAccount"),
    ("v1", "Secret"),
    ("v1", "Service"),
    ("apps/v1", "Deployment"),
    ("batch/v1", "Job"),
    ("networking.k8s.io/v1", "Ingress"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("policy/v1", "PodDisruptionBudget"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ("monitoring.coreos.com/v1", "PodMonitor"),
)

_AFTER_MIGRATION: Final = frozenset({"Deployment", "HorizontalPodAutoscaler"})


def desired_children(gridnode: GridNode, context: DesiredContext) -> list[Manifest]:
    """All children that there should be, in the order in which they are to be applied."""
    built = (build(gridnode, context) for build in _BUILDERS)
    return [manifest for manifest in built if manifest is not None]


def waits_for_migration(manifest: Mapping[str, Any]) -> bool:
    """Whether a child must not be touched before the migration Job has succeeded."""
    return manifest["kind"] in _AFTER_MIGRATION

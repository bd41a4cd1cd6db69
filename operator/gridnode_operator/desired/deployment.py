"""The Deployment: the node's pods, replaced one by one without losing a report or a download.

Whatever changes the pod template restarts every node at the next upgrade of the operator: nothing in it may depend on
the operator's version.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from gridnode_operator.api import SECRETS_HASH_ANNOTATION, GridNode
from gridnode_operator.desired.context import DesiredContext
from gridnode_operator.desired.environment import DEVICE_PORT, MANAGEMENT_PORT, environment_variables
from gridnode_operator.desired.labels import Manifest, labels, metadata, selector_labels
from gridnode_operator.desired.names import child_names
from gridnode_operator.desired.pods import container, pod_spec, without_empty

#: Until every proxy has heard that the pod is going, it still gets new connections; so it goes on for a while.
PRE_STOP_SECONDS: Final = 5
#: The supervisor kills workers 10 seconds after the drain timeout.
_STOP_SECONDS: Final = 15
_PROGRESS_DEADLINE_SECONDS: Final = 600
_REVISIONS_KEPT: Final = 5


def build_deployment(gridnode: GridNode, context: DesiredContext) -> Manifest:
    """The node's Deployment. Without ``replicas`` while an autoscaler decides."""
    replicas = {} if gridnode.replicas is None else {"replicas": gridnode.replicas}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(gridnode, child_names(gridnode.name).base),
        "spec": {
            **replicas,
            "selector": {"matchLabels": selector_labels(gridnode)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "progressDeadlineSeconds": _PROGRESS_DEADLINE_SECONDS,
            "revisionHistoryLimit": _REVISIONS_KEPT,
            "template": _pod_template(gridnode, context),
        },
    }


def stop_seconds(gridnode: GridNode) -> int:
    """Seconds that a pod gets to stop."""
    return PRE_STOP_SECONDS + gridnode.spec.drain_timeout_seconds + _STOP_SECONDS


def _pod_template(gridnode: GridNode, context: DesiredContext) -> Manifest:
    given = gridnode.spec.pod_template
    return {
        "metadata": {
            "labels": {**given.labels, **labels(gridnode)},
            "annotations": {**given.annotations, SECRETS_HASH_ANNOTATION: _secrets_hash(context)},
        },
        "spec": {
            **pod_spec(gridnode),
            **without_empty({"affinity": given.affinity, "topologySpreadConstraints": _spread(gridnode)}),
            "terminationGracePeriodSeconds": stop_seconds(gridnode),
            "containers": [_container(gridnode, context)],
        },
    }


def _container(gridnode: GridNode, context: DesiredContext) -> Manifest:
    return {
        **container(gridnode, context, "node", ["gridnode", "serve"]),
        "env": environment_variables(gridnode, context),
        "ports": [
            {"name": "device", "containerPort": DEVICE_PORT, "protocol": "TCP"},
            {"name": "management", "containerPort": MANAGEMENT_PORT, "protocol": "TCP"},
        ],
        # A node is up in less than two seconds; asked every second, it is in service in the next.
        "startupProbe": _probe("/healthz", period=1, failures=60),
        "readinessProbe": _probe("/readyz", period=5, failures=2),
        # /healthz does not ask the database: restarting pods would not bring it back.
        "livenessProbe": _probe("/healthz", period=10, failures=6),
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _probe(path: str, *, period: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": "management"},
        "periodSeconds": period,
        "failureThreshold": failures,
        "timeoutSeconds": 5,
    }


def _spread(gridnode: GridNode) -> list[dict[str, Any]]:
    own = {"labelSelector": {"matchLabels": selector_labels(gridnode)}}
    return [{**own, **constraint} for constraint in gridnode.spec.pod_template.topology_spread_constraints]


def _secrets_hash(context: DesiredContext) -> str:
    text = json.dumps(dict(context.secret_hashes), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]

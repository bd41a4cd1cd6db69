"""What desired state depends on beside the GridNode itself."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

#: APIs that a cluster may lack, as ``group/version/Kind``.
HTTP_ROUTE_API: Final = "gateway.networking.k8s.io/v1/HTTPRoute"
POD_MONITOR_API: Final = "monitoring.coreos.com/v1/PodMonitor"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSecrets:
    """Values that the operator puts into Secrets of its own.

    Attributes:
        database_url: URL of the node's login, ``postgresql://…``.
        management_token: The generated token; not used where the spec names a Secret.
        master_key: Key for the operator's master node, None if it has none.
        rotation: Which wish for a new password ``database_url`` follows, as a hash; empty if none was ever made.
    """

    database_url: str = field(repr=False)
    management_token: str = field(repr=False)
    master_key: str | None = field(default=None, repr=False)
    rotation: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredContext:
    """Everything the builders know beside the GridNode.

    Attributes:
        default_image: For GridNodes that name none.
        schema_revision: Of the release of the node that the operator came with.
        secrets: Values for the operator's own Secrets.
        secret_hashes: By any name: the hash (:func:`secret_hash`) of each Secret that the pods read.
        available_apis: Which of the optional APIs the cluster has.
        master_url: The operator's master node, None if it has none.
        operator_namespace: Where the operator's pods are.
        operator_labels: Labels of the operator's pods.
    """

    default_image: str
    schema_revision: str
    secrets: NodeSecrets
    secret_hashes: Mapping[str, str] = field(default_factory=dict)
    available_apis: frozenset[str] = frozenset()
    master_url: str | None = None
    operator_namespace: str = "gridnode-system"
    operator_labels: Mapping[str, str] = field(default_factory=lambda: {"app.kubernetes.io/name": "gridnode-operator"})


def secret_hash(values: Mapping[str, bytes], key: str) -> str:
    """A hash of a Secret's content for the annotation of the pods that read it.

    Args:
        values: By key of the Secret, those that are read.
        key: The Secret's uid. Who may read pods but no Secrets doesn't know it, and so can't try weak values.
    """
    content = json.dumps({name: value.hex() for name, value in values.items()}, sort_keys=True)
    return hmac.new(key.encode(), content.encode(), hashlib.sha256).hexdigest()[:32]

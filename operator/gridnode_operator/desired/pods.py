"""What the node's pods and those of migrations have in common. Pod Security: restricted."""

from __future__ import annotations

from typing import Any, Final

from gridnode_operator.api import SCRATCH_VOLUME, GridNode
from gridnode_operator.desired.context import DesiredContext
from gridnode_operator.desired.labels import Manifest
from gridnode_operator.desired.serviceaccount import service_account_name

_SCRATCH_PATH: Final = "/tmp"  # noqa: S108 - where Python's tempfile looks


def image(gridnode: GridNode, context: DesiredContext) -> str:
    """Image of the pods."""
    return gridnode.spec.image or context.default_image


def container(gridnode: GridNode, context: DesiredContext, name: str, command: list[str]) -> Manifest:
    """A container of the node's image, without environment and ports."""
    return {
        "name": name,
        "image": image(gridnode, context),
        "imagePullPolicy": gridnode.spec.image_pull_policy,
        "command": command,
        "resources": _resources(gridnode),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": _volume_mounts(gridnode),
    }


def pod_spec(gridnode: GridNode) -> Manifest:
    """A pod's spec without containers."""
    template = gridnode.spec.pod_template
    spec: Manifest = {
        "serviceAccountName": service_account_name(gridnode),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [{"name": SCRATCH_VOLUME, "emptyDir": {}}, *template.volumes],
        "imagePullSecrets": [{"name": name} for name in gridnode.spec.image_pull_secrets],
        "nodeSelector": template.node_selector,
        "tolerations": template.tolerations,
        "priorityClassName": template.priority_class_name,
    }
    return without_empty(spec)


def without_empty(manifest: Manifest) -> Manifest:
    """Without the fields that are None or empty: server-side apply would own them for nothing."""
    return {key: value for key, value in manifest.items() if value not in (None, "", [], {})}


def _resources(gridnode: GridNode) -> Manifest:
    wanted: dict[str, Any] = {"requests": gridnode.spec.resources.requests, "limits": gridnode.spec.resources.limits}
    return {
        kind: {name: str(amount) for name, amount in amounts.items()} for kind, amounts in wanted.items() if amounts
    }


def _volume_mounts(gridnode: GridNode) -> list[Manifest]:
    own: Manifest = {"name": SCRATCH_VOLUME, "mountPath": _SCRATCH_PATH}
    given = gridnode.spec.pod_template.volume_mounts
    return given if any(mount.get("mountPath") == _SCRATCH_PATH for mount in given) else [own, *given]

"""Nodes of a running ``gridnode up`` on this machine, through a directory that both know.

The master node writes ``<name>.yaml``, a GridNode manifest, and removes it again; ``gridnode up`` runs what it finds
there, and writes ``<name>.status.json`` beside each manifest, its own included:

.. code-block:: json

    {"nodeId": "default/demo", "url": "http://127.0.0.1:5000", "ready": true, "replicas": 1, "readyReplicas": 1,
     "conditions": [], "management": {"url": "http://127.0.0.1:5050", "token": "…"}}

Both write a file under another name and rename it, so that a half-written one is never read; ``status.json`` holds a
token, so only its owner can read it.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import yaml
from msgspec import Meta, Struct, field

from gridnode_operator.master.errors import ProviderFailed
from gridnode_operator.master.nodes.provider import (
    ManagementAccess,
    NodeRequest,
    ObservedNode,
)
from gridnode_operator.master.nodes.template import MANAGED_BY, MANAGED_BY_LABEL, NodeTemplate

NAMESPACE: Final = "default"
STATUS_SUFFIX: Final = ".status.json"
_LARGEST: Final = 1 << 20
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_Url = Annotated[str, Meta(pattern=r"^https?://[!-~]+$", max_length=2048)]


class Management(Struct, frozen=True):
    """The management listener of a node."""

    url: _Url
    token: str | None = None


class NodeStatus(Struct, frozen=True, rename="camel"):
    """What ``gridnode up`` writes of a node."""

    node_id: str
    ready: bool = False
    url: _Url | None = None
    replicas: int | None = None
    ready_replicas: int | None = None
    conditions: list[dict[str, Any]] = field(default_factory=list)
    management: Management | None = None


class LocalProvider:
    """Manifests in a directory.

    Args:
        directory: Made when missing.
        template: Specs of new nodes.
    """

    def __init__(self, directory: Path, template: NodeTemplate) -> None:
        self._directory = directory
        self._template = template

    def observe(self) -> list[ObservedNode]:
        """Nodes that ``gridnode up`` has written a status of."""
        return [
            ObservedNode(
                node_id=status.node_id,
                ready=status.ready,
                url=status.url,
                conditions=status.conditions,
                replicas=status.replicas,
                ready_replicas=status.ready_replicas,
            )
            for status in self._statuses()
        ]

    def create(self, request: NodeRequest) -> str:
        """Write the manifest unless it is there."""
        path = self._directory / f"{request.name}.yaml"
        if not path.exists():
            manifest = self._template.manifest(request, NAMESPACE)
            _write(path, yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True))
        return f"{NAMESPACE}/{request.name}"

    def delete(self, node_id: str) -> None:
        """Remove the manifest if a master node wrote it; ``gridnode up`` stops the node."""
        name = node_id.removeprefix(f"{NAMESPACE}/")
        if not _NAME.fullmatch(name):
            return
        path = self._directory / f"{name}.yaml"
        try:
            manifest = yaml.safe_load(path.read_text(encoding="utf-8"))
            if manifest["metadata"]["labels"][MANAGED_BY_LABEL] == MANAGED_BY:
                path.unlink()
        except FileNotFoundError:
            return
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
            raise ProviderFailed(f"the manifest {path.name} is not one that a master node wrote: it stays") from None

    def management(self, node_id: str) -> ManagementAccess | None:
        """From the node's status."""
        for status in self._statuses():
            if status.node_id == node_id and status.management is not None:
                return ManagementAccess(url=status.management.url.rstrip("/"), token=status.management.token)
        return None

    def _statuses(self) -> list[NodeStatus]:
        try:
            paths = sorted(self._directory.glob(f"*{STATUS_SUFFIX}"))
        except OSError as error:
            raise ProviderFailed(f"the directory of local nodes can't be read: {error.strerror}") from None
        read = (_read_status(path) for path in paths)
        return [status for status in read if status is not None]


def _read_status(path: Path) -> NodeStatus | None:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_LARGEST), type=NodeStatus)
    except (OSError, msgspec.MsgspecError):
        return None  # removed meanwhile, or of a release that writes it otherwise


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, unfinished = tempfile.mkstemp(prefix=".", dir=path.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(unfinished).replace(path)
    except OSError as error:
        raise ProviderFailed(f"the manifest {path.name} can't be written: {error.strerror}") from None

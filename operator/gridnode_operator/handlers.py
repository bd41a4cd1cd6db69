"""What kopf tells, and where it goes: decorators, nothing else. The work is done by :mod:`.reconcile`.

Only events are handled, and each leads to the same reconcile: kopf's own handlers for create, update and delete would
keep their progress on the resource, which costs writes, and would not be told of children.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

import kopf
from kopf._core.reactor.inventory import ResourceMemories  # its place is private, but it is a parameter of the operator

from gridnode_operator.api import GROUP, KIND, PLURAL, VERSION
from gridnode_operator.desired import CHILD_KINDS
from gridnode_operator.desired.labels import MANAGED_BY_LABEL, MANAGER
from gridnode_operator.kube import PLURALS
from gridnode_operator.workqueue import Key

#: Objects of one kind that kopf handles at once; each takes but a moment.
_WORKERS_PER_KIND: Final = 64
#: Seconds for which such a worker stays with its object. With one second, no more than 64 objects would be told in one.
_IDLE: Final = 0.02
#: Objects of a kind in one answer when all are listed: parsed, a Deployment takes some 50 kB.
_CHUNK: Final = 50


class Listener(Protocol):
    """Who is told."""

    def gridnode_changed(self, key: Key, body: Mapping[str, Any]) -> None:
        """A GridNode is there, or has changed."""

    def gridnode_gone(self, key: Key) -> None:
        """A GridNode is gone."""

    def child_changed(self, key: Key, uid: str, version: str) -> None:
        """Something that belongs to a GridNode has changed, or is gone: its uid and the version of the change."""


class NoMemories(ResourceMemories):
    """Keeps nothing of the objects that kopf was told of: a kilobyte each, for daemons, timers and handlers that go on.

    There are none here, and a GridNode has ten children.
    """

    async def recall(self, *arguments: Any, **more: Any) -> Any:
        """A new one each time."""
        return await super().recall(*arguments, **{**more, "ephemeral": True})


def make_registry(listener: Listener) -> kopf.OperatorRegistry:
    """All handlers."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(kopf.login_via_client)

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def gridnode(*, type: str, namespace: str | None, name: str, body: kopf.Body, **_: Any) -> None:
        if type == "DELETED":
            listener.gridnode_gone(Key(str(namespace), name))
        else:
            listener.gridnode_changed(Key(str(namespace), name), body)

    async def child(*, namespace: str | None, meta: kopf.Meta, **_: Any) -> None:
        for owner in meta.get("ownerReferences") or []:
            if owner.get("controller") and owner.get("kind") == KIND and owner["apiVersion"].startswith(f"{GROUP}/"):
                key = Key(str(namespace), owner["name"])
                listener.child_changed(key, str(meta["uid"]), str(meta["resourceVersion"]))

    for api_version, kind in CHILD_KINDS:
        kopf.on.event(*_selector(api_version, kind), registry=registry, labels={MANAGED_BY_LABEL: MANAGER})(child)
    return registry


def make_settings(*, clusterwide: bool) -> kopf.OperatorSettings:
    """kopf's settings: watches that end in time, and nothing written by kopf itself.

    Args:
        clusterwide: Whether all namespaces are watched. If not, kopf must not look for namespaces and new kinds, which
            is a right on the whole cluster.
    """
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = not clusterwide
    # A watch stream can go silent without being closed; kopf reconnects one that says nothing, not even a bookmark.
    settings.watching.inactivity_timeout = 70
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 310
    settings.watching.connect_timeout = 10
    settings.watching.reconnect_backoff = 1
    settings.watching.chunk_size = _CHUNK
    settings.queueing.worker_limit = _WORKERS_PER_KIND
    settings.queueing.idle_timeout = _IDLE
    settings.posting.enabled = False
    settings.peering.standalone = True
    for api_version, kind in CHILD_KINDS:
        settings.watching.label_selectors[_selector(api_version, kind)] = f"{MANAGED_BY_LABEL}={MANAGER}"
    return settings


def _selector(api_version: str, kind: str) -> tuple[str, str, str]:
    group, _, version = api_version.rpartition("/")
    return group, version, PLURALS[api_version, kind]

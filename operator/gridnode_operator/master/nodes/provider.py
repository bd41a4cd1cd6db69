"""Where nodes come from: the one interface behind which a cluster, one machine, or a list in a file is."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from gridnode_operator.master.errors import ProviderFailed

_HASH_DIGITS: Final = 12
_LONGEST_SLUG: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagementAccess:
    """How a node is managed. Comes from the provider alone, never from what a node or a caller says."""

    url: str
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedNode:
    """A node as its provider sees it.

    Attributes:
        node_id: Its name in progress events.
        ready: Whether phones can be sent to it.
        url: Where phones reach it.
        conditions: As in a GridNode's status: ``type``, ``status``, ``reason``, ``message``, ``lastTransitionTime``.
        replicas: Replicas wanted.
        ready_replicas: Replicas that are ready.
    """

    node_id: str
    ready: bool
    url: str | None = None
    conditions: Sequence[Mapping[str, Any]] = ()
    replicas: int | None = None
    ready_replicas: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRequest:
    """A node that a dataset needs.

    Attributes:
        name: Of the GridNode, made from owner and dataset: asking again names the same one.
        dataset: The dataset's name.
        owner: Whose it is.
    """

    name: str
    dataset: str
    owner: str


class NodeProvider(Protocol):
    """Makes, lists and removes nodes. Every call ends within seconds, and may be repeated."""

    def observe(self) -> list[ObservedNode]:
        """All nodes that there are.

        Raises:
            ProviderFailed: they can't be listed just now.
        """
        ...

    def create(self, request: NodeRequest) -> str:
        """Have a node made unless it is there; gives its ``node_id`` without waiting for it.

        Raises:
            ProviderFailed: it can't be made; says why.
        """
        ...

    def delete(self, node_id: str) -> None:
        """Have a node removed that :meth:`create` made; one that is gone is fine.

        What becomes of its models is the GridNode's ``database.reclaimPolicy``.

        Raises:
            ProviderFailed: it can't be removed just now.
        """
        ...

    def management(self, node_id: str) -> ManagementAccess | None:
        """How a node is managed, None if there is no such node.

        Raises:
            ProviderFailed: that can't be found out just now.
        """
        ...


class NoProvider:
    """For a master node that only listens: there are no nodes but those that report."""

    def observe(self) -> list[ObservedNode]:
        """None."""
        return []

    def create(self, request: NodeRequest) -> str:
        """Always refuses."""
        raise ProviderFailed(
            f"dataset {request.dataset} has no node, and this master node makes none: "
            "set GRIDNODE_MASTER_PROVIDER to kubernetes, local or static"
        )

    def delete(self, node_id: str) -> None:
        """Nothing to remove."""

    def management(self, node_id: str) -> ManagementAccess | None:
        """Not known."""
        return None


def node_name(owner: str, dataset: str) -> str:
    """Name of the GridNode of a dataset: readable, a DNS label, and no other dataset's."""
    digest = hashlib.sha256(f"{len(owner)}:{owner}{dataset}".encode()).hexdigest()[:_HASH_DIGITS]
    slug = re.sub(r"[^a-z0-9]+", "-", dataset.lower(), flags=re.ASCII).strip("-")[:_LONGEST_SLUG].rstrip("-")
    return f"dataset-{slug}-{digest}" if slug else f"dataset-{digest}"

"""Checkpoints of models that their nodes keep, passed on without a copy here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

from gridnode.db.session import Database
from gridnode.errors import NotFound
from gridnode_operator.master.keys.access import Principal
from gridnode_operator.master.models.queries import view_model
from gridnode_operator.master.nodes.management_api import Download, retrieve_checkpoint
from gridnode_operator.master.nodes.provider import NodeProvider

_SECONDS = 900.0


class NodeCheckpoints:
    """Gives out what nodes keep.

    Args:
        database: The master node's.
        provider: Knows how nodes are managed: no other is ever asked.
        largest: Bytes that a checkpoint may have.
    """

    def __init__(self, database: Database, provider: NodeProvider, *, largest: int) -> None:
        self._database = database
        self._provider = provider
        self._largest = largest

    def open(self, principal: Principal, model_id: int, checkpoint: str) -> tuple[str, Download]:
        """A name for the file, and the checkpoint by number or ``latest``; its pieces come from the node.

        Raises:
            NotFound: there is no model that the caller may see, or its node is none of this master node's own.
            NodeUnreachable: the node does not answer, or has no such checkpoint.
        """
        view = self._database.transaction(lambda session: view_model(session, principal, model_id)).model
        access = self._provider.management(view.node_id)
        if access is None:
            raise NotFound(f"node {view.node_id} is none of this master node's own: ask it for its checkpoints")
        stack = ExitStack()
        download = stack.enter_context(
            retrieve_checkpoint(access, view.name, view.version, checkpoint, largest=self._largest, seconds=_SECONDS)
        )
        return f"{view.name}-{view.version}-{download.number}.state", Download(
            download.number, _closing(download.chunks, stack)
        )


def _closing(chunks: Iterator[bytes], stack: ExitStack) -> Iterator[bytes]:
    with stack:
        yield from chunks

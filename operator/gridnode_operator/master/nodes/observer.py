"""Looking at the nodes: which there are, and what they say of themselves. Writes what it sees into the database."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from gridnode.db.session import Database
from gridnode.errors import GridNodeError
from gridnode_operator.master.db.models import Node
from gridnode_operator.master.errors import NodeUnreachable, ProviderFailed
from gridnode_operator.master.nodes.management_api import list_processes
from gridnode_operator.master.nodes.provider import NodeProvider, ObservedNode
from gridnode_operator.master.nodes.rows import lock_nodes
from gridnode_operator.master.nodes.snapshots import take_snapshot

log = logging.getLogger(__name__)

_AT_ONCE: Final = 8
_LONGEST_ERROR: Final = 500


class Observer:
    """One look at all nodes; :class:`~gridnode_operator.master.background.Background` repeats it.

    Args:
        database: The master node's.
        provider: Who knows the nodes.
        changed: Called when something that is shown has changed.
    """

    def __init__(self, database: Database, provider: NodeProvider, changed: Callable[[], None] = lambda: None) -> None:
        self._database = database
        self._provider = provider
        self._changed = changed
        self._provider_away = False

    def look(self) -> None:
        """Ask the provider, then each node that it knows.

        Raises:
            Unavailable: the database is away; nothing is lost by looking again later.
        """
        try:
            observed = self._provider.observe()
        except ProviderFailed as error:
            if not self._provider_away:
                log.warning("nodes can't be observed", extra={"reason": error.message})
            self._provider_away = True
            return
        self._provider_away = False
        if self._database.transaction(lambda session: record_nodes(session, observed)):
            self._changed()
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="observer") as pool:
            list(pool.map(self._ask, [node.node_id for node in observed]))

    def _ask(self, node_id: str) -> None:
        error: str | None = None
        processes: list[dict[str, Any]] = []
        try:
            access = self._provider.management(node_id)
            if access is None:
                return
            processes = list_processes(access)
        except (NodeUnreachable, ProviderFailed) as failure:
            error = failure.message
        try:
            self._database.transaction(lambda session: record_answer(session, node_id, processes, error))
        except GridNodeError as failure:
            log.info("what a node said could not be kept", extra={"node": node_id, "reason": failure.message})
        except Exception:
            # One node's answer must not keep the others from being looked at.
            log.exception("what a node said could not be kept", extra={"node": node_id})
        else:
            self._changed()


def record_nodes(session: Session, observed: Sequence[ObservedNode]) -> bool:
    """Keep what the provider sees, and that it does not see the others any more; gives whether anything has changed."""
    now = session.execute(select(func.now())).scalar_one()
    rows = lock_nodes(session, {node.node_id for node in observed})
    changed = False
    nodes = {row.node_id: row for row in session.scalars(select(Node).where(Node.id.in_(rows.values())))}
    for each in observed:
        row = nodes[each.node_id]
        before = (row.known, row.ready, row.url, row.conditions, row.replicas, row.ready_replicas)
        row.known, row.ready, row.url = True, each.ready, each.url
        row.conditions = [dict(condition) for condition in each.conditions]
        row.replicas, row.ready_replicas = each.replicas, each.ready_replicas
        row.observed_at = now
        if before != (row.known, row.ready, row.url, row.conditions, row.replicas, row.ready_replicas):
            row.changed_at = now
            changed = True
    gone = session.execute(
        update(Node)
        .where(Node.known, Node.id.not_in(list(rows.values())))
        .values(known=False, ready=False, changed_at=now)
        .returning(Node.id)
        .execution_options(synchronize_session=False)
    ).all()
    return changed or bool(gone)


def record_answer(session: Session, node_id: str, processes: Sequence[dict[str, Any]], error: str | None) -> None:
    """Keep what a node said of its processes, or why it said nothing."""
    if error is None:
        take_snapshot(session, node_id, processes)
    values = {"polled_at": func.now(), "poll_error": None} if error is None else {"poll_error": error[:_LONGEST_ERROR]}
    was_otherwise = (
        Node.poll_error.is_not(None)
        if error is None
        else or_(Node.poll_error.is_(None), Node.poll_error != error[:_LONGEST_ERROR])
    )
    session.execute(
        update(Node)
        .where(Node.node_id == node_id, was_otherwise)
        .values(changed_at=func.now())
        .execution_options(synchronize_session=False)
    )
    session.execute(
        update(Node).where(Node.node_id == node_id).values(**values).execution_options(synchronize_session=False)
    )

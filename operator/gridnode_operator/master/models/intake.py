"""Progress events from many threads at once, committed together."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

from sqlalchemy.exc import DBAPIError

from gridnode.cycles.group_commit import GroupCommit
from gridnode.db.session import Database, is_transient
from gridnode_operator.master.errors import Forbidden
from gridnode_operator.master.keys.access import Principal
from gridnode_operator.master.models.events import ProgressEvent
from gridnode_operator.master.models.ingest import Ingested, ingest

_BATCH: Final = 128
_ALL: Final = "events"


class EventIntake:
    """Takes events from any number of threads, and commits those that come together in one transaction.

    Args:
        database: The master node's.
        committed: Called after a commit, so that viewers are told at once.
    """

    def __init__(self, database: Database, committed: Callable[[], None] = lambda: None) -> None:
        self._database = database
        self._committed = committed
        self._group: GroupCommit[ProgressEvent, Ingested] = GroupCommit(
            self._commit, ThreadPoolExecutor(1, thread_name_prefix="events"), _BATCH
        )

    def take(self, event: ProgressEvent, principal: Principal) -> Ingested:
        """Wait until an event is durable.

        Raises:
            Forbidden: the caller's key speaks for another node.
            Unavailable: the database is away.
        """
        return self._group.submit(_ALL, as_told_by(event, principal)).result()

    def _commit(self, _key: Hashable, events: Sequence[ProgressEvent]) -> Sequence[Ingested | Exception]:
        try:
            done: Sequence[Ingested | Exception] = self._database.transaction(lambda session: ingest(session, events))
        except DBAPIError as error:
            if len(events) == 1 or is_transient(error):
                raise
            # One that the database refuses must not take the others with it.
            done = [self._alone(event) for event in events]
        self._committed()
        return done

    def _alone(self, event: ProgressEvent) -> Ingested | Exception:
        try:
            return self._database.transaction(lambda session: ingest(session, [event]))[0]
        except Exception as error:
            return error


def as_told_by(event: ProgressEvent, principal: Principal) -> ProgressEvent:
    """The event with the node that its key speaks for.

    Raises:
        Forbidden: it says it is of another.
    """
    if principal.node_id is None or event.node_id == principal.node_id:
        return event
    if event.node_id is None:
        return replace(event, node_id=principal.node_id)
    raise Forbidden(f"this key speaks for node {principal.node_id}, not for {event.node_id}")

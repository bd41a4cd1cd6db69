"""Telling viewers of what changes, while there are any: one reader of the database for all of them.

Reads rows by the time of their change, with a margin for transactions that take long, and knows by a row's revision
what it has told already. So it needs nothing of whoever made the change, which may be another replica.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from gridnode.db.session import Database
from gridnode.errors import GridNodeError
from gridnode_operator.master.db.models import Dataset, Model, Node
from gridnode_operator.master.keys.access import Principal
from gridnode_operator.master.live.viewers import Filter, Viewers
from gridnode_operator.master.models.queries import ModelView, model_views, visible_models
from gridnode_operator.master.nodes.queries import NodeView, Patience, nodes_by_row

log = logging.getLogger(__name__)

#: Seconds between two looks at least; what changes more often is told once.
_SHORTEST_PAUSE: Final = 1.0
#: Seconds between two looks while nobody in this process says that something has changed.
_LONGEST_PAUSE: Final = 3.0
_MARGIN: Final = timedelta(seconds=15)
_MOST_AT_ONCE: Final = 500
_EVERYTHING: Final = Principal("admin")


@dataclass(frozen=True, slots=True)
class Changed:
    """What has changed: models, and nodes with the owners of each."""

    models: list[ModelView]
    nodes: list[tuple[NodeView, frozenset[str]]]


class Changes:
    """The thread that looks for changes.

    Args:
        database: The master node's.
        viewers: Who is told.
        patience: For the views of nodes.
    """

    def __init__(self, database: Database, viewers: Viewers, patience: Patience) -> None:
        self._database = database
        self._viewers = viewers
        self._patience = patience
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._models: dict[int, tuple[datetime, int]] = {}
        self._nodes: dict[int, datetime] = {}

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the thread; viewers are told on ``loop``."""
        self._loop = loop
        self._thread = threading.Thread(target=self._run, name="live-changes", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 2.0) -> None:
        """End the thread."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def notify(self) -> None:
        """Something has changed, or somebody has begun to watch."""
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping:
            # Nobody watches: sleep until somebody does.
            self._wake.wait(_LONGEST_PAUSE if len(self._viewers) else None)
            self._wake.clear()
            if not self._stopping and len(self._viewers):
                self._look_safely()
                time.sleep(_SHORTEST_PAUSE)

    def _look_safely(self) -> None:
        try:
            changed = self._database.transaction(self._look)
        except GridNodeError as error:
            self._models.clear()
            log.info("viewers wait for the database", extra={"reason": error.message})
        except Exception:
            self._models.clear()
            log.exception("changes could not be read, trying again")
        else:
            self._tell(changed)

    def _look(self, session: Session) -> Changed:
        now: datetime = session.execute(select(func.now())).scalar_one()
        models = self._changed_models(session, now)
        nodes = self._changed_nodes(session, now)
        return Changed(
            model_views(session, visible_models(_EVERYTHING).where(Model.id.in_(models))) if models else [],
            _with_owners(session, nodes_by_row(session, self._patience, nodes)) if nodes else [],
        )

    def _changed_models(self, session: Session, now: datetime) -> list[int]:
        since = now - _MARGIN
        rows = session.execute(
            select(Model.id, Model.revision, Model.changed_at)
            .where(Model.changed_at >= since)
            .order_by(Model.changed_at)
        ).all()
        self._models = {row: told for row, told in self._models.items() if told[0] >= since}
        fresh = [row for row in rows if self._models.get(row.id, (None, -1))[1] != row.revision]
        # What is too much for one look is found again by the next.
        taken = fresh[:_MOST_AT_ONCE]
        self._models |= {row.id: (row.changed_at, row.revision) for row in taken}
        return [row.id for row in taken]

    def _changed_nodes(self, session: Session, now: datetime) -> list[int]:
        since = now - _MARGIN
        rows = session.execute(select(Node.id, Node.changed_at).where(Node.changed_at >= since)).all()
        fresh = [row.id for row in rows if self._nodes.get(row.id) != row.changed_at]
        self._nodes = {row.id: row.changed_at for row in rows}
        return fresh

    def _tell(self, changed: Changed) -> None:
        if not changed.models and not changed.nodes:
            return
        messages = {wanted: message for wanted in self._viewers.filters() if (message := render(changed, wanted))}
        if self._loop is not None and messages and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._viewers.send, messages)


def render(changed: Changed, wanted: Filter) -> bytes:
    """The message for one filter; empty if nothing passes it."""
    models = [model for model in changed.models if _passes(model, wanted)]
    nodes = [
        node
        for node, owners in changed.nodes
        # The view is an admin's: of a node that several owners share it would tell each of the others.
        if wanted.model is None
        and wanted.node in (None, node.id)
        and (wanted.owner is None or owners == {wanted.owner})
    ]
    if not models and not nodes:
        return b""
    if wanted.brief:
        return message("changed", {"models": [model.id for model in models], "nodes": [node.id for node in nodes]})
    return message("progress", {"models": models, "nodes": nodes})


def message(event: str, data: Any) -> bytes:
    """One server-sent event; JSON has no line breaks of its own."""
    return b"event: %b\ndata: %b\n\n" % (event.encode(), msgspec.json.encode(data))


def _passes(model: ModelView, wanted: Filter) -> bool:
    return (
        (wanted.owner is None or wanted.owner == model.owner)
        and wanted.model in (None, model.id)
        and wanted.node in (None, model.node)
    )


def _with_owners(session: Session, nodes: Iterable[NodeView]) -> list[tuple[NodeView, frozenset[str]]]:
    views = list(nodes)
    rows = session.execute(
        select(Dataset.node_id, Dataset.owner).where(
            Dataset.node_id.in_([view.id for view in views]), Dataset.deleted_at.is_(None)
        )
    )
    owners: dict[int, set[str]] = {}
    for node, owner in rows:
        owners.setdefault(node or 0, set()).add(owner)
    return [(view, frozenset(owners.get(view.id, ()))) for view in views]

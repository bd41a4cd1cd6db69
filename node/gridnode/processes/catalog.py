"""Hosted processes as the device edge needs them, kept in memory.

All of a process but its state and progress is fixed when it is hosted, so an entry is only refreshed to notice that
the process was deleted or that a newer version was hosted.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from gridnode.averaging.layout import ModelLayout
from gridnode.db.models import Plan, Process, Protocol
from gridnode.db.session import Database
from gridnode.processes.schema import ServerConfig, parse_server_config
from gridnode.security.tokens import Authentication

T = TypeVar("T")

#: Seconds after which an entry is looked up again.
FRESH_SECONDS = 2.0
_MAXIMUM_ENTRIES = 4096


@dataclass(frozen=True, slots=True)
class HostedProcess:
    """The fixed part of a process. ``plans`` and ``protocols`` map names to the ids that devices ask for."""

    id: int
    name: str
    version: str
    secret: bytes
    client_config: dict[str, Any]
    server_config: ServerConfig
    authentication: Authentication | None
    layout: ModelLayout
    has_averaging_plan: bool
    plans: dict[str, int]
    protocols: dict[str, int]


class Catalog:
    """Looks processes up by name, by id, and by the id of one of their plans or protocols."""

    def __init__(self, database: Database, now: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._now = now
        self._entries: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def by_name(self, name: str, version: str | None) -> HostedProcess | None:
        """The process of that name and version; the newest of that name if no version is given."""
        process_id = self._cached(("name", name, version), lambda session: find_process_id(session, name, version))
        return None if process_id is None else self.by_id(process_id)

    def by_id(self, process_id: int) -> HostedProcess | None:
        return self._cached(("process", process_id), lambda session: load_process(session, process_id))

    def of_plan(self, plan_id: int) -> HostedProcess | None:
        """The process that a training plan belongs to."""
        return self._owner(Plan, plan_id)

    def of_protocol(self, protocol_id: int) -> HostedProcess | None:
        return self._owner(Protocol, protocol_id)

    def forget(self) -> None:
        """Look everything up again; called after hosting or deleting in this worker process."""
        with self._lock:
            self._entries.clear()

    def _owner(self, kind: type[Plan] | type[Protocol], row_id: int) -> HostedProcess | None:
        process_id = self._cached(
            (kind.__tablename__, row_id),
            lambda session: session.scalar(select(kind.process_id).where(kind.id == row_id)),
        )
        return None if process_id is None else self.by_id(process_id)

    def _cached(self, key: Hashable, load: Callable[[Session], T]) -> T:
        with self._lock:
            entry = self._entries.get(key)
        if entry is not None and self._now() - entry[0] < FRESH_SECONDS:
            found: T = entry[1]
            return found
        value = self._database.transaction(load)
        with self._lock:
            self._entries[key] = (self._now(), value)
            self._entries.move_to_end(key)
            while len(self._entries) > _MAXIMUM_ENTRIES:
                self._entries.popitem(last=False)
        return value


def find_process_id(session: Session, name: str, version: str | None) -> int | None:
    """Id of the process of that name and version, or of the newest of that name."""
    query = select(Process.id).where(Process.name == name).order_by(Process.id.desc()).limit(1)
    if version is not None:
        query = query.where(Process.version == version)
    return session.scalar(query)


def load_process(session: Session, process_id: int) -> HostedProcess | None:
    """Read the fixed part of a process; None if there is no such process."""
    row = session.execute(
        select(
            Process.name,
            Process.version,
            Process.secret,
            Process.client_config,
            Process.server_config,
            Process.parameters,
            Process.averaging_plan.is_not(None).label("has_averaging_plan"),
        ).where(Process.id == process_id)
    ).one_or_none()
    if row is None:
        return None
    server_config, authentication = parse_server_config(row.server_config)
    return HostedProcess(
        id=process_id,
        name=row.name,
        version=row.version,
        secret=bytes(row.secret),
        client_config=row.client_config,
        server_config=server_config,
        authentication=authentication,
        layout=ModelLayout.from_json(row.parameters),
        has_averaging_plan=row.has_averaging_plan,
        plans=_ids(session, Plan, process_id),
        protocols=_ids(session, Protocol, process_id),
    )


def _ids(session: Session, kind: type[Plan] | type[Protocol], process_id: int) -> dict[str, int]:
    rows = session.execute(select(kind.name, kind.id).where(kind.process_id == process_id).order_by(kind.id))
    return {row.name: row.id for row in rows}

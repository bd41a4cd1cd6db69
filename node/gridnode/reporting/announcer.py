"""Telling the master node, or not: what the code that changes a process needs to know of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from gridnode.reporting.outbox import record_progress
from gridnode.reporting.progress import CycleFigures, ProcessProgress, process_progress


@dataclass(frozen=True, slots=True)
class Announcer:
    """Writes progress events under this node's name; writes none where no master node is configured."""

    node_id: str
    to_master: bool

    def announce(
        self, session: Session, progress: ProcessProgress, figures: CycleFigures | None, now: datetime
    ) -> None:
        """Insert the event in the caller's transaction."""
        record_progress(session, progress, figures, node_id=self.node_id, now=now, to_master=self.to_master)

    def announce_change(
        self,
        session: Session,
        process_id: int,
        now: datetime,
        *,
        figures: CycleFigures | None = None,
        deleted: bool = False,
    ) -> None:
        """Insert an event that says where a process is after a change; the caller's transaction has its row locked."""
        if self.to_master:
            self.announce(session, process_progress(session, process_id, deleted=deleted), figures, now)

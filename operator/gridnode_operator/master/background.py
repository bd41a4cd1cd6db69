"""Things that are done again and again beside requests; of several replicas one does each of them."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from sqlalchemy import func, or_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from gridnode.db.session import Database
from gridnode.errors import GridNodeError
from gridnode_operator.master.db.models import Lease

log = logging.getLogger(__name__)

_SHORTEST_LEASE: Final = 30.0


class Background:
    """A thread that does one thing at an interval, as long as its replica holds the lease for it.

    Args:
        name: Of the thing, the same in all replicas.
        work: Does it once. What it raises is logged, and it is tried again at the next turn.
        interval: Seconds between two turns.
        database: Holds the lease.
    """

    def __init__(self, name: str, work: Callable[[], object], *, interval: float, database: Database) -> None:
        self._name = name
        self._work = work
        self._interval = interval
        self._database = database
        self._holder = uuid.uuid4()
        self._wake = threading.Event()
        self._stopping = False
        self._away = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread after its present turn; one that takes longer than ``timeout`` seconds is left."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout)
            self._thread = None

    def notify(self) -> None:
        """Have the next turn at once."""
        self._wake.set()

    def turn(self) -> bool:
        """Do it once if the lease is, or becomes, this replica's; gives whether it was done."""
        lease = max(_SHORTEST_LEASE, 3 * self._interval)
        if not self._database.transaction(lambda session: hold_lease(session, self._name, self._holder, lease)):
            return False
        self._work()
        return True

    def _run(self) -> None:
        while not self._stopping:
            try:
                self.turn()
                self._away = False
            except GridNodeError as error:
                if not self._away:
                    log.warning("%s waits", self._name, extra={"reason": error.message})
                self._away = True
            except Exception:
                log.exception("%s failed, trying again", self._name)
            self._wake.wait(self._interval)
            self._wake.clear()


def hold_lease(session: Session, name: str, holder: uuid.UUID, seconds: float) -> bool:
    """Take or prolong a lease; False if another holds it."""
    until = func.now() + timedelta(seconds=seconds)
    taken = (
        insert(Lease)
        .values(name=name, holder=holder, until=until)
        .on_conflict_do_update(
            index_elements=[Lease.name],
            set_={"holder": holder, "until": until},
            where=or_(Lease.holder == holder, Lease.until < func.now()),
        )
        .returning(Lease.name)
    )
    return session.execute(taken).one_or_none() is not None

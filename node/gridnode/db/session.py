"""Connections and transactions.

One :class:`Database` per worker process. :meth:`Database.transaction` runs a function in one transaction and repeats
it when the database went away underneath, until a deadline. So what it runs must be idempotent: everything the node
does is, because claims, counters and inserts are conditional on what is already there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from gridnode.errors import Unavailable

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds without trouble after which the next trouble is logged again.
_LOG_INTERVAL = 5.0

# SQLSTATE classes and codes after which the same transaction may succeed on another connection or a moment later:
# connection exceptions, insufficient resources, operator intervention (restart, failover), serialization failure,
# deadlock, lock timeout, and read-only, which Aurora answers for a second after a failover.
_TRANSIENT_CLASSES = ("08", "53", "57")
_READ_ONLY = "25006"
_CONTENTION_CODES = ("40001", "40P01", "55P03")
_TRANSIENT_CODES = (*_CONTENTION_CODES, _READ_ONLY)


class Database:
    """A small connection pool and the rules for using it.

    Args:
        url: SQLAlchemy URL with the psycopg2 driver.
        pool_size: Connections kept per worker process; more are never opened.
        connect_timeout: Seconds to wait for one connection; above 15, since Aurora resumes from auto-pause in about
            15 s.
        deadline: Seconds after which a request gives up on the database and the caller is told to come back.
        schema: Schema to work in, where the login role has no search_path of its own.
    """

    def __init__(
        self,
        url: str | URL,
        *,
        pool_size: int = 4,
        connect_timeout: float = 20,
        deadline: float = 5,
        schema: str | None = None,
    ) -> None:
        self.deadline = deadline
        self._unavailable_until = 0.0
        self.engine = _make_engine(make_url(url), pool_size, connect_timeout, deadline, schema)
        self.sessions = sessionmaker(self.engine, expire_on_commit=False)

    def transaction(self, work: Callable[[Session], T], *, deadline: float | None = None, idempotent: bool = True) -> T:
        """Run ``work`` in one transaction and commit it.

        Args:
            work: Gets the session; may run several times, each time on a fresh transaction.
            deadline: Seconds until giving up; the database's default if None.
            idempotent: False for work that must not run again once a first try may have been committed.

        Raises:
            Unavailable: the database could not be reached, or stayed busy, until the deadline.
        """
        if time.monotonic() < self._unavailable_until:
            # Somebody has just waited the whole deadline in vain: don't let every thread wait it too.
            raise _unavailable()
        limit = time.monotonic() + (self.deadline if deadline is None else deadline)
        pause = 0.02
        while True:
            in_doubt = False
            try:
                with self.sessions() as session:
                    result = work(session)
                    in_doubt = not idempotent
                    session.commit()
                    return result
            except (DBAPIError, PoolTimeout) as error:
                if not is_transient(error):
                    raise
                if _code(error) == _READ_ONLY:
                    # The pool still points at the old writer: leave it at once instead of one connection at a time.
                    self.engine.dispose()
                if time.monotonic() + pause > limit:
                    self._give_up(error)
                if in_doubt:
                    raise _unavailable() from error
                time.sleep(pause)
                pause = min(pause * 2, 0.5)

    def _give_up(self, error: Exception) -> NoReturn:
        if _code(error) in _CONTENTION_CODES:
            # Somebody holds a lock for long, as a slow averaging plan does: for everybody else the database is there.
            log.warning("gave up waiting for a lock", extra={"reason": reason_of(error)})
            raise Unavailable("somebody else is just working on this, try again in a moment", retry_after=5) from error
        self._note_unavailable(error)
        raise _unavailable() from error

    def _note_unavailable(self, error: Exception) -> None:
        now = time.monotonic()
        if now - self._unavailable_until > _LOG_INTERVAL:
            log.warning("database unavailable", extra={"reason": reason_of(error)})
        self._unavailable_until = now + 1

    def is_writable(self) -> bool:
        """Whether the database answers now and accepts writes."""
        try:
            with self.engine.connect() as connection:
                answer = connection.execute(text("SHOW transaction_read_only")).scalar_one()
                return bool(answer == "off")
        except (DBAPIError, PoolTimeout):
            return False

    def close(self) -> None:
        """Close idle connections; those in use close when they come back."""
        self.engine.dispose()


def is_transient(error: Exception) -> bool:
    """Whether repeating the transaction may succeed without anybody changing anything."""
    if isinstance(error, PoolTimeout):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated or isinstance(error, InterfaceError):
        return True
    code = _code(error)
    if code is None:
        # psycopg2 gives no SQLSTATE when the connection breaks or can't be made.
        return isinstance(error, OperationalError)
    return code.startswith(_TRANSIENT_CLASSES) or code in _TRANSIENT_CODES


def _unavailable() -> Unavailable:
    return Unavailable("the database is unavailable, try again in a moment", retry_after=5)


def _code(error: Exception) -> str | None:
    """The SQLSTATE, None where there is none."""
    code: str | None = getattr(getattr(error, "orig", None), "pgcode", None)
    return code


def reason_of(error: Exception) -> str:
    original = getattr(error, "orig", None) or error
    return str(original).strip().splitlines()[0] if str(original).strip() else type(original).__name__


def _make_engine(url: URL, pool_size: int, connect_timeout: float, deadline: float, schema: str | None) -> Engine:
    milliseconds = int(deadline * 1000)
    arguments: dict[str, Any] = {
        "connect_timeout": max(2, int(connect_timeout)),
        "application_name": "gridnode",
        # A dead peer is noticed in seconds, not in the kernel's two hours.
        "keepalives": 1,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
        "target_session_attrs": "read-write",
    }
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=deadline,
        # Idle connections are given back to a database that pauses or scales down.
        pool_recycle=600,
        connect_args=arguments,
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = %s", (milliseconds,))
            cursor.execute("SET idle_in_transaction_session_timeout = '10min'")
            # The server's side of the same: a node that vanished from the network must not hold its locks for hours.
            cursor.execute("SET tcp_keepalives_idle = 30")
            cursor.execute("SET tcp_keepalives_interval = 10")
            cursor.execute("SET tcp_keepalives_count = 3")
            if schema is not None:
                cursor.execute("SELECT set_config('search_path', quote_ident(%s), false)", (schema,))
        connection.commit()

    return engine

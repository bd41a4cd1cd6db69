"""Connections and transactions.

One :class:`Database` per worker process. :meth:`Database.transaction` runs a function in one transaction and repeats
it when the database went away underneath, until a deadline. So what it runs must be idempotent: everything the node
does is, because claims, counters and inserts are conditional on what is already there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from sqlalchemy import Connection, Engine, Row, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from gridnode.db.iam import IamTokens, log_in_by_iam
from gridnode.errors import Unavailable
from gridnode.waiting import may_wait

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds without trouble after which the next trouble is logged again.
_LOG_INTERVAL = 5.0

# SQLSTATE classes and codes after which the same transaction may succeed on another connection or a moment later:
# connection exceptions, insufficient resources, operator intervention (restart, failover), serialization failure,
# deadlock, lock timeout, and read-only, which Aurora answers for a second after a failover.
_TRANSIENT_CLASSES = ("08", "53", "57")
_READ_ONLY = "25006"
# Something between has given this connection another session, one that has not prepared what is executed.
_NOT_PREPARED = "26000"
_CONTENTION_CODES = ("40001", "40P01", "55P03")
_TRANSIENT_CODES = (*_CONTENTION_CODES, _READ_ONLY, _NOT_PREPARED)
# Of statement_timeout.
_TOO_LONG = "57014"
#: Key in a connection's ``info``: names of what it has prepared.
_PREPARED = "gridnode prepared"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement that runs so often that the database should parse and plan it once per connection.

    Attributes:
        name: of its own in the whole node.
        types: of the parameters ``$1``, ``$2``, … in ``statement``, as PostgreSQL names them.
        statement: SELECT, INSERT, UPDATE or DELETE.
    """

    name: str
    types: tuple[str, ...]
    statement: str

    def run(self, connection: Connection, parameters: Sequence[Any]) -> Sequence[Row[Any]]:
        """Run it on a connection; gives the rows."""
        prepared = connection.info.setdefault(_PREPARED, set())
        try:
            if self.name not in prepared:
                connection.exec_driver_sql(f"PREPARE {self.name} ({', '.join(self.types)}) AS {self.statement}")
                prepared.add(self.name)
            # Cast, since PostgreSQL can't tell what an array of nothing but NULL holds.
            places = ", ".join(f"%s::{kind}" for kind in self.types)
            return connection.exec_driver_sql(f"EXECUTE {self.name} ({places})", tuple(parameters)).all()
        except DBAPIError as error:
            if _code(error) == _NOT_PREPARED:
                prepared.clear()
            raise


class Database:
    """A small connection pool and the rules for using it.

    Args:
        url: SQLAlchemy URL with the psycopg2 driver.
        pool_size: Connections kept per worker process; more are never opened.
        connect_timeout: Seconds to wait for one connection; above 15, since Aurora resumes from auto-pause in about
            15 s.
        deadline: Seconds after which a request gives up on the database and the caller is told to come back.
        schema: Schema to work in, where the login role has no search_path of its own.
        statement_timeout: Seconds after which the database ends a single statement, whoever waits for it.
        iam: Makes the passwords of new connections; None to use the URL's.
    """

    def __init__(
        self,
        url: str | URL,
        *,
        pool_size: int = 4,
        connect_timeout: float = 20,
        deadline: float = 5,
        schema: str | None = None,
        statement_timeout: float = 60,
        iam: IamTokens | None = None,
    ) -> None:
        self.deadline = deadline
        self._unavailable_until = 0.0
        self.engine = _make_engine(make_url(url), pool_size, connect_timeout, deadline, schema, statement_timeout)
        if iam is not None:
            log_in_by_iam(self.engine, iam)
        self.sessions = sessionmaker(self.engine, expire_on_commit=False)

    def transaction(self, work: Callable[[Session], T], *, deadline: float | None = None) -> T:
        """Run ``work`` in one transaction and commit it.

        Args:
            work: Gets the session; may run several times, each time on a fresh transaction.
            deadline: Seconds until giving up; the database's default if None.

        Raises:
            Unavailable: the database could not be reached, or stayed busy, until the deadline.
            WouldWait: on an event loop.
        """

        def attempt() -> T:
            with self.sessions() as session:
                result = work(session)
                session.commit()
                return result

        return self._repeat(attempt, self.deadline if deadline is None else deadline)

    def execute(self, statement: Prepared, parameters: Sequence[Any]) -> Sequence[Row[Any]]:
        """Run one statement as a transaction of its own, in a single exchange with the database.

        Returns:
            Its rows. As in :meth:`transaction`, it may have run more than once.

        Raises:
            Unavailable, WouldWait: see :meth:`transaction`.
        """

        def attempt() -> Sequence[Row[Any]]:
            with self.engine.connect() as connection:
                driver: Any = connection.connection.driver_connection
                # Not SQLAlchemy's isolation level AUTOCOMMIT: psycopg2 would tell the server of each change of level.
                driver.autocommit = True
                try:
                    return statement.run(connection, parameters)
                finally:
                    if not driver.closed:
                        driver.autocommit = False

        return self._repeat(attempt, self.deadline)

    def _repeat(self, attempt: Callable[[], T], deadline: float) -> T:
        may_wait()
        if time.monotonic() < self._unavailable_until:
            # Somebody has just waited the whole deadline in vain: don't let every thread wait it too.
            raise _unavailable()
        limit = time.monotonic() + deadline
        pause = 0.02
        while True:
            try:
                return attempt()
            except (DBAPIError, PoolTimeout) as error:
                if not is_transient(error):
                    raise
                if _code(error) == _READ_ONLY:
                    # The pool still points at the old writer: leave it at once instead of one connection at a time.
                    self.engine.dispose()
                if time.monotonic() + pause > limit:
                    self._give_up(error)
                time.sleep(pause)
                pause = min(pause * 2, 0.5)

    def _give_up(self, error: Exception) -> NoReturn:
        if _code(error) in (*_CONTENTION_CODES, _TOO_LONG):
            # Somebody holds a lock for long, as a slow averaging plan does, or this one statement takes long: for
            # everybody else the database is there.
            log.warning("gave up waiting for a lock or a statement", extra={"reason": reason_of(error)})
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


def _make_engine(
    url: URL, pool_size: int, connect_timeout: float, deadline: float, schema: str | None, statement_timeout: float
) -> Engine:
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
            cursor.execute("SET lock_timeout = %s", (_milliseconds(deadline),))
            cursor.execute("SET statement_timeout = %s", (_milliseconds(statement_timeout),))
            cursor.execute("SET idle_in_transaction_session_timeout = '10min'")
            # The server's side of the same: a node that vanished from the network must not hold its locks for hours.
            cursor.execute("SET tcp_keepalives_idle = 30")
            cursor.execute("SET tcp_keepalives_interval = 10")
            cursor.execute("SET tcp_keepalives_count = 3")
            if schema is not None:
                cursor.execute("SELECT set_config('search_path', quote_ident(%s), false)", (schema,))
        connection.commit()

    return engine


def _milliseconds(seconds: float) -> int:
    # 0 would mean no limit to PostgreSQL.
    return max(1, int(seconds * 1000))

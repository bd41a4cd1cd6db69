"""A connection to the server on which nothing waits for ever.

psycopg2's blocking calls end only when the kernel thinks that the connection is dead: a server that is stopped, or a
proxy that keeps connections open, would hold a thread for ever. So its asynchronous mode is used, with a deadline for
each step.
"""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import psycopg2
import psycopg2.extensions
from psycopg2 import sql

from gridnode_operator.database.errors import (
    DatabaseRefused,
    DatabaseUnavailable,
    error_of_connecting,
    error_of_statement,
)

Checkpoint = Callable[[str], None]
Row = tuple[Any, ...]

_SCHEMES: Final = ("postgresql", "postgres", "postgresql+psycopg2")
_OLDEST_VERSION: Final = 160_000
_GRACE: Final = 5.0  # seconds that the server's own timeouts get to arrive before the connection is given up

_DEFAULTS: Final = {"application_name": "gridnode-operator", "target_session_attrs": "read-write"}
# Names are looked up in the catalog only, whatever somebody has put into schema public. A role that is created must not
# give its rights to the administrator: with rds_iam among them it could not log in with its password any more.
_SETUP: Final = """
SET search_path = pg_catalog;
SET statement_timeout = {statement_timeout};
SET lock_timeout = {lock_timeout};
SET idle_in_transaction_session_timeout = '60s';
SELECT set_config(name, '', false) FROM pg_settings WHERE name = 'createrole_self_grant'
"""

# What a node's connection takes over from the administrator's: where and how, never who.
_SHARED_PARAMETERS: Final = (
    "sslmode", "sslrootcert", "sslcrl", "sslnegotiation", "ssl_min_protocol_version", "channel_binding", "gssencmode",
    "target_session_attrs", "load_balance_hosts",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to get a connection, for each statement, and of these waiting for a lock."""

    connect: float = 20.0
    statement: float = 30.0
    lock: float = 5.0


def connection_parameters(url: str) -> dict[str, str]:
    """libpq's parameters in a URL.

    Raises:
        DatabaseRefused: it can't be used. Its text is not shown: it may be a password in the wrong place.
    """
    scheme, _, rest = url.strip().partition("://")
    # A password with an unencoded '@' or '/' would be taken for a host, and shown as one.
    if scheme not in _SCHEMES or rest.partition("?")[0].count("@") > 1:
        raise _unusable_url()
    try:
        parameters = psycopg2.extensions.parse_dsn(f"postgresql://{rest}")
    except (psycopg2.Error, ValueError):
        raise _unusable_url() from None
    if not parameters.get("user"):
        raise _unusable_url()
    return {"dbname": parameters["user"], **parameters}


def node_parameters(parameters: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Where the server is, and how to connect to it: what another login has in common with the administrator's."""
    where = {key: parameters[key] for key in ("host", "hostaddr", "port", "dbname") if parameters.get(key)}
    how = {key: parameters[key] for key in _SHARED_PARAMETERS if parameters.get(key)}
    return where, how


class Session:
    """One connection. Statements are committed one by one outside of :meth:`transaction`."""

    def __init__(self, connection: Any, timeout: float, checkpoint: Checkpoint | None) -> None:
        self.connection = connection
        self._timeout = timeout
        self._checkpoint = checkpoint

    def execute(self, statement: str | sql.Composable, /, **values: object) -> list[Row]:
        """Run a statement and return its rows.

        Args:
            statement: Values stand in it as ``{name}``; in a composed one all are there already. Nothing is pasted as
                text: a ``%`` in a name would be taken for a placeholder of the driver's own.
        """
        composed = sql.SQL(statement) if isinstance(statement, str) else statement
        if values:
            assert isinstance(composed, sql.SQL)  # noqa: S101 - for the type checker
            composed = composed.format(**{key: sql.Literal(value) for key, value in values.items()})
        text = composed.as_string(self.connection)
        if self._checkpoint is not None:
            self._checkpoint(text)
        return self._run(text)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing."""
        self.execute("BEGIN")
        try:
            yield
        except BaseException:
            self._roll_back()
            raise
        self.execute("COMMIT")

    @contextlib.contextmanager
    def rolled_back(self) -> Iterator[None]:
        """A transaction of which nothing stays, for rights that must never be seen by others."""
        self.execute("BEGIN")
        try:
            yield
        finally:
            self._roll_back()

    def _roll_back(self) -> None:
        with contextlib.suppress(psycopg2.Error):
            self._run("ROLLBACK")

    def _run(self, text: str) -> list[Row]:
        with self.connection.cursor() as cursor:
            cursor.execute(text)
            _wait(self.connection, time.monotonic() + self._timeout)
            return cursor.fetchall() if cursor.description else []


@contextlib.contextmanager
def open_session(
    parameters: Mapping[str, str], timeouts: Timeouts, checkpoint: Checkpoint | None = None
) -> Iterator[Session]:
    """A session of the administrator.

    Raises:
        DatabaseUnavailable: it does not answer in time, or something in the block failed for such a reason.
        DatabaseRefused: likewise, but repeating it can't help.
    """
    try:
        connection = connect(parameters, timeouts)
    except psycopg2.Error as error:
        raise error_of_connecting(error, _place(parameters)) from None
    try:
        if connection.server_version < _OLDEST_VERSION:
            found = connection.server_version // 10_000
            raise DatabaseRefused("ServerTooOld", f"The database server is PostgreSQL {found}; 16 or newer is needed.")
        yield Session(connection, timeouts.statement + _GRACE, checkpoint)
    except psycopg2.Error as error:
        raise error_of_statement(error) from None
    finally:
        connection.close()


def connect(parameters: Mapping[str, str], timeouts: Timeouts) -> Any:
    """An asynchronous connection with the server's own timeouts set.

    Raises:
        psycopg2.Error: the login failed.
    """
    deadline = time.monotonic() + timeouts.connect
    options: dict[str, Any] = {**_DEFAULTS, **parameters, "client_encoding": "UTF8"}
    connection = psycopg2.connect(**options, async_=True)
    try:
        _wait(connection, deadline)
        setup = Session(connection, max(0.0, deadline - time.monotonic()), None)
        setup.execute(_SETUP, statement_timeout=int(timeouts.statement * 1000), lock_timeout=int(timeouts.lock * 1000))
    except BaseException:
        connection.close()
        raise
    return connection


def _wait(connection: Any, deadline: float) -> None:
    while True:
        state = connection.poll()
        if state == psycopg2.extensions.POLL_OK:
            return
        wanted = select.POLLIN if state == psycopg2.extensions.POLL_READ else select.POLLOUT
        poll = select.poll()
        poll.register(connection.fileno(), wanted)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            connection.close()
            raise DatabaseUnavailable("The database does not answer in time.")


def _place(parameters: Mapping[str, str]) -> str:
    host = parameters.get("host") or parameters.get("hostaddr") or "the local socket"
    return f"{host}:{parameters['port']}" if parameters.get("port") else host


def _unusable_url() -> DatabaseRefused:
    return DatabaseRefused(
        "InvalidUrl",
        "The administrator's database URL must look like postgresql://user:password@host:5432/database, with special "
        "characters of the password percent-encoded.",
    )

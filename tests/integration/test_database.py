"""Transactions outlive what happens to connections, and give up in bounded time when the database stays away."""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import cast

import psycopg2
import pytest
from psycopg2 import sql
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DataError, DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.orm import Session

from gridnode.db import binary_copy
from gridnode.db.iam import IamTokens
from gridnode.db.migrate import upgrade
from gridnode.db.revision import REVISION
from gridnode.db.session import Database, Prepared, is_transient
from gridnode.errors import Conflict, Unavailable
from tests.support.postgres import PostgresForTests
from tests.support.shared_database import VERSIONS, SharedServer
from tests.support.threads import Background

pytestmark = pytest.mark.integration

MEGABYTE = bytes(range(256)) * 4096


@pytest.fixture
def database(empty_database_url: str) -> Iterator[Database]:
    database = Database(empty_database_url, pool_size=1, connect_timeout=2, deadline=0.6)
    database.transaction(
        lambda session: session.execute(text("CREATE TABLE notes (id bigint PRIMARY KEY, value bytea, weight float8)"))
    )
    yield database
    database.close()


def execute(url: str, *statements: sql.Composable | str) -> None:
    """Run statements on a connection of their own, outside of any transaction."""
    with closing(psycopg2.connect(url.replace("+psycopg2", ""))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


def terminate(url: str, session: Session) -> None:
    """Break the session's connection as a failing server does."""
    backend = session.scalar(text("SELECT pg_backend_pid()"))
    execute(url, sql.SQL("SELECT pg_terminate_backend({}, 5000)").format(sql.Literal(backend)))


class BreaksOnce:
    """Work whose connection breaks in the middle of its first try.

    Args:
        url: the database.
        step: what meets the broken connection.
    """

    def __init__(self, url: str, step: str) -> None:
        self.url = url
        self.step = step
        self.tries = 0

    def __call__(self, session: Session) -> object:
        self.tries += 1
        session.execute(text("INSERT INTO notes VALUES (1, 'x')"))
        if self.tries == 1:
            terminate(self.url, session)
        if self.step == "statement":
            session.execute(text("INSERT INTO notes VALUES (2, 'x')"))
        elif self.step == "copy in":
            binary_copy.insert_row(session, "notes", {"id": 2, "value": MEGABYTE})
        elif self.step == "copy out":
            return binary_copy.read_value(session, "notes", "value", {"id": 1})
        return None


@pytest.mark.parametrize("step", ["statement", "copy in", "copy out", "commit"])
def test_transaction_whose_connection_breaks_is_run_again(
    database: Database, empty_database_url: str, step: str, caplog: pytest.LogCaptureFixture
) -> None:
    work = BreaksOnce(empty_database_url, step)
    database.transaction(work)
    assert work.tries == 2
    ids = database.transaction(lambda session: session.scalars(text("SELECT id FROM notes ORDER BY id")).all())
    assert ids == ([1, 2] if step in ("statement", "copy in") else [1])
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_connection_that_broke_while_it_was_idle_is_replaced(database: Database, empty_database_url: str) -> None:
    backend = database.transaction(lambda session: session.scalar(text("SELECT pg_backend_pid()")))
    execute(empty_database_url, sql.SQL("SELECT pg_terminate_backend({}, 5000)").format(sql.Literal(backend)))
    assert database.transaction(lambda session: session.scalar(text("SELECT 7"))) == 7


def test_error_of_the_work_rolls_back_and_comes_out_as_it_is(database: Database) -> None:
    def work(session: Session) -> None:
        session.execute(text("INSERT INTO notes VALUES (1)"))
        raise Conflict("no")

    with pytest.raises(Conflict):
        database.transaction(work)
    assert database.transaction(lambda session: session.scalar(text("SELECT count(*) FROM notes"))) == 0


@pytest.mark.parametrize("statement", ["SELECT no_such_column FROM notes", "COPY no_such_table TO STDOUT"])
def test_mistake_in_a_statement_is_not_repeated(database: Database, statement: str) -> None:
    tries = []

    def work(session: Session) -> None:
        tries.append(1)
        session.execute(text(statement))

    with pytest.raises(ProgrammingError):
        database.transaction(work)
    assert len(tries) == 1


_INSERT = Prepared(
    "insert_note", ("bigint", "float8"), "INSERT INTO notes (id, weight) VALUES ($1, 1 / $2) RETURNING id"
)


def test_statement_of_its_own_is_committed(database: Database, empty_database_url: str) -> None:
    assert [tuple(row) for row in database.execute(_INSERT, [1, 2.0])] == [(1,)]
    with closing(psycopg2.connect(empty_database_url.replace("+psycopg2", ""))) as other, other.cursor() as cursor:
        cursor.execute("SELECT weight FROM notes")
        assert cursor.fetchall() == [(0.5,)]


@pytest.mark.parametrize("divisor", [1.0, 0.0])
def test_connection_runs_transactions_again_after_a_statement_of_its_own(database: Database, divisor: float) -> None:
    """Whether the statement succeeds or fails."""
    with contextlib.suppress(DataError):
        database.execute(_INSERT, [1, divisor])

    def fail_after_inserting(session: Session) -> None:
        _INSERT.run(session.connection(), [2, 1.0])
        raise Conflict("half-way")

    with pytest.raises(Conflict):
        database.transaction(fail_after_inserting)
    ids = database.transaction(lambda session: session.scalars(text("SELECT id FROM notes")).all())
    assert ids == ([1] if divisor else [])


def test_statement_of_its_own_is_run_again_on_another_connection(database: Database, empty_database_url: str) -> None:
    database.execute(_INSERT, [1, 1.0])
    backend = database.transaction(lambda session: session.scalar(text("SELECT pg_backend_pid()")))
    execute(empty_database_url, sql.SQL("SELECT pg_terminate_backend({}, 5000)").format(sql.Literal(backend)))
    assert len(database.execute(_INSERT, [2, 1.0])) == 1


def test_database_that_became_a_reader_is_left_at_once(database: Database) -> None:
    """After a failover the pooled connection leads to the old writer, a new one to the new."""
    database.transaction(lambda session: session.execute(text("SET default_transaction_read_only = on")))
    database.transaction(lambda session: session.execute(text("INSERT INTO notes VALUES (1)")))
    assert database.is_writable()


def test_read_only_database_is_unavailable_until_it_can_be_written(database: Database, empty_database_url: str) -> None:
    switch = sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = {}")
    name = sql.Identifier(make_url(empty_database_url).database or "")
    maintenance = empty_database_url.replace(name.strings[0], "postgres")
    database.close()
    execute(maintenance, switch.format(name, sql.Literal("on")))
    assert not database.is_writable()
    with pytest.raises(Unavailable) as caught:
        database.transaction(lambda session: session.execute(text("INSERT INTO notes VALUES (1)")))
    assert caught.value.retry_after > 0
    time.sleep(1)  # for as long nobody asks again
    # Nor is it read from: a reader may be behind.
    with pytest.raises(Unavailable):
        database.transaction(lambda session: session.scalar(text("SELECT 1")))
    execute(maintenance, switch.format(name, sql.Literal("off")))
    time.sleep(1)
    assert database.is_writable()
    database.transaction(lambda session: session.execute(text("INSERT INTO notes VALUES (1)")))


def test_stopped_database_is_unavailable_in_bounded_time_and_used_again_when_it_is_back(
    durable_postgres: PostgresForTests,
) -> None:
    with durable_postgres.database(migrated=False) as url:
        database = Database(url, connect_timeout=2, deadline=1)
        assert database.is_writable()
        durable_postgres.server.pg_ctl("stop", "-m", "immediate", "-w")
        began = time.monotonic()
        with pytest.raises(Unavailable):
            database.transaction(lambda session: session.scalar(text("SELECT 1")))
        assert 0.5 < time.monotonic() - began < 3

        # Who asks in the next moment need not find out again.
        began = time.monotonic()
        with pytest.raises(Unavailable):
            database.transaction(lambda session: session.scalar(text("SELECT 1")))
        assert time.monotonic() - began < 0.1
        assert not database.is_writable()

        durable_postgres.server.pg_ctl("start", "-w", "-l", str(durable_postgres.server.log_file))
        time.sleep(1)
        assert database.transaction(lambda session: session.scalar(text("SELECT 7"))) == 7
        database.close()


def test_restart_of_the_database_is_bridged(durable_postgres: PostgresForTests) -> None:
    with durable_postgres.database(migrated=False) as url:
        database = Database(url, deadline=20)
        database.transaction(lambda session: session.execute(text("CREATE TABLE notes (id bigint)")))
        began = threading.Event()

        def work(session: Session) -> None:
            began.set()
            session.execute(text("INSERT INTO notes VALUES (1)"))
            session.execute(text("SELECT pg_sleep(0.5)"))

        waiting = Background(lambda: database.transaction(work))
        began.wait()
        durable_postgres.crash()
        waiting.result()
        assert database.transaction(lambda session: session.scalar(text("SELECT count(*) FROM notes"))) == 1
        database.close()


def test_busy_pool_is_unavailable_after_the_deadline(database: Database) -> None:
    with database.sessions.begin() as session:
        session.execute(text("SELECT 1"))
        began = time.monotonic()
        with pytest.raises(Unavailable):
            database.transaction(lambda other: other.scalar(text("SELECT 1")))
        assert 0.5 < time.monotonic() - began < 2.5
    time.sleep(1)
    assert database.transaction(lambda session: session.scalar(text("SELECT 7"))) == 7


@pytest.mark.parametrize("copy", [False, True], ids=["statement", "copy"])
def test_lock_that_is_not_given_up_is_waited_for_until_the_deadline_only(empty_database_url: str, copy: bool) -> None:
    """And who needs no lock is served meanwhile and afterwards: the database is there."""
    database = Database(empty_database_url, pool_size=3, deadline=0.5)
    database.transaction(lambda session: session.execute(text("CREATE TABLE notes (id bigint)")))

    def write(session: Session) -> None:
        if copy:
            binary_copy.insert_row(session, "notes", {"id": 1})
        else:
            session.execute(text("INSERT INTO notes VALUES (1)"))

    with database.sessions.begin() as holder:
        holder.execute(text("LOCK TABLE notes"))
        began = time.monotonic()
        with pytest.raises(Unavailable):
            database.transaction(write)
        assert 0.4 < time.monotonic() - began < 3
        assert database.transaction(lambda session: session.scalar(text("SELECT 7"))) == 7
    database.close()


def test_statement_that_hangs_is_ended_and_everybody_else_is_served(empty_database_url: str) -> None:
    database = Database(empty_database_url, deadline=0.2, statement_timeout=0.5)
    began = time.monotonic()
    with pytest.raises(Unavailable):
        database.transaction(lambda session: session.execute(text("SELECT pg_sleep(30)")))
    assert 0.4 < time.monotonic() - began < 3
    assert database.transaction(lambda session: session.scalar(text("SELECT 7"))) == 7
    database.close()


class NewPasswords:
    """Tokens of a login whose password is another one each time, as a token of RDS is."""

    def __init__(self, server: SharedServer, login: str) -> None:
        self._server = server
        self._login = login
        self.made: list[str] = []

    def token(self, _host: str, _port: int, _user: str) -> str:
        """A password that is good from now on, and the one before no more."""
        self.made.append(f"token-{len(self.made)}-{secrets.token_hex(200)}")
        self._server.execute("ALTER ROLE {} PASSWORD {}", self._login, password=self.made[-1])
        return self.made[-1]


@pytest.fixture
def server_with_passwords(tmp_path: Path) -> Iterator[SharedServer]:
    server = SharedServer(tmp_path, VERSIONS[0])
    server.start()
    yield server
    server.stop()


def test_each_connection_logs_in_with_a_token_of_its_own(
    server_with_passwords: SharedServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with server_with_passwords.database() as shared:
        tokens = NewPasswords(server_with_passwords, shared.admin)
        iam = cast(IamTokens, tokens)
        assert upgrade(shared.admin_url, schema="node", iam=iam) == REVISION
        database = Database(shared.admin_url, schema="node", iam=iam)
        with database.engine.connect() as first, database.engine.connect() as second:
            assert {each.scalar(text("SELECT current_user")) for each in (first, second)} == {shared.admin}
        assert len(tokens.made) == 3
        database.close()
        # The password of the URL is good no more.
        with pytest.raises(Unavailable):
            Database(shared.admin_url, schema="node", deadline=0.2).transaction(lambda s: s.scalar(text("SELECT 1")))
    assert not [token for token in tokens.made if token in caplog.text]


def test_deadlock_is_resolved_by_running_one_of_both_again(empty_database_url: str) -> None:
    database = Database(empty_database_url, pool_size=2, deadline=10)
    database.transaction(lambda session: session.execute(text("CREATE TABLE notes (id bigint, n bigint)")))
    database.transaction(lambda session: session.execute(text("INSERT INTO notes VALUES (1, 0), (2, 0)")))
    met = threading.Barrier(2)

    def add(first: int, second: int) -> None:
        tries: list[int] = []

        def work(session: Session) -> None:
            tries.append(1)
            session.execute(text("UPDATE notes SET n = n + 1 WHERE id = :id"), {"id": first})
            if len(tries) == 1:
                met.wait(10)
            session.execute(text("UPDATE notes SET n = n + 1 WHERE id = :id"), {"id": second})

        database.transaction(work)

    for thread in [Background(lambda: add(1, 2)), Background(lambda: add(2, 1))]:
        thread.result()
    assert database.transaction(lambda session: session.scalars(text("SELECT n FROM notes")).all()) == [2, 2]
    database.close()


@pytest.mark.parametrize("value", [b"", b"\x00\xff", MEGABYTE * 3], ids=["empty", "small", "large"])
def test_value_comes_back_as_it_was_written(database: Database, value: bytes) -> None:
    row: dict[str, binary_copy.Field] = {"id": -7, "value": memoryview(value), "weight": 0.1}
    database.transaction(lambda session: binary_copy.insert_row(session, "notes", row))
    read = database.transaction(lambda session: binary_copy.read_value(session, "notes", "value", {"id": -7}))
    assert read == value
    written = database.transaction(lambda session: session.execute(text("SELECT id, weight FROM notes")).one())
    assert tuple(written) == (-7, 0.1)


def test_no_row_and_no_value_are_none(database: Database) -> None:
    database.transaction(lambda session: session.execute(text("INSERT INTO notes VALUES (1, NULL)")))
    for key in ({"id": 1}, {"id": 2}):
        with database.sessions() as session:
            assert binary_copy.read_value(session, "notes", "value", key) is None


def test_connection_that_breaks_during_a_copy_is_told_as_after_any_statement(
    database: Database, empty_database_url: str
) -> None:
    def copy_after_the_end() -> None:
        with database.sessions() as session:
            terminate(empty_database_url, session)
            binary_copy.insert_row(session, "notes", {"id": 1})

    with pytest.raises(OperationalError, match=r"server closed the connection|terminating connection") as caught:
        copy_after_the_end()
    assert caught.value.connection_invalidated
    assert is_transient(caught.value)


def test_row_that_is_refused_is_an_error_of_the_database_and_no_passing_one(database: Database) -> None:
    database.transaction(lambda session: binary_copy.insert_row(session, "notes", {"id": 1}))
    with pytest.raises(DBAPIError) as caught:
        database.transaction(lambda session: binary_copy.insert_row(session, "notes", {"id": 1}))
    assert not is_transient(caught.value)

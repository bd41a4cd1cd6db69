"""Real PostgreSQL for tests: one server a session, one fresh database a test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
from psycopg2 import sql

from gridnode.db.embedded import EmbeddedPostgres

# A test's data need not survive the machine. Chaos tests use a durable server.
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
_TEMPLATE = "migrated"


class PostgresForTests:
    """A private server in a directory of its own, with a migrated database to copy from.

    Args:
        directory: empty or missing.
        durable: whether commits survive ``pg_ctl restart -m immediate`` and worse.
    """

    def __init__(self, directory: Path, *, durable: bool = False) -> None:
        self.server = EmbeddedPostgres(directory, options={} if durable else _NOT_DURABLE)
        self._numbers = itertools.count(1)
        self._has_template = False

    def start(self) -> None:
        """Start the server."""
        self.server.start()

    def stop(self) -> None:
        """Stop the server; its files stay."""
        self.server.stop()

    def crash(self) -> None:
        """Restart without a shutdown, as after a power cut: connections break and the log is replayed."""
        self.server.pg_ctl("restart", "-m", "immediate", "-w")

    @contextmanager
    def database(self, *, migrated: bool = True) -> Iterator[str]:
        """A fresh database, dropped at the end with whatever is still connected to it.

        Yields:
            its SQLAlchemy URL (psycopg2).
        """
        if migrated and not self._has_template:
            self._make_template()
        name = f"test_{next(self._numbers)}"
        self._execute("CREATE DATABASE {} TEMPLATE {}", name, _TEMPLATE if migrated else "template0")
        try:
            yield self.server.url_of(name)
        finally:
            self._execute("DROP DATABASE {} WITH (FORCE)", name)

    def _make_template(self) -> None:
        from gridnode.db.migrate import upgrade

        self._execute("CREATE DATABASE {}", _TEMPLATE)
        upgrade(self.server.url_of(_TEMPLATE))
        self._has_template = True

    def _execute(self, statement: str, *names: str) -> None:
        url = self.server.url_of("postgres").replace("+psycopg2", "")
        with closing(psycopg2.connect(url)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

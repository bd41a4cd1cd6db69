"""One database for all tests here that leave its tables as they are: emptying it takes a tenth of making a new one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest
from psycopg2 import sql

from gridnode.db.models import Base
from tests.support.postgres import PostgresForTests

# What a failed test left behind must not hold a lock.
_END_OTHERS = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
    """


@pytest.fixture(scope="session")
def shared_database_url(postgres: PostgresForTests) -> Iterator[str]:
    """A migrated database for the whole session; ask for ``database_url`` instead."""
    with postgres.database() as url:
        yield url


@pytest.fixture
def database_url(shared_database_url: str) -> str:
    """A migrated database without rows (SQLAlchemy URL), whose tables a test must not change."""
    with closing(psycopg2.connect(shared_database_url.replace("+psycopg2", ""))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(_END_OTHERS)
            tables = sql.SQL(", ").join(map(sql.Identifier, Base.metadata.tables))
            cursor.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY").format(tables))
    return shared_database_url


@pytest.fixture
def own_database_url(postgres: PostgresForTests) -> Iterator[str]:
    """A migrated database (SQLAlchemy URL) with which a test may do what it likes."""
    with postgres.database() as url:
        yield url

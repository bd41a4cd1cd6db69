"""Fixtures for tests of the master node: a database of its own, and a process on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from gridnode.db.session import Database
from gridnode_operator.master.db.migrate import upgrade
from gridnode_operator.master.db.models import Base
from gridnode_operator.master.db.session import make_database
from gridnode_operator.master.settings import DEFAULT_SCHEMA
from tests.support.master_process import MasterProcess
from tests.support.postgres import PostgresForTests


@pytest.fixture
def master_url(empty_database_url: str) -> str:
    """A database with the master node's schema, with which a test may do what it likes."""
    upgrade(empty_database_url, schema=DEFAULT_SCHEMA)
    return empty_database_url


@pytest.fixture(scope="session")
def shared_master_url(postgres: PostgresForTests) -> Iterator[str]:
    """One with the schema for the whole session; ask for ``database`` instead."""
    with postgres.database(migrated=False) as url:
        upgrade(url, schema=DEFAULT_SCHEMA)
        yield url


@pytest.fixture
def database(shared_master_url: str) -> Iterator[Database]:
    """A pool on a master node's schema without rows."""
    engine = create_engine(shared_master_url)
    tables = ", ".join(f"{DEFAULT_SCHEMA}.{name}" for name in Base.metadata.tables)
    with engine.begin() as connection:
        connection.execute(text(f"TRUNCATE {tables} RESTART IDENTITY"))
    engine.dispose()
    opened = make_database(shared_master_url, schema=DEFAULT_SCHEMA, pool_size=4, connect_timeout=5, deadline=5)
    yield opened
    opened.close()


@pytest.fixture
def master(empty_database_url: str, tmp_path: Path) -> Iterator[MasterProcess]:
    """A master node that lets nobody in without a key."""
    with MasterProcess(empty_database_url, tmp_path) as running:
        yield running
        assert "Traceback" not in running.log()


@pytest.fixture(scope="module")
def shared_master(postgres: PostgresForTests, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MasterProcess]:
    """One for all tests of a module, each of which uses names of its own."""
    with (
        postgres.database(migrated=False) as url,
        MasterProcess(url, tmp_path_factory.mktemp("master")) as running,
    ):
        yield running
        assert "Traceback" not in running.log()

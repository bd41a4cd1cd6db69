"""Fixtures for tests of the dashboard: a master node with a scene, and visitors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gridnode.db.session import Database
from gridnode_operator.master.db.session import make_database
from gridnode_operator.master.settings import DEFAULT_SCHEMA
from tests.support.dashboard_client import DashboardClient
from tests.support.dashboard_scene import fill
from tests.support.master_process import ADMIN, MasterProcess
from tests.support.postgres import PostgresForTests

#: A scene stays as it was made: nodes are looked at, and checkpoints fetched, once at the beginning.
STILL = {"observe_interval": "86400", "fetch_interval": "86400"}


@pytest.fixture(scope="module")
def master_database_url(postgres: PostgresForTests) -> Iterator[str]:
    """A database for the master node of a module."""
    with postgres.database(migrated=False) as url:
        yield url


@pytest.fixture(scope="module")
def master(master_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MasterProcess]:
    """A master node for all tests of a module."""
    with MasterProcess(master_database_url, tmp_path_factory.mktemp("master"), **STILL) as running:
        yield running
        assert "Traceback" not in running.log()


@pytest.fixture(scope="module")
def database(master: MasterProcess, master_database_url: str) -> Iterator[Database]:
    """The same database from inside."""
    opened = make_database(master_database_url, schema=DEFAULT_SCHEMA, pool_size=2, connect_timeout=5, deadline=5)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def scene(master: MasterProcess, database: Database) -> MasterProcess:
    """The master node with everything to be seen."""
    fill(database)
    return master


@pytest.fixture
def visitor(master: MasterProcess) -> DashboardClient:
    """Somebody who is not signed in."""
    return DashboardClient(master.port)


@pytest.fixture
def admin(visitor: DashboardClient) -> DashboardClient:
    """Somebody who is, with the administrator's token."""
    return visitor.signed_in(ADMIN)

"""Fixtures for all tests. A test that needs PostgreSQL asks for ``database_url`` and is marked ``integration``."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from hypothesis import settings

from tests.support.postgres import PostgresForTests

# These import PyTorch, which is 5 GB: `make test-torch` installs it.
collect_ignore = [] if find_spec("torch") else ["sdk", "runtimes"]

# Examples of a property: few after each edit, and Hypothesis's usual number in `make test`, which asks for the other.
# A machine under load is no failure.
settings.register_profile("quick", max_examples=15, deadline=None)
settings.register_profile("thorough", max_examples=100, deadline=None)
settings.load_profile("quick")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--chaos-kills", type=int, default=20, help="how many processes a chaos test kills (make chaos: 200)"
    )
    parser.addoption(
        "--operator-kills", type=int, default=20, help="how often the operator is killed while GridNodes change"
    )


@pytest.fixture(scope="session")
def operator_kills(request: pytest.FixtureRequest) -> int:
    """How often the operator is killed."""
    kills: int = request.config.getoption("--operator-kills")
    return kills


@pytest.fixture(scope="session")
def chaos_kills(request: pytest.FixtureRequest) -> int:
    """How many processes a chaos test kills."""
    kills: int = request.config.getoption("--chaos-kills")
    return kills


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresForTests]:
    """A PostgreSQL server for the whole session; quick, not durable."""
    server = PostgresForTests(tmp_path_factory.mktemp("postgres"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def database_url(postgres: PostgresForTests) -> Iterator[str]:
    """A fresh, migrated database (SQLAlchemy URL)."""
    with postgres.database() as url:
        yield url


@pytest.fixture
def empty_database_url(postgres: PostgresForTests) -> Iterator[str]:
    """A fresh database that nothing has been migrated in (SQLAlchemy URL)."""
    with postgres.database(migrated=False) as url:
        yield url


@pytest.fixture
def durable_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresForTests]:
    """A PostgreSQL server of this test alone, whose commits survive crashes."""
    server = PostgresForTests(tmp_path_factory.mktemp("durable-postgres"), durable=True)
    server.start()
    yield server
    server.stop()

"""Fixtures for tests on a shared database; each test runs on all supported versions of PostgreSQL that are at hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.shared_database import VERSIONS, SharedDatabase, SharedServer


@pytest.fixture(scope="session", params=VERSIONS, ids=lambda version: f"postgresql-{version}")
def shared_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedServer]:
    """A server whose logins need passwords."""
    server = SharedServer(tmp_path_factory.mktemp("shared-server"), request.param)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def shared(shared_server: SharedServer) -> Iterator[SharedDatabase]:
    """A fresh database with an administrator who is no superuser."""
    with shared_server.database() as database:
        yield database

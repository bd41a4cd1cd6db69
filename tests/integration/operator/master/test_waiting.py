"""A master node that is installed together with its database waits for it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy.exc import OperationalError

from gridnode_operator.master.db.migrate import REVISION, upgrade
from tests.support.postgres import PostgresForTests

pytestmark = pytest.mark.integration


def test_a_database_may_come_later(durable_postgres: PostgresForTests) -> None:
    server = durable_postgres.server
    with durable_postgres.database(migrated=False) as url:
        server.pg_ctl("stop", "-m", "fast", "-w")
        with pytest.raises(OperationalError):
            upgrade(url, schema=None)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(upgrade, url, schema=None, patience=60)
            with pytest.raises(TimeoutError):
                waiting.result(3)
            server.pg_ctl("start", "-w", "-l", str(server.log_file))
            assert waiting.result(30) == REVISION

"""A database that is away: answers that say so within the deadline, and everything goes on when it is back."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.master_process import MasterProcess
from tests.support.postgres import PostgresForTests
from tests.support.slow_database import DatabaseProxy

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


def event(cycle: int) -> dict[str, Any]:
    """What a node posts."""
    return {
        "percent_complete": cycle, "model_id": "m", "version": "1", "node_id": "apps/demo", "cycle": cycle,
        "cycles": 100, "event_id": str(uuid.uuid4()),
    }  # fmt: skip


def test_requests_are_answered_503_in_time_and_work_again_afterwards(
    durable_postgres: PostgresForTests, tmp_path: Path
) -> None:
    with (
        durable_postgres.database(migrated=False) as url,
        MasterProcess(url, tmp_path, database_deadline=2, database_connect_timeout=2) as master,
    ):
        key = master.key("notebook", owner="ann")
        master.admin.post("/model_progress", event(1))
        durable_postgres.server.pg_ctl("stop", "-m", "immediate", "-w")
        try:
            for method, path, data in (
                ("POST", "/model_progress", event(2)),
                ("POST", "/info", {"dataset_id": "d"}),
                ("POST", "/model_loss", {"loss": 1, "acc": 1, "model_id": "m"}),
                ("GET", "/api/v1/overview", None),
                ("GET", "/api/v1/models", None),
                ("GET", "/readyz", None),
            ):
                started = time.monotonic()
                answer = master.admin.request(method, path, data)
                assert answer.status == 503, f"{path}: {answer.status}"
                assert int(answer.headers["retry-after"]) >= 1
                assert time.monotonic() - started < 6, path
            assert master.anonymous.request("GET", "/healthz").status == 200
            assert master.anonymous.with_key(f"{key}x").request("GET", "/api/v1/whoami").status == 503
        finally:
            durable_postgres.server.pg_ctl("start", "-w", "-l", str(durable_postgres.server.log_file))
        deadline = time.monotonic() + 30
        while master.admin.request("POST", "/model_progress", event(3)).status != 200:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        (model,) = master.admin.get("/api/v1/models")["items"]
        assert model["completed_cycles"] == 3
        assert "Traceback" not in master.log()


def test_database_that_is_silent_holds_nobody_up_for_long(empty_database_url: str, tmp_path: Path) -> None:
    with (
        DatabaseProxy(empty_database_url) as proxy,
        MasterProcess(proxy.url, tmp_path, database_deadline=1, database_connect_timeout=2, threads=4) as master,
    ):
        master.admin.post("/model_progress", event(1))
        proxy.hang()
        with ThreadPoolExecutor(12) as pool:
            started = time.monotonic()
            answers = list(
                pool.map(lambda cycle: master.admin.request("POST", "/model_progress", event(cycle)), range(12))
            )
            assert time.monotonic() - started < 25
            assert {answer.status for answer in answers} == {503}
            waiting = [pool.submit(master.admin.request, "GET", "/api/v1/models") for _ in range(8)]
            started = time.monotonic()
            assert master.anonymous.request("GET", "/healthz").json() == {"status": "alive"}
            assert time.monotonic() - started < 2
            assert {each.result().status for each in waiting} == {503}
        proxy.flow()
        deadline = time.monotonic() + 60
        while master.admin.request("POST", "/model_progress", event(20)).status != 200:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_events_are_there_once_each_after_crashes_of_the_database(
    durable_postgres: PostgresForTests, tmp_path: Path
) -> None:
    with (
        durable_postgres.database(migrated=False) as url,
        MasterProcess(url, tmp_path, database_deadline=2) as master,
    ):
        for cycle in range(1, 31):
            if cycle % 10 == 0:
                durable_postgres.crash()
            told = event(cycle)
            deadline = time.monotonic() + 30
            while master.admin.request("POST", "/model_progress", told).status != 200:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        durable_postgres.crash()
        deadline = time.monotonic() + 30
        while master.admin.request("GET", "/api/v1/overview").status != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        events = master.admin.get("/api/v1/events")["items"]
        assert [each["cycle"] for each in reversed(events)] == list(range(1, 31))

"""Two GridNodes under ``gridnode up`` train to the end at once, while replicas are killed and replaced."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psycopg2
import psycopg2.errors
import pytest

from gridnode_operator.desired.names import database_names
from tests.support.fleet import Phone, Record, Tally, Training, start_all
from tests.support.ledger import Ledger, read_ledger
from tests.support.node import Management
from tests.support.recordings import Hosting, load_model
from tests.support.syft_messages import state_of, tensors_of
from tests.support.up import State, Up, manifest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

PHONES = 8
CYCLES = 60
#: While something is being done to the replicas, phones take their time, and stop before the training's end.
PAUSE = 0.3
REPORTS_MEANWHILE = 400
REPORTS = 8
SHAPES = ((2, 4), (2,))
ONE, TWO = "one", "two"
# The phones of both GridNodes come from one address.
SPEC: dict[str, Any] = {
    "replicas": 2,
    "limits": {"requestsPerSecondPerAddress": 0},
    "podTemplate": {"env": [{"name": "GRIDNODE_SWEEP_INTERVAL", "value": "0.5"}]},
}


class UnhurriedPhone(Phone):
    """A phone that pauses between sessions, and waits with its last ones, until it is told to hurry."""

    def __init__(self, port: int, training: Training, tally: Tally, stop: threading.Event, seed: int) -> None:
        super().__init__([port], [training], tally, stop, seed)
        self.hurry = threading.Event()

    def _session(self, training: Training) -> None:
        self.hurry.wait(PAUSE)
        while len(self._tally.acknowledged_at) >= REPORTS_MEANWHILE and not self.hurry.wait(0.1):
            pass
        super()._session(training)


class Campaign:
    """Phones that train one model on one GridNode."""

    def __init__(self, up: Up, name: str) -> None:
        self.name = name
        self.training = Training(f"model-of-{name}", SHAPES)
        self.tally = Tally()
        self._stopping = threading.Event()
        port = up.device_port(name)
        self._phones = [UnhurriedPhone(port, self.training, self.tally, self._stopping, seed) for seed in range(PHONES)]
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        self._threads = start_all(self._phones)

    def hurry(self) -> None:
        for phone in self._phones:
            phone.hurry.set()

    def stop(self) -> dict[str, Record]:
        """Let them finish what they began; gives what became of each report, by worker."""
        self._stopping.set()
        self.hurry()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a phone hangs"
        return {record.worker_id: record for phone in self._phones for record in phone.records}


def test_gridnodes_train_to_the_end_while_replicas_are_killed_rotated_and_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Up(tmp_path, manifest(ONE, SPEC), manifest(TWO, SPEC)) as up:
        up.wait_until_ready(ONE, TWO)
        campaigns = [Campaign(up, ONE), Campaign(up, TWO)]
        for campaign in campaigns:
            up.management(campaign.name).host(hosting(campaign.training.name))
        logins = {name: login_of(up.database_url(name)) for name in (ONE, TWO)}
        for campaign in campaigns:
            campaign.start()

        disturb(up)
        assert max(reported(up.state)) < 100, "trained to the end before all was done to it"
        for campaign in campaigns:
            campaign.hurry()
        up.wait_until(lambda state: reported(state) == [100, 100])

        for campaign in campaigns:
            records = campaign.stop()
            assert campaign.tally.errors == []
            ledger = read_ledger(up.database_url(campaign.name), campaign.training.name)
            with capsys.disabled():
                print(figures(campaign, records, ledger))
            assert_counted_once(ledger, records)
            assert_checkpoints_hold_the_counted_diffs(up.management(campaign.name), campaign, ledger, records)
        assert login_of(up.database_url(TWO)) != logins[TWO]
        assert_old_login_goes(up, logins[TWO])
        assert_cannot_read(up.database_url(ONE), database_names("default", TWO).schema)
        assert_cannot_read(up.database_url(TWO), database_names("default", ONE).schema)
        assert up.stop() == 0
        assert up.processes() == []


def reported(state: State) -> list[int]:
    """What the master node knows of each GridNode's model."""
    return [each["reported"].get(f"model-of-{each['name']}", 0) for each in state["gridnodes"]]


def disturb(up: Up) -> None:
    """Kill a replica, rotate a login, replace replicas, and wait each time until all is well again."""
    victim = up.gridnode(ONE)["process_ids"][0]
    os.kill(victim, signal.SIGKILL)
    up.wait_until(lambda state: state["ready"] and victim not in up.gridnode(ONE)["process_ids"])

    before = set(up.gridnode(TWO)["process_ids"])
    up.write(manifest(ONE, SPEC), manifest(TWO, {**SPEC, "database": {"rotate": "first"}}))
    up.wait_until(lambda state: state["ready"] and not before & set(up.gridnode(TWO)["process_ids"]))

    before = set(up.gridnode(ONE)["process_ids"])
    changed = {**SPEC, "podTemplate": {"env": [{"name": "GRIDNODE_SWEEP_INTERVAL", "value": "0.4"}]}}
    up.write(manifest(ONE, changed), manifest(TWO, {**SPEC, "database": {"rotate": "first"}}))
    up.wait_until(lambda state: state["ready"] and not before & set(up.gridnode(ONE)["process_ids"]))


def hosting(name: str) -> Hosting:
    """A plain mean that is finished after CYCLES cycles."""
    tiny = load_model("tiny")
    zeros = state_of([np.zeros(shape, np.float32) for shape in SHAPES])
    plain = Hosting(zeros, tiny.plans, b"", tiny.client_config, {**tiny.server_config, "iterative_plan": False})
    return plain.named(
        name, max_workers=12, min_diffs=REPORTS, max_diffs=REPORTS, num_cycles=CYCLES, assignment_lease=4
    )


def assert_counted_once(ledger: Ledger, records: dict[str, Record]) -> None:
    counted = [worker for cycle in ledger.cycles for worker in cycle.reported]
    acknowledged = {worker for worker, record in records.items() if record.fate == "acknowledged"}
    unknown = {worker for worker, record in records.items() if record.fate == "unknown"}
    assert len(counted) == len(set(counted)), "a worker is counted in two cycles"
    assert acknowledged - set(counted) == set(), "acknowledged, but not counted"
    assert set(counted) - acknowledged - unknown == set(), "counted, but never acknowledged"
    assert (ledger.state, ledger.completed_cycles, ledger.undelivered_events) == ("finished", CYCLES, 0)
    assert [cycle.reports for cycle in ledger.cycles] == [REPORTS] * CYCLES


def assert_checkpoints_hold_the_counted_diffs(
    management: Management, campaign: Campaign, ledger: Ledger, records: dict[str, Record]
) -> None:
    current = tensors_of(management.checkpoint(campaign.training.name, 1))
    for cycle in ledger.cycles:
        following = tensors_of(management.checkpoint(campaign.training.name, cycle.number + 1))
        for index, (before, after) in enumerate(zip(current, following, strict=True)):
            total = sum(records[worker].diff[index].astype(np.float64) for worker in cycle.reported)
            # Whole numbers and eight reports: exact in float32.
            expected = (before.astype(np.float64) - total / REPORTS).astype(np.float32)
            assert after.tobytes() == expected.tobytes(), f"cycle {cycle.number}"
        current = following


def assert_old_login_goes(up: Up, login: str) -> None:
    deadline = time.monotonic() + 20
    with closing(psycopg2.connect(up.database_url(TWO))) as connection, connection.cursor() as cursor:
        while True:
            cursor.execute("SELECT count(*) FROM pg_roles WHERE rolname = %s", (login,))
            if cursor.fetchone() == (0,):
                return
            assert time.monotonic() < deadline, f"{login} is still there"
            connection.rollback()
            time.sleep(0.2)


def assert_cannot_read(database_url: str, schema: str) -> None:
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute(f'SELECT * FROM "{schema}".processes')
        connection.rollback()
        cursor.execute("SELECT count(*) FROM processes")
        assert cursor.fetchone() == (1,)


def login_of(database_url: str) -> str:
    return str(psycopg2.extensions.parse_dsn(database_url)["user"])


def figures(campaign: Campaign, records: dict[str, Record], ledger: Ledger) -> str:
    """What happened, for people."""
    tally = campaign.tally
    acknowledged = sum(record.fate == "acknowledged" for record in records.values())
    counted = sum(cycle.reports for cycle in ledger.cycles)
    return (
        f"\n  {campaign.name}: {acknowledged} acknowledged, {counted} counted, {ledger.completed_cycles} cycles, "
        f"{tally.retried} requests retried (503 or 429: {tally.unavailable}), longest request "
        f"{tally.longest_request:.1f} s"
    )

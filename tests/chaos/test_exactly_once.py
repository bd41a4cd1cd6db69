"""An acknowledged report is counted exactly once, whatever is killed, and whenever.

Two replicas of two worker processes each, one PostgreSQL, 64 phones. Throughout, node processes get SIGKILL and the
database is restarted as after a power cut; phones retry, repeat themselves on purpose and vanish. At the end:

- A report that was acknowledged is counted. One that was refused is not. One whose phone vanished before it got an
  answer may be either. So the counted workers are the acknowledged ones and some of the unknown ones; nobody else.
- Each was added once: every checkpoint equals an independent recomputation from the diffs of the counted workers.
  Diffs are whole numbers and cycles close at 16 reports, so the plain mean is exact in float32, in any order.
- Each cycle was closed once: numbers without a gap, one checkpoint each.
- Each progress event reached the master node, in order per process, after its repetitions are taken away.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.support.exactly_once import assert_checkpoints_are_recomputable, assert_counted_are_acknowledged
from tests.support.fleet import Phone, Record, Tally, Training, start_all
from tests.support.ledger import Ledger, read_ledger
from tests.support.master import ProgressReceiver
from tests.support.node import NodeProcess
from tests.support.postgres import PostgresForTests
from tests.support.recordings import Hosting, load_model
from tests.support.syft_messages import state_of

pytestmark = [pytest.mark.integration, pytest.mark.chaos, pytest.mark.timeout(3600)]

PHONES = 64
REPORTS_PER_CYCLE = 16
SECONDS_BETWEEN_KILLS = 2.0
DATABASE_DEADLINE = 2.0
# A phone that asks a node that is there must get an answer within this, whatever state the database is in.
LONGEST_REQUEST = 20.0
SHAPES = ((2, 4), (2,))

EXACT = Training("chaos-mean", SHAPES)
WEIGHTED = Training("chaos-weighted", SHAPES, weighted=True)
PLANNED = Training("chaos-plan", SHAPES)
TRAININGS = (EXACT, WEIGHTED, PLANNED)


@dataclass
class Kills:
    """What the chaos did."""

    supervisors: int = 0
    workers: int = 0
    databases: int = 0
    lingering: int = 0

    @property
    def total(self) -> int:
        return self.supervisors + self.workers + self.databases


@pytest.fixture
def receiver() -> Iterator[ProgressReceiver]:
    """A master node that fails every fifth post."""
    running = ProgressReceiver(failures=0.2, seed=7)
    yield running
    running.close()


def test_acknowledged_reports_are_counted_exactly_once(
    durable_postgres: PostgresForTests,
    receiver: ProgressReceiver,
    tmp_path: Path,
    chaos_kills: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with durable_postgres.database() as url:
        replicas = [
            NodeProcess(
                url,
                tmp_path,
                worker_processes=2,
                master_url=receiver.url,
                sweep_interval=0.5,
                database_deadline=DATABASE_DEADLINE,
                request_rate_per_address=0,
                master_timeout=2,
            )
            for _ in range(2)
        ]
        try:
            for replica in replicas:
                replica.start()
                replica.wait_until_ready()
            for hosting in hostings():
                replicas[0].management.host(hosting)

            tally, kills = Tally(), Kills()
            started = time.monotonic()
            records = train_through_chaos(replicas, durable_postgres, tally, kills, chaos_kills)
            seconds = time.monotonic() - started
            ledgers = wait_until_quiet(url)

            with capsys.disabled():
                print(figures(tally, kills, records, ledgers, receiver, seconds))
            assert tally.errors == []
            for training in TRAININGS:
                ledger = ledgers[training.name]
                of_training = {record.worker_id: record for record in records if record.training == training.name}
                assert_counted_are_acknowledged(ledger, of_training, REPORTS_PER_CYCLE)
                assert_each_cycle_closed_once(ledger)
                assert_checkpoints_are_recomputable(
                    replicas[0].management, training, ledger, of_training, exact=training is EXACT
                )
                assert_events_arrived_in_order(receiver, training.name, ledger)
            assert tally.longest_request < LONGEST_REQUEST
            assert kills.lingering == 0, "workers went on after their supervisor was killed"
            assert kills.total >= chaos_kills
            for replica in replicas:
                assert replica.stop() == 0
        finally:
            for replica in replicas:
                replica.kill()


def hostings() -> list[Hosting]:
    """Plain mean, weighted mean, and a hosted averaging plan, whose reports are stored one by one."""
    tiny = load_model("tiny")
    zeros = state_of([np.zeros(shape, np.float32) for shape in SHAPES])
    common: dict[str, Any] = {
        "max_workers": 24,
        "min_diffs": REPORTS_PER_CYCLE,
        "max_diffs": REPORTS_PER_CYCLE,
        "num_cycles": None,
        "assignment_lease": 4,
    }
    plain = Hosting(zeros, tiny.plans, b"", tiny.client_config, {**tiny.server_config, "iterative_plan": False})
    planned = Hosting(zeros, tiny.plans, tiny.averaging_plan, tiny.client_config, tiny.server_config)
    return [
        plain.named(EXACT.name, **common),
        plain.named(WEIGHTED.name, **common, aggregation={"strategy": "weighted_mean"}),
        planned.named(PLANNED.name, **common),
    ]


def train_through_chaos(
    replicas: list[NodeProcess], postgres: PostgresForTests, tally: Tally, kills: Kills, wanted: int
) -> list[Record]:
    """Let the phones work while things are killed, then let them finish what they began."""
    stopping = threading.Event()
    ports = [replica.device_port for replica in replicas]
    phones = [Phone(ports, TRAININGS, tally, stopping, seed) for seed in range(PHONES)]
    threads = start_all(phones)

    generator = random.Random(wanted)
    for _ in range(wanted):
        time.sleep(SECONDS_BETWEEN_KILLS * generator.uniform(0.5, 1.5))
        kill_something(replicas, postgres, kills, generator)
        if tally.errors:
            break
    for replica in replicas:
        replica.wait_until_ready()
    time.sleep(2 * SECONDS_BETWEEN_KILLS)
    stopping.set()
    for thread in threads:
        thread.join(150)
        assert not thread.is_alive(), "a phone hangs"
    return [record for phone in phones for record in phone.records]


def kill_something(
    replicas: list[NodeProcess], postgres: PostgresForTests, kills: Kills, generator: random.Random
) -> None:
    """SIGKILL to a supervisor or a worker process, or a crash of the database."""
    what = generator.choices(["supervisor", "worker", "database"], [3, 4, 3])[0]
    replica = generator.choice(replicas)
    if what == "database":
        crash_database(postgres, generator)
        kills.databases += 1
    elif what == "worker" and (workers := worker_processes(replica)):
        with suppress(psutil.NoSuchProcess):
            generator.choice(workers).kill()
        kills.workers += 1
    else:
        kill_supervisor(replica, kills)
        kills.supervisors += 1
        replica.start()


def crash_database(postgres: PostgresForTests, generator: random.Random) -> None:
    """Back at once, or away for so long that the node can't hide it and answers 503."""
    if generator.random() < 0.6:
        postgres.crash()
        return
    postgres.server.pg_ctl("stop", "-m", "immediate", "-w")
    time.sleep(2 * DATABASE_DEADLINE)
    postgres.server.pg_ctl("start", "-w", "-l", str(postgres.server.log_file))


def kill_supervisor(replica: NodeProcess, kills: Kills) -> None:
    """Its workers must notice and end by themselves, or a restart would find the port taken."""
    with suppress(psutil.NoSuchProcess):
        workers = psutil.Process(replica.supervisor_id()).children(recursive=True)
        psutil.Process(replica.supervisor_id()).kill()
        _, alive = psutil.wait_procs(workers, timeout=10)
        kills.lingering += len(alive)
    replica.kill()


def worker_processes(replica: NodeProcess) -> list[psutil.Process]:
    """The direct children of the supervisor: what they start themselves is for them to look after."""
    try:
        return psutil.Process(replica.supervisor_id()).children()
    except psutil.NoSuchProcess:
        return []


def wait_until_quiet(database_url: str, seconds: float = 60.0) -> dict[str, Ledger]:
    """What the node has counted, once no cycle is left to be closed and no event to be delivered."""
    deadline = time.monotonic() + seconds
    while True:
        ledgers = {training.name: read_ledger(database_url, training.name) for training in TRAININGS}
        if all(is_quiet(ledger) for ledger in ledgers.values()):
            return ledgers
        assert time.monotonic() < deadline, f"cycles or events are left: {ledgers}"
        time.sleep(0.2)


def is_quiet(ledger: Ledger) -> bool:
    running = ledger.cycles[-1]
    return running.state == "open" and running.reports < REPORTS_PER_CYCLE and ledger.undelivered_events == 0


def assert_each_cycle_closed_once(ledger: Ledger) -> None:
    assert ledger.state == "active"
    completed = [cycle for cycle in ledger.cycles if cycle.state == "completed"]
    running = [cycle for cycle in ledger.cycles if cycle.state != "completed"]
    assert [cycle.number for cycle in ledger.cycles] == list(range(1, len(ledger.cycles) + 1))
    assert len(running) == 1
    assert running[0] == ledger.cycles[-1]
    assert ledger.completed_cycles == len(completed) > 0
    assert all(cycle.reports == REPORTS_PER_CYCLE for cycle in completed)
    assert ledger.checkpoints == tuple(range(1, len(completed) + 2))


def assert_events_arrived_in_order(receiver: ProgressReceiver, name: str, ledger: Ledger) -> None:
    arrived = [event["cycle"] for event in receiver.first_arrivals().get(name, []) if event["cycle"] > 0]
    assert arrived == list(range(1, ledger.completed_cycles + 1))


def figures(
    tally: Tally,
    kills: Kills,
    records: list[Record],
    ledgers: Mapping[str, Ledger],
    receiver: ProgressReceiver,
    seconds: float,
) -> str:
    """What happened, for people."""
    fates = Counter(record.fate for record in records)
    counted = sum(cycle.reports for ledger in ledgers.values() for cycle in ledger.cycles)
    completed = sum(ledger.completed_cycles for ledger in ledgers.values())
    lines = {
        "seconds": f"{seconds:.0f}",
        "kills": f"{kills.total}: {kills.supervisors} supervisors, {kills.workers} workers, {kills.databases} database",
        "sessions": f"{tally.sessions} ({tally.rejected} rejected, {len(records)} accepted)",
        "reports acknowledged": f"{fates['acknowledged']}",
        "reports counted": f"{counted}",
        "reports refused (cycle over)": f"{fates['refused']}",
        "phones that vanished": f"{fates['vanished']} before and {fates['unknown']} after sending",
        "requests retried": f"{tally.retried} (503 or 429: {tally.unavailable})",
        "answers lost on purpose": f"{tally.lost_answers}",
        "duplicates sent": f"{tally.duplicates}, other diffs under a used key {tally.conflicting}",
        "cycles completed": f"{completed}",
        "progress events": f"{len(receiver.events)} accepted, {completed} distinct",
        "longest request": f"{tally.longest_request:.1f} s, until decided {tally.longest_decision:.1f} s",
        "longest time without a counted report": f"{tally.longest_stall():.1f} s",
    }
    return "\n" + "\n".join(f"  {name:38} {value}" for name, value in lines.items())

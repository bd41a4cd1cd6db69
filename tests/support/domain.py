"""A process in a real database, driven through the domain's functions with a clock of the test's own."""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import select

from gridnode.averaging.hosted_plan import SandboxLimits
from gridnode.averaging.strategy import Mean, Strategy
from gridnode.checkpoints.store import read_checkpoint
from gridnode.cycles import closing
from gridnode.cycles.assignment import Accepted, Rejected, assign_workers
from gridnode.cycles.reports import Committed, CycleHasNoRoom, Report, commit_reports
from gridnode.db.models import Cycle
from gridnode.db.session import Database
from gridnode.processes.catalog import HostedProcess, load_process
from gridnode.processes.hosting import Upload, check_upload, store_process
from gridnode.processes.management import ProcessStatus, list_processes
from gridnode.protocol.syft_proto import decode_state, encode_state
from gridnode.reporting.announcer import Announcer
from tests.support.plan_builder import without_shapes
from tests.support.recordings import DATA

START = datetime(2026, 1, 1, tzinfo=UTC)
MEAN: Strategy = Mean()
TO_MASTER = Announcer("node-of-test", to_master=True)


@dataclass
class Trial:
    """One hosted process. ``seconds`` is how far its clock is."""

    database: Database
    process: HostedProcess
    seconds: float = 0
    generator: random.Random = field(default_factory=lambda: random.Random(1))

    @property
    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def ask(self, *workers: uuid.UUID) -> list[Accepted | Rejected]:
        return self.database.transaction(
            lambda session: assign_workers(session, self.process, workers, self.now, self.generator)
        )

    def join(self, count: int) -> list[uuid.UUID]:
        """So many new workers, all of which are accepted."""
        workers = [uuid.uuid4() for _ in range(count)]
        assert all(isinstance(answer, Accepted) for answer in self.ask(*workers))
        return workers

    def report(self, *reports: Report, cycle: int | None = None) -> Committed:
        cycle_id = self.cycle().id if cycle is None else cycle

        def commit(*, cut: bool) -> Committed:
            return self.database.transaction(
                lambda session: commit_reports(session, cycle_id, reports, self.process.layout, MEAN, self.now, cut=cut)
            )

        try:
            return commit(cut=False)
        except CycleHasNoRoom:
            return commit(cut=True)

    def close(self, strategy: Strategy = MEAN) -> closing.Closed | None:
        """Mark what is due and close the process's cycle."""
        self.database.transaction(lambda session: closing.mark_due(session, self.now))
        waiting = self.database.transaction(closing.averaging_cycles)
        closed = None
        for cycle_id in [cycle_id for cycle_id, process_id in waiting if process_id == self.process.id]:
            closed = self.database.transaction(
                lambda session, row=cycle_id: closing.close_cycle(  # type: ignore[misc]
                    session, row, self.process, strategy, self.now, TO_MASTER
                )
            )
        return closed

    def cycle(self) -> Cycle:
        """The newest cycle."""
        cycle = self.database.transaction(
            lambda session: session.scalar(
                select(Cycle).where(Cycle.process_id == self.process.id).order_by(Cycle.number.desc()).limit(1)
            )
        )
        assert cycle is not None
        return cycle

    def status(self) -> ProcessStatus:
        (status,) = self.database.transaction(lambda session: list_processes(session, self.now, name=self.process.name))
        return status


def host(
    database: Database,
    *,
    tensors: Sequence[Any] | None = None,
    name: str = "trial",
    averaging_plan: bytes = b"",
    **server_config: Any,
) -> Trial:
    """Host a process whose model is one vector of zeros, or the given tensors."""
    model = encode_state([np.zeros(3, np.float32)] if tensors is None else tensors)
    plan = without_shapes((DATA / "models" / "tiny" / "training_plan.uploaded.bin").read_bytes())
    client_config = {"name": name, "version": "1", "batch_size": 1, "lr": 0.1, "max_updates": 1}
    upload = check_upload(
        Upload(model, {"plan": plan}, {}, averaging_plan, client_config, server_config), SandboxLimits()
    )
    process_id = database.transaction(lambda session: store_process(session, upload, START))
    process = database.transaction(lambda session: load_process(session, process_id))
    assert process is not None
    return Trial(database, process)


def diff(worker: uuid.UUID, value: float = 1.0, *, weight: float = 1.0) -> Report:
    """A report whose diff is ``value`` everywhere."""
    tensor = np.full(3, value, np.float32)
    return Report(worker, [tensor], tensor.tobytes()[:4], weight=weight, num_samples=weight)


def parameters(trial: Trial, number: int) -> list[Any]:
    """The tensors of a checkpoint."""
    value = trial.database.transaction(lambda session: read_checkpoint(session, trial.process.id, number))
    return list(decode_state(value).tensors)

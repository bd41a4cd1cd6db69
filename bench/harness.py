"""Runs one workload against one node and measures both: what every scenario is made of."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from bench.models import Model, large_model, recorded_model
from bench.phone import Bodies
from bench.server import Failed, Node, Postgres, migrate, running_node
from bench.usage import MemoryPeak, machine_cpu_seconds
from bench.workload import Result, Target, Workload, write_workload
from gridnode.protocol import syft_pb2
from gridnode.protocol.syft_proto import decode_state

# A process that never averages: more diffs than any run reports.
NEVER_CLOSES: dict[str, Any] = {"min_diffs": 1, "max_diffs": 1_000_000_000, "num_cycles": 0}
CONNECTIONS = 8
_CLOSING_LIMIT = 60.0
_QUIET_CORES = 0.3


@dataclass(slots=True)
class Measured:
    """A run of the load generator, with what it cost.

    Attributes:
        node_cpu, database_cpu: CPU seconds of the node's and of PostgreSQL's processes in the measured time.
        machine_cpu: CPU seconds of everything on this machine in that time.
        memory: peak bytes of the node's processes.
    """

    result: Result
    node_cpu: float = 0.0
    database_cpu: float = 0.0
    machine_cpu: float = 0.0
    memory: int = 0

    @property
    def others(self) -> float:
        """How many cores were busy with something else than this bench: above 0.2 or so the figures are too low."""
        ours = self.node_cpu + self.database_cpu + self.result.cpu_seconds
        return max(0.0, self.machine_cpu - ours) / self.result.elapsed if self.result.elapsed else 0.0


@dataclass(slots=True)
class Harness:
    """Everything that scenarios share.

    Attributes:
        quick: a few seconds for each run instead of enough for steady figures.
        patience: seconds to wait at most, before each run, for the machine to be idle.
        runs: all that has been measured, whether or not a table shows it.
    """

    folder: Path
    postgres: Postgres
    quick: bool
    patience: float = 0.0
    runs: list[Measured] = field(default_factory=list)
    _numbers: count[int] = field(default_factory=lambda: count(1))
    _models: dict[str, Model] = field(default_factory=dict)

    def seconds(self, full: float) -> float:
        """How long a run takes that has ``full`` seconds when there is time."""
        return min(full, 2.0) if self.quick else full

    def number(self, full: int, quick: int) -> int:
        """A count of things that depends on ``quick``."""
        return quick if self.quick else full

    def model(self, kind: str) -> Model:
        """'tiny' or 'mlp' as recorded, or 'large' with 10 million parameters."""
        if kind not in self._models:
            made = large_model(10_000_000, self.folder) if kind == "large" else recorded_model(kind, self.folder)
            self._models[kind] = made
        return self._models[kind]

    @contextmanager
    def node(self, **settings: str) -> Iterator[Node]:
        """A node on a fresh database."""
        with self.postgres.database() as url:
            migrate(url)
            with running_node(url, self.folder, settings) as node:
                yield node

    @contextmanager
    def migrated_database(self) -> Iterator[str]:
        """A fresh database for scenarios that start nodes themselves."""
        with self.postgres.database() as url:
            migrate(url)
            yield url

    @contextmanager
    def node_on(self, url: str, **settings: str) -> Iterator[Node]:
        """A node on the database of :meth:`migrated_database`."""
        with running_node(url, self.folder, settings) as node:
            yield node

    def host(
        self, node: Node, model: Model, server_config: dict[str, Any], *, averaging_plan: bytes | None = None
    ) -> Target:
        """Host a model under a name of its own, and see that its plans are served as the contract says."""
        name = f"{model.kind}-{next(self._numbers)}"
        node.host(model.hosting(name, server_config, averaging_plan=averaging_plan))
        if not all(Path(path).exists() for path in model.traffic.plans.values()):
            self._store_plans(node, model)
        return model.target(name)

    def run(
        self, node: Node, model: Model, targets: Iterable[Target], *, settle: float = 0.0, **options: Any
    ) -> Measured:
        """Run the load generator against processes of one model.

        Args:
            settle: seconds after the load in which memory is still watched: a full cycle is being averaged.
            options: fields of :class:`bench.workload.Workload`.
        """
        workload = Workload(
            address=node.device,
            traffic={model.kind: model.traffic},
            targets=list(targets),
            **{"connections": CONNECTIONS, **options},
        )
        path = self.folder / "workload.json"
        write_workload(workload, path)
        with MemoryPeak(node.pid) as memory:
            measured = self._drive(path, node)
            time.sleep(settle)
        measured.memory = memory.bytes
        self.runs.append(measured)
        return measured

    def verify(self, node: Node, model: Model, measured: Iterable[Measured], target: Target, diffs: int) -> None:
        """Count it as an error when the newest checkpoint is not what the acknowledged reports add up to.

        Args:
            measured: all runs that reported to ``target``.
            diffs: its max_diffs.
        """
        runs = list(measured)
        acknowledged = sum(each.result.acknowledged.get(target.name, 0) for each in runs)
        expected = acknowledged // diffs
        bodies = Bodies(model.traffic)
        limit = time.monotonic() + _CLOSING_LIMIT
        while True:
            state = node.retrieve(target.name)
            found = bodies.checkpoint_of(memoryview(state))
            if found >= expected or time.monotonic() > limit:
                break
            time.sleep(0.05)
        if found != expected:
            runs[-1].result.error("checkpoint", f"{target.name}: {found} cycles averaged, {expected} reported")
        elif not _is_checkpoint(model, state, found):
            runs[-1].result.error("checkpoint", f"{target.name}: checkpoint {found + 1} has other values")

    def _drive(self, path: Path, node: Node) -> Measured:
        self.postgres.checkpoint()
        self._wait_for_quiet()
        command = [sys.executable, "-m", "bench.load", str(path)]
        measured = Measured(Result())
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout or ():
                document = json.loads(line)
                if document["event"] == "result":
                    measured.result = Result(**document["result"])
                    continue
                sign = -1 if document["event"] == "start" else 1
                measured.node_cpu += sign * node.cpu_seconds()
                measured.database_cpu += sign * self.postgres.cpu_seconds()
                measured.machine_cpu += sign * machine_cpu_seconds()
        if process.returncode:
            raise Failed(f"the load generator ended with {process.returncode}")
        return measured

    def _wait_for_quiet(self) -> None:
        limit = time.monotonic() + self.patience
        while time.monotonic() < limit:
            busy = machine_cpu_seconds()
            time.sleep(1.0)
            if machine_cpu_seconds() - busy < _QUIET_CORES:
                return

    def _store_plans(self, node: Node, model: Model) -> None:
        """Compare the served plans with the uploaded one, and keep them for the load generator to compare with."""
        name = f"{model.kind}-plans"
        node.host(model.hosting(name, NEVER_CLOSES))
        login = node.device_json("/model-centric/authenticate", {"model_name": name, "model_version": "1.0"})
        request = {"worker_id": login["worker_id"], "model": name, "version": "1.0"}
        cycle = node.device_json("/model-centric/cycle-request", request)
        for variant, path in model.traffic.plans.items():
            served = node.device_call(
                f"/model-centric/get-plan?worker_id={login['worker_id']}&request_key={cycle['request_key']}"
                f"&plan_id={cycle['plans']['training_plan']}&receive_operations_as={variant}"
            )
            if syft_pb2.Plan.FromString(served) != _variant(model.training_plan, variant):
                raise Failed(f"get-plan as {variant} is not that variant of the uploaded plan")
            Path(path).write_bytes(served)


def merged(runs: list[Measured]) -> Measured:
    """Runs of the same workload one after the other, as one."""
    total = Measured(Result())
    for run in runs:
        elapsed = total.result.elapsed
        total.result.add(dataclasses.replace(run.result))
        total.result.elapsed = elapsed + run.result.elapsed
        total.node_cpu += run.node_cpu
        total.database_cpu += run.database_cpu
        total.machine_cpu += run.machine_cpu
        total.memory = max(total.memory, run.memory)
    return total


def _variant(uploaded: bytes, variant: str) -> syft_pb2.Plan:
    plan = syft_pb2.Plan.FromString(uploaded)
    if variant == "list":
        plan.ClearField("torchscript")
    else:
        del plan.role.actions[:]
    return plan


def _is_checkpoint(model: Model, state: bytes, number: int) -> bool:
    hosted, diff = decode_state(model.state).tensors, decode_state(model.diff).tensors
    found = decode_state(state).tensors
    return len(found) == len(hosted) and all(
        value.shape == first.shape and np.allclose(value, first - number * step, rtol=2e-7 * (number + 4), atol=1e-6)
        for value, first, step in zip(found, hosted, diff, strict=True)
    )

"""The operator's bench: ``python -m bench.operator`` applies 1000 GridNodes to a real API server.

etcd, API server, controller manager, PostgreSQL and a stand-in for kubelets share the machine with the operator, so
times are theirs as well; memory, writes and idle CPU are the operator's alone. Exit code 0 whatever the figures, 1 if a
GridNode did not become ready.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import yaml
from rich.console import Console
from rich.table import Table

from gridnode.db.revision import REVISION
from gridnode.settings import load_settings
from tests.support.cluster import ControlPlane
from tests.support.control_plane.namespaces import create_namespace
from tests.support.kubelet import Kubelet
from tests.support.operator_process import GridNodes, OperatorProcess, wait_for
from tests.support.shared_database import VERSIONS, SharedDatabase, SharedServer

_CRDS = Path(__file__).parents[1] / "crds"
_CHANGES_PER_SECOND = 10
_USER_AGENT = "gridnode-operator"
# Room in the connection budget for all GridNodes; nothing is connected, and each allowed one costs memory for locks.
_DATABASE = {"max_connections": "40000", "max_locks_per_transaction": "10", "log_statement": "none"}
_PATIENCE = 1800.0  # seconds


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    what: str
    measured: str
    goal: str = ""


class Bench:
    """One run.

    Args:
        control_plane: The API server.
        database: For the nodes.
        directory: For the operator's log.
        count: How many GridNodes.
    """

    def __init__(self, control_plane: ControlPlane, database: SharedDatabase, directory: Path, count: int) -> None:
        self.control_plane = control_plane
        self.count = count
        self.gridnodes = GridNodes(control_plane, create_namespace(control_plane, "bench"))
        self.operator = OperatorProcess(control_plane.kubeconfig_path(), database.admin_url, directory)
        self.names = [f"app-{number:04}" for number in range(count)]

    def run(self, progress: Console) -> Iterator[Figure]:
        """Measure everything, a figure at a time."""
        with self.operator:
            yield Figure("operator without GridNodes", f"{_mib(self.operator.memory())} MiB")
            yield from self._create(progress)
            yield from self._rest(progress)
            yield from self._change(progress)
        yield from self._restart(progress)

    def _create(self, progress: Console) -> Iterator[Figure]:
        position, began = self.control_plane.audit_position(), time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self.gridnodes.create, self.names))
        applied = time.monotonic() - began
        self._wait(lambda: self._deployments() == self.count, progress, "children")
        children = time.monotonic() - began
        self._wait(lambda: self._states().get("Ready") == self.count, progress, "ready")
        ready = time.monotonic() - began
        writes = self.control_plane.count_writes(user_agent=_USER_AGENT, since=position)
        yield Figure(f"{self.count} GridNodes applied", f"{applied:.1f} s")
        yield Figure("all children there", f"{children:.1f} s")
        yield Figure("all ready", f"{ready:.1f} s")
        yield Figure("writes per GridNode, from manifest to ready", f"{writes / self.count:.1f}")
        yield Figure("memory (RSS)", f"{_mib(self.operator.memory())} MiB", "≤ 120 MiB")

    def _rest(self, progress: Console, seconds: float = 70.0) -> Iterator[Figure]:
        progress.print("resting …", style="dim")
        time.sleep(5)
        position, cpu = self.control_plane.audit_position(), self._cpu()
        time.sleep(seconds)
        used = self._cpu() - cpu
        writes = self.control_plane.count_writes(user_agent=_USER_AGENT, since=position)
        yield Figure(f"writes in {seconds:.0f} s at rest", str(writes), "0")
        yield Figure("CPU at rest, every GridNode looked at once a minute", f"{100 * used / seconds:.1f} % of a core")

    def _change(self, progress: Console, seconds: int = 20) -> Iterator[Figure]:
        progress.print("changing …", style="dim")
        position, began = self.control_plane.audit_position(), time.monotonic()
        # Each GridNode once: of two changes of the same one, the first may never reach its Deployment.
        changed = self.names[: seconds * _CHANGES_PER_SECOND]
        for number, name in enumerate(changed):
            time.sleep(max(0.0, began + number / _CHANGES_PER_SECOND - time.monotonic()))
            self.gridnodes.patch(name, {"spec": {"limits": {"connections": 1000 + number}}})
        self._wait(lambda: len(self._latencies(position)) == len(changed), progress, "changed")
        latencies = sorted(self._latencies(position).values())
        middle, last = latencies[len(latencies) // 2], latencies[int(len(latencies) * 0.99)]
        # What is left undone would be written by the next operator.
        self._wait(lambda: self._states().get("Ready") == self.count, progress, "ready after the changes")
        time.sleep(5)
        yield Figure(f"spec → Deployment at {_CHANGES_PER_SECOND} changes/s, p50", f"{1000 * middle:.0f} ms")
        yield Figure("p99", f"{1000 * last:.0f} ms", "≤ 1 s")

    def _restart(self, progress: Console) -> Iterator[Figure]:
        wait_for(lambda: self.operator.get("/healthz")[0] == 0)
        position, began = self.control_plane.audit_position(), time.monotonic()
        with self.operator:
            self._wait(lambda: self._states().get("Ready") == self.count, progress, "ready after a restart")
            yield Figure("restart: all looked at and ready", f"{time.monotonic() - began:.1f} s", "≤ 60 s")
            writes = self.control_plane.count_writes(user_agent=_USER_AGENT, since=position)
            yield Figure("writes of a restart", str(writes), "0")
            yield Figure("memory after the restart", f"{_mib(self.operator.memory())} MiB", "≤ 120 MiB")

    def _latencies(self, position: int) -> dict[str, float]:
        """By GridNode, seconds from its change to that of its Deployment, by the API server's clock."""
        changed: dict[str, datetime] = {}
        followed: dict[str, float] = {}
        for event in self.control_plane.audit_events(position):
            name, moment = event.object.name, event.stage_timestamp
            if not event.is_write() or event.object.subresource:
                continue
            if event.object.resource == "gridnodes" and not event.user_agent.startswith(_USER_AGENT):
                changed[name] = moment
            elif (
                event.object.resource == "deployments" and name in changed and event.user_agent.startswith(_USER_AGENT)
            ):
                followed.setdefault(name, (moment - changed[name]).total_seconds())
        return followed

    def _deployments(self) -> int:
        return len(self.gridnodes.all("/apis/apps/v1/deployments"))

    def _states(self) -> dict[str, int]:
        _, text = self.operator.get("/metrics")
        lines = [line for line in text.splitlines() if line.startswith("gridnode_operator_gridnodes{")]
        return {line.split('"')[1]: int(float(line.rsplit(" ", 1)[1])) for line in lines}

    def _cpu(self) -> float:
        assert self.operator.process is not None
        times = psutil.Process(self.operator.process.pid).cpu_times()
        return float(times.user + times.system)

    def _wait(self, condition: Callable[[], bool], progress: Console, what: str) -> None:
        with progress.status(what) as status:
            deadline, interval = time.monotonic() + _PATIENCE, max(0.2, self.count / 1000)
            while not condition():
                assert time.monotonic() < deadline, (
                    f"{what}: {self._states()}\n{self.operator.log_path.read_text()[-3000:]}"
                )
                status.update(f"{what}: {self._states()}")
                time.sleep(interval)


def _pretend_to_migrate(environment: dict[str, str]) -> None:
    """Leave the mark of a migration; a thousand real ones would be a bench of the node."""
    url = (load_settings(environment).database_url or "").replace("+psycopg2", "")
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS alembic_version (version_num text)")
        cursor.execute("INSERT INTO alembic_version VALUES (%s)", (REVISION,))


def main() -> int:
    """Run it, print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.operator", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gridnodes", type=int, default=1000, help="how many (1000)")
    arguments = parser.parse_args()
    progress = Console(stderr=True)
    table = Table("", "measured", "goal", title=f"The operator with {arguments.gridnodes} GridNodes")
    crds: list[dict[str, Any]] = [yaml.safe_load(path.read_text()) for path in sorted(_CRDS.glob("*.yaml"))]
    with tempfile.TemporaryDirectory() as folder:
        server = SharedServer(Path(folder) / "postgres", VERSIONS[0], _DATABASE)
        server.start()
        try:
            (Path(folder) / "control-plane").mkdir()
            with (
                ControlPlane(Path(folder) / "control-plane", crds=crds) as control_plane,
                server.database() as database,
                Kubelet(control_plane, _pretend_to_migrate),
            ):
                for figure in Bench(control_plane, database, Path(folder), arguments.gridnodes).run(progress):
                    table.add_row(figure.what, figure.measured, figure.goal)
                    progress.print(f"{figure.what}: {figure.measured}", style="dim")
        except AssertionError as error:
            progress.print(str(error), style="red", markup=False)
            return 1
        finally:
            server.stop()
            Console(width=100).print(table)
    return 0


def _mib(size: int) -> int:
    return size // (1024 * 1024)


if __name__ == "__main__":
    sys.exit(main())

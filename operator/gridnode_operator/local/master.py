"""The master node of this machine: ``gridnode master`` as a process beside the replicas, kept running and asked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gridnode_operator.local.balancer import LOOPBACK
from gridnode_operator.local.data_directory import DataDirectory, end_group
from gridnode_operator.local.paths import shown_path
from gridnode_operator.local.ports import listen_near
from gridnode_operator.local.replacement import Backoff
from gridnode_operator.local.replica import answers_ready, last_log_lines
from gridnode_operator.local.secret_files import write_private
from gridnode_operator.master.client import MasterClient, MasterFailed
from gridnode_operator.status import summarize_models

#: Its database connections at most: the default of its pool, and one for its migrations.
MASTER_CONNECTIONS: Final = 9
_PREFIX: Final = "GRIDNODE_MASTER_"
_TOKEN_BYTES: Final = 32
_LOOK_WHILE_STARTING: Final = 0.2
_LOOK_INTERVAL: Final = 0.5
_READY_TIMEOUT: Final = 60.0
_STOP_SECONDS: Final = 15.0
#: On one machine, looking often costs nothing, and nobody wants to wait for the end.
_DEFAULTS: Final = {"OBSERVE_INTERVAL": "2", "FETCH_INTERVAL": "1", "DRAIN_TIMEOUT": "2"}


@dataclass(frozen=True, slots=True)
class Heard:
    """What the master node knows of a node: the progress of each model, and of all together (None: nothing finite)."""

    models: Mapping[str, int] = field(default_factory=dict)
    percent: int | None = None


class LocalMaster:
    """The master node of one run; its port is held from the beginning.

    Args:
        held: Listens on the port until the process takes it over.
        data: In use by this process.
        tell: Given what happened, for people.

    Attributes:
        url: Its base URL.
        ready: Whether it answers.
        admin_key_file: Holds a key of scope admin.
    """

    def __init__(self, held: socket.socket, data: DataDirectory, tell: Callable[[str], None]) -> None:
        self.port: int = held.getsockname()[1]
        self.url = f"http://{LOOPBACK}:{self.port}"
        self.ready = False
        self.admin_key_file = data.master / "admin-key"
        self.log_file = data.master / "master.log"
        self._held = held
        self._data = data
        self._tell = tell
        self._backoff = Backoff()
        self._heard: Mapping[str, Heard] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._watch: asyncio.Task[None] | None = None

    def start(self, database_url: str) -> None:
        """Start it on a database in which it makes a schema of its own; does not wait until it is ready."""
        if self._admin_key() is None:
            write_private(self.admin_key_file, secrets.token_urlsafe(_TOKEN_BYTES))
        settings = {
            "DATABASE_URL": database_url,
            "DATA_DIR": str(self._data.master),
            "HOST": LOOPBACK,
            "PORT": str(self.port),
            "PROVIDER": "local",
            "NODES_DIR": str(self._data.nodes),
            "ADMIN_TOKEN_FILE": str(self.admin_key_file),
        }
        self._watch = asyncio.create_task(self._run(master_environment(settings)))

    def heard(self, node_id: str) -> Heard:
        """What it knew of a node when it was asked last."""
        return self._heard.get(node_id, Heard())

    async def node_key(self, node_id: str) -> str:
        """A new key with which one node reports, as soon as the master node can make one.

        Raises:
            MasterFailed: it could not in time.
        """
        deadline = time.monotonic() + _READY_TIMEOUT
        while not self.ready and time.monotonic() < deadline:
            await asyncio.sleep(_LOOK_WHILE_STARTING)
        client = MasterClient(self.url, self._admin_key())
        return await asyncio.to_thread(client.create_node_key, node_id, "of gridnode up")

    async def stop(self) -> None:
        """Let it end its requests; kill it if that takes too long."""
        self._stopping = True
        self._held.close()
        if self._watch is None:
            return
        if self._process is None:
            self._watch.cancel()
        else:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
        done, _ = await asyncio.wait([self._watch], timeout=_STOP_SECONDS)
        if not done and self._process is not None:
            end_group(self._process.pid)
            await asyncio.wait([self._watch])

    async def _run(self, environment: Mapping[str, str]) -> None:
        while not self._stopping:
            self._held.close()
            with self.log_file.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "gridnode", "master",
                    env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                    # Ctrl-C on the terminal is for `gridnode up`, which then stops everything in good order.
                    start_new_session=True,
                )  # fmt: skip
            self._data.remember_process(self._process.pid)
            started, served = time.monotonic(), await self._observe(self._process)
            self._data.forget_process(self._process.pid)
            code, self._process = self._process.returncode, None
            if not self._stopping:
                self._backoff.failed(served=served, lived=time.monotonic() - started)
                self._tell_of_end(code, served=served)
                await asyncio.sleep(self._backoff.wait)

    async def _observe(self, process: asyncio.subprocess.Process) -> bool:
        """Ask it again and again until it has ended; gives whether it was ever ready."""
        served = False
        end = asyncio.create_task(process.wait())
        client = MasterClient(self.url, self._admin_key())
        while not end.done():
            self.ready = await answers_ready(self.port) and not end.done()
            served = served or self.ready
            if self.ready:
                with contextlib.suppress(MasterFailed):
                    self._heard = await asyncio.to_thread(_ask, client)
            await asyncio.wait([end], timeout=_LOOK_INTERVAL if self.ready else _LOOK_WHILE_STARTING)
        self.ready = False
        return served

    def _tell_of_end(self, code: int | None, *, served: bool) -> None:
        why = "" if served else f"; it wrote:\n{last_log_lines(self.log_file)}"
        log = shown_path(self.log_file)
        self._tell(f"the master node ended by itself (code {code}, log {log}): starting it again{why}")

    def _admin_key(self) -> str | None:
        with contextlib.suppress(OSError):
            return self.admin_key_file.read_text(encoding="utf-8").strip() or None
        return None


async def hold_master(port: int, *, exactly: bool, data: DataDirectory, tell: Callable[[str], None]) -> LocalMaster:
    """The master node of a run, not started yet; whatever starts meanwhile can't take its port.

    Args:
        port: The wished one; 0 for any.
        exactly: Don't take the next one if it is in use.
        data: In use by this process.
        tell: Given what happened, for people.

    Raises:
        PortTaken: it is in use.
    """
    held: list[socket.socket] = []

    async def listen(candidate: int) -> None:
        held.append(_listening(candidate))

    await listen_near(listen, port, exactly=exactly)
    return LocalMaster(held[-1], data, tell)


def master_environment(settings: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """This process's environment, in which the master node's settings are those of the person, and these above all."""
    given = {_PREFIX + name: value for name, value in settings.items()}
    inherited = {name: value for name, value in environ.items() if not _is_another_way_to_say(name, given)}
    defaults = {_PREFIX + name: value for name, value in _DEFAULTS.items()}
    return {**defaults, **inherited, **given}


def _is_another_way_to_say(name: str, given: Mapping[str, str]) -> bool:
    """Whether a variable says what is given already, there or in a file: a secret may be given once only."""
    plain = name.removesuffix("_FILE")
    return plain in given or f"{plain}_FILE" in given


def _listening(port: int) -> socket.socket:
    held = socket.socket()
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((LOOPBACK, port))
        held.listen(1)
    except OSError:
        held.close()
        raise
    return held


def _ask(client: MasterClient) -> dict[str, Heard]:
    """What it knows, by node; of several versions of one name the newest."""
    models: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for model in client.items("/api/v1/models"):
        models[model["node_id"]].append(model)
    return {
        node_id: Heard({model["name"]: model["percent"] for model in of_node}, summarize_models(of_node).percent)
        for node_id, of_node in models.items()
    }

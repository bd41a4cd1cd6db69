"""A real node on this machine, run as ``gridnode up`` from a manifest and stopped again."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import requests

from gridnode.errors import GridNodeError, NotFound

_READY_TIMEOUT = 120.0
_STOP_TIMEOUT = 60.0
_KILL_TIMEOUT = 15.0
_ANSWER_TIMEOUT = 60.0
_LAST_LOG_LINES = 15


class NodeFailed(GridNodeError):
    """The node did not start, or refused what it was asked; the message holds its last log lines or its answer."""


class LocalNode:
    """The GridNode of ``examples/gridnode.yaml``, with its database and master node, while the ``with`` block runs.

    Args:
        data_dir: of ``gridnode up``; its messages go into ``up.log`` there.
        arguments: further ones of ``gridnode up``.
    """

    def __init__(self, data_dir: Path, *arguments: str) -> None:
        self._data_dir = data_dir
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self._listener: threading.Thread | None = None
        #: The last line of ``gridnode up --output json``.
        self._state: dict[str, Any] = {}
        self._changed = threading.Condition()
        self.log_file = data_dir / "up.log"

    @property
    def device_url(self) -> str:
        """The address that phones use."""
        return str(self._gridnode["url"])

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything; returns at once."""
        manifest = resources.files("gridnode.simulation") / "assets" / "gridnode.yaml"
        self._data_dir.mkdir(parents=True, exist_ok=True)
        with resources.as_file(manifest) as file, self.log_file.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [
                    sys.executable, "-m", "gridnode", "up", "--file", str(file.resolve()),
                    "--data", str(self._data_dir), "--output", "json", *self._arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                # Ctrl-C on the terminal is for the caller, who then stops the node in good order.
                start_new_session=True,
            )  # fmt: skip
        assert self._process.stdout is not None  # noqa: S101 - for the type checker
        self._listener = threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True)
        self._listener.start()

    def wait_until_ready(self) -> None:
        """Wait until devices can be served.

        Raises:
            NodeFailed: it ended, or takes too long.
        """
        deadline = time.monotonic() + _READY_TIMEOUT
        with self._changed:
            while not self._state.get("ready"):
                if self._process is not None and self._process.poll() is not None:
                    raise NodeFailed(f"`gridnode up` ended while starting.\n{self._last_log_lines()}")
                if time.monotonic() > deadline:
                    raise NodeFailed(f"the node was not ready after {_READY_TIMEOUT:.0f} s.\n{self._last_log_lines()}")
                self._changed.wait(0.1)

    def stop(self) -> None:
        """Let everything end in good order; end it at once if that takes too long."""
        process, self._process = self._process, None
        if process is None:
            return
        for seconds in (_STOP_TIMEOUT, _KILL_TIMEOUT):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
                break
        else:
            process.kill()
            process.wait()
        if self._listener is not None:
            self._listener.join()

    def percent(self, model: str) -> int:
        """The last progress of a model that the master node has received, 0 before the first."""
        with self._changed:
            gridnodes = self._state.get("gridnodes") or [{}]
            return int(gridnodes[0].get("reported", {}).get(model, 0))

    def host(
        self,
        *,
        model: bytes,
        plans: Mapping[str, bytes],
        client_config: Mapping[str, Any],
        server_config: Mapping[str, Any],
    ) -> None:
        """Host a process whose cycles are averaged without an averaging plan.

        Raises:
            NodeFailed: the node refused it.
        """
        body = {
            "model": _text(model),
            "plans": {name: _text(plan) for name, plan in plans.items()},
            "protocols": {},
            "averaging_plan": "",
            "client_config": dict(client_config),
            "server_config": dict(server_config),
        }
        self._manage("POST", "host-training", json=body)

    def checkpoint(self, name: str, version: str, number: int) -> bytes:
        """A checkpoint as a serialized State; number 1 is the model as it was hosted.

        Raises:
            NotFound: there is none of this number.
        """
        query = {"name": name, "version": version, "checkpoint": str(number)}
        return self._manage("GET", "retrieve-model", params=query).content

    def _manage(self, method: str, action: str, **options: Any) -> requests.Response:
        gridnode = self._gridnode
        token = Path(gridnode["token_file"]).read_text(encoding="utf-8")
        try:
            response = requests.request(
                method,
                f"{gridnode['management_url']}/model-centric/{action}",
                headers={"Authorization": f"Bearer {token}"},
                timeout=_ANSWER_TIMEOUT,
                **options,
            )
        except requests.RequestException as error:
            raise NodeFailed(f"the node does not answer {action}: {error}\n{self._last_log_lines()}") from None
        if response.status_code == 404:
            raise NotFound(f"{action}: {_error_of(response)}")
        if response.status_code != 200:
            raise NodeFailed(f"the node answered {action} with {response.status_code}: {_error_of(response)}")
        return response

    @property
    def _gridnode(self) -> dict[str, Any]:
        with self._changed:
            found: dict[str, Any] = self._state["gridnodes"][0]
            return found

    def _listen(self, output: IO[bytes]) -> None:
        with output:
            for line in output:
                with self._changed:
                    self._state = json.loads(line)
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def _last_log_lines(self) -> str:
        try:
            lines = self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(["Its last log lines:", *lines[-_LAST_LOG_LINES:]])


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _error_of(response: requests.Response) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return response.text[:500]

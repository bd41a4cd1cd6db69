"""A real node on this machine, run as ``gridnode serve`` in processes of its own and stopped again."""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import requests

from gridnode.errors import GridNodeError, NotFound

_READY_TIMEOUT = 90.0
_STOP_TIMEOUT = 15.0
_ANSWER_TIMEOUT = 60.0
_LAST_LOG_LINES = 15


class NodeFailed(GridNodeError):
    """The node did not start, or refused what it was asked; the message holds its last log lines or its answer."""


class LocalNode:
    """Runs while the ``with`` block does.

    Args:
        data_dir: for the private PostgreSQL and the log ``node.log``.
        master_url: who gets the progress.
    """

    def __init__(self, data_dir: Path, *, master_url: str) -> None:
        self._data_dir = data_dir
        self._master_url = master_url
        self._token = secrets.token_hex(16)
        self._device_port, self._management_port = _free_ports(2)
        self._process: subprocess.Popen[bytes] | None = None
        self.log_file = data_dir / "node.log"

    @property
    def device_url(self) -> str:
        """The address that phones use."""
        return f"http://127.0.0.1:{self._device_port}"

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
        """Start its processes; returns at once."""
        command = [
            sys.executable, "-m", "gridnode", "serve",
            "--host", "127.0.0.1", "--device-port", str(self._device_port),
            "--management-port", str(self._management_port),
        ]  # fmt: skip
        self._data_dir.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603
                command,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C on the terminal is for the caller, who then stops the node in good order.
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Wait until devices can be served.

        Raises:
            NodeFailed: the node ended, or takes too long.
        """
        deadline = time.monotonic() + _READY_TIMEOUT
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                raise NodeFailed(
                    f"the node ended with code {self._process.returncode} while starting.\n{self._last_log_lines()}"
                )
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"http://127.0.0.1:{self._management_port}/readyz", timeout=5).status_code == 200:
                    return
            time.sleep(0.1)
        raise NodeFailed(f"the node was not ready after {_READY_TIMEOUT:.0f} s.\n{self._last_log_lines()}")

    def stop(self) -> None:
        """Let the node end its requests and stop; kill its processes if that takes too long."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT)
        # The node leads a process group of its own, in which nothing else is; whatever is left of it goes now.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

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
        try:
            response = requests.request(
                method,
                f"http://127.0.0.1:{self._management_port}/model-centric/{action}",
                headers={"Authorization": f"Bearer {self._token}"},
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

    def _environment(self) -> dict[str, str]:
        # Settings meant for another node on this machine, its database above all, must not reach this one.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GRIDNODE_")}
        return {
            **inherited,
            "GRIDNODE_DATA_DIR": str(self._data_dir),
            "GRIDNODE_MANAGEMENT_TOKEN": self._token,
            "GRIDNODE_MASTER_URL": self._master_url,
        }

    def _last_log_lines(self) -> str:
        try:
            lines = self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(["Its last log lines:", *lines[-_LAST_LOG_LINES:]])


def _free_ports(count: int) -> list[int]:
    """Free ports, all different because all are held until the last is found."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _error_of(response: requests.Response) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return response.text[:500]

"""A Jupyter beside ``gridnode up``: on this machine only, with the example notebooks, and set to a GridNode."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from gridnode.errors import InvalidRequest
from gridnode_operator.api import GridNode
from gridnode_operator.desired.environment import management_secret_key, node_id
from gridnode_operator.local.balancer import LOOPBACK
from gridnode_operator.local.data_directory import DataDirectory, end_group
from gridnode_operator.local.paths import shown_path

_PORT: Final = 8888
_PORTS: Final = 50
_LOOK_INTERVAL: Final = 0.3
_STOP_SECONDS: Final = 10.0


def check_jupyter() -> None:
    """Find out before anything is started whether Jupyter can be.

    Raises:
        InvalidRequest: it is not installed; says what to install.
    """
    if any(importlib.util.find_spec(name) is None for name in ("jupyterlab", "ipykernel")):
        raise InvalidRequest("--notebook needs Jupyter: pip install jupyterlab ipykernel, and leave it out until then")


@contextlib.contextmanager
def notebook_server(
    manifest: Path, gridnode: GridNode, data: DataDirectory, tell: Callable[[str], None]
) -> Iterator[None]:
    """Run Jupyter while the block runs, as soon as a GridNode is ready.

    Args:
        manifest: the notebooks beside it are copied into the data directory, unless they are there.
        gridnode: what ``Grid()`` in a notebook is connected to.
        data: of the run; its status files say where the GridNode is.
        tell: given what happened, for people.
    """
    server = _Server(gridnode, data, tell)
    server.copy_notebooks(manifest.resolve().parent)
    thread = threading.Thread(target=server.run, name="notebook", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.stopping.set()
        thread.join()


class _Server:
    def __init__(self, gridnode: GridNode, data: DataDirectory, tell: Callable[[str], None]) -> None:
        self.stopping = threading.Event()
        self._gridnode = gridnode
        self._data = data
        self._tell = tell
        self._directory = data.path / "notebooks"
        self._log_file = data.path / "notebook.log"

    def copy_notebooks(self, source: Path) -> None:
        """Copies to work in: the originals, and what somebody has made of the copies, stay as they are."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in sorted(source.glob("*.ipynb")):
            if not (self._directory / path.name).exists():
                shutil.copyfile(path, self._directory / path.name)

    def run(self) -> None:
        """From waiting for the GridNode to the end of Jupyter."""
        status = self._wait_until_ready()
        if status is None:
            return
        port, token = _free_port(), secrets.token_urlsafe(24)
        with self._log_file.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter
                _command(self._directory, port),
                env=self._environment(status, token),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C on the terminal is for `gridnode up`, which then stops everything in good order.
                start_new_session=True,
            )
        self._data.remember_process(process.pid)
        told = False
        while process.poll() is None and not self.stopping.wait(_LOOK_INTERVAL):
            if not told and _answers(port):
                told = True
                self._tell(f"Notebooks: http://{LOOPBACK}:{port}/lab?token={token}")
        if process.poll() is not None:
            log_file = shown_path(self._log_file)
            self._tell(f"Jupyter ended by itself (code {process.returncode}, log {log_file}); all else goes on")
        _stop(process)
        self._data.forget_process(process.pid)

    def _wait_until_ready(self) -> dict[str, Any] | None:
        """What the GridNode's status file says then; None if the run ends before."""
        while not self.stopping.wait(_LOOK_INTERVAL):
            for path in self._data.nodes.glob("*.status.json"):
                with contextlib.suppress(OSError, ValueError):
                    status = json.loads(path.read_text(encoding="utf-8"))
                    if status["nodeId"] == node_id(self._gridnode) and status["ready"]:
                        return dict(status)
        return None

    def _environment(self, status: Mapping[str, Any], token: str) -> dict[str, str]:
        source = management_secret_key(self._gridnode)
        inherited = {name: value for name, value in os.environ.items() if name != "GRIDNODE_MANAGEMENT_TOKEN"}
        return {
            **inherited,
            "GRIDNODE_DEVICE_URL": str(status["url"]),
            "GRIDNODE_MANAGEMENT_URL": str(status["management"]["url"]),
            "GRIDNODE_MANAGEMENT_TOKEN_FILE": str(self._data.secrets.path(self._gridnode.namespace, source)),
            # Not on the command line, which everybody on the machine can read.
            "JUPYTER_TOKEN": token,
        }


def _command(directory: Path, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        f"--ServerApp.ip={LOOPBACK}",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={directory}",
    ]


def _free_port() -> int:
    """The usual port of Jupyter, or the next that nobody listens on."""
    for port in range(_PORT, _PORT + _PORTS):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind((LOOPBACK, port))
            return port
    raise InvalidRequest(f"no port from {_PORT} to {_PORT + _PORTS - 1} is free for Jupyter")


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
        return True
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End Jupyter and its kernels."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    end_group(process.pid)
    process.wait()

"""What a person sees of ``gridnode up``: a table, lines where there is no terminal, or JSON for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gridnode_operator.desired.environment import management_secret_key, node_id
from gridnode_operator.local.balancer import LOOPBACK
from gridnode_operator.local.data_directory import DataDirectory
from gridnode_operator.local.master import Heard
from gridnode_operator.local.paths import shown_path
from gridnode_operator.local.runner import View, shown_name
from gridnode_operator.local.stack import StackView

_BAR_WIDTH = 12
#: Where to reach what listens everywhere.
_NEAREST = {"0.0.0.0": LOOPBACK, "::": "::1"}  # noqa: S104 - to compare with


class Display:
    """Shows views of a stack.

    Args:
        data: Its data directory.
        host: Where phones are let in.
    """

    def __init__(self, data: DataDirectory, host: str) -> None:
        self._data = data
        self._host = _NEAREST.get(host, host)

    def table(self, view: StackView, *, stopping: bool) -> RenderableType:
        """Everything on one screen."""
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for name in ("GridNode", "Ready", "Models", "Progress", "Phones", "Management"):
            table.add_column(name, overflow="fold")
        for each in view.gridnodes:
            table.add_row(
                Text(shown_name(each.gridnode), "bold"), _ready(each), _models(each), _progress(view.heard_of(each)),
                self.device_url(each), self.management_url(each),
            )  # fmt: skip
        parts: list[RenderableType] = ["", table]
        parts += [
            Text(f"{shown_name(each.gridnode)}: {each.problem}", "yellow")
            for each in view.gridnodes
            if each.problem is not None
        ]
        end = "stopping: running requests may end (Ctrl-C: at once)" if stopping else "Ctrl-C stops, data are kept"
        parts.append(Text(f"master {view.master_url} · data {shown_path(self._data.path)} · {end}", "dim"))
        return Group(*parts)

    def line(self, each: View, heard: Heard) -> str:
        """One GridNode in a line."""
        progress = heard.percent
        parts = [
            f"{each.ready}/{each.wanted} ready",
            f"models {each.models.count}" if each.models is not None else "",
            f"progress {progress} %" if progress is not None else "",
            self.device_url(each),
        ]
        return f"{shown_name(each.gridnode)}: {', '.join(part for part in parts if part)}"

    def how_to_manage(self, each: View) -> str:
        """Commands to paste into another terminal."""
        name, token_file = shown_name(each.gridnode), shown_path(self._token_file(each))
        return (
            f"{name} is ready: phones at {self.device_url(each)}. To host and to look, in another terminal:\n"
            f"  export GRIDNODE_MANAGEMENT_URL={self.management_url(each)}\n"
            f"  export GRIDNODE_MANAGEMENT_TOKEN_FILE={token_file}\n"
            "  gridnode host --help\n"
            "  gridnode processes"
        )

    def how_to_ask_master(self, view: StackView) -> str:
        """The same for the master node."""
        key_file = "" if view.master_key_file is None else shown_path(view.master_key_file)
        return (
            f"The master node answers: sign in at {view.master_url}/dashboard with the key in {key_file}.\n"
            "To look at all models, in another terminal:\n"
            f"  export GRIDNODE_MASTER_URL={view.master_url}\n"
            f"  export GRIDNODE_MASTER_API_KEY_FILE={key_file}\n"
            "  gridnode models"
        )

    def as_json(self, view: StackView, *, stopping: bool) -> dict[str, Any]:
        """Everything as plain types."""
        return {
            "ready": view.settled and not stopping,
            "stopping": stopping,
            "master_url": view.master_url,
            "master_ready": view.master_ready,
            "master_key_file": None if view.master_key_file is None else str(view.master_key_file),
            "data": str(self._data.path),
            "gridnodes": [self._gridnode_as_json(each, view.heard_of(each)) for each in view.gridnodes],
        }

    def statuses(self, view: StackView) -> list[dict[str, Any]]:
        """Each GridNode as the master node reads it."""
        return [
            {
                "nodeId": node_id(each.gridnode),
                "url": self.device_url(each),
                "ready": each.settled,
                "replicas": each.wanted,
                "readyReplicas": each.ready,
                "conditions": [],
                "management": {
                    "url": self.management_url(each),
                    "token": self._data.secrets.read(each.gridnode.namespace, management_secret_key(each.gridnode)),
                },
            }
            for each in view.gridnodes
            if each.device_port is not None
        ]

    def device_url(self, each: View) -> str:
        """Where phones reach it."""
        return _url(self._host, each.device_port)

    def management_url(self, each: View) -> str:
        """Where people reach it."""
        return _url(LOOPBACK, each.management_port)

    def _token_file(self, each: View) -> Path:
        return self._data.secrets.path(each.gridnode.namespace, management_secret_key(each.gridnode))

    def _gridnode_as_json(self, each: View, heard: Heard) -> dict[str, Any]:
        return {
            "name": each.gridnode.name,
            "namespace": each.gridnode.namespace,
            "ready": each.settled,
            "replicas": each.wanted,
            "ready_replicas": each.ready,
            "process_ids": list(each.process_ids),
            "url": self.device_url(each),
            "management_url": self.management_url(each),
            "token_file": str(self._token_file(each)),
            "progress": heard.percent,
            "models": [
                {
                    "name": process["name"],
                    "version": process["version"],
                    "state": process["state"],
                    "progress": process["progress"],
                }
                for process in each.processes
            ],
            "reported": dict(heard.models),
            "problem": each.problem,
        }


def _ready(each: View) -> Text:
    return Text(f"{each.ready}/{each.wanted}", "green" if each.settled else "yellow")


def _models(each: View) -> str:
    return "-" if each.models is None else str(each.models.count)


def _progress(heard: Heard) -> RenderableType:
    percent = heard.percent
    if percent is None:
        return "-"
    grid = Table.grid(padding=(0, 1))
    grid.add_row(ProgressBar(total=100, completed=percent, width=_BAR_WIDTH), f"{percent} %")
    return grid


def _url(host: str, port: int | None) -> str:
    if port is None:
        return "-"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

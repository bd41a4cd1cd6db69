"""A node's management from a notebook: host, look, watch, and take the result back into PyTorch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gridnode.sdk.connection import Connection, GridFailed, Server
from gridnode.sdk.hosted import HostedProcess
from gridnode.sdk.plans import BuiltAveragingPlan, BuiltPlan
from gridnode.sdk.progress import Progress

# A node tries plans before it answers.
_HOSTING_TIMEOUT: Final = 900.0
_PAGE: Final = 1000
_SERVER: Final = Server(
    kind="GridNode",
    address="management address",
    default_url="http://127.0.0.1:5050",
    url_variable="GRIDNODE_MANAGEMENT_URL",
    token_variable="GRIDNODE_MANAGEMENT_TOKEN",  # noqa: S106 - a name, no token
    error_key="error",
    start="gridnode serve",
    hints={
        401: "Give Grid the node's management token, or set GRIDNODE_MANAGEMENT_TOKEN.",
        413: "Its operator can raise GRIDNODE_HOSTING_LIMIT.",
    },
)


class Grid(Connection):
    """One node, by its management address.

    While the node is away, requests that may be repeated are: those that change nothing, and hosting, since a node
    knows what it has already.

    Args:
        url: if not given, ``GRIDNODE_MANAGEMENT_URL``, or a node on this machine.
        token: if not given, ``GRIDNODE_MANAGEMENT_TOKEN`` or the file that ``GRIDNODE_MANAGEMENT_TOKEN_FILE`` names.
        attempts: how often a request is tried.

    Example::

        with Grid("http://127.0.0.1:5050", token) as grid:
            process = grid.host("digits", plan, batch_size=32, lr=0.1, max_updates=10, num_cycles=5, min_diffs=10)
            process.watch()
            model.load_state_dict(process.retrieve())
    """

    def __init__(self, url: str | None = None, token: str | None = None, *, attempts: int = 4) -> None:
        super().__init__(_SERVER, url, token, attempts)

    def host(
        self,
        name: str,
        plan: BuiltPlan,
        *,
        batch_size: int,
        lr: float,
        max_updates: int = 1,
        version: str = "1.0",
        averaging_plan: BuiltAveragingPlan | None = None,
        client_config: Mapping[str, Any] | None = None,
        **server_config: Any,
    ) -> HostedProcess:
        """Host a model: its parameters, its plan, and what phones and the node are told.

        Args:
            batch_size, lr, max_updates: what a phone trains with, and how many batches of it.
            client_config: more for phones, as they know it.
            server_config: the keys that docs/configuration.md explains, such as num_cycles and min_diffs.

        Raises:
            GridFailed: the node refused; the message names the field.
        """
        if batch_size % plan.local_steps:
            raise GridFailed(
                f"batch_size is {batch_size}, but the plan takes a batch in {plan.local_steps} parts: give a multiple."
            )
        client = {"name": name, "version": version, "batch_size": batch_size, "lr": lr, "max_updates": max_updates}
        server = dict(server_config)
        files = {"model": plan.state, f"plans.{plan.name}": plan.data}
        if averaging_plan is not None:
            files["averaging_plan"] = averaging_plan.data
            server.setdefault("iterative_plan", averaging_plan.iterative)
        fields = {"client_config": {**(client_config or {}), **client}, "server_config": server}
        parts = {key: ("upload", json.dumps(value).encode()) for key, value in fields.items()}
        parts |= {key: ("upload", value) for key, value in files.items()}
        path = "/model-centric/host-training"
        self.request("POST", path, files=parts, answer_timeout=_HOSTING_TIMEOUT, repeat=True)
        return HostedProcess(self, self._status(name, version), tuple(plan.parameters))

    def processes(self, name: str | None = None, version: str | None = None) -> list[HostedProcess]:
        """All processes, or those of one name (and version), in the order in which they were hosted."""
        found: list[HostedProcess] = []
        page: list[dict[str, Any]] = [{"id": 0}]
        while page:
            query = {"name": name, "version": version, "after": page[-1]["id"], "limit": _PAGE}
            page = self.read("/processes", params=query)["processes"]
            found += [HostedProcess(self, status) for status in page]
            if len(page) < _PAGE:
                break
        return found

    def process(self, name: str, version: str | None = None, *, names: Sequence[str] = ()) -> HostedProcess:
        """The process of this name; the newest version if none is given.

        Args:
            names: of the parameters, for its state dict: ``[name for name, _ in model.named_parameters()]``.
        """
        return HostedProcess(self, self._status(name, version), tuple(names))

    def watch(self, name: str, version: str | None = None, **options: Any) -> Progress:
        """Watch a process until it has ended; see :meth:`HostedProcess.watch`."""
        return self.process(name, version).watch(**options)

    def checkpoint(
        self, name: str, number: int | str, version: str | None = None, *, names: Sequence[str] = ()
    ) -> dict[str, Any]:
        """A checkpoint as a state dict; see :meth:`HostedProcess.checkpoint`."""
        return self.process(name, version, names=names).checkpoint(number)

    def retrieve(self, name: str, version: str | None = None, *, names: Sequence[str] = ()) -> dict[str, Any]:
        """The newest checkpoint as a state dict."""
        return self.checkpoint(name, "latest", version, names=names)

    def _status(self, name: str, version: str | None) -> dict[str, Any]:
        found = self.read("/processes", params={"name": name, "version": version})["processes"]
        if not found:
            there = ", ".join(sorted({process.name for process in self.processes()})) or "nothing"
            raise GridFailed(
                f"no process {name}{f' {version}' if version else ''} is hosted at {self.url}; there is {there}."
            )
        status: dict[str, Any] = found[-1]
        return status

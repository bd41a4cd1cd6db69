"""All GridNodes of a file on this machine, with the database server, the master node and the ports they share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gridnode.db.embedded import EmbeddedPostgres
from gridnode.errors import InvalidRequest
from gridnode_operator.api import GridNode
from gridnode_operator.database import AdminDatabase, Timeouts, connection_demand
from gridnode_operator.desired.environment import MANAGEMENT_PORT, node_id
from gridnode_operator.local.balancer import LOOPBACK, Balancer
from gridnode_operator.local.data_directory import DataDirectory
from gridnode_operator.local.environment import local_context
from gridnode_operator.local.master import MASTER_CONNECTIONS, Heard, LocalMaster, hold_master
from gridnode_operator.local.ports import ROOTS_PORTS, listen_near
from gridnode_operator.local.preparation import Surroundings
from gridnode_operator.local.runner import GridNodeRunner, View, replicas_of, shown_name
from gridnode_operator.tenants import Tenants

MASTER_PORT: Final = 5001
_CONNECTIONS: Final = 200  # of the database server at least
_OWN_CONNECTIONS: Final = 20 + MASTER_CONNECTIONS  # for the administrator and psql, and the master node's
_TIMEOUTS: Final = Timeouts(connect=10.0, statement=15.0, lock=5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where to listen; ports that are None are the usual ones, or the next free ones.

    Attributes:
        host: For phones. Everything else is on loopback.
        device_port: Of the first GridNode, instead of its ``exposure.service.port``; 0 for any free one.
        master_port: Of the master node.
    """

    host: str = LOOPBACK
    device_port: int | None = None
    master_port: int | None = None


@dataclass(frozen=True, slots=True)
class StackView:
    """Everything at one moment.

    Attributes:
        master_url: Where the master node is.
        master_ready: Whether it answers.
        master_key_file: Holds a key for it, of scope admin.
        heard: What it knows of each GridNode.
    """

    master_url: str
    master_ready: bool
    master_key_file: Path | None
    gridnodes: tuple[View, ...]
    heard: Mapping[str, Heard]

    def heard_of(self, view: View) -> Heard:
        """What the master node knows of a GridNode."""
        return self.heard.get(view.gridnode.key, Heard())

    @property
    def settled(self) -> bool:
        """Whether all GridNodes are as declared, and the master node answers."""
        return self.master_ready and all(view.settled for view in self.gridnodes)


class LocalStack:
    """Runs GridNodes until :meth:`stop`.

    Args:
        data: In use by this process.
        addresses: See :class:`Addresses`.
        tell: Given what happened, for people.
    """

    def __init__(self, data: DataDirectory, addresses: Addresses, tell: Callable[[str], None]) -> None:
        self._data = data
        self._addresses = addresses
        self._tell = tell
        self._postgres: EmbeddedPostgres | None = None
        self._master: LocalMaster | None = None
        self._around: Surroundings | None = None
        self._connections = 0
        self._runners: dict[str, GridNodeRunner] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, gridnodes: Sequence[GridNode]) -> None:
        """Start what all share, and the GridNodes.

        Raises:
            GridNodeError: a port is in use, or the database server does not start.
        """
        addresses = self._addresses
        port = MASTER_PORT if addresses.master_port is None else addresses.master_port
        self._data.master.mkdir(mode=0o700, exist_ok=True)
        exactly = addresses.master_port is not None
        self._master = await hold_master(port, exactly=exactly, data=self._data, tell=self._tell)
        self._tell("Starting PostgreSQL …")
        self._connections = max(_CONNECTIONS, 2 * _demand(gridnodes) + _OWN_CONNECTIONS)
        self._postgres = EmbeddedPostgres(self._data.path, max_connections=self._connections)
        url = await asyncio.to_thread(self._postgres.start)
        self._master.start(url)
        self._around = Surroundings(
            data=self._data,
            node_key=self._master.node_key,
            tenants=Tenants(
                default_url=url,
                installation="",
                read_secret=lambda _: None,
                connect=lambda admin_url: AdminDatabase(admin_url, timeouts=_TIMEOUTS),
            ),
            context=local_context(self._master.url),
            tell=self._tell,
        )
        await self.apply(gridnodes)

    def check(self, gridnodes: Sequence[GridNode]) -> None:
        """Refuse what the running GridNodes can't become.

        Raises:
            InvalidRequest: names the field.
        """
        for gridnode in gridnodes:
            runner = self._runners.get(gridnode.key)
            if runner is None or runner.removed:
                continue
            if runner.latest.spec.database.schema != gridnode.spec.database.schema:
                raise InvalidRequest(
                    f"GridNode {gridnode.key}: spec.database.schema can't be changed: remove the GridNode with "
                    "reclaimPolicy Retain, and name the schema in a new one"
                )
        if 2 * _demand(gridnodes) + _OWN_CONNECTIONS > self._connections:
            raise InvalidRequest(
                f"the GridNodes may need {2 * _demand(gridnodes)} database connections now, for which the server has "
                "to be started anew: stop `gridnode up`, and start it again"
            )

    async def apply(self, gridnodes: Sequence[GridNode]) -> None:
        """Add, change and remove GridNodes, so that these run; to be repeated, for some of it takes its time."""
        await self._forget_removed()
        wanted = {gridnode.key: gridnode for gridnode in gridnodes}
        for key, runner in self._runners.items():
            if key not in wanted:
                runner.remove()
        for key, gridnode in wanted.items():
            runner_there = self._runners.get(key)
            if runner_there is None:
                await self._add(gridnode)
            elif not runner_there.removed:
                await self._move(runner_there, gridnode)
                runner_there.want(gridnode)

    def view(self) -> StackView:
        """What there is now, in the order in which the GridNodes were added."""
        views = tuple(runner.view() for runner in self._runners.values())
        master = self._master
        if master is None:
            return StackView("", False, None, views, {})
        heard = {key: master.heard(node_id(runner.latest)) for key, runner in self._runners.items()}
        return StackView(master.url, master.ready, master.admin_key_file, views, heard)

    async def stop(self) -> None:
        """End everything in good order; data stay."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        try:
            await asyncio.gather(*(runner.stop() for runner in self._runners.values()))
        finally:
            if self._master is not None:
                await self._master.stop()
            if self._postgres is not None:
                await asyncio.to_thread(self._postgres.stop)

    def kill(self) -> None:
        """End all replicas at once; :meth:`stop` has nothing to wait for then."""
        for runner in self._runners.values():
            runner.kill()

    async def _add(self, gridnode: GridNode) -> None:
        assert self._around is not None  # noqa: S101 - started
        device, management = Balancer(), Balancer()
        await self._listen(device, gridnode, is_first=not self._runners)
        await listen_near(lambda port: management.listen(LOOPBACK, port), MANAGEMENT_PORT)
        runner = GridNodeRunner(gridnode, self._around, device, management)
        self._runners[gridnode.key] = runner
        self._tasks[gridnode.key] = asyncio.create_task(runner.run())

    async def _move(self, runner: GridNodeRunner, gridnode: GridNode) -> None:
        """Let phones in at another port if the spec names another."""
        before, after = (each.spec.exposure.service.port for each in (runner.latest, gridnode))
        if before != after and self._addresses.device_port is None and not gridnode.spec.paused:
            await self._listen(runner.device, gridnode, is_first=False)
            self._tell(f"{shown_name(gridnode)}: phones are let in at port {runner.device.port} now")

    async def _listen(self, device: Balancer, gridnode: GridNode, *, is_first: bool) -> None:
        given = self._addresses.device_port
        wished = gridnode.spec.exposure.service.port if given is None else given
        await listen_near(
            lambda port: device.listen(self._addresses.host, port),
            wished,
            exactly=given is not None and is_first,
            but_not=frozenset({self._master_port()}),
        )
        if given is None and device.port != wished:
            why = "is for root only" if wished < ROOTS_PORTS else "is taken"
            self._tell(f"{shown_name(gridnode)}: port {wished} {why}, phones are let in at {device.port}")

    def _master_port(self) -> int:
        return self._master.port if self._master is not None else 0

    async def _forget_removed(self) -> None:
        for key, task in list(self._tasks.items()):
            if task.done():
                await task
                del self._tasks[key], self._runners[key]


def _demand(gridnodes: Sequence[GridNode]) -> int:
    """Database connections that they need at most; twice as many while replicas that were told to stop still drain."""
    return sum(
        connection_demand(replicas_of(each), each.spec.processes_per_pod, each.spec.database.pool_size)
        for each in gridnodes
    )

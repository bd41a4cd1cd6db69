"""One GridNode on this machine: what should be, what runs, and the one function that brings them together."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import requests

from gridnode.commands.management_client import ManagementClient
from gridnode.errors import GridNodeError
from gridnode_operator.api import GridNode, ModelsStatus
from gridnode_operator.database import DatabaseError
from gridnode_operator.desired.environment import management_secret_key
from gridnode_operator.local.balancer import LOOPBACK, Balancer
from gridnode_operator.local.environment import process_environment, template_of
from gridnode_operator.local.preparation import Surroundings, leave, prepare, retire
from gridnode_operator.local.replacement import Backoff, next_steps
from gridnode_operator.local.replica import Replica, last_log_lines
from gridnode_operator.status import summarize_models

#: Seconds after which everything is looked at again, though nothing has changed.
_RESYNC: Final = 5.0
_RETRY: Final = 2.0
_TICK: Final = 0.5
_MODELS_INTERVAL: Final = 1.0
_LAST_BYTES: Final = 2.0  # seconds that answers of ended replicas may take to their clients


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A GridNode as it is at one moment.

    Attributes:
        problem: Why it is not as it should be, for people; None if nothing is known to be wrong.
        settled: Whether everything is as declared: as many replicas as wanted, all of the newest template and ready.
        processes: What the management API lists.
    """

    gridnode: GridNode
    wanted: int
    ready: int
    settled: bool
    problem: str | None
    models: ModelsStatus | None
    processes: tuple[Mapping[str, Any], ...]
    device_port: int | None
    management_port: int | None
    process_ids: tuple[int, ...]


class GridNodeRunner:
    """Runs one GridNode until it is removed or stopped.

    Args:
        gridnode: What is wanted at first.
        around: See :class:`Surroundings`.
        device, management: Its two ports.

    Attributes:
        latest: What is wanted now.
        removed: Whether nothing is wanted any more.
    """

    def __init__(self, gridnode: GridNode, around: Surroundings, device: Balancer, management: Balancer) -> None:
        self.latest = gridnode
        self.device = device
        self.management = management
        self._around = around
        #: What is carried out: while it is paused, what was wanted before that.
        self._wanted: GridNode | None = None if gridnode.spec.paused else gridnode
        self.removed = False
        self._wake = asyncio.Event()
        self._replicas: list[Replica] = []
        self._stops: set[asyncio.Task[None]] = set()
        self._backoff = Backoff()
        #: What was prepared last, and the variables that it gave.
        self._prepared: GridNode | None = None
        self._variables: dict[str, str] | None = None
        self._problem: str | None = None
        self._failure: str | None = None
        self._prepare_at = 0.0
        self._retire_at: float | None = 0.0
        self._rotation_waits = False
        self._models: ModelsStatus | None = None
        self._processes: tuple[Mapping[str, Any], ...] = ()

    def want(self, gridnode: GridNode) -> None:
        """Change what is wanted; the schema can't be changed."""
        if gridnode == self.latest:
            return
        self.latest = gridnode
        if not gridnode.spec.paused:
            self._wanted = gridnode
            self._prepare_at = 0.0
            self._backoff.reset()
        self._wake.set()

    def remove(self) -> None:
        """It is not wanted any more: :meth:`run` returns once it is gone."""
        self.removed = True
        self._wake.set()

    async def run(self) -> None:
        """Reconcile whenever something has changed, until it was removed."""
        models = asyncio.create_task(self._watch_models())
        try:
            while not await self.reconcile():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), _TICK)
                self._wake.clear()
        finally:
            models.cancel()

    async def reconcile(self) -> bool:
        """Bring what runs one step nearer to what is wanted; changes nothing if it is there.

        Returns:
            Whether it was removed and nothing is left to do.
        """
        self._bury_the_dead()
        if self.removed:
            return await self._leave()
        if self._wanted is not None and time.monotonic() >= self._prepare_at:
            await self._prepare(self._wanted)
        if self._wanted is not None and self._variables is not None:
            await self._replace_replicas(self._wanted, self._variables)
            await self._retire_login(self._wanted, self._variables)
        return False

    async def stop(self) -> None:
        """Let all replicas end what they are doing; data stay."""
        self.device.close()
        self.management.close()
        for replica in self._in_service():
            self._let_go(replica)
        while self._stops:
            await asyncio.wait(set(self._stops))
        await asyncio.gather(self.device.end(_LAST_BYTES), self.management.end(0))

    def kill(self) -> None:
        """End all replicas at once."""
        for replica in self._replicas:
            replica.kill()

    def view(self) -> View:
        """What there is now."""
        serving = self._in_service()
        wanted = replicas_of(self._wanted) if self._wanted is not None else 0
        template = template_of(self._variables or {})
        newest = [each for each in serving if each.template == template and each.ready]
        is_prepared = self._prepared is not None and self._prepared is self._wanted
        settled = is_prepared and len(newest) == len(serving) == wanted and not self.removed
        paused = "paused: nothing is changed" if self.latest.spec.paused else None
        return View(
            gridnode=self.latest,
            wanted=wanted,
            ready=sum(each.ready for each in serving),
            settled=settled,
            problem=self._problem or (None if settled else self._failure) or paused,
            models=self._models,
            processes=self._processes,
            device_port=self.device.port,
            management_port=self.management.port,
            process_ids=tuple(each.process_id for each in serving if each.process_id is not None),
        )

    def _in_service(self) -> list[Replica]:
        return [each for each in self._replicas if not each.leaving and not each.ended]

    async def _prepare(self, gridnode: GridNode) -> None:
        """Database, migration and environment; if one of them fails, what serves goes on as it is."""
        self._prepare_at = time.monotonic() + _RESYNC
        try:
            migrated = self._variables is not None
            preparation = await prepare(gridnode, self._around, self._tell, migrated=migrated)
        except (DatabaseError, GridNodeError, OSError) as error:
            message = getattr(error, "message", None) or str(error)
            if message != self._problem:
                self._tell(message)
            self._problem = message
            self._prepare_at = time.monotonic() + _RETRY
            return
        self._problem = None
        variables = preparation.variables
        self._rotation_waits = preparation.rotation_waits
        if preparation.has_other_login and self._retire_at is None:
            self._retire_at = 0.0
        if self._variables is not None and variables != self._variables:
            self._backoff.reset()
            self._retire_at = 0.0
            self._tell("settings changed: replacing replicas one by one")
        self._prepared, self._variables = gridnode, variables

    async def _retire_login(self, gridnode: GridNode, variables: Mapping[str, str]) -> None:
        """Once no process is left that was started with other settings, drop the login of before a rotation."""
        template = template_of(variables)
        if self._retire_at is None or any(each.template != template for each in self._replicas):
            return
        if time.monotonic() >= self._retire_at and any(each.ready for each in self._replicas):
            self._retire_at = time.monotonic() + _RETRY
            if await retire(gridnode, self._around):
                self._retire_at = None
                if self._rotation_waits:
                    self._prepare_at = 0.0

    async def _replace_replicas(self, gridnode: GridNode, variables: Mapping[str, str]) -> None:
        template = template_of(variables)
        steps = next_steps(replicas_of(gridnode), template, self._in_service())
        for replica in steps.stop:
            self._let_go(replica)
        if steps.start and not self._backoff.wait:
            for _ in range(steps.start):
                await self._start_replica(gridnode, template, variables)
        self._route()

    async def _start_replica(self, gridnode: GridNode, template: str, variables: Mapping[str, str]) -> None:
        log_file = self._around.data.log_file(gridnode, f"replica-{self._free_number()}")
        replica = Replica(template, process_environment(variables), log_file, self._around.data, self._notice)
        self._replicas.append(replica)
        await replica.start()

    def _free_number(self) -> int:
        used = {each.log_file.stem for each in self._replicas}
        return next(number for number in range(1, len(used) + 2) if f"replica-{number}" not in used)

    def _notice(self) -> None:
        # At once: nothing new goes to a replica that has just ended.
        self._route()
        self._wake.set()

    def _route(self) -> None:
        serving = self._in_service()
        # A node that waits for its database says so to phones better than a closed connection does.
        targets = [each for each in serving if each.ready] or [each for each in serving if each.was_ready]
        self.device.route([each.device_port for each in targets])
        self.management.route([each.management_port for each in targets])

    def _let_go(self, replica: Replica) -> None:
        replica.leaving = True
        self._route()
        stop = asyncio.create_task(replica.stop(self.latest.spec.drain_timeout_seconds))
        self._stops.add(stop)
        stop.add_done_callback(self._stops.discard)

    def _bury_the_dead(self) -> None:
        for replica in [each for each in self._replicas if each.ended]:
            self._replicas.remove(replica)
            if replica.leaving:
                continue
            self._backoff.failed(served=replica.was_ready, lived=replica.lived)
            self._tell(f"a replica ended by itself (code {replica.exit_code}): starting another")
            if not replica.was_ready:
                self._failure = f"replicas don't start; the last one wrote:\n{last_log_lines(replica.log_file)}"
        if self._failure is not None and any(each.ready for each in self._replicas):
            self._failure = None

    async def _leave(self) -> bool:
        """Stop everything, then do with the data as the reclaim policy says."""
        self.device.close()
        self.management.close()
        for replica in self._in_service():
            self._let_go(replica)
        if self._replicas or self._stops:
            return False
        try:
            await leave(self.latest, self._around)
        except DatabaseError as error:
            self._problem = f"can't be removed: {error.message}"
            await asyncio.sleep(_RETRY)
            return False
        policy = self.latest.spec.database.reclaim_policy
        models = "its models are kept" if policy == "Retain" else "its models are deleted"
        self._tell(f"removed; {models} (reclaimPolicy {policy})")
        return True

    async def _watch_models(self) -> None:
        while True:
            ready = next((each for each in self._in_service() if each.ready), None)
            if ready is not None:
                with contextlib.suppress(GridNodeError, requests.RequestException, KeyError, TypeError, OSError):
                    found = await asyncio.to_thread(self._ask_processes, ready.management_port)
                    self._processes, self._models = tuple(found), summarize_models(found)
            await asyncio.sleep(_MODELS_INTERVAL)

    def _ask_processes(self, port: int) -> list[dict[str, Any]]:
        token = self._around.data.secrets.read(self.latest.namespace, management_secret_key(self.latest))
        return ManagementClient(f"http://{LOOPBACK}:{port}", token).processes()

    def _tell(self, what: str) -> None:
        self._around.tell(f"{shown_name(self.latest)}: {what}")


def replicas_of(gridnode: GridNode) -> int:
    """Replicas to run: nothing scales them here, so it is as few as the autoscaler may have."""
    autoscaling = gridnode.spec.autoscaling
    return gridnode.spec.replicas if autoscaling is None else autoscaling.min_replicas


def shown_name(gridnode: GridNode) -> str:
    """Its name for people; with the namespace unless it is the default."""
    return gridnode.name if gridnode.namespace == "default" else gridnode.key

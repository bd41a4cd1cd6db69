"""Which strategy a process averages with."""

from __future__ import annotations

import threading
from collections.abc import Callable

from gridnode.averaging.hosted_plan import HostedPlan, SandboxLimits
from gridnode.averaging.sandbox_pool import SandboxPool
from gridnode.averaging.strategy import Mean, Strategy, WeightedMean
from gridnode.processes.catalog import HostedProcess

_BY_NAME: dict[str, Strategy] = {"mean": Mean(), "weighted_mean": WeightedMean()}


class Strategies:
    """Gives each process its strategy; a hosted plan is read from the database once.

    Args:
        read_plan: The averaging plan of a process by its id.
        pool: Where hosted plans run.
        limits: What they may use.
    """

    def __init__(self, read_plan: Callable[[int], bytes], pool: SandboxPool, limits: SandboxLimits) -> None:
        self._read_plan = read_plan
        self._pool = pool
        self._limits = limits
        self._hosted: dict[int, HostedPlan] = {}
        self._lock = threading.Lock()

    def of(self, process: HostedProcess) -> Strategy:
        """The process's strategy; the same object every time."""
        if not process.has_averaging_plan:
            return _BY_NAME[process.server_config.aggregation.strategy]
        with self._lock:
            known = self._hosted.get(process.id)
        if known is not None:
            return known
        plan = HostedPlan(
            self._read_plan(process.id),
            owner=str(process.id),
            iterative=process.server_config.iterative_plan,
            limits=self._limits,
            pool=self._pool,
        )
        with self._lock:
            return self._hosted.setdefault(process.id, plan)

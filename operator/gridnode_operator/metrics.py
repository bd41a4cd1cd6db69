"""What the operator tells Prometheus about itself. docs/operator.md says what each is for."""

from __future__ import annotations

import threading
from collections import Counter as Tally
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

#: Seconds.
_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_STATES: Final = ("Ready", "Progressing", "Degraded", "Deleting", "Invalid", "Paused", "Unknown")


class OperatorMetrics:
    """All of them, in a registry of their own. Threads may call at once."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._durations = Histogram(
            "gridnode_operator_reconcile_seconds", "Duration of a reconcile.", buckets=_BUCKETS, registry=self.registry
        )
        self._reconciles = Counter(
            "gridnode_operator_reconciles", "Reconciles by result.", ["result"], registry=self.registry
        )
        self._errors = Counter(
            "gridnode_operator_errors", "Reconciles that met a problem, by its reason.", ["reason"],
            registry=self.registry,
        )  # fmt: skip
        self.glances = Counter(
            "gridnode_operator_glances", "Short looks at GridNodes that were as declared.", registry=self.registry
        )
        self._gridnodes = Gauge("gridnode_operator_gridnodes", "GridNodes by state.", ["state"], registry=self.registry)
        self.queue_waiting = Gauge(
            "gridnode_operator_queue_waiting", "GridNodes that wait for a worker.", registry=self.registry
        )
        self.queue_running = Gauge(
            "gridnode_operator_queue_running", "GridNodes that are worked on.", registry=self.registry
        )
        self.missed_changes = Counter(
            "gridnode_operator_missed_changes", "Changes that were found by looking, not told by a watch.",
            registry=self.registry,
        )  # fmt: skip
        self.leading = Gauge("gridnode_operator_leading", "1 on the operator that works.", registry=self.registry)
        self._lock = threading.Lock()
        self._states: dict[object, str] = {}
        for state in _STATES:
            self._gridnodes.labels(state).set(0)
        for result in ("ok", "problem"):
            self._reconciles.labels(result)

    def observe_reconcile(self, seconds: float, problem: str | None) -> None:
        """A reconcile has ended, with the reason of a problem, if it met one."""
        self._durations.observe(seconds)
        self._reconciles.labels("ok" if problem is None else "problem").inc()
        if problem is not None:
            self._errors.labels(problem).inc()

    def observe_state(self, key: object, state: str) -> None:
        """A GridNode is in a state now; ``Gone`` if there is none any more."""
        with self._lock:
            if state == "Gone":
                self._states.pop(key, None)
            else:
                self._states[key] = state
            tally = Tally(self._states.values())
            for name in _STATES:
                self._gridnodes.labels(name).set(tally[name])

"""The metrics of the worker processes as objects of prometheus-client: names, labels, meanings and buckets.

Only :mod:`gridnode.reporting.metrics` writes to them. docs/metrics.md lists them for operators, and a test compares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

REGISTRY: Final = CollectorRegistry(auto_describe=True)
# Two more series for each metric, which Prometheus takes for metrics of their own.
disable_created_metrics()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class MetricDescription:
    """A metric as it is scraped. ``name`` is that of the exposition, so a counter's ends in ``_total``."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    meaning: str


CATALOGUE: Final[list[MetricDescription]] = []


def _counter(name: str, meaning: str, *labels: str) -> Counter:
    CATALOGUE.append(MetricDescription(name, "counter", labels, meaning))
    return Counter(name, meaning, labels, registry=REGISTRY)


def _gauge(name: str, meaning: str, *labels: str) -> Gauge:
    CATALOGUE.append(MetricDescription(name, "gauge", labels, meaning))
    return Gauge(name, meaning, labels, registry=REGISTRY, multiprocess_mode="livesum")


def _histogram(name: str, meaning: str, *labels: str, buckets: tuple[float, ...]) -> Histogram:
    CATALOGUE.append(MetricDescription(name, "histogram", labels, meaning))
    return Histogram(name, meaning, labels, registry=REGISTRY, buckets=buckets)


_REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_COMMIT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
# From a demo's cycles of a second to those of phones that charge once a day.
_CYCLE_BUCKETS = (1, 10, 60, 300, 1800, 7200, 28800, 86400, 604800)
NORM_BUCKETS = (0.001, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 1000)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

REQUESTS: Final = _counter(
    "gridnode_requests_total",
    "Requests and WebSocket messages answered, by the status they got (over WebSocket the one HTTP would give).",
    "endpoint", "transport", "status",
)  # fmt: skip
REQUEST_SECONDS: Final = _histogram(
    "gridnode_request_duration_seconds", "Time from the request's header to the end of the answer.",
    "endpoint", "transport", buckets=_REQUEST_BUCKETS,
)  # fmt: skip
RECEIVED_BYTES: Final = _counter(
    "gridnode_received_bytes_total", "Bytes of request bodies and WebSocket messages.", "endpoint", "transport"
)
SENT_BYTES: Final = _counter(
    "gridnode_sent_bytes_total", "Bytes of answers' bodies and WebSocket messages.", "endpoint", "transport"
)
WEBSOCKETS: Final = _gauge("gridnode_websocket_connections", "WebSocket connections open.")

ASSIGNED: Final = _counter("gridnode_workers_assigned_total", "Workers accepted into a cycle.", "model", "version")
REJECTIONS: Final = _counter(
    "gridnode_rejections_total", "Workers sent away when they asked for a cycle.", "model", "version", "reason"
)
REPORTED: Final = _counter(
    "gridnode_workers_reported_total", "Reports counted; repeated ones count once.", "model", "version"
)
DROPPED: Final = _counter(
    "gridnode_workers_dropped_total", "Workers accepted into a cycle that ended without their report.",
    "model", "version",
)  # fmt: skip
UPDATE_NORM: Final = _histogram(
    "gridnode_update_norm", "L2 norm of each counted diff, over all its tensors.",
    "model", "version", buckets=NORM_BUCKETS,
)  # fmt: skip
BATCH_REPORTS: Final = _histogram(
    "gridnode_reports_per_commit", "Reports that one transaction counted together.", buckets=_BATCH_BUCKETS
)
BATCH_SECONDS: Final = _histogram(
    "gridnode_report_commit_seconds", "Time of one such transaction, its commit included.", buckets=_COMMIT_BUCKETS
)
CYCLE_SECONDS: Final = _histogram(
    "gridnode_cycle_duration_seconds", "Time from a cycle's start until its checkpoint exists.",
    "model", "version", buckets=_CYCLE_BUCKETS,
)  # fmt: skip
MIN_DIFFS_SECONDS: Final = _histogram(
    "gridnode_cycle_min_diffs_seconds", "Time from a cycle's start until it had min_diffs reports.",
    "model", "version", buckets=_CYCLE_BUCKETS,
)  # fmt: skip

CACHE_LOOKUPS: Final = _counter(
    "gridnode_checkpoint_cache_lookups_total",
    "Looks into the memory cache of checkpoints; each miss reads the database.", "result",
)  # fmt: skip
POOL_SIZE: Final = _gauge("gridnode_database_pool_size", "Database connections that the worker processes may open.")
POOL_IN_USE: Final = _gauge("gridnode_database_pool_in_use", "Database connections in use.")
PROGRESS_POSTS: Final = _counter(
    "gridnode_progress_posts_total", "Posts of progress events to the master node, repeated attempts included.",
    "outcome",
)  # fmt: skip

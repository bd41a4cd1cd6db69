"""What the node counts and measures for Prometheus, as functions that the domains and the edge call.

A domain calls them after its transaction has committed, never before: a report that was rolled back was none.
Label values are bounded: models are limited in number, endpoints are those of the routing table, and a worker's id is
never one.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Generic, Literal, TypeVar

from prometheus_client import Counter, Histogram
from sqlalchemy import Engine, event
from sqlalchemy.pool import QueuePool

from gridnode.reporting import instruments
from gridnode.reporting.progress import CycleFigures

M = TypeVar("M", Counter, Histogram)
Transport = Literal["http", "websocket"]

MAXIMUM_MODELS: Final = 1000
"""Pairs of model and version that get label values of their own, per worker process; any further are ``other``."""
MAXIMUM_ENDPOINTS: Final = 100
OTHER: Final = "other"


class RejectionReason(StrEnum):
    """Why a device that asked for a cycle was sent away."""

    FINISHED = "finished"
    PAUSED = "paused"
    FAILED = "failed"
    AVERAGING = "averaging"
    CYCLE_FULL = "cycle_full"
    ALREADY_IN_CYCLE = "already_in_cycle"
    USED_RECENTLY = "used_recently"
    TOO_SLOW = "too_slow"


class _BoundedNames:
    """Label values that are let through: the first ``maximum`` different ones."""

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._known: set[tuple[str, ...]] = set()
        self._lock = threading.Lock()

    def admit(self, name: tuple[str, ...]) -> bool:
        if name in self._known:
            return True
        with self._lock:
            if len(self._known) < self._maximum:
                self._known.add(name)
            return name in self._known


_models = _BoundedNames(MAXIMUM_MODELS)
_endpoints = _BoundedNames(MAXIMUM_ENDPOINTS)


class _PerModel(Generic[M]):
    """The children of a metric with the labels ``model`` and ``version``: prometheus-client's own lookup is slower."""

    def __init__(self, metric: M) -> None:
        self._metric: M = metric
        self._children: dict[tuple[str, str], M] = {}

    def __call__(self, model: str, version: str) -> M:
        child = self._children.get((model, version))
        if child is not None:
            return child
        if not _models.admit((model, version)):
            return self._metric.labels(OTHER, OTHER)
        return self._children.setdefault((model, version), self._metric.labels(model, version))


_model_assigned = _PerModel(instruments.ASSIGNED)
_model_reported = _PerModel(instruments.REPORTED)
_model_dropped = _PerModel(instruments.DROPPED)
_model_update_norm = _PerModel(instruments.UPDATE_NORM)
_model_cycle_seconds = _PerModel(instruments.CYCLE_SECONDS)
_model_min_diffs_seconds = _PerModel(instruments.MIN_DIFFS_SECONDS)


@dataclass(frozen=True, slots=True)
class _RequestChildren:
    requests: Counter
    seconds: Histogram
    received: Counter
    sent: Counter


_request_children: dict[tuple[str, Transport, int], _RequestChildren] = {}


def observe_request(
    endpoint: str, transport: Transport, status: int, seconds: float, bytes_in: int, bytes_out: int
) -> None:
    """Count an answered request.

    Args:
        endpoint: the route's name, or the message's type over WebSocket; never the path as the client sent it.
        transport: how it came.
        status: of the answer; over WebSocket what HTTP would have answered.
        seconds: how long it took, by a monotonic clock.
        bytes_in: length of the body as received.
        bytes_out: length of the answer's body as sent.
    """
    children = _request_children.get((endpoint, transport, status))
    if children is None:
        children = _make_request_children(endpoint, transport, status)
    children.requests.inc()
    children.seconds.observe(seconds)
    if bytes_in:
        children.received.inc(bytes_in)
    if bytes_out:
        children.sent.inc(bytes_out)


def _make_request_children(endpoint: str, transport: Transport, status: int) -> _RequestChildren:
    known = _endpoints.admit((endpoint,))
    valid = 100 <= status <= 599
    name = endpoint if known else OTHER
    children = _RequestChildren(
        instruments.REQUESTS.labels(name, transport, str(status) if valid else OTHER),
        instruments.REQUEST_SECONDS.labels(name, transport),
        instruments.RECEIVED_BYTES.labels(name, transport),
        instruments.SENT_BYTES.labels(name, transport),
    )
    if known and valid:
        _request_children[endpoint, transport, status] = children
    return children


def websocket_opened() -> None:
    """Count a WebSocket connection until :func:`websocket_closed`."""
    instruments.WEBSOCKETS.inc()


def websocket_closed() -> None:
    """See :func:`websocket_opened`."""
    instruments.WEBSOCKETS.dec()


def count_assigned(model: str, version: str) -> None:
    """A worker was accepted into a cycle; not for one that was in it already and asked again."""
    _model_assigned(model, version).inc()


def count_rejected(model: str, version: str, reason: RejectionReason) -> None:
    """A worker was sent away."""
    if not _models.admit((model, version)):
        model = version = OTHER
    instruments.REJECTIONS.labels(model, version, reason.value).inc()


def observe_report_batch(model: str, version: str, update_norms: Iterable[float], commit_seconds: float) -> None:
    """Reports have been committed together.

    Args:
        model: name of the process.
        version: its version.
        update_norms: L2 norm of each diff that was counted, so one a report.
        commit_seconds: time of the transaction.
    """
    histogram = _model_update_norm(model, version)
    reports = 0
    for norm in update_norms:
        reports += 1
        # One norm that overflowed would leave the histogram's sum infinite for good.
        histogram.observe(norm if math.isfinite(norm) else instruments.NORM_BUCKETS[-1] * 10)
    if reports:
        _model_reported(model, version).inc(reports)
        instruments.BATCH_REPORTS.observe(reports)
        instruments.BATCH_SECONDS.observe(max(0.0, commit_seconds))


def observe_cycle_end(
    model: str, version: str, figures: CycleFigures, *, averaged: bool, min_diffs_seconds: float | None
) -> None:
    """A cycle has ended.

    Args:
        model: name of the process.
        version: its version.
        figures: of the ended cycle.
        averaged: False if it was abandoned; then only its dropped workers count.
        min_diffs_seconds: time from its start until it had ``min_diffs`` reports.
    """
    _model_dropped(model, version).inc(figures.dropped)
    if averaged and figures.cycle_seconds is not None:
        _model_cycle_seconds(model, version).observe(figures.cycle_seconds)
    if averaged and min_diffs_seconds is not None:
        # Wall clocks of two replicas: it can come out negative.
        _model_min_diffs_seconds(model, version).observe(max(0.0, min_diffs_seconds))


def count_checkpoint_lookup(*, hit: bool) -> None:
    """The cache of checkpoints was asked for one."""
    instruments.CACHE_LOOKUPS.labels("hit" if hit else "miss").inc()


def count_progress_post(outcome: Literal["accepted", "invalid", "refused", "unreachable"]) -> None:
    """A progress event was posted to the master node."""
    instruments.PROGRESS_POSTS.labels(outcome).inc()


def track_pool(engine: Engine) -> None:
    """Show an engine's pool in the metrics; once per engine, in the worker process that uses it.

    Raises:
        TypeError: the engine's pool has no size.
    """
    if not isinstance(engine.pool, QueuePool):
        raise TypeError(f"{type(engine.pool).__name__} is not a pool of limited size")
    instruments.POOL_SIZE.inc(engine.pool.size())

    @event.listens_for(engine, "checkout")
    def _checked_out(*_: object) -> None:
        instruments.POOL_IN_USE.inc()

    @event.listens_for(engine, "checkin")
    def _checked_in(*_: object) -> None:
        instruments.POOL_IN_USE.dec()

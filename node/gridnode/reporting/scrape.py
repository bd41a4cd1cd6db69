"""What a scrape of one worker process answers: the metrics of all worker processes of the pod together.

For that, :func:`gridnode.reporting.metrics_directory.metrics_directory` has to be entered before prometheus-client is
imported; without it a process shows its own metrics only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from glob import glob
from pathlib import Path
from typing import Final

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, Metric, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from gridnode.reporting.instruments import REGISTRY

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

_DIRECTORY = os.environ.get("PROMETHEUS_MULTIPROC_DIR")


def render_metrics(*collectors: Collector) -> bytes:
    """All metrics in Prometheus's text format (:data:`CONTENT_TYPE`).

    Args:
        collectors: further sources, such as a :class:`gridnode.reporting.database_metrics.DatabaseCollector`.
    """
    return generate_latest(_Chain(_Processes(_DIRECTORY) if _DIRECTORY else REGISTRY, *collectors))


def forget_process(process_id: int) -> None:
    """Take a dead worker process's gauges out of the sums; what it counted stays, since counters must not fall."""
    if _DIRECTORY:
        mark_process_dead(process_id, _DIRECTORY)  # type: ignore[no-untyped-call]


class _Chain(Collector):
    def __init__(self, *collectors: Collector) -> None:
        self._collectors = collectors

    def collect(self) -> Iterator[Metric]:
        for collector in self._collectors:
            yield from collector.collect()


class _Processes(Collector):
    """The sums over the files of all worker processes."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def collect(self) -> Iterable[Metric]:
        files = glob("*.db", root_dir=self._directory)
        # A process may be killed between making its file and giving it a size: that must not break every scrape after.
        readable = [str(path) for name in files if _size(path := Path(self._directory, name)) > 0]
        merged: Iterable[Metric] = MultiProcessCollector.merge(readable)  # type: ignore[no-untyped-call]
        return merged


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0

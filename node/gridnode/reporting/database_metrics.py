"""Gauges that are read from the database when Prometheus scrapes: what is true of the node and not of one process.

Every replica shows the same, so queries over replicas take ``max`` and not ``sum``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Final, get_args

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import Row, Select, and_, func, or_, select, text, true
from sqlalchemy.orm import Session, sessionmaker

from gridnode.db.models import Cycle, OutboxEvent, Process
from gridnode.processes.states import ProcessState
from gridnode.reporting.instruments import MetricDescription
from gridnode.reporting.metrics import MAXIMUM_MODELS
from gridnode.reporting.progress import progress_ratio

log = logging.getLogger(__name__)

_MODEL = ("model", "version")
_UP = MetricDescription("gridnode_database_up", "gauge", (), "1 if the scrape could read the database in time, else 0.")
_PROGRESS = MetricDescription(
    "gridnode_model_progress_ratio", "gauge", _MODEL,
    "Completed cycles ÷ num_cycles; 1 if and only if finished. 0 for a process without end.",
)  # fmt: skip
_CYCLES = MetricDescription("gridnode_completed_cycles", "gauge", _MODEL, "Cycles averaged so far.")
_STARVED = MetricDescription(
    "gridnode_cycle_starved", "gauge", _MODEL,
    "1 if the running cycle is past its deadline and still lacks the reports or workers it needs.",
)  # fmt: skip
_STATE = MetricDescription(
    "gridnode_process_state", "gauge", (*_MODEL, "state"), "1 for the state that the process is in, 0 for the others."
)
_DEPTH = MetricDescription(
    "gridnode_outbox_depth", "gauge", (), "Progress events that the master node has not accepted yet."
)
_AGE = MetricDescription("gridnode_outbox_age_seconds", "gauge", (), "Age of the oldest of them, 0 if there is none.")

_REFUSED = MetricDescription(
    "gridnode_outbox_refused", "gauge", (),
    "Progress events that the master node called wrong for good; kept for 30 days, and posted no more.",
)  # fmt: skip

CATALOGUE: Final = (_UP, _PROGRESS, _CYCLES, _STARVED, _STATE, _DEPTH, _AGE, _REFUSED)


class DatabaseCollector(Collector):
    """Reads the gauges with one query, and gives up early: a scrape must not wait for a database that is away.

    Args:
        sessions: makes sessions on the node's database.
        statement_timeout: seconds that the database may take for the query.
        deadline: seconds for all of it, connecting included. Not below ``statement_timeout``; Prometheus by default
            gives a scrape 10.
    """

    def __init__(
        self, sessions: sessionmaker[Session], *, statement_timeout: float = 2.0, deadline: float = 3.0
    ) -> None:
        self._sessions = sessions
        self._statement_timeout = statement_timeout
        self._deadline = deadline
        self._lock = threading.Lock()
        self._reading: Future[Sequence[Row[Any]]] | None = None
        self._up = True

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges; only ``gridnode_database_up`` if the database does not answer in time."""
        rows = self._rows_in_time()
        up = _family(_UP)
        up.add_metric([], float(rows is not None))
        yield up
        if rows is not None:
            yield from _families(rows)

    def _rows_in_time(self) -> Sequence[Row[Any]] | None:
        reading = self._current_reading()
        try:
            rows = reading.result(timeout=self._deadline)
        except FutureTimeout:
            self._note(up=False, reason=f"no answer within {self._deadline:g} s")
            return None
        except Exception as error:
            self._note(up=False, reason=str(getattr(error, "orig", None) or error).partition("\n")[0])
            return None
        self._note(up=True)
        return rows

    def _current_reading(self) -> Future[Sequence[Row[Any]]]:
        # In a thread, since neither connecting nor a lost connection obeys the statement timeout. One at most: scrapes
        # that come while it hangs wait for the same.
        with self._lock:
            if self._reading is None or self._reading.done():
                self._reading = Future()
                threading.Thread(target=self._read, args=(self._reading,), name="metrics-database", daemon=True).start()
            return self._reading

    def _read(self, reading: Future[Sequence[Row[Any]]]) -> None:
        try:
            with self._sessions() as session:
                milliseconds = int(self._statement_timeout * 1000)
                session.execute(text(f"SET LOCAL statement_timeout = {milliseconds}"))
                rows = session.execute(_query()).all()
        except Exception as error:
            reading.set_exception(error)
        else:
            reading.set_result(rows)

    def _note(self, *, up: bool, reason: str = "") -> None:
        with self._lock:
            changed, self._up = up != self._up, up
        if changed and up:
            log.info("metrics can be read from the database again")
        elif changed:
            log.warning("metrics can't be read from the database", extra={"reason": reason})


def _query() -> Select[Any]:
    """One row per process, each with the outbox's figures; a single one without a process if there are none."""
    waiting = (
        select(
            func.count().filter(OutboxEvent.refused_at.is_(None)).label("depth"),
            func.extract(
                "epoch",
                func.now() - func.min(OutboxEvent.created_at).filter(OutboxEvent.refused_at.is_(None)),
            ).label("age"),
            func.count(OutboxEvent.refused_at).label("refused"),
        )
        .where(OutboxEvent.delivered_at.is_(None))
        .subquery("waiting")
    )
    lacking = or_(Cycle.reports < Cycle.min_diffs, Cycle.accepted < Cycle.min_workers)
    processes = (
        select(
            Process.name,
            Process.version,
            Process.state,
            Process.completed_cycles,
            Process.server_config["num_cycles"].label("num_cycles"),
            and_(Cycle.deadline <= func.now(), lacking).label("starved"),
        )
        .outerjoin(Cycle, and_(Cycle.process_id == Process.id, Cycle.state == "open"))
        # If there are too many, those that still train are of more interest, and the younger ones.
        .order_by(Process.state == "finished", Process.id.desc())
        .limit(MAXIMUM_MODELS)
        .subquery("listed")
    )
    return select(waiting, processes).select_from(waiting).outerjoin(processes, true())


def _families(rows: Sequence[Row[Any]]) -> Iterator[GaugeMetricFamily]:
    progress, cycles, starved, state = (_family(each) for each in (_PROGRESS, _CYCLES, _STARVED, _STATE))
    for row in rows:
        if row.name is None:
            continue
        model = [row.name, row.version]
        finished = row.state == "finished"
        progress.add_metric(model, progress_ratio(row.completed_cycles, row.num_cycles or 0, finished=finished))
        cycles.add_metric(model, row.completed_cycles)
        starved.add_metric(model, float(bool(row.starved)))
        for each in get_args(ProcessState):
            state.add_metric([*model, each], float(each == row.state))
    yield from (progress, cycles, starved, state)

    depth, age, refused = _family(_DEPTH), _family(_AGE), _family(_REFUSED)
    depth.add_metric([], rows[0].depth)
    age.add_metric([], max(0.0, float(rows[0].age or 0)))
    refused.add_metric([], rows[0].refused)
    yield from (depth, age, refused)


def _family(described: MetricDescription) -> GaugeMetricFamily:
    return GaugeMetricFamily(described.name, described.meaning, labels=described.labels)

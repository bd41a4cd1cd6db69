"""What the phones of a fleet experienced, counted as they see it.

The wire contract tells a device no cycle number, but all devices of a cycle train from the same checkpoint, and the
checkpoint of the next cycle is another one. So a cycle is known by its checkpoint, and cycles are in the order in which
their checkpoints were first downloaded.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

from gridnode.simulation.evaluation import Evaluation
from gridnode.simulation.phone import Outcome, Session


@dataclass(frozen=True, slots=True)
class CycleFigures:
    """One cycle as its phones reported it.

    Attributes:
        number: 1 for the first cycle this fleet took part in.
        loss, accuracy: means over the reports, weighted by their ``num_samples``; of local training data, not held-out.
        held_out: scores of the checkpoint it began with, where phones had examples to score with.
        bytes: sent and received in its sessions.
        seconds: from the first download of its checkpoint to the first of the next one (or to its last report).
    """

    number: int
    checkpoint: str
    reports: int
    samples: int
    loss: float | None
    accuracy: float | None
    seconds: float
    held_out: Evaluation | None = None
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything at one moment; ``outcomes`` has a number for each outcome of a session."""

    outcomes: dict[Outcome, int]
    accepted: int
    duplicates: int
    bytes_sent: int
    bytes_received: int
    seconds: float
    cycles: tuple[CycleFigures, ...]
    errors: dict[str, int]

    @property
    def sessions(self) -> int:
        """Sessions ended so far."""
        return sum(self.outcomes.values())


@dataclass(slots=True)
class _Cycle:
    opened_at: float
    last_report_at: float = 0.0
    reports: int = 0
    samples: int = 0
    loss: float = 0.0
    accuracy: float = 0.0
    held_out: Evaluation | None = None
    bytes: int = 0


@dataclass(slots=True)
class Tally:
    """Adds up sessions. Thread-safe."""

    started_at: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _outcomes: Counter[Outcome] = field(default_factory=Counter)
    _errors: Counter[str] = field(default_factory=Counter)
    _cycles: dict[str, _Cycle] = field(default_factory=dict)
    _accepted: int = 0
    _duplicates: int = 0
    _bytes_sent: int = 0
    _bytes_received: int = 0

    def add(self, session: Session) -> None:
        """Count one ended session."""
        with self._lock:
            self._outcomes[session.outcome] += 1
            self._accepted += session.accepted
            self._duplicates += session.duplicates
            self._bytes_sent += session.bytes_sent
            self._bytes_received += session.bytes_received
            if session.error is not None:
                self._errors[session.error] += 1
            if session.checkpoint is not None:
                self._add_to_cycle(session.checkpoint, session)

    def _add_to_cycle(self, checkpoint: str, session: Session) -> None:
        cycle = self._cycles.setdefault(checkpoint, _Cycle(session.downloaded_at))
        # Sessions end in another order than they download in.
        cycle.opened_at = min(cycle.opened_at, session.downloaded_at)
        cycle.bytes += session.bytes_sent + session.bytes_received
        cycle.held_out = cycle.held_out or session.evaluation
        if session.outcome == "reported" and session.update is not None:
            update = session.update
            cycle.reports += 1
            cycle.samples += update.num_samples
            cycle.loss += update.num_samples * update.loss
            cycle.accuracy += update.num_samples * update.accuracy
            cycle.last_report_at = max(cycle.last_report_at, session.ended_at)

    @property
    def cycles_seen(self) -> int:
        """Different checkpoints downloaded so far: all but the last belong to cycles that are over."""
        with self._lock:
            return len(self._cycles)

    def figures(self) -> Figures:
        """All numbers as they are now."""
        with self._lock:
            return Figures(
                outcomes={outcome: self._outcomes[outcome] for outcome in sorted(self._outcomes)},
                accepted=self._accepted,
                duplicates=self._duplicates,
                bytes_sent=self._bytes_sent,
                bytes_received=self._bytes_received,
                seconds=time.monotonic() - self.started_at,
                cycles=self._cycle_figures(),
                errors=dict(self._errors.most_common()),
            )

    def _cycle_figures(self) -> tuple[CycleFigures, ...]:
        ordered = sorted(self._cycles.items(), key=lambda item: item[1].opened_at)
        ends = [later.opened_at for (_, _earlier), (_, later) in pairwise(ordered)]
        if ordered:
            last = ordered[-1][1]
            ends.append(max(last.last_report_at, last.opened_at))
        return tuple(
            CycleFigures(
                number=number,
                checkpoint=checkpoint,
                reports=cycle.reports,
                samples=cycle.samples,
                loss=cycle.loss / cycle.samples if cycle.samples else None,
                accuracy=cycle.accuracy / cycle.samples if cycle.samples else None,
                seconds=end - cycle.opened_at,
                held_out=cycle.held_out,
                bytes=cycle.bytes,
            )
            for number, ((checkpoint, cycle), end) in enumerate(zip(ordered, ends, strict=True), start=1)
        )

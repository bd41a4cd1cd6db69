"""What a load generator is told to do, and what it tells back: plain data that crosses a process boundary as JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

STEPS = ("authenticate", "cycle-request", "get-model", "get-plan", "report", "session")


@dataclass(frozen=True, slots=True)
class Sample:
    """One number of the model that downloads are checked by.

    The n-th checkpoint must hold ``initial - (n - 1) * step``, because all reports are the same diff.
    """

    tensor: int
    element: int
    initial: float
    step: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """The bodies that belong to one model.

    Attributes:
        diff: file with the diff in base64, as it goes into a report.
        plans: files with what get-plan must answer, by ``receive_operations_as``.
        tensor_bytes: size of each tensor of a download.
        samples: numbers that a download is checked by.
    """

    diff: str
    plans: dict[str, str]
    tensor_bytes: list[int]
    samples: list[Sample]


@dataclass(frozen=True, slots=True)
class Target:
    """A hosted process, and which of the workload's traffic it gets."""

    name: str
    version: str
    traffic: str
    client_config: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Workload:
    """One run of the load generator.

    Attributes:
        mode: 'sessions' are whole ones; 'reports' assigns ``prepared`` workers a connection first, unmeasured, and then
            only reports.
        shared: every connection uses every target; otherwise each has its own part of them.
        rotate: take the next target after each session instead of after a rejection.
        late_is_expected: reports and downloads may find their cycle closed, which is then counted and no error.
        warmup: seconds before the measured ones.
        longest_wait: a rejection's timeout is followed for this many seconds at most: then another phone asks. None: a
            process that rejected is not asked again before its time.
        limit: stop after so many sessions or reports of all connections together, whatever ``seconds`` says.
    """

    address: tuple[str, int]
    traffic: dict[str, Traffic]
    targets: list[Target]
    connections: int = 8
    seconds: float = 10.0
    warmup: float = 1.0
    mode: Literal["sessions", "reports"] = "sessions"
    prepared: int = 0
    shared: bool = True
    rotate: bool = False
    late_is_expected: bool = False
    longest_wait: float | None = None
    limit: int | None = None
    timeout: float = 30.0


@dataclass(slots=True)
class Result:
    """What a load generator saw.

    Attributes:
        elapsed: seconds measured.
        latencies: seconds of each measured request by step, and of whole sessions.
        acknowledged: reports answered with success by process name, measured or not.
        rejected: cycle requests rejected while the process goes on.
        late: sessions that ended at a closed cycle.
        moments: when each measured report was answered, in seconds from the start (mode 'reports' only).
        idle: seconds that connections slept because every process had told them to come back later.
        errors: wrong or lost answers by kind, measured or not.
        examples: some of them in words.
    """

    elapsed: float = 0.0
    latencies: dict[str, list[float]] = field(default_factory=lambda: {step: [] for step in STEPS})
    moments: list[float] = field(default_factory=list)
    acknowledged: dict[str, int] = field(default_factory=dict)
    rejected: int = 0
    rejection_timeouts: list[int] = field(default_factory=list)
    late: int = 0
    idle: float = 0.0
    connects: int = 0
    cpu_seconds: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    @property
    def sessions(self) -> int:
        """Whole sessions within the measured time."""
        return len(self.latencies["session"])

    @property
    def error_count(self) -> int:
        """Wrong and lost answers."""
        return sum(self.errors.values())

    def rate(self, step: str = "session") -> float:
        """Answers to ``step`` per second."""
        return len(self.latencies[step]) / self.elapsed if self.elapsed else 0.0

    def percentile(self, step: str, percent: float) -> float:
        """The ``percent``-th percentile of a step's seconds; 0 when there is none."""
        values = sorted(self.latencies[step])
        return values[min(len(values) - 1, int(len(values) * percent / 100))] if values else 0.0

    def error(self, kind: str, detail: str) -> None:
        """Count a wrong or lost answer."""
        self.errors[kind] = self.errors.get(kind, 0) + 1
        if len(self.examples) < 5:
            self.examples.append(f"{kind}: {detail[:300]}")

    def cut_reports(self, end: float) -> None:
        """Forget what was reported later than ``end`` seconds after the start."""
        kept = [each for each in zip(self.moments, self.latencies["report"], strict=True) if each[0] <= end]
        self.moments = [moment for moment, _ in kept]
        self.latencies["report"] = [latency for _, latency in kept]
        self.elapsed = min(self.elapsed, end)

    def add(self, other: Result) -> None:
        """Take in what another connection saw at the same time."""
        self.elapsed = max(self.elapsed, other.elapsed)
        self.moments += other.moments
        for step, values in other.latencies.items():
            self.latencies[step].extend(values)
        for mine, theirs in ((self.acknowledged, other.acknowledged), (self.errors, other.errors)):
            for name, count in theirs.items():
                mine[name] = mine.get(name, 0) + count
        self.rejected += other.rejected
        self.rejection_timeouts += other.rejection_timeouts[:100]
        self.late += other.late
        self.idle += other.idle
        self.connects += other.connects
        self.cpu_seconds += other.cpu_seconds
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        self.examples += other.examples


def write_workload(workload: Workload, path: Path) -> None:
    """Store a workload for the load generator's process."""
    path.write_text(json.dumps(dataclasses.asdict(workload)))


def read_workload(path: Path) -> Workload:
    """The workload that :func:`write_workload` stored."""
    document = json.loads(path.read_text())
    document["address"] = tuple(document["address"])
    document["targets"] = [Target(**target) for target in document["targets"]]
    document["traffic"] = {
        name: Traffic(**{**traffic, "samples": [Sample(**sample) for sample in traffic["samples"]]})
        for name, traffic in document["traffic"].items()
    }
    return Workload(**document)

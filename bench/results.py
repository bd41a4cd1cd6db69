"""What the bench prints: a row for each measured run, and a verdict for each goal."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.harness import Measured
from bench.workload import STEPS

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal and what was measured.

    Attributes:
        ours: the figure, in words.
        reference: the historical node's figure, or what ours is held against.
        met: None where the figure is for information.
    """

    goal: str
    ours: str
    reference: str = ""
    met: bool | None = None


@dataclass(slots=True)
class Outcome:
    """Rows and verdicts of one scenario, and the wrong or lost answers of all its runs."""

    rows: list[tuple[str, Measured]] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    def row(self, label: str, measured: Measured) -> Measured:
        """Add a row, and give it back."""
        self.rows.append((label, measured))
        return measured

    def judge(self, goal: str, ours: str, reference: str = "", *, met: bool | None = None) -> None:
        """Add a verdict."""
        self.verdicts.append(Verdict(goal, ours, reference, met))

    def collect_errors(self, runs: Iterable[Measured]) -> None:
        """Take in the wrong and lost answers of these runs."""
        for run in runs:
            self.examples += run.result.examples
            for kind, count in run.result.errors.items():
                self.errors[kind] = self.errors.get(kind, 0) + count


def print_outcomes(console: Console, outcomes: dict[str, Outcome]) -> None:
    """One table of runs, one of goals, and examples of wrong answers."""
    runs = Table(
        "run", "sessions/s", "session p50/p99 ms", *(f"{step}" for step in STEPS[:-1]),
        "CPU ms/session: node + database + load", "peak MB", "rejected / late / wrong", "others' cores",
        title="Runs (p50/p99 in ms; a run of reports alone counts reports)",
    )  # fmt: skip
    goals = Table("goal", "measured", "reference", "verdict", title="Goals")
    for outcome in outcomes.values():
        for label, measured in outcome.rows:
            runs.add_row(*_cells(label, measured))
        for verdict in outcome.verdicts:
            word = {True: "[green]met", False: "[red]NOT MET", None: "-"}[verdict.met]
            goals.add_row(verdict.goal, verdict.ours, verdict.reference, word)
    for table in (runs, goals):
        if table.row_count:
            console.print(table)
    for name, outcome in outcomes.items():
        if outcome.errors:
            console.print(f"{name}: wrong or lost answers: {outcome.errors}, for example:", style="red", markup=False)
            for example in outcome.examples[:5]:
                console.print(f"  {example}", markup=False)


def as_json(outcomes: dict[str, Outcome]) -> str:
    """The same as one JSON document."""
    return json.dumps(
        {
            name: {
                "runs": [{"run": label, **_figures(measured)} for label, measured in outcome.rows],
                "errors": outcome.errors,
                "goals": [dataclasses.asdict(verdict) for verdict in outcome.verdicts],
            }
            for name, outcome in outcomes.items()
        },
        indent=1,
    )


def per_session(measured: Measured) -> int:
    """What CPU is divided by: whole sessions, or reports where only those were made."""
    return max(1, measured.result.sessions or len(measured.result.latencies["report"]))


def rate(measured: Measured) -> float:
    """Sessions per second, or reports where only those were made."""
    return measured.result.rate() or measured.result.rate("report")


def milliseconds(measured: Measured, step: str = "session") -> str:
    """p50 and p99 of a step."""
    result = measured.result
    if not result.latencies[step]:
        return ""
    return f"{1000 * result.percentile(step, 50):.1f}/{1000 * result.percentile(step, 99):.1f}"


def megabytes(size: int) -> str:
    """A size as people read it."""
    return f"{size / _MIB:.0f} MB"


def _cells(label: str, measured: Measured) -> list[str]:
    result, count = measured.result, per_session(measured)
    cpu = (measured.node_cpu, measured.database_cpu, result.cpu_seconds)
    idle = f" (idle {result.idle:.0f} s)" if result.idle >= 1 else ""
    return [
        label,
        f"{rate(measured):.1f}{idle}",
        milliseconds(measured),
        *(milliseconds(measured, step) for step in STEPS[:-1]),
        "+".join(f"{1000 * seconds / count:.2f}" for seconds in cpu),
        f"{measured.memory / _MIB:.0f}",
        f"{result.rejected}/{result.late}/{result.error_count}",
        f"{measured.others:.1f}",
    ]


def _figures(measured: Measured) -> dict[str, Any]:
    result, count = measured.result, per_session(measured)
    return {
        "sessions_per_second": rate(measured),
        "sessions": result.sessions,
        "seconds": result.elapsed,
        "milliseconds": {
            step: {f"p{percent}": 1000 * result.percentile(step, percent) for percent in (50, 90, 99)}
            for step, values in result.latencies.items()
            if values
        },
        "cpu_ms_per_session": {
            "node": 1000 * measured.node_cpu / count,
            "database": 1000 * measured.database_cpu / count,
            "load": 1000 * result.cpu_seconds / count,
        },
        "others_cores": measured.others,
        "peak_memory_bytes": measured.memory,
        "rejected": result.rejected,
        "late": result.late,
        "idle_seconds": result.idle,
        "errors": result.errors,
    }

"""Hosted processes as people see them: the table of all, and one in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.json import JSON
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_BAR_WIDTH = 10
_STYLES = {"active": "green", "paused": "yellow", "failed": "red", "finished": "dim"}


class Cycle(msgspec.Struct):
    """The running cycle, as the management API tells of it."""

    number: int
    state: str
    started_at: datetime
    deadline: datetime | None
    accepted: int
    working: int
    reports: int
    min_diffs: int
    max_diffs: int | None
    starved: bool


class Process(msgspec.Struct):
    """A process, as the management API tells of it."""

    name: str
    version: str
    state: str
    failure: str | None
    completed_cycles: int
    num_cycles: int
    progress: int | None
    latest_checkpoint: int
    created_at: datetime
    finished_at: datetime | None
    cycle: Cycle | None
    client_config: dict[str, Any]
    server_config: dict[str, Any]
    refused_events: int = 0


def read_process(answer: Mapping[str, Any]) -> Process:
    """A process from the node's answer; what a newer node tells beside it is left out."""
    return msgspec.convert(answer, Process)


def processes_table(processes: Sequence[Process], now: datetime) -> Table:
    """One row for each process."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("name", "version", "state", "progress"):
        table.add_column(heading, overflow="fold")
    for heading in ("cycle", "reports", "working"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("waiting for", overflow="fold")
    for process in processes:
        cycle = process.cycle
        # Text: a name must not be taken for markup.
        table.add_row(
            Text(process.name),
            Text(process.version),
            Text(process.state, _STYLES.get(process.state, "")),
            _progress(process),
            _cycles(process),
            "" if cycle is None else _reports(cycle),
            "" if cycle is None else str(cycle.working),
            _waiting(process, now),
        )
    return table


def process_details(process: Process, now: datetime) -> RenderableType:
    """Everything that is known of one process."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    for fact, value in _facts(process, now):
        facts.add_row(fact, value)
    return Group(
        facts,
        Text("\nclient_config", "bold"),
        Padding(JSON.from_data(process.client_config), (0, 0, 0, 2), expand=False),
        Text("server_config", "bold"),
        Padding(JSON.from_data(process.server_config), (0, 0, 0, 2), expand=False),
    )


def waiting_for(process: Process, now: datetime) -> str:
    """What has to happen before the process gets on, and until when; empty once it is finished."""
    if process.state == "finished":
        return ""
    if process.state in ("paused", "failed"):
        return "you to resume it"
    cycle = process.cycle
    if cycle is None or cycle.state == "averaging":
        return "the averaging"
    lacking = _lacking(process, cycle)
    room = None if cycle.max_diffs is None else cycle.max_diffs - cycle.reports
    if cycle.deadline is None:
        return _count(room or 0, "report")
    if cycle.deadline <= now:
        return f"{lacking}, {span(cycle.deadline, now)} after the deadline" if cycle.starved else "the averaging"
    deadline = f"the deadline in {span(cycle.deadline, now)}"
    if lacking:
        return f"{lacking}, and {deadline}"
    return deadline if room is None else f"{_count(room, 'report')}, or {deadline}"


def span(moment: datetime, other: datetime) -> str:
    """The time between two moments, in its two largest units."""
    seconds = int(abs((moment - other).total_seconds()))
    parts = [(seconds // 86400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")]
    first = next((index for index, (count, _) in enumerate(parts) if count), 0)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count) or "0 s"


def _facts(process: Process, now: datetime) -> list[tuple[str, RenderableType]]:
    facts: list[tuple[str, RenderableType]] = [
        ("process", Text(f"{process.name} {process.version}")),
        ("state", Text(process.state, _STYLES.get(process.state, ""))),
    ]
    if process.failure is not None:
        facts.append(("failure", Text(process.failure, "red")))
    facts += [
        ("hosted", _moment(process.created_at, now)),
        ("progress", _progress(process)),
        ("completed cycles", _cycles(process)),
        ("latest checkpoint", str(process.latest_checkpoint)),
    ]
    if process.finished_at is not None:
        facts.append(("finished", _moment(process.finished_at, now)))
    if process.cycle is not None:
        facts += _cycle_facts(process.cycle, now)
    if process.refused_events:
        events = f"{process.refused_events} progress event{'' if process.refused_events == 1 else 's'}"
        facts.append(("refused by the master node", Text(f"{events}, not sent again", "yellow")))
    if process.state != "finished":
        facts.append(("waiting for", _waiting(process, now)))
    return facts


def _cycle_facts(cycle: Cycle, now: datetime) -> list[tuple[str, RenderableType]]:
    return [
        ("running cycle", f"{cycle.number}, {'starved' if cycle.starved else cycle.state}"),
        ("started", _moment(cycle.started_at, now)),
        ("deadline", "none" if cycle.deadline is None else _moment(cycle.deadline, now)),
        ("devices accepted", f"{cycle.accepted}, at work {cycle.working}"),
        ("reports", _reports(cycle)),
    ]


def _waiting(process: Process, now: datetime) -> Text:
    text = Text(waiting_for(process, now))
    if process.cycle is not None and process.cycle.starved:
        text = Text("starved: ", "yellow") + text
    if process.failure is not None and process.state == "failed":
        text = text + Text(f". It failed: {process.failure}", "red")
    return text


def _lacking(process: Process, cycle: Cycle) -> str:
    """What a cycle must have at its deadline and has not yet."""
    reports = max(0, cycle.min_diffs - cycle.reports)
    devices = int(process.server_config.get("min_workers") or 1) - cycle.accepted
    lacking = [_count(reports, "report")] if reports else []
    if devices > reports:  # fewer come with the reports
        lacking.append(_count(devices, "device"))
    return " and ".join(lacking)


def _progress(process: Process) -> Text:
    if process.progress is None:
        return Text("no end", "dim")
    filled = process.progress * _BAR_WIDTH // 100
    bar = Text("█" * filled, "green") + Text("░" * (_BAR_WIDTH - filled), "bright_black")
    return bar + f" {process.progress} %"


def _cycles(process: Process) -> str:
    end = f" of {process.num_cycles}" if process.num_cycles else ""
    return f"{process.completed_cycles}{end}"


def _reports(cycle: Cycle) -> str:
    """Reports so far, and from how many to how many the cycle takes."""
    if cycle.max_diffs is None:
        wanted = f"{cycle.min_diffs} or more"
    elif cycle.max_diffs == cycle.min_diffs:
        wanted = str(cycle.min_diffs)
    else:
        wanted = f"{cycle.min_diffs} to {cycle.max_diffs}"
    return f"{cycle.reports} of {wanted}"


def _moment(moment: datetime, now: datetime) -> str:
    distance = f"in {span(moment, now)}" if moment > now else f"{span(moment, now)} ago"
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S} ({distance})"


def _count(count: int, what: str) -> str:
    return f"{count} more {what}{'' if count == 1 else 's'}"

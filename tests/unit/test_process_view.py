"""What ``gridnode processes`` says a process waits for, and how it writes times."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from gridnode.commands.process_view import Cycle, Process, process_details, processes_table, span, waiting_for

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def cycle(**values: Any) -> Cycle:
    given = {
        "number": 3, "state": "open", "started_at": NOW - timedelta(hours=1), "deadline": None, "working": 0,
        "reports": 0, "min_diffs": 2, "max_diffs": 5, "starved": False,
    }  # fmt: skip
    return Cycle(**{**given, "accepted": values.get("reports", 0), **values})


def process(running: Cycle | None = None, *, min_workers: int = 1, **values: Any) -> Process:
    given = {
        "name": "digits", "version": "1.0", "state": "active", "failure": None, "completed_cycles": 2, "num_cycles": 10,
        "progress": 20, "latest_checkpoint": 3, "created_at": NOW - timedelta(days=2), "finished_at": None,
        "cycle": running, "client_config": {"lr": 0.1}, "server_config": {"min_workers": min_workers},
    }  # fmt: skip
    return Process(**{**given, **values})


def shown(renderable: object) -> str:
    console = Console(width=300)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


@pytest.mark.parametrize(
    ("running", "text"),
    [
        (cycle(reports=3), "2 more reports"),
        (cycle(reports=4), "1 more report"),
        (cycle(reports=3, deadline=NOW + timedelta(minutes=5)), "2 more reports, or the deadline in 5 min"),
        (cycle(reports=3, max_diffs=None, deadline=NOW + timedelta(minutes=5)), "the deadline in 5 min"),
        (cycle(reports=1, deadline=NOW + timedelta(minutes=5)), "1 more report, and the deadline in 5 min"),
        (cycle(reports=1, deadline=NOW - timedelta(hours=3), starved=True), "1 more report, 3 h after the deadline"),
        (cycle(reports=2, deadline=NOW - timedelta(seconds=1)), "the averaging"),
        (cycle(reports=5, state="averaging"), "the averaging"),
        (None, "the averaging"),
    ],
)
def test_active_process_waits_for_reports_deadline_or_averaging(running: Cycle | None, text: str) -> None:
    assert waiting_for(process(running), NOW) == text


def test_devices_are_waited_for_where_min_workers_asks_for_more_than_the_reports_bring() -> None:
    running = cycle(reports=2, accepted=2, deadline=NOW + timedelta(minutes=5))
    assert waiting_for(process(running, min_workers=4), NOW) == "2 more devices, and the deadline in 5 min"
    running = cycle(reports=0, accepted=0, deadline=NOW + timedelta(minutes=5))
    assert waiting_for(process(running, min_workers=2), NOW) == "2 more reports, and the deadline in 5 min"
    assert (
        waiting_for(process(running, min_workers=3), NOW)
        == "2 more reports and 3 more devices, and the deadline in 5 min"
    )


@pytest.mark.parametrize("state", ["paused", "failed"])
def test_stopped_process_waits_for_a_person(state: str) -> None:
    assert waiting_for(process(cycle(), state=state), NOW) == "you to resume it"


def test_finished_process_waits_for_nothing() -> None:
    assert waiting_for(process(state="finished"), NOW) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (3605, "1 h"),
        (7260, "2 h 1 min"),
        (-7260, "2 h 1 min"),
        (90061, "1 d 1 h"),
        (400 * 86400, "400 d"),
    ],
)
def test_span_has_two_units_at_most(seconds: float, text: str) -> None:
    assert span(NOW + timedelta(seconds=seconds), NOW) == text


def test_table_says_why_a_process_failed_and_which_cycle_starves() -> None:
    failed = process(cycle(state="averaging", reports=5), state="failed", failure="the plan [red]divides[/red] by zero")
    starved = process(cycle(reports=1, deadline=NOW - timedelta(hours=3), starved=True), num_cycles=0, progress=None)
    text = shown(processes_table([failed, starved], NOW))
    assert "you to resume it. It failed: the plan [red]divides[/red] by zero" in text
    assert "starved: 1 more report, 3 h after the deadline" in text
    assert "no end" in text
    assert "██░░░░░░░░ 20 %" in text


def test_table_shows_names_as_they_are() -> None:
    assert "[bold]x[/bold]" in shown(processes_table([process(name="[bold]x[/bold]")], NOW))


@pytest.mark.parametrize(
    ("wanted", "text"),
    [((2, 5), "1 of 2 to 5"), ((3, 3), "1 of 3"), ((2, None), "1 of 2 or more")],
)
def test_reports_are_shown_with_how_many_the_cycle_takes(wanted: tuple[int, int | None], text: str) -> None:
    running = cycle(reports=1, min_diffs=wanted[0], max_diffs=wanted[1], deadline=NOW)
    assert f" {text} " in shown(processes_table([process(running)], NOW))


def test_details_hold_failure_times_and_configuration() -> None:
    text = shown(
        process_details(
            process(
                cycle(accepted=7, working=4, deadline=NOW + timedelta(minutes=5)), state="failed", failure="overflow"
            ),
            NOW,
        )
    )
    for part in ("overflow", "(2 d ago)", "(in 5 min)", "3, open", "7, at work 4", '"lr": 0.1', '"min_workers": 1'):
        assert part in text
    assert "(1 h ago)" in shown(process_details(process(state="finished", finished_at=NOW - timedelta(hours=1)), NOW))


def test_events_that_the_master_node_refused_are_shown_where_there_are_any() -> None:
    assert "refused by the master node" not in shown(process_details(process(cycle()), NOW))
    details = shown(process_details(process(cycle(), refused_events=2), NOW))
    assert re.search(r"refused by the master node +2 progress events, not sent again", details)

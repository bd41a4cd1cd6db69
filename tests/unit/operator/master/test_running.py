"""What a running cycle waits for, in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from gridnode_operator.master.models.running import RunningCycle, read_running_cycle

NOW = datetime(2026, 5, 1, tzinfo=UTC)
PAST, FUTURE = NOW - timedelta(minutes=1), NOW + timedelta(minutes=1)


@pytest.mark.parametrize(
    ("cycle", "words"),
    [
        (RunningCycle(number=1), "nothing is known of it yet"),
        (RunningCycle(number=1, state="averaging"), "its reports are being averaged"),
        (RunningCycle(number=1, reports=1, min_diffs=3), "has 1 of at least 3 reports"),
        (
            RunningCycle(number=1, reports=1, min_diffs=3, deadline=PAST),
            "has 1 of at least 3 reports, and its deadline is past",
        ),
        (
            RunningCycle(number=1, reports=3, min_diffs=3, accepted=3, min_workers=5, deadline=FUTURE),
            "has 3 of at least 5 devices accepted",
        ),
        (
            RunningCycle(number=1, reports=3, min_diffs=3, deadline=FUTURE),
            "has enough reports and waits for its deadline",
        ),
        (
            RunningCycle(number=1, reports=3, min_diffs=3, max_diffs=9, deadline=FUTURE),
            "has enough reports and waits for its deadline or for 9 reports",
        ),
        (RunningCycle(number=1, reports=3, min_diffs=3, deadline=PAST), "has what it needs and ends in a moment"),
    ],
)
def test_waits_for(cycle: RunningCycle, words: str) -> None:
    assert cycle.waits_for(NOW) == words


def test_late_only_if_it_can_not_end() -> None:
    assert RunningCycle(number=1, reports=1, min_diffs=3, deadline=PAST).is_late(NOW)
    assert not RunningCycle(number=1, reports=3, min_diffs=3, deadline=PAST).is_late(NOW)
    assert not RunningCycle(number=1, reports=1, min_diffs=3, deadline=FUTURE).is_late(NOW)
    assert not RunningCycle(number=1, reports=1, min_diffs=3).is_late(NOW)


def test_survives_being_kept_as_json() -> None:
    cycle = RunningCycle(
        number=4, started_at=PAST, deadline=FUTURE, accepted=3, working=1, reports=2, min_diffs=1, max_diffs=9,
        min_workers=2,
    )  # fmt: skip
    assert read_running_cycle(cycle.to_json()) == cycle


@pytest.mark.parametrize("value", [None, 5, {}, {"number": -1}, {"number": "1"}, {"number": True}])
def test_what_is_no_cycle(value: object) -> None:
    assert read_running_cycle(value) is None

"""A rejected device is asked back when it is worth it, and never all of them in the same second."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from gridnode.cycles.patience import LONGEST, SPREAD, TOO_SLOW, expected_end, timeout_seconds, too_slow_timeout

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def timeouts(moments: list[datetime | None], spread: float = SPREAD) -> list[int]:
    generator = random.Random(3)
    return [timeout_seconds(moments, NOW, generator, spread) for _ in range(1000)]


@pytest.mark.parametrize(
    ("moments", "earliest", "latest"),
    [
        ([at(100)], 100, 125),
        ([at(1)], 1, 6),
        ([at(100), at(40), None], 40, 50),
        ([at(-5), at(40)], 40, 50),
        ([at(-5), None], SPREAD, 2 * SPREAD),
        ([], SPREAD, 2 * SPREAD),
        ([NOW], SPREAD, 2 * SPREAD),
        ([at(10 * LONGEST)], LONGEST, 1.25 * LONGEST),
    ],
)
def test_earliest_moment_that_is_to_come_counts(moments: list[datetime | None], earliest: float, latest: float) -> None:
    given = timeouts(moments)
    assert earliest <= min(given)
    assert max(given) <= latest + 1


def test_devices_are_spread_over_the_time_after_it() -> None:
    assert len(set(timeouts([at(1000)]))) > 200
    assert set(timeouts([at(1)])) == {2, 3, 4, 5, 6}
    assert set(timeouts([at(1)], spread=2)) == {2, 3}


def test_devices_that_were_too_slow_come_back_spread_over_a_quarter_of_an_hour() -> None:
    generator = random.Random(3)
    given = [too_slow_timeout(generator) for _ in range(1000)]
    assert min(given) >= TOO_SLOW
    assert max(given) <= 1.25 * TOO_SLOW + 1
    assert len(set(given)) > 500


def test_timeout_is_a_whole_number_of_at_least_a_second() -> None:
    assert all(isinstance(timeout, int) and timeout >= 1 for timeout in timeouts([at(0.001)], spread=0.001))


@pytest.mark.parametrize(
    ("elapsed", "reports", "wanted", "left"),
    [
        (60, 3, 10, 140),  # one in 20 s, seven are missing
        (60, 10, 10, 0),
        (60, 12, 10, 0),
        (60, 0, 10, None),
        (60, 3, None, None),
    ],
)
def test_end_is_expected_from_the_rate_so_far(
    elapsed: float, reports: int, wanted: int | None, left: float | None
) -> None:
    expected = expected_end(at(-elapsed), reports, wanted, NOW)
    assert expected == (None if left is None else at(left))

"""Figures, times and sizes as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from gridnode_operator.master.dashboard import formats


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"), (0.0004, "0 ms"), (0.25, "250 ms"), (1, "1 s"), (9.44, "9.4 s"), (42.4, "42 s"),
        (59.7, "1 min"), (61, "1 min 1 s"), (3599.9, "60 min"), (3600, "1 h"), (5400, "1 h 30 min"),
        (86_400, "1 d"), (90_000, "1 d 1 h"), (float("inf"), "–"), (-1, "0 ms"),
    ],
)  # fmt: skip
def test_durations(seconds: float | None, text: str) -> None:
    assert formats.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(None, "–"), (0, "0 B"), (999, "999 B"), (1284213, "1.3 MB"), (10**15, "1000.0 TB")]
)
def test_sizes(count: int | None, text: str) -> None:
    assert formats.size(count) == text


def test_numbers() -> None:
    assert [formats.whole(each) for each in (None, 0, 12345)] == ["–", "0", "12,345"]
    assert [formats.rate(each) for each in (None, 0.0, 0.44, 4.0, 1234.5)] == ["–", "0", "0.4", "4", "1,234"]
    assert [formats.figure(each) for each in (None, 0.123456, 1e-9, 1234567.0)] == ["–", "0.1235", "1e-09", "1.235e+06"]


def test_times_are_told_in_utc_and_for_programs() -> None:
    moment = datetime(2026, 3, 1, 1, 2, 3, tzinfo=timezone(timedelta(hours=5)))
    assert str(formats.when(moment)) == (
        '<time datetime="2026-02-28T20:02:03Z" data-time="ago">28 Feb 2026, 20:02:03 UTC</time>'
    )
    assert ">20:02 UTC<" in formats.when(moment, "clock")
    assert "–" in formats.when(None)
    assert formats.when(moment.astimezone(UTC)) == formats.when(moment)


@pytest.mark.parametrize(
    ("name", "text"), [("cycle_full", "cycle full"), ("CycleFull", "cycle full"), ("full", "full"), ("", "")]
)
def test_names_of_programs_in_words(name: str, text: str) -> None:
    assert formats.words(name) == text


def test_what_is_configured_is_told_as_json() -> None:
    assert formats.configured({"a": [1, None, "é"]}) == '{"a": [1, null, "é"]}'
    assert formats.configured("x") == '"x"'


def test_rejected() -> None:
    assert formats.rejected_total(None) is None
    assert formats.rejected_total({"a": 1, "b": 2}) == 3

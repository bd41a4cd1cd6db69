"""Events tell of what has changed, each once."""

from __future__ import annotations

from typing import Any

import pytest

from gridnode_operator.transitions import transitions


def condition(kind: str, status: str, reason: str = "R", message: str = "m") -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def told(before: list[dict[str, Any]] | None, after: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    found = transitions({} if before is None else {"conditions": before}, {"conditions": after})
    return [(each.kind, each.reason, each.message) for each in found]


@pytest.mark.parametrize("kind", ["DatabaseReady", "Migrated", "Ready"])
def test_good_news(kind: str) -> None:
    now = [condition(kind, "True", message="it is so")]
    event = [("Normal", kind, "it is so")]
    assert told(None, now) == event
    assert told([], now) == event
    assert told([condition(kind, "False")], now) == event
    assert told([condition(kind, "Unknown")], now) == event
    assert told(now, now) == []
    assert told(now, [condition(kind, "False")]) == []


@pytest.mark.parametrize("kind", ["DatabaseReady", "Ready"])
def test_other_words_for_the_same_are_not_told(kind: str) -> None:
    assert told([condition(kind, "True", message="2 pods")], [condition(kind, "True", "S", "3 pods")]) == []


def test_next_migration_is_told_though_the_condition_stayed() -> None:
    before, after = condition("Migrated", "True", message="Job a"), condition("Migrated", "True", message="Job b")
    assert told([before], [after]) == [("Normal", "Migrated", "Job b")]


def test_trouble_is_told_with_its_reason_and_once() -> None:
    trouble = condition("Degraded", "True", "Unreachable", "no answer for 1 s")
    assert told(None, [trouble]) == [("Warning", "Unreachable", "no answer for 1 s")]
    assert told([condition("Degraded", "False", "AsExpected")], [trouble]) == [
        ("Warning", "Unreachable", "no answer for 1 s")
    ]
    assert told([trouble], [condition("Degraded", "True", "Unreachable", "no answer for 2 s")]) == []
    assert told([trouble], [condition("Degraded", "True", "MigrationFailed", "log")]) == [
        ("Warning", "MigrationFailed", "log")
    ]
    assert told([trouble], [condition("Degraded", "False", "AsExpected")]) == []
    # Whether it is the same trouble again, nobody knows after it was gone.
    assert told([condition("Degraded", "False", "Unreachable")], [trouble]) == []


@pytest.mark.parametrize("kind", ["Available", "Exposed", "Progressing", "SomethingNew"])
@pytest.mark.parametrize("status", ["True", "False", "Unknown"])
def test_what_changes_all_the_time_is_not_told(kind: str, status: str) -> None:
    assert told([condition(kind, "Unknown", "Q")], [condition(kind, status)]) == []


def test_several_are_told_in_the_order_of_the_conditions() -> None:
    after = [condition("Ready", "True"), condition("Migrated", "True"), condition("Degraded", "True", "Full")]
    assert [reason for _, reason, _ in told(None, after)] == ["Ready", "Migrated", "Full"]


def test_status_without_conditions() -> None:
    assert list(transitions({}, {})) == []
    assert list(transitions({"conditions": None}, {"url": "http://x"})) == []

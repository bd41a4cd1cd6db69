"""Which changes of a status are worth an Event. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

Status = Mapping[str, Any]

#: Conditions whose becoming true is told.
_GOOD_NEWS: Final = ("DatabaseReady", "Migrated", "Ready")


class Transition(NamedTuple):
    """An Event to be."""

    kind: Literal["Normal", "Warning"]
    reason: str
    message: str


def transitions(before: Status, after: Status) -> Iterator[Transition]:
    """What a person who looks at a GridNode's Events would want to have been told.

    Args:
        before: The status as it was; empty for a new GridNode.
        after: As it is now.
    """
    old = _conditions(before)
    for name, condition in _conditions(after).items():
        was = old.get(name, {})
        is_true = condition["status"] == "True"
        is_new = was.get("status") != condition["status"]
        # A migration of another image may succeed without the condition being false in between.
        is_other = name == "Migrated" and was.get("message") != condition["message"]
        if name in _GOOD_NEWS and is_true and (is_new or is_other):
            yield Transition("Normal", name, condition["message"])
        if name == "Degraded" and is_true and was.get("reason") != condition["reason"]:
            yield Transition("Warning", condition["reason"], condition["message"])


def _conditions(status: Status) -> dict[str, Mapping[str, Any]]:
    return {each["type"]: each for each in status.get("conditions") or []}

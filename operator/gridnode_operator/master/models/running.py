"""The running cycle of a model: what it waits for, and until when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from gridnode_operator.master.models.values import count, moment


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningCycle:
    """A cycle that runs, as its node told last.

    Attributes:
        number: Of the cycle, from 1.
        state: ``open`` or ``averaging``.
        accepted: Devices ever accepted.
        working: Devices accepted that have not reported and may still.
        reports: Reports counted so far.
        min_diffs: Reports that it needs.
        max_diffs: Reports at which it ends at once; None if only its deadline ends it.
        min_workers: Devices that must have been accepted; None is not known.
    """

    number: int
    state: str = "open"
    started_at: datetime | None = None
    deadline: datetime | None = None
    accepted: int | None = None
    working: int | None = None
    reports: int | None = None
    min_diffs: int | None = None
    max_diffs: int | None = None
    min_workers: int | None = None

    def lacks(self) -> str | None:
        """What it needs before it can end, for people; None if it has all."""
        missing = []
        if self.reports is not None and self.min_diffs is not None and self.reports < self.min_diffs:
            missing.append(f"{self.reports} of at least {self.min_diffs} reports")
        if self.accepted is not None and self.min_workers is not None and self.accepted < self.min_workers:
            missing.append(f"{self.accepted} of at least {self.min_workers} devices accepted")
        return " and ".join(missing) or None

    def is_late(self, now: datetime) -> bool:
        """Whether its deadline is past although it can't end."""
        return self.state == "open" and self.deadline is not None and self.deadline <= now and self.lacks() is not None

    def waits_for(self, now: datetime) -> str:
        """What it waits for, for people."""
        if self.state == "averaging":
            return "its reports are being averaged"
        lacks = self.lacks()
        if lacks is not None:
            return f"has {lacks}" + (", and its deadline is past" if self.is_late(now) else "")
        if self.deadline is not None and self.deadline > now:
            return "has enough reports and waits for its deadline" + (
                f" or for {self.max_diffs} reports" if self.max_diffs is not None else ""
            )
        return "has what it needs and ends in a moment" if self.reports is not None else "nothing is known of it yet"

    def to_json(self) -> dict[str, Any]:
        """For a column of type JSON."""
        return {
            key: value.isoformat() if isinstance(value, datetime) else value
            for key, value in asdict(self).items()
            if value is not None
        }


def read_running_cycle(value: object, *, min_workers: object = None) -> RunningCycle | None:
    """From JSON as a node sends it or :meth:`RunningCycle.to_json` made it; None if it is no cycle."""
    if not isinstance(value, Mapping):
        return None
    number = count(value.get("number"))
    if number is None:
        return None
    return RunningCycle(
        number=number,
        state="averaging" if value.get("state") == "averaging" else "open",
        started_at=moment(value.get("started_at")),
        deadline=moment(value.get("deadline")),
        accepted=count(value.get("accepted")),
        working=count(value.get("working")),
        reports=count(value.get("reports")),
        min_diffs=count(value.get("min_diffs")),
        max_diffs=count(value.get("max_diffs")),
        min_workers=count(value.get("min_workers", min_workers)),
    )

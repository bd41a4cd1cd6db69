"""Reading what nodes and devices send, leniently: what makes no sense counts as not said."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Final

from gridnode_operator.master.texts import is_storable

_LARGEST_COUNT: Final = 2**53
# Sums of larger ones could overflow; no loss or accuracy that means anything is as large.
_LARGEST_FIGURE: Final = 1e100


def count(value: object) -> int | None:
    """A whole number of at least 0, None for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value < _LARGEST_COUNT else None


def figure(value: object) -> float | None:
    """A finite number that can be averaged, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < _LARGEST_FIGURE and math.isfinite(value) else None


def moment(value: object) -> datetime | None:
    """A point in time from ISO 8601 text, in UTC where it names no zone; None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        read = datetime.fromisoformat(value)
        return (read.replace(tzinfo=UTC) if read.tzinfo is None else read).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def text(value: object, longest: int) -> str | None:
    """Text for people, shortened; None for anything else."""
    if not isinstance(value, str) or not value:
        return None
    printable = "".join(each if each == "\n" or is_storable(each) else "\ufffd" for each in value[:longest])
    return printable

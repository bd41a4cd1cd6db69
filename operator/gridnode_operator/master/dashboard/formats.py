"""How figures, times and sizes are written for people. No I/O."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal

from markupsafe import Markup

#: What stands where nothing is known.
NOTHING: Final = "–"

_MINUTE: Final = 60.0
_HOUR: Final = 3600.0
_DAY: Final = 86_400.0
_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
_MANY: Final = 10


def whole(value: float | None) -> str:
    """A count: 12,345."""
    return NOTHING if value is None else f"{value:,.0f}"


def rate(value: float | None) -> str:
    """A rate: 0.4, 12, 1,234."""
    if value is None:
        return NOTHING
    return f"{value:,.1f}".removesuffix(".0") if value < _MANY else f"{value:,.0f}"


def figure(value: float | None) -> str:
    """A loss or accuracy, in four digits that count."""
    return NOTHING if value is None else f"{value:.4g}"


def duration(seconds: float | None) -> str:
    """A length of time in the two largest units that it has."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < _MANY:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    if round(seconds) < _MINUTE:
        return f"{seconds:.0f} s"
    for name, unit, smaller_name, smaller in (
        ("min", _MINUTE, "s", 1.0),
        ("h", _HOUR, "min", _MINUTE),
        ("d", _DAY, "h", _HOUR),
    ):
        if seconds < unit * {"min": 60, "h": 24, "d": math.inf}[name]:
            many, rest = divmod(round(seconds / smaller), round(unit / smaller))
            return f"{many} {name} {rest} {smaller_name}" if rest else f"{many} {name}"
    return NOTHING


def size(count: int | None) -> str:
    """A number of bytes: 1.2 MB."""
    if count is None:
        return NOTHING
    amount = float(count)
    for unit in _UNITS:
        if amount < 1000 or unit == _UNITS[-1]:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return NOTHING


def when(moment: datetime | None, style: Literal["ago", "full", "clock", "until"] = "ago") -> Markup:
    """A point in time; the page's script rewrites it in the viewer's zone, and as "5 min ago" or "in 5 min"."""
    if moment is None:
        return Markup(f'<span class="none">{NOTHING}</span>')  # noqa: S704 - a constant
    utc = moment.astimezone(UTC)
    text = utc.strftime("%H:%M" if style == "clock" else "%d %b %Y, %H:%M:%S") + " UTC"
    return Markup('<time datetime="{}" data-time="{}">{}</time>').format(
        utc.isoformat(timespec="seconds").replace("+00:00", "Z"), style, text
    )


def configured(value: Any) -> str:
    """A value of a configuration, as it would stand in JSON."""
    return json.dumps(value, ensure_ascii=False, default=str)


def rejected_total(reasons: Mapping[str, int] | None) -> int | None:
    """All rejected requests; None if nobody has told of any."""
    return None if reasons is None else sum(reasons.values())


def words(name: str) -> str:
    """A name of a program in words: cycle_full, CycleFull."""
    spaced = "".join(f" {each.lower()}" if each.isupper() else each for each in name) if "_" not in name else name
    return spaced.replace("_", " ").strip()

"""Models as a table for terminals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_STYLES: Final = {"active": "cyan", "paused": "yellow", "failed": "bold red", "finished": "green", "deleted": "dim"}


def models_table(models: Iterable[Mapping[str, Any]], now: datetime) -> Table:
    """A row for each model of ``/api/v1/models``."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("model", "version", "node", "state", "progress", "", "cycles"):
        table.add_column(title, no_wrap=True, justify="right" if title == "" else "left")
    for title in ("loss", "accuracy"):
        table.add_column(title, justify="right")
    table.add_column("now")
    table.add_column("last report", no_wrap=True)
    for model in models:
        table.add_row(*_cells(model, now))
    return table


def _cells(model: Mapping[str, Any], now: datetime) -> list[Any]:
    state = str(model["state"])
    cycles = model["num_cycles"]
    whole = "" if cycles is None else f"/{cycles}" if cycles else "/∞"
    # Text: a name must not be taken for markup.
    return [
        Text(model["name"]),
        Text(model["version"]),
        Text(model["node_id"]),
        Text(state, _STYLES.get(state, "")),
        ProgressBar(total=100, completed=model["percent"], width=12),
        f"{model['percent']} %",
        f"{model['completed_cycles']}{whole}",
        _number(model["loss"]),
        _number(model["accuracy"]),
        Text(model["failure"] or model["waits_for"] or "", "red" if model["failure"] or model["late"] else ""),
        _ago(model["progressed_at"], now),
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _ago(moment: str, now: datetime) -> str:
    seconds = max(0, int((now.astimezone(UTC) - datetime.fromisoformat(moment)).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} s ago"

"""``gridnode config``: every setting, its value and where it came from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gridnode.commands.setting_flags import with_settings
from gridnode.settings import SettingRow, Settings, describe


class Output(StrEnum):
    """How a list is printed."""

    TABLE = "table"
    JSON = "json"


@with_settings()
def config(
    settings: Settings,
    output: Annotated[Output, typer.Option("--output", "-o", help="Form of the list.")] = Output.TABLE,
) -> None:
    """Print every setting with its value and where it came from; secrets are masked.

    A setting x is read from its flag, else from GRIDNODE_X, else (secrets) from the file that GRIDNODE_X_FILE names.

    Examples:

        gridnode config

        GRIDNODE_DEVICE_PORT=8080 gridnode config --output json

        gridnode config --legacy-hosting --sweep-interval 0.5
    """
    rows = describe(settings)
    if output is Output.JSON:
        typer.echo(json.dumps([dataclasses.asdict(row) for row in rows], indent=2, ensure_ascii=False))
    else:
        console = Console()
        if not console.is_terminal:
            console = Console(width=200)  # for grep: one line for each setting
        console.print(_table(rows))


def _table(rows: Sequence[SettingRow]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("variable", min_width=max(len(row.variable) for row in rows))
    table.add_column("value", overflow="fold")
    table.add_column("source")
    table.add_column("what it is")
    for row in rows:
        style = "dim" if row.source == "default" else "cyan"
        # Text: a value must not be taken for markup.
        table.add_row(row.variable, Text(row.value, style), Text(row.source, style), Text(row.description))
    return table

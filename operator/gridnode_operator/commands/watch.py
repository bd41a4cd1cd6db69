"""``gridnode watch``: all models as they train, in the terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from gridnode.commands.config import Output
from gridnode_operator.master.client import MasterClient, MasterFailed, MasterUrl
from gridnode_operator.master.model_table import models_table

_PAUSE: Final = 2.0
#: Rows of the terminal that the table's head and the line below it need.
_OTHER_ROWS: Final = 4

Models = dict[int, dict[str, Any]]


def watch(
    master_url: MasterUrl = None,
    output: Annotated[
        Output, typer.Option("--output", "-o", help="json: one object for each change of a model.")
    ] = Output.TABLE,
) -> None:
    """Watch all models train, until Ctrl-C. A master node that restarts is waited for.

    Examples:

        gridnode watch

        gridnode watch --master-url http://master.example.org:5001

        gridnode watch --output json | jq '{name, percent}'
    """
    client = MasterClient.open(master_url)
    models: Models = {each["id"]: each for each in client.items("/api/v1/models")}
    try:
        if output is Output.JSON:
            for model in models.values():
                _print_line(model)
            follow(client, models, changed=lambda model: _print_line(model), message=lambda _text: None)
        else:
            with _screen(models) as (draw, tell):
                follow(client, models, changed=lambda _model: draw(), message=tell)
    except KeyboardInterrupt:
        return


def follow(
    client: MasterClient,
    models: Models,
    *,
    changed: Callable[[dict[str, Any]], None],
    message: Callable[[str], None],
) -> None:
    """Keep ``models`` as the master node has them, for ever.

    Args:
        client: Of the master node.
        models: By id; changed in place.
        changed: Called with each model that has changed.
        message: Called with what there is to say of the connection; empty when all is well.

    Raises:
        MasterFailed: never after the first time; a connection that is lost is made again.
    """
    while True:
        try:
            with client.stream() as events:
                message("")
                for name, data in events:
                    # Between the first look and the stream, or when something was left out, anything may have changed.
                    fresh = client.items("/api/v1/models") if name in ("ready", "reset") else data.get("models", [])
                    for model in fresh:
                        if models.get(model["id"], {}).get("revision") != model["revision"]:
                            models[model["id"]] = model
                            changed(model)
        except MasterFailed as error:
            message(error.message)
        time.sleep(_PAUSE)


def _print_line(model: dict[str, Any]) -> None:
    print(json.dumps(model, ensure_ascii=False), flush=True)


@contextmanager
def _screen(models: Models) -> Iterator[tuple[Callable[[], None], Callable[[str], None]]]:
    """What draws the table again, and what shows a message below it."""
    console = Console()
    shown = ""

    def picture() -> RenderableType:
        room = max(1, console.height - _OTHER_ROWS)
        # Those that progressed last come first; what does not fit is counted.
        latest = sorted(models.values(), key=lambda model: str(model["progressed_at"]), reverse=True)
        more = f"{len(latest) - room} more: gridnode models lists all. " if len(latest) > room else ""
        note = shown or f"{more}Ctrl-C ends."
        return Group(models_table(latest[:room], datetime.now(UTC)), Text(note, "red" if shown else "dim"))

    with Live(get_renderable=picture, console=console, refresh_per_second=2, transient=True) as live:

        def tell(text: str) -> None:
            nonlocal shown
            shown = text

        yield live.refresh, tell
    console.print(picture())

"""``gridnode models``: the models of all nodes, as the master node knows them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from gridnode.commands.config import Output
from gridnode_operator.master.client import MasterClient, MasterUrl
from gridnode_operator.master.model_table import models_table

_WIDE = 220


class ModelState(StrEnum):
    """States of a model."""

    ACTIVE = "active"
    PAUSED = "paused"
    FAILED = "failed"
    FINISHED = "finished"
    DELETED = "deleted"


def models(
    state: Annotated[
        ModelState | None, typer.Option(help="Only models in this state; all but deleted if absent.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Only models of this name.")] = None,
    master_url: MasterUrl = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="Form of the list.")] = Output.TABLE,
) -> None:
    """List the models of all nodes: how far each is, and what it waits for.

    Examples:

        gridnode models

        gridnode models --state failed

        gridnode models --master-url http://master.example.org:5001 --output json
    """
    client = MasterClient.open(master_url)
    found = client.items("/api/v1/models", state=None if state is None else state.value, name=name)
    if output is Output.JSON:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDE)  # for grep: one line for each model
    if found:
        console.print(models_table(found, datetime.now(UTC)))
    else:
        typer.echo("No models. A node tells of its models if GRIDNODE_MASTER_URL of the node is this master node.")

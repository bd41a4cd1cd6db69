"""``gridnode down``: stop what ``gridnode up`` runs."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import Annotated

import typer

from gridnode.errors import Conflict
from gridnode_operator.commands.up import Data, default_data
from gridnode_operator.local.data_directory import DataDirectory, wait_until_unused

_PATIENCE = 3700.0  # seconds: the longest drain timeout that a spec may have, and some


def down(
    data: Data = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Also delete the data: databases with all models, logs and tokens.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Stop what `gridnode up` runs, from another terminal. Running requests may end; data are kept.

    Examples:

        gridnode down

        gridnode down --data ./data --delete
    """
    directory = DataDirectory(data or default_data())
    if delete and not yes:
        _confirm(directory)
    process_id = directory.user()
    if process_id is not None:
        typer.echo(f"Stopping process {process_id} …")
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGTERM)
        if not wait_until_unused(directory, _PATIENCE):
            raise Conflict(f"process {process_id} does not stop. Its logs are in {directory.path}.")
        typer.echo("Stopped.")
    else:
        typer.echo(f"Nothing runs with the data in {directory.path}.")
    if delete and directory.path.is_dir():
        directory.delete()
        typer.echo(f"Deleted the data in {directory.path}.")


def _confirm(directory: DataDirectory) -> None:
    """Ask a person; a script has to say --yes, for models can't be brought back."""
    question = f"Delete all models and everything else in {directory.path}, for good?"
    if not sys.stdin.isatty():
        raise Conflict(f"{question} Nobody is there to answer: say --yes.")
    typer.confirm(question, abort=True, err=True)

"""``gridnode processes``: list, pause, resume, finish and delete what a node hosts."""

from __future__ import annotations

import json
import shlex
import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console

from gridnode.commands.config import Output
from gridnode.commands.management_client import ManagementClient, ManagementUrl
from gridnode.commands.process_view import process_details, processes_table, read_process

app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False, add_completion=False)

Form = Annotated[Output, typer.Option("--output", "-o", help="Form of the list.")]
Name = Annotated[str, typer.Argument(help="Name of the process.")]
Version = Annotated[str | None, typer.Argument(help="Its version; needed where several are hosted.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


@app.callback(invoke_without_command=True)
def processes(context: typer.Context, management_url: ManagementUrl = None, output: Form = Output.TABLE) -> None:
    """List, pause, resume, finish and delete the processes of a node. Alone it lists them.

    Examples:

        gridnode processes

        gridnode processes show digits

        gridnode processes pause digits 1.0

        gridnode processes --management-url http://node.example.org:5050 --output json
    """
    # An address before the subcommand counts for it too.
    context.obj = management_url
    if context.invoked_subcommand is None:
        _list(management_url, output)


@app.command("list")
def list_processes(context: typer.Context, management_url: ManagementUrl = None, output: Form = Output.TABLE) -> None:
    """List all processes with state, progress, and what each of them waits for.

    Reports are counted as 'so far of how many to how many'; working are devices that were accepted and have not
    reported.

    Examples:

        gridnode processes list

        gridnode processes list --output json
    """
    _list(management_url or context.obj, output)


@app.command()
def show(
    context: typer.Context,
    name: Name,
    version: Version = None,
    management_url: ManagementUrl = None,
    output: Form = Output.TABLE,
) -> None:
    """Show everything that is known of one process, its configuration included.

    Examples:

        gridnode processes show digits

        gridnode processes show digits 1.0 --output json
    """
    process = _client(context, management_url).process(name, version)
    if output is Output.JSON:
        _print_json(process)
    else:
        _console().print(process_details(read_process(process), datetime.now(UTC)), highlight=False)


@app.command()
def pause(context: typer.Context, name: Name, version: Version = None, management_url: ManagementUrl = None) -> None:
    """Accept no more devices. Those at work may still report, and the running cycle may still end.

    Examples:

        gridnode processes pause digits

        gridnode processes pause digits 1.0
    """
    client = _client(context, management_url)
    paused = client.act(client.process(name, version), "pause")
    working = paused["cycle"]["working"] if paused["cycle"] else 0
    left = f" Devices at work, which may still report: {working}." if working else ""
    typer.echo(f"{_called(paused)} is paused.{left} Go on with: gridnode processes resume {_quoted(paused)}")


@app.command()
def resume(context: typer.Context, name: Name, version: Version = None, management_url: ManagementUrl = None) -> None:
    """Go on with a paused process, or try again what failed.

    Examples:

        gridnode processes resume digits

        gridnode processes resume digits 1.0
    """
    client = _client(context, management_url)
    resumed = client.act(client.process(name, version), "resume")
    typer.echo(f"{_called(resumed)} is {resumed['state']}.")


@app.command()
def finish(
    context: typer.Context,
    name: Name,
    version: Version = None,
    yes: Yes = False,
    management_url: ManagementUrl = None,
) -> None:
    """Finish a process before its last cycle, for good; its checkpoints stay.

    A running cycle that has min_diffs reports is averaged first; the reports of one that has fewer are dropped.
    On a terminal it asks before it does that.

    Examples:

        gridnode processes finish digits

        gridnode processes finish digits 1.0 --yes
    """
    client = _client(context, management_url)
    process = client.process(name, version)
    if process["state"] == "finished":
        typer.echo(f"{_called(process)} is finished already.")
        return
    _confirm(f"Finish {_called(process)} after {process['completed_cycles']} cycles, for good?", yes=yes)
    done = client.act(process, "finish")
    if done["averaging"]:
        typer.echo(f"{_called(process)} is finished as soon as its running cycle is averaged.")
    else:
        typer.echo(f"{_called(process)} is finished. Reports of the running cycle dropped: {done['dropped_reports']}.")


@app.command()
def delete(
    context: typer.Context,
    name: Name,
    version: Version = None,
    force: Annotated[bool, typer.Option("--force", help="Also if devices have reported to it.")] = False,
    yes: Yes = False,
    management_url: ManagementUrl = None,
) -> None:
    """Delete a process with its checkpoints, for good. On a terminal it asks before it does that.

    A process that devices have reported to needs --force: their work is lost.

    Examples:

        gridnode processes delete digits 1.0

        gridnode processes delete digits 1.0 --force --yes
    """
    client = _client(context, management_url)
    process = client.process(name, version)
    checkpoint = process["latest_checkpoint"]
    _confirm(f"Delete {_called(process)}, {process['state']}, latest checkpoint {checkpoint}, for good?", yes=yes)
    client.delete(process, force=force)
    typer.echo(f"{_called(process)} is deleted.")


def _client(context: typer.Context, management_url: str | None) -> ManagementClient:
    return ManagementClient.open(management_url or context.obj)


def _list(management_url: str | None, output: Output) -> None:
    found = ManagementClient.open(management_url).processes()
    if output is Output.JSON:
        _print_json(found)
    elif found:
        _console().print(processes_table([read_process(each) for each in found], datetime.now(UTC)), highlight=False)
    else:
        typer.echo("No process is hosted here. Host one: gridnode host --help")


def _confirm(question: str, *, yes: bool) -> None:
    """Ask a person; a script is taken to know what it does."""
    if not yes and sys.stdin.isatty():
        typer.confirm(question, abort=True, err=True)


def _called(process: dict[str, Any]) -> str:
    return f"{process['name']} {process['version']}"


def _quoted(process: dict[str, Any]) -> str:
    return shlex.join([process["name"], process["version"]])


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _console() -> Console:
    console = Console()
    # For grep: one line for each process.
    return console if console.is_terminal else Console(width=200)

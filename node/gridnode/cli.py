"""The command ``gridnode``: which subcommands there are, and how an error is told.

A subcommand ``x`` lives in a module ``x`` as a function ``x``, or as a Typer app ``app`` if it has subcommands of its
own. The module is imported when it is called, so that ``--help`` needs neither NumPy nor a database. Those of the
operator are known by name only: the node works without it.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from gridnode import __version__
from gridnode.errors import GridNodeError

_NODE = "gridnode.commands"
_OPERATOR = "gridnode_operator.commands"


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand.

    Attributes:
        summary: for ``--help``; short enough for a line of 80 characters.
        package: where its module is.
        extra: of the distribution, without which its imports are missing.
    """

    summary: str
    package: str = _NODE
    extra: str | None = None


class MissingExtra(GridNodeError):
    """A command needs something that is not installed."""


# In the order of --help: first what one tries first.
COMMANDS = {
    "demo": Command("Train a real model over simulated phones on this machine."),
    "up": Command("Run the GridNodes of a manifest on this machine.", _OPERATOR, "up"),
    "down": Command("Stop what `gridnode up` runs.", _OPERATOR, "up"),
    "serve": Command("Run a node."),
    "migrate": Command("Bring the database's schema to this release."),
    "plan": Command("Build training plans for phones, judge them and read them."),
    "host": Command("Host a process: a model, its plans and its configuration."),
    "processes": Command("List, pause, resume, finish and delete the processes of a node."),
    "retrieve": Command("Save a checkpoint of a hosted model."),
    "simulate": Command("Train a hosted model with simulated phones that really train."),
    "master": Command("Run the master node.", _OPERATOR, "master"),
    "keys": Command("Create, list and revoke keys of the master node.", _OPERATOR, "master"),
    "models": Command("List the models of all nodes, as the master node knows them.", _OPERATOR, "master"),
    "watch": Command("Watch all models train.", _OPERATOR, "master"),
    "config": Command("Print every setting with its value and where it came from."),
}

_HELP = """A federated-learning server: phones train, the node averages.

Try it: gridnode demo. Settings come from flags, GRIDNODE_* variables and secret files: gridnode config.
"""


class _LazyGroup(typer.core.TyperGroup):
    """Lists placeholders, and replaces the one that is called with the real command."""

    # Any: Typer brings its own click, whose types are private.
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else _load(name), rest


def _load(name: str) -> Any:
    command = COMMANDS[name]
    try:
        module = importlib.import_module(f"{command.package}.{name}")
    except ModuleNotFoundError as error:
        if command.extra is None:
            raise
        missing, _, _ = (error.name or "").partition(".")
        install = f"pip install 'gridnode[{command.extra}]'"
        raise MissingExtra(f"`gridnode {name}` needs {missing}, which is not installed. Run: {install}") from None
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False, add_completion=False)
        app.command(name)(getattr(module, name))
    return typer.main.get_command(app)


# No markup here: Typer's rich help takes twice the time of everything else, only to list eight lines.
app = typer.Typer(
    cls=_LazyGroup, help=_HELP, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gridnode {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None: ...


def _list_placeholders() -> None:
    for name, command in COMMANDS.items():
        app.command(name, help=command.summary)(lambda: None)


_list_placeholders()


def _end(number: int, _frame: object) -> None:
    sys.exit(128 + number)


def main() -> None:
    """Run the command line; a :class:`GridNodeError` is one message on standard error and exit code 1."""
    if os.getpid() == 1:
        # The kernel keeps from the first process of a container every signal that it has no handler for.
        signal.signal(signal.SIGTERM, _end)
    try:
        app(prog_name="gridnode")
    except GridNodeError as error:
        typer.secho("error: ", fg="red", bold=True, nl=False, err=True)
        typer.echo(error.message, err=True)
        sys.exit(1)

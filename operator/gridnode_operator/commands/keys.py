"""``gridnode keys``: create, list and revoke keys of the master node, in its database."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy.orm import Session

from gridnode.commands.config import Output
from gridnode_operator.commands.master import database, start
from gridnode_operator.master.db.migrate import upgrade
from gridnode_operator.master.db.session import make_database
from gridnode_operator.master.keys.access import Principal
from gridnode_operator.master.keys.service import KeyView, create_key, list_keys, random_key, revoke_key

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False, add_completion=False)

Form = Annotated[Output, typer.Option("--output", "-o", help="Form of the answer.")]
DataDir = Annotated[str | None, typer.Option(help="Where the private PostgreSQL keeps its files.", show_default=False)]
_ADMIN = Principal("admin")
_ALL = 1_000_000
_WIDE = 200


class KeyScope(StrEnum):
    """What a key is good for."""

    APP = "app"
    NOTEBOOK = "notebook"
    NODE = "node"
    ADMIN = "admin"


@app.callback()
def keys() -> None:
    """Create, list and revoke keys of the master node.

    Works on its database, so it needs no key: on GRIDNODE_MASTER_DATABASE_URL, else on the private one of `gridnode
    master` on this machine.

    Examples:

        gridnode keys create --scope admin

        gridnode keys list

        gridnode keys revoke 17
    """


@app.command()
def create(
    scope: Annotated[KeyScope, typer.Option(help="What it is good for.")],
    owner: Annotated[str | None, typer.Option(help="For whom it acts; app and notebook keys need one.")] = None,
    node_id: Annotated[str | None, typer.Option(help="The only node that it speaks for; node keys only.")] = None,
    note: Annotated[str, typer.Option(help="What it is for.")] = "",
    days: Annotated[int | None, typer.Option(min=1, max=36500, help="Days until it expires; never if absent.")] = None,
    data_dir: DataDir = None,
    output: Form = Output.TABLE,
) -> None:
    """Create a key and print it: it is shown this once.

    Examples:

        gridnode keys create --scope admin --note "the platform team"

        gridnode keys create --scope notebook --owner ann --days 90

        gridnode keys create --scope node --node-id apps/demo --output json
    """
    key = random_key()
    expires_at = None if days is None else datetime.now(UTC) + timedelta(days=days)
    made = _run(
        data_dir,
        lambda session: create_key(
            session, key, scope.value, owner=owner, node_id=node_id, note=note, expires_at=expires_at
        ),
    )
    if output is Output.JSON:
        _print_json({"key": made.key, "view": made.view})
    else:
        typer.echo(made.key)
        typer.echo(f"Key {made.view.id} of scope {made.view.scope}. Keep it now: it can't be shown again.", err=True)


@app.command("list")
def list_all(
    revoked: Annotated[bool, typer.Option("--revoked", help="Revoked ones, too.")] = False,
    data_dir: DataDir = None,
    output: Form = Output.TABLE,
) -> None:
    """List keys, by the beginning of each: the rest of them nobody knows.

    Examples:

        gridnode keys list

        gridnode keys list --revoked --output json
    """
    views = _run(data_dir, lambda session: list_keys(session, _ADMIN, limit=_ALL, revoked=revoked))
    if output is Output.JSON:
        _print_json(views)
    else:
        console = Console()
        console = console if console.is_terminal else Console(width=_WIDE)  # for grep: one line for each key
        console.print(_table(views))


@app.command()
def revoke(
    key: Annotated[int, typer.Argument(help="Its number, as `gridnode keys list` shows it.", min=1)],
    data_dir: DataDir = None,
) -> None:
    """Make a key useless, for good. A running master node notices within five seconds.

    Examples:

        gridnode keys revoke 17
    """
    view = _run(data_dir, lambda session: revoke_key(session, _ADMIN, key))
    typer.echo(f"Key {view.id} ({view.prefix}…, scope {view.scope}) is revoked.")


def _run(data_dir: str | None, work: Callable[[Session], T]) -> T:
    settings = start(data_dir=data_dir, log_level="warning")
    with database(settings) as url:
        upgrade(url, schema=settings.database_schema, connect_timeout=settings.database_connect_timeout)
        opened = make_database(
            url,
            schema=settings.database_schema,
            pool_size=1,
            connect_timeout=settings.database_connect_timeout,
            deadline=settings.database_deadline,
        )
        with closing(opened):
            return opened.transaction(work)


def _print_json(value: object) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _table(views: list[KeyView]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("key", "begins with", "scope", "owner or node", "note", "made", "last used", "state"):
        table.add_column(title)
    for view in views:
        table.add_row(
            str(view.id),
            view.prefix,
            view.scope,
            Text(view.owner or view.node_id or ""),
            Text(view.note),
            f"{view.created_at:%Y-%m-%d}",
            "never" if view.last_used_at is None else f"{view.last_used_at:%Y-%m-%d %H:%M}",
            _state(view),
        )
    return table


def _state(view: KeyView) -> Text:
    if view.revoked_at is not None:
        return Text("revoked", "red")
    if view.expires_at is None:
        return Text("good", "green")
    if view.expires_at <= datetime.now(UTC):
        return Text("expired", "red")
    return Text(f"good until {view.expires_at:%Y-%m-%d}", "green")

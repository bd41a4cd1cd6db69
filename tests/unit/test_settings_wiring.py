"""Settings reach what they are for: the node's parts, and the commands."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from gridnode import app
from gridnode.cli import app as command_line
from gridnode.commands import migrate
from gridnode.db.iam import IamTokens
from gridnode.settings import Settings

URL = "postgresql+psycopg2://node@db.cluster-abc.eu-west-1.rds.amazonaws.com/grid"


class Caught(Exception):
    """The part was made, or the step was taken."""


def catch(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> dict[str, Any]:
    """What a callable of a module is given, instead of calling it."""
    seen: dict[str, Any] = {}

    def stop(*_positional: Any, **named: Any) -> None:
        seen.update(named)
        raise Caught

    monkeypatch.setattr(module, name, stop)
    return seen


def test_database_is_used_as_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = catch(monkeypatch, app, "Database")
    with pytest.raises(Caught):
        app.Node(Settings(database_statement_timeout=17.0, database_iam_authentication=True), URL)
    assert seen["statement_timeout"] == 17
    assert isinstance(seen["iam"], IamTokens)
    with pytest.raises(Caught):
        app.Node(Settings(), URL)
    assert seen["iam"] is None


def test_number_of_sandboxes_is_that_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = catch(monkeypatch, app, "SandboxPool")
    with pytest.raises(Caught):
        app.Node(Settings(averaging_sandboxes=3), URL)
    assert seen == {"maximum": 3}


@pytest.mark.parametrize("switched_on", [True, False])
def test_migrate_logs_in_as_the_node_does(monkeypatch: pytest.MonkeyPatch, switched_on: bool) -> None:
    seen = catch(monkeypatch, migrate, "upgrade")
    monkeypatch.setenv("GRIDNODE_DATABASE_URL", URL)
    monkeypatch.setenv("GRIDNODE_DATABASE_IAM_AUTHENTICATION", str(switched_on).lower())
    result = CliRunner().invoke(command_line, ["migrate"])
    assert isinstance(result.exception, Caught)
    assert isinstance(seen["iam"], IamTokens) is switched_on


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_iam_without_a_database_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.delenv("GRIDNODE_DATABASE_URL", raising=False)
    monkeypatch.setenv("GRIDNODE_DATABASE_IAM_AUTHENTICATION", "true")
    result = CliRunner().invoke(command_line, [command])
    assert "GRIDNODE_DATABASE_IAM_AUTHENTICATION is on without GRIDNODE_DATABASE_URL" in str(result.exception)

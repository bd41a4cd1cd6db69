"""docs/training.md and docs/authoring.md speak of keys, data sets and flags that there are, and of all of them."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from gridnode.commands.simulate import simulate
from gridnode.processes.schema import ClientConfig, ServerConfig
from gridnode.simulation.built_in_data import BUILT_IN

DOCS = Path(__file__).parent.parent.parent / "docs"
TRAINING, AUTHORING = ((DOCS / name).read_text(encoding="utf-8") for name in ("training.md", "authoring.md"))


def keys_of(title: str) -> set[str]:
    """Keys of the table below a heading."""
    (section,) = re.findall(rf"^## {title}\n(.*?)^##", TRAINING, re.MULTILINE | re.DOTALL)
    first_cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return {key for cell in first_cells for key in re.findall(r"`(\w+)`", cell)}


@pytest.mark.parametrize(
    ("title", "kind"),
    [("client_config, key by key", ClientConfig), ("server_config, key by key", ServerConfig)],
)
def test_every_key_is_explained(title: str, kind: type[msgspec.Struct]) -> None:
    assert keys_of(title) == {field.encode_name for field in msgspec.structs.fields(kind)}


def test_every_data_set_is_named() -> None:
    (section,) = re.findall(r"^\| name \| rows .*?\n\n", AUTHORING, re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE)) == set(BUILT_IN)


def test_flags_of_gridnode_simulate_exist() -> None:
    app = typer.Typer()
    app.command()(simulate)
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    there = set(re.findall(r"--[a-z-]+", shown))

    lines = re.findall(r"^gridnode simulate .*$", TRAINING + AUTHORING, re.MULTILINE)
    assert len(lines) >= 5
    assert {flag for line in lines for flag in re.findall(r"--[a-z-]+", line)} <= there

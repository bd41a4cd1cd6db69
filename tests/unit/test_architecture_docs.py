"""docs/architecture.md names the packages, modules, tables and import contracts that exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from gridnode.cycles import view
from gridnode.db.models import Base
from gridnode.processes import catalog
from gridnode.settings import Settings

ROOT = Path(__file__).parent.parent.parent
NODE = ROOT / "node" / "gridnode"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def first_cells(title: str) -> list[str]:
    """The names in the first column of the table of a section."""
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)


def test_every_package_is_listed() -> None:
    packages = {path.parent.name for path in NODE.glob("*/__init__.py")}
    assert sorted(first_cells("Packages")) == sorted(packages)


def test_every_module_that_is_named_exists() -> None:
    named = re.findall(r"`(?:gridnode/)?([a-z_]+(?:/[a-z_]+)*\.py)`", PAGE)
    assert len(named) > 20
    missing = {name for name in named if not list(NODE.rglob(name)) and not (NODE / name).exists()}
    assert missing == set()


def test_every_table_is_listed() -> None:
    assert sorted(first_cells("Tables")) == sorted([*Base.metadata.tables, "alembic_version"])


def test_contracts_are_those_that_are_checked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    names = [contract["name"] for contract in project["tool"]["importlinter"]["contracts"]]
    assert re.findall(r"^([^|\n]+) KEPT$", PAGE, re.MULTILINE) == names


def test_figures_are_those_of_the_code() -> None:
    def default(name: str) -> Any:
        return Settings.__dataclass_fields__[name].default

    assert f"`GRIDNODE_THREADS_PER_PROCESS` ({default('threads_per_process')})" in PAGE
    assert f"`GRIDNODE_DATABASE_DEADLINE` ({default('database_deadline'):g} s)" in PAGE
    assert f"`GRIDNODE_DATABASE_STATEMENT_TIMEOUT` ({default('database_statement_timeout'):g} s)" in PAGE
    assert f"`GRIDNODE_DATABASE_CONNECT_TIMEOUT` ({default('database_connect_timeout'):g} s)" in PAGE
    connections = int(str(default("worker_processes"))) * int(str(default("database_pool_size")))
    assert f"With the defaults a replica needs {connections}." in PAGE
    assert f"| {catalog.FRESH_SECONDS:g} s; the fixed part never changes" in PAGE
    assert f"| whether a cycle runs | {view.FRESH_SECONDS:g} s |" in PAGE

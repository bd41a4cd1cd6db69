"""docs/cycles.md shows the states and moves that the code has, and the reasons for which devices are rejected."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from gridnode.cycles import retention
from gridnode.cycles import states as cycle_states
from gridnode.cycles.patience import LONGEST, SPREAD, TOO_SLOW
from gridnode.processes import states as process_states
from gridnode.processes.schema import ServerConfig
from gridnode.reporting.metrics import RejectionReason
from gridnode.settings import Settings

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "cycles.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    (text,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return str(text)


def moves_of_table(text: str) -> dict[str, set[str]]:
    """States of the first table with what they move to, which is the last column."""
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]*) \|$", text.partition("```mermaid")[0], re.MULTILINE)
    return {state: set(re.findall(r"`(\w+)`", targets)) for state, targets in rows}


def moves_of_diagram(text: str) -> dict[str, set[str]]:
    (diagram,) = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", text, re.DOTALL)
    edges = re.findall(r"^ +(\S+) --> (\S+): .+$", diagram, re.MULTILINE)
    assert len(edges) == len(diagram.strip().splitlines())
    moves: dict[str, set[str]] = {}
    for source, target in edges:
        moves.setdefault(source, set()).add(target)
        moves.setdefault(target, set())
    return moves


@pytest.mark.parametrize(
    ("title", "moves", "first"),
    [
        ("States of a process", process_states.MOVES, "active"),
        ("States of a cycle", cycle_states.MOVES, "open"),
    ],
)
def test_tables_and_diagrams_have_the_states_and_moves_of_the_code(
    title: str, moves: Mapping[str, frozenset[str]], first: str
) -> None:
    expected = {state: set(targets) for state, targets in moves.items()}
    assert moves_of_table(section(title)) == expected
    assert moves_of_diagram(section(title)) == {"[*]": {first}, **expected}


def test_moves_of_a_cycle_are_all_explained() -> None:
    explained = set(re.findall(r"^\| (?:`(\w+)` )?→ `(\w+)` \|", section("States of a cycle"), re.MULTILINE))
    expected = {(source, target) for source, targets in cycle_states.MOVES.items() for target in targets}
    assert {target for _, target in explained} == {target for _, target in expected}
    assert {move for move in explained if move[0]} <= expected


def test_rejections_are_those_that_the_code_gives() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", section("Rejections"), re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) <= {reason.value for reason in RejectionReason}
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "node" / "gridnode").rglob("*.py"))
    given = {reason.value for reason in RejectionReason if re.search(rf"\bRejectionReason\.{reason.name}\b", sources)}
    assert given - set(listed) == set()


def test_figures_are_those_of_the_code() -> None:
    assert ServerConfig().assignment_lease == 3600
    assert "`assignment_lease` seconds (one hour)" in PAGE
    assert "looks every `GRIDNODE_SWEEP_INTERVAL` seconds (1)" in PAGE
    assert Settings.__dataclass_fields__["sweep_interval"].default == 1.0
    assert Settings.__dataclass_fields__["database_deadline"].default == 5.0
    assert "`GRIDNODE_DATABASE_DEADLINE` (5 s)" in PAGE
    assert (SPREAD, LONGEST) == (5.0, 86_400.0)
    assert "up to 5 s at the least" in PAGE
    assert TOO_SLOW == 3600
    assert "| a speed is below the minimum | an hour, " in PAGE
    assert retention.ASSIGNMENT_LIFETIME.days == 7
    assert "for seven days" in PAGE

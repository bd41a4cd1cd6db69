"""docs/master.md says what the master node does: its settings, its endpoints, and the keys of events."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from gridnode_operator.master.keys.access import RULES, SCOPES
from gridnode_operator.master.models.running import RunningCycle
from gridnode_operator.master.settings import MasterSettings, master_setting_specs

PAGE = (Path(__file__).parents[4] / "docs" / "master.md").read_text(encoding="utf-8")
#: Settings whose default depends on the machine, in words.
FOUND_DEFAULTS = {"data_dir": "`~/.local/share/gridnode`"}


def section(title: str) -> str:
    """The text below a heading."""
    (text,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return str(text)


def test_settings() -> None:
    defaults = {each.name: each.default for each in fields(MasterSettings)}
    expected = []
    for spec in master_setting_specs():
        default = defaults[spec.name]
        shown = "not set" if default in (None, ()) else f"`{spec.kind.show(default)}`"
        expected.append((f"`{spec.variable}`", FOUND_DEFAULTS.get(spec.name, shown), spec.description))
    assert re.findall(r"^\| (`GRIDNODE_\w+`) \| (.*?) \| (.*) \|$", section("Settings"), re.MULTILINE) == expected


def test_scopes() -> None:
    assert tuple(re.findall(r"^\| `(\w+)` \|", section("Keys"), re.MULTILINE)) == SCOPES


def test_endpoints_of_2020() -> None:
    listed = re.findall(r"^\| `(?:GET|POST) /(\w*)` \| (\w+) \|", section("The API of 2020"), re.MULTILINE)
    assert {name or "running" for name, _ in listed} == {
        "running", "info", "model_progress", "model_loss", "create", "delete", "generate_key", "get_datasets",
    }  # fmt: skip
    for name, scope in listed:
        rule = RULES[name or "running"]
        assert rule.public if scope == "anyone" else scope in rule.scopes


def test_keys_of_a_running_cycle() -> None:
    (row,) = re.findall(r"^\| `running` \| (.*) \|$", section("Events"), re.MULTILINE)
    assert re.findall(r"`(\w+)`", row) == [each.name for each in fields(RunningCycle)]

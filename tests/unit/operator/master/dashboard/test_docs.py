"""docs/dashboard.md says what the dashboard does: its pages, its settings, and where a provider sends people back."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from gridnode_operator.master.dashboard.oidc import CALLBACK
from gridnode_operator.master.settings import master_setting_specs

PAGE = (Path(__file__).parents[5] / "docs" / "dashboard.md").read_text(encoding="utf-8")


def test_pages() -> None:
    frame = resources.files("gridnode_operator.master.dashboard").joinpath("templates", "page.html")
    entries = re.findall(r'\("\w+", "(\w+)", "[/\w]*"\)', frame.read_text(encoding="utf-8"))
    rows = re.findall(r"^\| ([A-Z]\w+)(?:, a \w+)? \|", PAGE, re.MULTILINE)
    assert sorted(set(rows) - {"A"}) == sorted(entries)


def test_settings_exist() -> None:
    known = {spec.variable for spec in master_setting_specs()}
    named = {name.removesuffix("_FILE") for name in re.findall(r"GRIDNODE_MASTER_\w+", PAGE)}
    assert named <= known
    assert {name for name in known if "OIDC" in name or "SESSION" in name} <= named


def test_way_back_from_a_provider() -> None:
    assert f"https://grid.example.org{CALLBACK}`" in PAGE

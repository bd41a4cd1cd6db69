"""Pages are reached from docs/index.md, and every link between them leads somewhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


def links_of(page: Path) -> list[str]:
    """Targets of links that are neither addresses nor inside code."""
    text = re.sub(r"```.*?```|`[^`\n]*`(?!\])", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]


def anchors_of(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_pages_and_headings_that_exist(page: Path) -> None:
    for link in links_of(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in anchors_of(target), f"{page.name} links to {link}"


def test_index_links_every_page() -> None:
    assert {f"{page.name}" for page in DOCS.glob("*.md")} - {"index.md"} == set(links_of(DOCS / "index.md"))


def test_pages_begin_with_a_command() -> None:
    for page in DOCS.glob("*.md"):
        before, fence, _ = page.read_text(encoding="utf-8").partition("```")
        assert fence, page.name
        assert len(before) < 2000, f"{page.name}: the first command comes late"


def test_source_distribution_has_what_the_pages_link() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = [ROOT / path.lstrip("/") for path in project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]]
    linked = {
        (page.parent / link.partition("#")[0]).resolve() for page in PAGES for link in links_of(page) if link[0] != "#"
    }
    missing = [str(target.relative_to(ROOT)) for target in linked if not any(map(target.is_relative_to, included))]
    assert sorted(missing) == []

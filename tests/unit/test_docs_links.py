"""Pages are reached from docs/index.md and the site's navigation, and every link between them leads somewhere."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
#: Everything with links to pages.
LINKING = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "helm/gridnode/README.md",
    *PAGES,
]
#: Pages of the site that are files beside docs/: see docs/site_hooks.py.
OUTSIDE = {"contributing.md", "changelog.md"}


def name_of(page: Path) -> str:
    """The page's path in the checkout, for messages and as a test's id."""
    return page.relative_to(ROOT).as_posix()


def links_of(page: Path) -> list[str]:
    """Targets of links that are neither addresses nor inside code."""
    text = re.sub(r"```.*?```|`[^`\n]*`(?!\])", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]


def anchors_of(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def navigation() -> list[str]:
    """The pages of mkdocs.yml's navigation, in its order."""
    return list(_pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))


def _pages(entry: object) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, dict):
        for value in entry.values():
            yield from _pages(value)
    else:
        assert isinstance(entry, list)
        for value in entry:
            yield from _pages(value)


@pytest.mark.parametrize("page", LINKING, ids=name_of)
def test_links_lead_to_pages_and_headings_that_exist(page: Path) -> None:
    for link in links_of(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{name_of(page)} links to {link}"
        if anchor:
            assert anchor in anchors_of(target), f"{name_of(page)} links to {link}"


def test_every_page_is_in_the_navigation_once() -> None:
    pages = sorted(page.relative_to(DOCS).as_posix() for page in PAGES)
    assert sorted(navigation()) == sorted([*pages, *OUTSIDE])


def test_index_links_every_page_but_the_runbooks() -> None:
    """Which page of alerts is for which is in monitoring.md."""
    pages = {page.relative_to(DOCS).as_posix() for page in PAGES if page.parent.name != "runbooks"}
    linked = {link.partition("#")[0] for link in links_of(DOCS / "index.md")}
    assert pages - {"index.md"} == {link for link in linked if not link.startswith("../")}


def test_pages_begin_with_a_command() -> None:
    """Or with the code of an app; a runbook has its commands after what the alert means."""
    for page in PAGES:
        before, fence, _ = page.read_text(encoding="utf-8").partition("```")
        assert fence, name_of(page)
        assert len(before) < 2000, f"{name_of(page)}: the first command comes late"


def test_source_distribution_has_what_the_pages_link() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = [ROOT / path.lstrip("/") for path in project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]]
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in LINKING
        for link in links_of(page)
        if link[0] != "#"
    }
    missing = [str(target.relative_to(ROOT)) for target in linked if not any(map(target.is_relative_to, included))]
    assert sorted(missing) == []

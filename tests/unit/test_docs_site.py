"""The documentation site is built without a warning, takes nothing from elsewhere, and has each alert's runbook."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
#: What a browser loads by itself, unlike a link that a reader follows.
LOADED = re.compile(r"""<(?:script|img|link|iframe|source)\b[^>]*?\b(?:src|href)=["']?(?:https?:)?//[^"'>\s]+""")

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does."""
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(directory)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    loaded = {match[0] for page in pages for match in LOADED.finditer(page.read_text(encoding="utf-8"))}
    assert loaded == set()
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_each_alerts_runbook_url_leads_to_its_page(site: Path) -> None:
    """With the site's address as `monitoring.rules.runbookBase`, to which the chart adds /ALERT.md."""
    alerts = yaml.safe_load((ROOT / "helm/gridnode/files/alerts.yaml").read_text(encoding="utf-8"))
    names = [rule["alert"] for group in alerts["groups"] for rule in group["rules"]]
    assert names
    for name in names:
        redirect = site / "runbooks" / f"{name}.md" / "index.html"
        found = re.search(r'url=([^"]+)"', redirect.read_text(encoding="utf-8"))
        assert found is not None
        page = (redirect.parent / found[1] / "index.html").resolve()
        assert f'<h1 id="{name.lower()}">{name}' in page.read_text(encoding="utf-8")


def test_files_beside_the_pages_are_pages_whose_links_work(site: Path) -> None:
    changelog = (site / "changelog" / "index.html").read_text(encoding="utf-8")
    assert "Keep a Changelog" in changelog
    assert 'href="../contributing/#a-migration"' in (site / "architecture" / "index.html").read_text(encoding="utf-8")

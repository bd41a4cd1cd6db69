"""The system's Chromium, driven by Playwright, and axe, which finds what keeps people from using a page."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Browser, Page, sync_playwright

AXE: Final = "4.14.1"
_FLAGS: Final = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
_SEVERE: Final = ("serious", "critical")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser.

    Raises:
        AssertionError: there is none; says what to install.
    """
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "These tests need Chromium. On Debian: apt-get install chromium; or name it in CHROMIUM."
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def axe_source() -> str:
    """The script of axe-core, from npm once, and then from a folder in the home directory."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gridnode" / f"axe-core-{AXE}"
    script = cache / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists():
        cache.mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", f"axe-core@{AXE}"]
        subprocess.run([*install, "--prefix", str(cache)], check=True, timeout=120)
    return script.read_text(encoding="utf-8")


def violations(page: Page, source: str) -> list[str]:
    """What axe finds serious or critical on a page, as text."""
    page.evaluate(source)
    found: list[dict[str, Any]] = page.evaluate("async () => (await axe.run(document)).violations")
    return [
        f"{each['id']} ({each['impact']}): {each['help']}: {[node['html'][:160] for node in each['nodes'][:3]]}"
        for each in found
        if each["impact"] in _SEVERE
    ]

"""The notes of a release are the changelog's section of its version."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CHANGELOG = """# Changelog

## [Unreleased]

## [1.2.3-rc.1] - 2026-12-01

### Added

- One.

- Two.

## [1.2.2] - 2026-11-01

- Three.

[1.2.2]: https://example.com/1.2.2
"""

pytestmark = pytest.mark.process


def notes(directory: Path, version: str) -> subprocess.CompletedProcess[str]:
    """What the script says of a version, in a checkout with that changelog."""
    script = directory / ".github" / "release-notes.sh"
    script.parent.mkdir(exist_ok=True)
    shutil.copy(ROOT / ".github" / "release-notes.sh", script)
    (directory / "CHANGELOG.md").write_text(CHANGELOG, encoding="utf-8")
    return subprocess.run([str(script), version], capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize(
    ("version", "expected"), [("1.2.3-rc.1", "### Added\n\n- One.\n\n- Two.\n\n"), ("1.2.2", "- Three.\n\n")]
)
def test_notes_are_the_section_of_the_version(tmp_path: Path, version: str, expected: str) -> None:
    done = notes(tmp_path, version)
    assert (done.returncode, done.stdout) == (0, expected)


@pytest.mark.parametrize("version", ["Unreleased", "1.2", "1.2.3"])
def test_version_without_a_section_or_with_an_empty_one_has_none(tmp_path: Path, version: str) -> None:
    done = notes(tmp_path, version)
    assert done.returncode != 0
    assert f"[{version}]" in done.stderr

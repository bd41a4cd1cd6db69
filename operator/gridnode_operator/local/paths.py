"""Paths as people read and type them."""

from __future__ import annotations

import shlex
from pathlib import Path


def shown_path(path: Path) -> str:
    """Short, and quoted where a shell needs it."""
    home = Path.home()
    if path != home and path.is_relative_to(home):
        return f"~/{shlex.quote(str(path.relative_to(home)))}"
    return shlex.quote(str(path))

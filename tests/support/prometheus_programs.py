"""Debian's ``prometheus`` and ``promtool``: those on the path, or the package's, unpacked into a cache once.

Nothing is installed on the machine: the package would start a server.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

_PACKAGE = "prometheus"


def prometheus_program(name: str, environment: Mapping[str, str] = os.environ) -> str:
    """The path of ``prometheus`` or ``promtool``.

    Raises:
        AssertionError: it is not installed, and the package can't be had; says what to do.
    """
    found = shutil.which(name)
    if found is not None:
        return found
    given = environment.get("GRIDNODE_CACHE")
    folder = (Path(given) if given else Path.home() / ".cache" / "gridnode") / "debian" / _PACKAGE
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "usr" / "bin" / name
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            _unpack(folder)
    assert program.exists(), f"Debian's package {_PACKAGE} has no {name}."
    return str(program)


def _unpack(folder: Path) -> None:
    advice = f"These tests need Prometheus: install it (Debian: apt-get install {_PACKAGE})."
    assert shutil.which("apt-get"), advice
    if not _run(folder, "apt-get", "download", _PACKAGE):
        # A machine that has just been made has no lists of packages.
        assert os.geteuid() == 0, advice
        assert _run(folder, "apt-get", "update"), advice
        assert _run(folder, "apt-get", "download", _PACKAGE), advice
    for package in folder.glob(f"{_PACKAGE}_*.deb"):
        assert _run(folder, "dpkg-deb", "--extract", str(package), str(folder)), advice
        package.unlink()


def _run(folder: Path, *command: str) -> bool:
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=300, check=False)
    return done.returncode == 0

"""What a cluster needs beside Kubernetes, built from the Go modules in this folder, once per machine and version."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.control_plane.build import BinariesMissing

HERE = Path(__file__).parent
_USUAL_GO = "/usr/local/go/bin/go"
#: Where the main packages are.
PACKAGES = {
    "coredns": ".",
    "kube-router": "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router",
}


def cache(name: str) -> Path:
    """A folder that outlives test runs, in ``$GRIDNODE_CACHE`` or ``~/.cache/gridnode``."""
    given = os.environ.get("GRIDNODE_CACHE")
    folder = (Path(given) if given else Path.home() / ".cache" / "gridnode") / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def program(name: str) -> Path:
    """The path of one of :data:`PACKAGES`, which is built first where it is missing: a minute or two.

    Raises:
        BinariesMissing: Go is missing, too old, or failed.
    """
    module = HERE / name.replace("-", "_")
    recipe = hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(module.iterdir()))).hexdigest()
    folder = cache("end-to-end")
    command, stamp = folder / name, folder / f".{name}.recipe"
    with (folder / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not command.exists() or not stamp.exists() or stamp.read_text() != recipe:
            _build(module, PACKAGES[name], command)
            stamp.write_text(recipe)
    return command


def _build(module: Path, package: str, command: Path) -> None:
    go = shutil.which("go") or shutil.which(_USUAL_GO)
    if go is None:
        raise BinariesMissing(f"End-to-end tests need {command.name}, which is built from its Go module: install Go.")
    print(f"Building {command.name} (the first time takes minutes) …", file=sys.stderr, flush=True)
    # Moved into place when it is whole: a running one keeps its file.
    unfinished = command.with_name(f".{command.name}.new")
    built = subprocess.run(
        [
            go, "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w",
            "-o", str(unfinished), package,
        ],
        cwd=module,
        env={**os.environ, "CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    if built.returncode:
        raise BinariesMissing(f"{go} could not build {command.name}:\n{built.stderr[-4000:]}")
    unfinished.replace(command)

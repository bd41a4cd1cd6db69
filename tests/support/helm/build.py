"""Build Helm 4 and Helm 3 from the Go modules in this folder, once per machine and version.

    python -m tests.support.helm.build

prints the commands' paths. They are in ``helm/<version>`` in ``$GRIDNODE_CACHE``, or in ``~/.cache/gridnode``; versions
are pinned by ``v4/go.mod`` and ``v3/go.mod``.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

HERE = Path(__file__).parent
_USUAL_GO = "/usr/local/go/bin/go"

Major = Literal[3, 4]
MAJORS: tuple[Major, ...] = (4, 3)


class HelmMissing(Exception):
    """There is no helm, and none can be built; says what to install."""


def helm(major: Major = 4, environment: Mapping[str, str] = os.environ) -> Path:
    """The path of helm, which is built first where it is missing: a minute or two; two callers don't build twice.

    Raises:
        HelmMissing: Go is missing, too old, or failed.
    """
    module = HERE / f"v{major}"
    given = environment.get("GRIDNODE_CACHE")
    cache = Path(given) if given else Path.home() / ".cache" / "gridnode"
    folder = cache / "helm" / version(major)
    recipe = hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(module.iterdir()))).hexdigest()
    command, stamp = folder / "helm", folder / ".recipe"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not command.exists() or not stamp.exists() or stamp.read_text() != recipe:
            _build(module, major, command, environment)
            stamp.write_text(recipe)
    return command


def version(major: Major) -> str:
    """The pinned version, such as ``v4.3.1``."""
    content = (HERE / f"v{major}" / "go.mod").read_text(encoding="utf-8")
    found = re.search(rf"^require helm\.sh/helm/v{major} (v\S+)$", content, re.MULTILINE)
    assert found is not None, f"v{major}/go.mod pins no helm"
    return found[1]


def _build(module: Path, major: Major, command: Path, environment: Mapping[str, str]) -> None:
    go = shutil.which("go", path=environment.get("PATH")) or shutil.which(_USUAL_GO)
    if go is None:
        raise HelmMissing("Tests of the chart need helm, which is built from its Go module: install Go ≥ 1.26.")
    print(f"Building helm {version(major)}, for tests of the chart (the first time takes minutes) …", file=sys.stderr)
    package = f"helm.sh/helm/v{major}"
    flags = f"-s -w -X {package}/internal/version.version={version(major)}"
    # Moved into place when it is whole: a running one keeps its file.
    unfinished = command.with_name(".helm.new")
    built = subprocess.run(
        [
            go, "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", flags,
            "-o", str(unfinished), f"{package}/cmd/helm",
        ],
        cwd=module,
        env={**environment, "CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    if built.returncode:
        raise HelmMissing(f"{go} could not build helm (it takes Go ≥ 1.26):\n{built.stderr[-4000:]}")
    unfinished.replace(command)


if __name__ == "__main__":
    for each in MAJORS:
        print(helm(each))

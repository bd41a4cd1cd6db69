"""Build etcd and Kubernetes from the Go modules in this folder, once per machine and version.

    python -m tests.support.control_plane.build [kubelet kube-proxy]

prints the folder that holds the commands. It is ``control-plane/<version>/bin`` in ``$GRIDNODE_CACHE``, or in
``~/.cache/gridnode``; or ``$KUBEBUILDER_ASSETS`` if that is set, which is then taken as it is. Versions are pinned by
``kubernetes/go.mod`` and ``etcd/go.mod``; a command is built again when what it is made from has changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
_USUAL_GO = "/usr/local/go/bin/go"
ALL = (*CONTROL_PLANE, "kubelet", "kube-proxy")


class BinariesMissing(Exception):
    """There are no commands to start, and none can be built; says what to install or to set."""


def binaries(commands: Sequence[str] = CONTROL_PLANE, environment: Mapping[str, str] = os.environ) -> Path:
    """The folder with etcd, kube-apiserver and the rest, which are built first where they are missing.

    The first build takes minutes and tells of its progress on stderr; later calls take milliseconds. Two processes
    that call at once don't build twice.

    Args:
        commands: those of :data:`ALL` that must be there.

    Raises:
        BinariesMissing: ``KUBEBUILDER_ASSETS`` lacks some, or Go is missing, too old, or failed.
    """
    assets = environment.get("KUBEBUILDER_ASSETS")
    if assets:
        return _given(Path(assets), commands)
    folder = _cache(environment) / "control-plane" / kubernetes_version() / "bin"
    if all(_is_current(folder, command) for command in commands):
        return folder
    go = _go(environment)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder.parent / "lock"):
        for command in commands:
            if not _is_current(folder, command):
                _build(go, folder, command, environment)
    return folder


def kubernetes_version() -> str:
    """The pinned version, such as ``v1.36.3``."""
    return _pinned("kubernetes/go.mod", r"k8s\.io/kubernetes (v\S+)")


def _given(folder: Path, commands: Sequence[str]) -> Path:
    missing = [command for command in commands if not os.access(folder / command, os.X_OK)]
    if missing:
        raise BinariesMissing(
            f"KUBEBUILDER_ASSETS is {folder}, which has no {', '.join(missing)}. Put them there (archives made for "
            "envtest hold no controller manager and no scheduler), or unset it and install Go, and they are built."
        )
    return folder


def _cache(environment: Mapping[str, str]) -> Path:
    given = environment.get("GRIDNODE_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "gridnode"


def _pinned(file: str, pattern: str) -> str:
    found = re.search(rf"^(?:require )?\s*{pattern}$", (HERE / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None, f"{file} pins no {pattern}"
    return found[1]


def _go(environment: Mapping[str, str]) -> str:
    """The Go that builds."""
    wanted = _pinned("kubernetes/go.mod", r"go (\d\S+)")
    major, minor = wanted.split(".")[:2]
    advice = (
        f"Tests on a real API server need its binaries: install Go ≥ {major}.{minor} or set KUBEBUILDER_ASSETS to "
        f"a folder with {', '.join(CONTROL_PLANE)}"
    )
    go = shutil.which("go", path=environment.get("PATH")) or shutil.which(_USUAL_GO)
    if go is None:
        raise BinariesMissing(f"{advice}. There is no go on the PATH.")
    # Asked beside go.mod, a Go that may fetch a newer one of itself (GOTOOLCHAIN=auto) answers with that one's version.
    answer = subprocess.run(
        [go, "env", "GOVERSION"],
        cwd=HERE / "kubernetes",
        env=dict(environment),
        capture_output=True,
        text=True,
        check=False,
    )
    version = re.match(r"go(\d+)\.(\d+)", answer.stdout)
    if answer.returncode or not version or (int(version[1]), int(version[2])) < (int(major), int(minor)):
        raise BinariesMissing(f"{advice}. {go} is too old: {(answer.stdout + answer.stderr).strip()}")
    return go


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file's lock, which ends with the process."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _tell("Waiting for another process that builds them …")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_current(folder: Path, command: str) -> bool:
    stamp = folder / f".{command}.recipe"
    if not os.access(folder / command, os.X_OK) or not stamp.exists():
        return False
    return stamp.read_text(encoding="utf-8") == _recipe(command)


def _recipe(command: str) -> str:
    """Changes when a command has to be built again: its module's files and the arguments of the compiler."""
    module = _module(command)
    files = [path.read_bytes() for path in sorted([*module.glob("go.*"), *module.glob("*.go")])]
    return hashlib.sha256(b"\0".join([*files, " ".join(_arguments(command)).encode()])).hexdigest()


def _module(command: str) -> Path:
    return HERE / ("etcd" if command == "etcd" else "kubernetes")


def _arguments(command: str) -> list[str]:
    # Symbols and debug information would be a third of the size.
    flags = ["-s", "-w"]
    if command != "etcd":
        version = kubernetes_version()
        major, minor = version.removeprefix("v").split(".")[:2]
        # Without it, the API server says v0.0.0-master, which charts refuse. kubectl reads client-go's.
        stamps = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
        packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
        flags += [f"-X {package}.{name}={value}" for package in packages for name, value in stamps.items()]
    package = "." if command == "etcd" else f"k8s.io/kubernetes/cmd/{command}"
    return ["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", " ".join(flags), package]


def _build(go: str, folder: Path, command: str, environment: Mapping[str, str]) -> None:
    _tell(f"Building {command} for the tests of the operator (the first time takes minutes) …")
    started = time.monotonic()
    arguments = _arguments(command)
    # Moved into place when it is whole: a running one keeps its file.
    unfinished = folder / f".{command}.new"
    built = subprocess.run(
        [go, *arguments[:-1], "-o", str(unfinished), arguments[-1]],
        cwd=_module(command),
        env={**environment, "CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        raise BinariesMissing(f"go could not build {command}:\n{built.stderr[-4000:]}")
    unfinished.replace(folder / command)
    (folder / f".{command}.recipe").write_text(_recipe(command), encoding="utf-8")
    size = (folder / command).stat().st_size / 1e6
    _tell(f"Built {command}: {time.monotonic() - started:.0f} s, {size:.0f} MB")


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Build the control plane's commands and those that are named."""
    unknown = sorted(set(arguments) - set(ALL))
    if unknown:
        _tell(f"{', '.join(unknown)}: not one of {', '.join(ALL)}.")
        return 2
    try:
        folder = binaries([command for command in ALL if command in CONTROL_PLANE or command in arguments])
    except BinariesMissing as error:
        _tell(str(error))
        return 1
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Where etcd, the API server and the rest come from: given, built once, or a word on what to install."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.control_plane import build
from tests.support.control_plane.build import CONTROL_PLANE, BinariesMissing, binaries, kubernetes_version

# Stands for Go: says its version, writes down that it was called, and "builds" after a while.
FAKE_GO = """#!/bin/sh
if [ "$1" = env ]; then echo "$FAKE_GO_VERSION"; exit; fi
echo "$@" >> "$FAKE_GO_LOG"
if [ -n "$FAKE_GO_ERROR" ]; then echo "$FAKE_GO_ERROR" >&2; exit 1; fi
while [ "$1" != -o ]; do shift; done
sleep 0.2
printf '#!/bin/sh\\n' > "$2"
chmod +x "$2"
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment with a stand-in for Go and an empty cache."""
    go = tmp_path / "path" / "go"
    executable(go, FAKE_GO)
    return {
        "PATH": f"{go.parent}{os.pathsep}{os.environ['PATH']}",
        "GRIDNODE_CACHE": str(tmp_path / "cache"),
        "FAKE_GO_LOG": str(tmp_path / "calls"),
        "FAKE_GO_VERSION": "go1.26.0",
    }


def executable(path: Path, content: str = "") -> None:
    """Write a file that can be executed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    path.chmod(0o755)


def calls(environment: dict[str, str]) -> list[str]:
    """The last argument of each build."""
    log = Path(environment["FAKE_GO_LOG"])
    return [line.split()[-1] for line in log.read_text().splitlines()] if log.exists() else []


def test_given_binaries_are_taken_as_they_are(tmp_path: Path) -> None:
    for command in CONTROL_PLANE:
        executable(tmp_path / command)
    assert binaries(environment={"KUBEBUILDER_ASSETS": str(tmp_path), "PATH": ""}) == tmp_path


def test_what_is_missing_from_given_binaries_is_named(tmp_path: Path) -> None:
    for command in ("etcd", "kube-apiserver", "kubectl"):
        executable(tmp_path / command)
    with pytest.raises(BinariesMissing, match=r"has no kube-controller-manager, kube-scheduler\."):
        binaries(environment={"KUBEBUILDER_ASSETS": str(tmp_path), "PATH": ""})


def test_without_go_it_says_what_to_set(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_USUAL_GO", "/nowhere/go")
    with pytest.raises(BinariesMissing, match=r"install Go ≥ 1\.26 or set KUBEBUILDER_ASSETS .* no go on the PATH"):
        binaries(environment={**environment, "PATH": ""})


@pytest.mark.parametrize("version", ["go1.9.7", "go1.25.11", "go: go.mod requires go >= 1.26.0 (running go 1.22.2)"])
def test_go_that_is_too_old_is_refused(environment: dict[str, str], version: str) -> None:
    with pytest.raises(BinariesMissing, match=r"install Go ≥ 1\.26 .* is too old"):
        binaries(environment={**environment, "FAKE_GO_VERSION": version})
    assert calls(environment) == []


@pytest.mark.parametrize("version", ["go1.26.0", "go1.100.2", "go2.0"])
def test_newer_go_builds(environment: dict[str, str], version: str) -> None:
    folder = binaries(["etcd"], {**environment, "FAKE_GO_VERSION": version})
    assert folder == Path(environment["GRIDNODE_CACHE"], "control-plane", kubernetes_version(), "bin")
    assert os.access(folder / "etcd", os.X_OK)


def test_each_command_is_built_once(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    binaries(environment=environment)
    assert calls(environment) == [".", *(f"k8s.io/kubernetes/cmd/{command}" for command in CONTROL_PLANE[1:])]
    binaries(environment=environment)
    assert len(calls(environment)) == len(CONTROL_PLANE)
    # A cached binary needs no Go any more.
    monkeypatch.setattr(build, "_USUAL_GO", "/nowhere/go")
    binaries(environment={**environment, "PATH": ""})


def test_changed_recipe_is_built_again(environment: dict[str, str]) -> None:
    folder = binaries(["etcd"], environment)
    (folder / ".etcd.recipe").write_text("of another version")
    binaries(["etcd"], environment)
    assert calls(environment) == [".", "."]


def test_version_is_stamped(environment: dict[str, str]) -> None:
    binaries(["kube-apiserver"], environment)
    assert f"k8s.io/component-base/version.gitVersion={kubernetes_version()} " in Path(
        environment["FAKE_GO_LOG"]
    ).read_text()  # fmt: skip


def test_two_at_once_build_once(environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", "from tests.support.control_plane.build import *; print(binaries(['etcd']))"]
    root = Path(__file__).parent.parent.parent
    both = [
        subprocess.Popen(command, cwd=root, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert calls(environment) == ["."]


def test_failed_build_says_why_and_is_tried_again(environment: dict[str, str]) -> None:
    with pytest.raises(BinariesMissing, match="could not build etcd:\nno space left"):
        binaries(["etcd"], {**environment, "FAKE_GO_ERROR": "no space left"})
    binaries(["etcd"], environment)
    assert calls(environment) == [".", "."]

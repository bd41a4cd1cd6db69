"""What `gridnode up` keeps on disk: Secrets as private files, one user at a time, and nothing left running."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from gridnode_operator.api import ROTATION_ANNOTATION, SecretKey
from gridnode_operator.desired.secret import build_database_secret
from gridnode_operator.local.data_directory import AlreadyRunning, DataDirectory, wait_until_unused
from gridnode_operator.local.secret_files import SecretFiles
from gridnode_operator.tenants import secret_value
from tests.support.gridnode_manifests import DATABASE_URL, context, gridnode

KEY = SecretKey("demo-database", "url")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_secret_is_read_as_it_was_applied_and_by_its_owner_alone(tmp_path: Path) -> None:
    files = SecretFiles(tmp_path / "secrets")
    assert files.find("apps", KEY.name) is None
    assert files.read("apps", KEY) is None

    files.apply("apps", build_database_secret(gridnode(), context()))

    assert files.read("apps", KEY) == DATABASE_URL
    assert secret_value(files.find("apps", KEY.name), "url") == DATABASE_URL
    assert mode(files.path("apps", KEY)) == 0o600
    assert files.find("default", KEY.name) is None


def test_secret_has_a_version_and_annotations(tmp_path: Path) -> None:
    files = SecretFiles(tmp_path)
    manifest = build_database_secret(gridnode(), context())
    files.apply("apps", manifest)
    before = files.find("apps", KEY.name)
    assert before is not None
    written = files.path("apps", KEY).stat().st_mtime_ns

    files.apply("apps", manifest)
    assert files.path("apps", KEY).stat().st_mtime_ns == written
    assert files.find("apps", KEY.name) == before

    manifest["metadata"]["annotations"] = {ROTATION_ANNOTATION: "second"}
    files.apply("apps", manifest)
    after = files.find("apps", KEY.name)
    assert after is not None
    assert after["metadata"]["annotations"] == {ROTATION_ANNOTATION: "second"}
    assert after["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]
    assert after["data"].keys() == {"url"}
    files.remove("apps", KEY.name)
    assert files.find("apps", KEY.name) is None


def test_directory_has_one_user_who_is_named_to_others(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path / "data")
    assert data.user() is None

    with data.used():
        assert data.user() == os.getpid()
        assert mode(data.path) & 0o707 == 0o700
        with pytest.raises(AlreadyRunning, match=rf"\(process {os.getpid()}\) uses .*data.*`gridnode down --data "):
            data.used().__enter__()
        with pytest.raises(AlreadyRunning):
            data.delete()
        assert not wait_until_unused(data, 0.1)

    assert data.user() is None
    assert wait_until_unused(data, 0)
    with data.used():
        pass


def test_delete_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path / "data")
    with data.used():
        data.secrets.apply("apps", build_database_secret(gridnode(), context()))
        data.log_file(gridnode(), "replica-1").write_text("…")
        (data.path / "postgresql").mkdir()
    (data.path / "notes.txt").write_text("mine")

    data.delete()

    assert [path.name for path in data.path.iterdir()] == ["notes.txt"]
    (data.path / "notes.txt").unlink()
    data.delete()
    assert not data.path.exists()


@pytest.mark.process
def test_processes_of_a_killed_run_are_ended_and_no_others(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path / "data")
    sleepers = [_sleeper() for _ in range(3)]
    try:
        with data.used():
            left, over, other = sleepers
            for each in (left, over):
                data.remember_process(each.pid)
            data.forget_process(over.pid)
            # The id of a process that has ended, and that another one has now.
            (data.path / "processes" / str(other.pid)).write_text("1.5")

        with data.used():
            left.wait(10)
            assert over.poll() is None
            assert other.poll() is None
            assert list((data.path / "processes").iterdir()) == []
    finally:
        for each in sleepers:
            each.kill()
            each.wait()


def _sleeper() -> subprocess.Popen[Any]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    assert psutil.pid_exists(process.pid)
    return process

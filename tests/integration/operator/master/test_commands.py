"""``gridnode keys``, ``models`` and ``watch`` as people run them."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest

from gridnode_operator.master.client import MasterClient, MasterFailed
from tests.support.master_process import ADMIN, MasterProcess
from tests.support.node import ROOT, gridnode

pytestmark = pytest.mark.integration


def environment(**variables: object) -> dict[str, str]:
    """This one's without GRIDNODE_ variables, and some."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GRIDNODE_")}
    path = os.pathsep.join([f"{ROOT}/node", f"{ROOT}/operator"])
    return {**inherited, "PYTHONPATH": path, **{name: str(value) for name, value in variables.items()}}


def run(*arguments: str, **variables: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        gridnode(*arguments), env=environment(**variables), capture_output=True, text=True, timeout=60, check=False
    )


def progress(master: MasterProcess, model: str, percent: int) -> None:
    """What a node posts."""
    event = {
        "percent_complete": percent, "model_id": model, "version": "1.0", "cycle": percent, "cycles": 100,
        "node_id": "apps/demo", "event_id": str(uuid.uuid4()), "loss": 0.25,
    }  # fmt: skip
    master.admin.post("/model_progress", event)


def test_life_of_a_key(empty_database_url: str, tmp_path: Path) -> None:
    database: dict[str, object] = {"GRIDNODE_MASTER_DATABASE_URL": empty_database_url}
    made = run(
        "keys", "create", "--scope", "notebook", "--owner", "ann", "--note", "[bold]x", "--days", "3", **database
    )
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    assert key.startswith("gnk_")
    with MasterProcess(empty_database_url, tmp_path) as master:
        assert master.anonymous.with_key(key).get("/api/v1/whoami")["owner"] == "ann"
        listed = json.loads(run("keys", "list", "--output", "json", **database).stdout)
        assert [(each["scope"], each["owner"], each["note"]) for each in listed] == [("notebook", "ann", "[bold]x")]
        assert key not in run("keys", "list", **database).stdout
        revoked = run("keys", "revoke", str(listed[0]["id"]), **database)
        assert "is revoked" in revoked.stdout
        refused = run("keys", "revoke", "99", **database)
        assert (refused.returncode, refused.stderr.strip()) == (1, "error: there is no key 99")
    assert json.loads(run("keys", "list", "--output", "json", **database).stdout) == []


def test_key_without_an_owner_says_what_is_missing(empty_database_url: str) -> None:
    made = run("keys", "create", "--scope", "app", GRIDNODE_MASTER_DATABASE_URL=empty_database_url)
    assert (made.returncode, made.stdout) == (1, "")
    assert "keys for apps and notebooks have an owner" in made.stderr


def test_models(shared_master: MasterProcess) -> None:
    where = {"GRIDNODE_MASTER_URL": shared_master.url, "GRIDNODE_MASTER_API_KEY": ADMIN}
    progress(shared_master, "[red]digits", 40)
    listed = json.loads(run("models", "--output", "json", **where).stdout)
    assert [(each["name"], each["percent"]) for each in listed] == [("[red]digits", 40)]
    table = run("models", **where).stdout
    assert "[red]digits" in table
    assert "40 %" in table
    assert json.loads(run("models", "--state", "finished", "--output", "json", **where).stdout) == []


def test_node_key_for_the_operator(shared_master: MasterProcess) -> None:
    key = MasterClient(shared_master.url, ADMIN).create_node_key("apps/of-the-operator")
    assert shared_master.anonymous.with_key(key).get("/api/v1/whoami") == {
        "scope": "node", "owner": None, "node_id": "apps/of-the-operator",
    }  # fmt: skip
    with pytest.raises(MasterFailed, match="not for this"):
        MasterClient(shared_master.url, key).create_node_key("apps/other")


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"GRIDNODE_MASTER_URL": "http://127.0.0.1:9"}, "Is the master node running?"),
        ({"GRIDNODE_MASTER_URL": "ftp://x"}, "is no address of a master node"),
        ({"GRIDNODE_MASTER_API_KEY": "gnk_wrong"}, "This key is not valid"),
        ({}, "This needs a key"),
    ],
)
def test_models_says_what_to_do(shared_master: MasterProcess, variables: dict[str, Any], reason: str) -> None:
    done = run("models", **{"GRIDNODE_MASTER_URL": shared_master.url, **variables})
    assert done.returncode == 1
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_watch_tells_each_change_and_outlives_a_restart(empty_database_url: str, tmp_path: Path) -> None:
    with MasterProcess(empty_database_url, tmp_path) as master:
        progress(master, "digits", 1)
        watching = subprocess.Popen(
            gridnode("watch", "--output", "json"),
            env=environment(GRIDNODE_MASTER_URL=master.url, GRIDNODE_MASTER_API_KEY=ADMIN),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert watching.stdout is not None
        timer = threading.Timer(60, watching.kill)
        timer.start()
        try:
            assert json.loads(watching.stdout.readline())["percent"] == 1
            progress(master, "digits", 2)
            assert json.loads(watching.stdout.readline())["percent"] == 2
            master.stop()
            master.start()
            master.wait_until_ready()
            progress(master, "digits", 3)
            assert json.loads(watching.stdout.readline())["percent"] == 3
        finally:
            timer.cancel()
            watching.kill()
            watching.communicate()


@pytest.mark.parametrize(
    "command", [["master"], ["keys", "create"], ["keys", "list"], ["keys", "revoke"], ["models"], ["watch"]]
)
def test_help_has_examples(command: list[str]) -> None:
    shown = run(*command, "--help")
    assert shown.returncode == 0
    assert "Examples:" in shown.stdout
    assert f"gridnode {' '.join(command)}" in " ".join(shown.stdout.split())

"""What a person and a program see of `gridnode up`."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gridnode_operator.local.data_directory import DataDirectory
from gridnode_operator.local.display import Display
from gridnode_operator.local.master import Heard
from gridnode_operator.local.paths import shown_path
from gridnode_operator.local.runner import View
from gridnode_operator.local.session import Screen
from gridnode_operator.local.sources import StatusFiles
from gridnode_operator.local.stack import StackView
from gridnode_operator.master.nodes.local import LocalProvider
from gridnode_operator.master.nodes.template import NodeTemplate
from gridnode_operator.status import summarize_models
from tests.support.gridnode_manifests import gridnode

PROCESS = {
    "name": "digits", "version": "1.0", "state": "active", "progress": 40, "num_cycles": 10, "completed_cycles": 4,
}  # fmt: skip


def view(name: str = "demo", **changes: Any) -> View:
    values: dict[str, Any] = {
        "gridnode": gridnode(name=name, namespace="default"),
        "wanted": 2,
        "ready": 2,
        "settled": True,
        "problem": None,
        "models": summarize_models([PROCESS]),
        "processes": (PROCESS,),
        "device_port": 5000,
        "management_port": 5050,
        "process_ids": (11, 12),
    }
    return View(**{**values, **changes})


def stack(*views: View) -> StackView:
    return StackView(
        "http://127.0.0.1:5001", True, Path("/data/master/admin-key"), views,
        {"default/demo": Heard({"digits": 30}, 30)},
    )  # fmt: skip


@pytest.fixture
def display(tmp_path: Path) -> Display:
    return Display(DataDirectory(tmp_path), "0.0.0.0")


def printed(renderable: Any) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(renderable)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def test_table_tells_each_gridnode_and_what_is_wrong(display: Display) -> None:
    other = view("other", ready=1, settled=False, problem="the database does not answer", models=None, device_port=5002)

    shown = printed(display.table(stack(view(), other), stopping=False))

    first, second = (line.split() for line in shown.splitlines()[2:4])
    assert (first[0], first[1], first[2]) == ("demo", "2/2", "1")
    assert "30 %" in " ".join(first)
    assert first[-2:] == ["http://127.0.0.1:5000", "http://127.0.0.1:5050"]
    assert second[:4] == ["other", "1/2", "-", "-"]
    assert "other: the database does not answer" in shown
    assert "Ctrl-C stops, data are kept" in " ".join(shown.split())


def test_where_the_master_node_is_can_be_pasted_once_it_answers(display: Display) -> None:
    lines = display.how_to_ask_master(stack(view())).splitlines()

    assert "  export GRIDNODE_MASTER_URL=http://127.0.0.1:5001" in lines
    assert "  export GRIDNODE_MASTER_API_KEY_FILE=/data/master/admin-key" in lines
    assert lines[-1] == "  gridnode models"


def test_commands_can_be_pasted(display: Display, tmp_path: Path) -> None:
    lines = display.how_to_manage(view()).splitlines()

    assert "  export GRIDNODE_MANAGEMENT_URL=http://127.0.0.1:5050" in lines
    assert f"  export GRIDNODE_MANAGEMENT_TOKEN_FILE={tmp_path}/secrets/default/demo-management/token" in lines


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/home/ada/data", "~/data"),
        ("/home/ada/my data", "~/'my data'"),
        ("/home/ada", "/home/ada"),
        ("/srv/up", "/srv/up"),
        ("/srv/a b", "'/srv/a b'"),
    ],
)
def test_paths_can_be_pasted(monkeypatch: pytest.MonkeyPatch, path: str, shown: str) -> None:
    monkeypatch.setenv("HOME", "/home/ada")

    assert shown_path(Path(path)) == shown


def test_json_has_what_a_program_needs(display: Display, tmp_path: Path) -> None:
    told = json.loads(json.dumps(display.as_json(stack(view()), stopping=False)))

    assert (told["ready"], told["stopping"], told["master_url"]) == (True, False, "http://127.0.0.1:5001")
    assert (told["master_ready"], told["master_key_file"]) == (True, "/data/master/admin-key")
    [one] = told["gridnodes"]
    assert one["token_file"] == f"{tmp_path}/secrets/default/demo-management/token"
    assert one["models"] == [{"name": "digits", "version": "1.0", "state": "active", "progress": 40}]
    assert (one["reported"], one["progress"], one["url"]) == ({"digits": 30}, 30, "http://127.0.0.1:5000")
    assert display.as_json(stack(view()), stopping=True)["ready"] is False
    assert display.as_json(stack(view(settled=False)), stopping=False)["ready"] is False


def test_lines_tell_only_what_has_changed(display: Display, capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(display, Console(file=io.StringIO()), as_json=False)

    for ready in (0, 1, 1, 2):
        screen.show(stack(view(ready=ready, settled=False)))

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["0/2", "1/2", "2/2"]
    assert lines[0] == "demo: 0/2 ready, models 1, progress 30 %, http://127.0.0.1:5000"


def test_commands_are_told_once(display: Display) -> None:
    output = io.StringIO()
    screen = Screen(display, Console(file=output, width=200), as_json=False)

    for settled in (False, True, False, True):
        screen.show(stack(view(settled=settled)))

    assert output.getvalue().count("gridnode host --help") == 1


def test_master_node_can_read_the_status_files(display: Display, tmp_path: Path) -> None:
    files, provider = StatusFiles(tmp_path / "nodes"), LocalProvider(tmp_path / "nodes", NodeTemplate(None))

    files.write(display.statuses(stack(view(), view("other", settled=False, ready=1))))

    found = {each.node_id: each for each in provider.observe()}
    assert {key: each.ready for key, each in found.items()} == {"default/demo": True, "default/other": False}
    assert (found["default/other"].ready_replicas, found["default/demo"].url) == (1, "http://127.0.0.1:5000")
    assert (tmp_path / "nodes" / "demo.status.json").stat().st_mode & 0o777 == 0o600
    files.write(display.statuses(stack(view())))
    assert [each.node_id for each in provider.observe()] == ["default/demo"]
    files.clear()
    assert provider.observe() == []

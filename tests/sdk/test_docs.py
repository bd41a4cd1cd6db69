"""The programs of docs/authoring.md work as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from gridnode.sdk import check_plan
from gridnode.simulation.datasets import Examples, load_examples
from gridnode.simulation.fleet import Fleet, Limits, Population, build_phones
from gridnode.simulation.phone import Target
from tests.support.master_process import MasterProcess
from tests.support.node import ROOT, TOKEN, NodeProcess
from tests.support.postgres import PostgresForTests

pytestmark = [pytest.mark.torch, pytest.mark.integration, pytest.mark.filterwarnings("ignore")]

PAGE = (ROOT / "docs" / "authoring.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_first_program_hosts_a_model_that_phones_train(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with NodeProcess(database_url, tmp_path) as node:
        monkeypatch.setenv("GRIDNODE_MANAGEMENT_TOKEN", TOKEN)
        # What waits for the end needs phones beside it.
        before, after = PROGRAMS[0].split("    process.watch()\n")
        program = before.replace("127.0.0.1:5050", f"127.0.0.1:{node.management_port}")
        names: dict[str, object] = {}
        exec(program, names)
        shown = re.search(r"prints\n\n```text\n(.*?)```", PAGE, re.DOTALL)
        assert shown is not None
        assert capsys.readouterr().out == shown[1]

        shards = [Examples(torch.rand(30, 64).numpy(), torch.eye(10)[torch.arange(30) % 10].numpy())] * 5
        url = f"http://127.0.0.1:{node.device_port}"
        fleet = Fleet(
            build_phones(url, Target("digits-mlp"), shards, Population(), 0), seed=0, limits=Limits(seconds=60)
        )
        fleet.run()
        exec("process.watch(every=0.1)\n" + after.strip(), names)

        assert "digits-mlp 1.0: finished, 2 of 2 cycles" in capsys.readouterr().out


def test_step_and_averaging_are_built() -> None:
    names: dict[str, object] = {}
    exec(PROGRAMS[1], names)
    assert check_plan(names["plan"])["kotlinsyft"].runs  # type: ignore[arg-type]
    exec(PROGRAMS[2], names)
    assert {"bounded", "by_position", "mine"} <= names.keys()


def test_master_makes_a_dataset_and_a_key(
    postgres: PostgresForTests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = tmp_path / "nodes.yaml"
    nodes.write_text('nodes: [{node_id: lab, url: "http://lab.test:5000", management_url: "http://127.0.0.1:9"}]')
    with (
        postgres.database(migrated=False) as url,
        MasterProcess(url, tmp_path, provider="static", nodes_file=nodes) as master,
    ):
        monkeypatch.setenv("GRIDNODE_MASTER_URL", master.url)
        monkeypatch.setenv("GRIDNODE_MASTER_API_KEY", master.key("notebook", owner="ann"))
        names: dict[str, Any] = {}
        # This node never answers; tests/integration/sdk waits for one that does.
        exec(PROGRAMS[3].replace("    dataset.wait_until_ready()\n", ""), names)

    assert "phones call" in capsys.readouterr().out
    assert names["app_key"].scope == "app"
    assert names["dataset"].view["models"] == ["steps-mlp"]


def test_function_of_the_page_gives_data_by_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shown,) = re.findall(r"```text\n# my_data\.py\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "my_data.py").write_text(shown)
    (tmp_path / "steps.csv").write_text(
        "owner,hour,weekday,steps\n" + "".join(f"{n // 3},{n},0,{n}.5\n" for n in range(9))
    )
    monkeypatch.chdir(tmp_path)

    examples = load_examples("my_data:steps")

    assert (examples.inputs.shape, examples.targets.shape) == ((9, 2), (9, 1))
    assert examples.owners is not None
    assert examples.owners.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_each_program_of_the_page_is_run_here() -> None:
    assert len(PROGRAMS) == 4

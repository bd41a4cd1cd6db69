"""The programs of docs/authoring.md work as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from gridnode.sdk import check_plan
from gridnode.simulation.datasets import Examples
from gridnode.simulation.fleet import Fleet, Limits, Population, build_phones
from gridnode.simulation.phone import Target
from tests.support.node import ROOT, TOKEN, NodeProcess

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


def test_each_program_of_the_page_is_run_here() -> None:
    assert len(PROGRAMS) == 3

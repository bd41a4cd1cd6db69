"""The Grid against a real node: host, look, take the parameters back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from gridnode.protocol.syft_proto import decode_state
from gridnode.sdk import Grid, GridFailed
from gridnode.sdk.plans import BuiltAveragingPlan, BuiltPlan
from tests.support.node import TOKEN, NodeProcess
from tests.support.postgres import PostgresForTests
from tests.support.recordings import load_model
from tests.support.syft_messages import parse

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def node(postgres: PostgresForTests, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with postgres.database() as url, NodeProcess(url, tmp_path_factory.mktemp("node")) as running:
        yield running


@pytest.fixture
def grid(node: NodeProcess) -> Iterator[Grid]:
    with Grid(f"http://127.0.0.1:{node.management_port}", TOKEN) as opened:
        yield opened


def recorded_plan() -> BuiltPlan:
    recorded = load_model("tiny")
    weight, bias = decode_state(recorded.model).tensors
    return BuiltPlan("training_plan", recorded.plans["training_plan"], {"weight": weight, "bias": bias})


def test_hosted_model_comes_back_by_name(grid: Grid) -> None:
    plan = recorded_plan()
    average = BuiltAveragingPlan("average", load_model("tiny").averaging_plan, iterative=True)

    process = grid.host("mine", plan, batch_size=3, lr=0.1, num_cycles=2, min_diffs=2, averaging_plan=average)

    assert (process.name, process.version, process.state, process.num_cycles) == ("mine", "1.0", "active", 2)
    assert process.status["server_config"]["iterative_plan"] is True
    assert process.status["client_config"]["batch_size"] == 3
    for name, array in process.arrays(1).items():
        np.testing.assert_array_equal(array, plan.parameters[name])
    assert list(grid.process("mine").arrays()) == ["p0", "p1"]
    assert list(grid.process("mine", names=["weight", "bias"]).arrays()) == ["weight", "bias"]
    assert [each.id for each in grid.processes("mine")] == [process.id]


def test_process_is_paused_resumed_finished_and_deleted(grid: Grid) -> None:
    process = grid.host("moved", recorded_plan(), batch_size=3, lr=0.1, num_cycles=2, min_diffs=2)

    assert process.pause().state == "paused"
    assert process.resume().state == "active"
    assert process.finish().ended
    assert process.watch(show=False, every=0.01).state == "finished"
    process.delete()
    with pytest.raises(GridFailed, match="no process moved is hosted"):
        grid.process("moved")


def test_plan_that_a_target_cannot_run_is_refused(grid: Grid) -> None:
    plan = recorded_plan()
    everywhere = grid.host("everywhere", plan, batch_size=3, lr=0.1, targets=["kotlinsyft", "syft.js-0.1.4"])
    assert everywhere.status["server_config"]["targets"] == ["kotlinsyft", "syft.js-0.1.4"]
    message = parse("Plan", plan.data)
    message.ClearField("torchscript")
    without = BuiltPlan(plan.name, message.SerializeToString(), plan.parameters)

    grid.host("browsers", without, batch_size=3, lr=0.1, targets=["syft.js-0.1.4"])
    with pytest.raises(GridFailed, match=r"plans\.training_plan .*kotlinsyft .*the plan has no TorchScript"):
        grid.host("phones", without, batch_size=3, lr=0.1, targets=["syft.js-0.1.4", "kotlinsyft"])
    with pytest.raises(GridFailed, match=r"server_config\.targets: 'android' is no phone runtime"):
        grid.host("unknown", plan, batch_size=3, lr=0.1, targets=["android"])
    assert {process.name for process in grid.processes()} >= {"everywhere", "browsers"}
    assert grid.processes("phones") == []


def test_refusal_names_the_field(grid: Grid) -> None:
    with pytest.raises(GridFailed, match=r"server_config\.num_cycle.*did you mean num_cycles"):
        grid.host("wrong", recorded_plan(), batch_size=3, lr=0.1, num_cycle=2)
    with pytest.raises(GridFailed, match="management token"), Grid(grid.url, "another") as stranger:
        stranger.processes()

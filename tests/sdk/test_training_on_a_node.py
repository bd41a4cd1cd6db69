"""Plans built here, hosted on a real node and trained to the end by simulated phones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from gridnode.protocol.syft_proto import decode_state
from gridnode.sdk import build_plan
from gridnode.sdk.plans import BuiltPlan
from gridnode.simulation.datasets import Examples, split_held_out
from gridnode.simulation.evaluation import evaluate_checkpoint
from gridnode.simulation.fleet import Fleet, Limits, Pace, Population, build_phones
from gridnode.simulation.partition import split_dirichlet
from gridnode.simulation.phone import Target
from gridnode.simulation.training import TrainingPlan
from tests.support.node import NodeProcess
from tests.support.postgres import PostgresForTests
from tests.support.recordings import Hosting

pytestmark = [pytest.mark.torch, pytest.mark.integration, pytest.mark.filterwarnings("ignore")]

PHONES = 12
CYCLES = 6
DIFFS = 6


@pytest.fixture(scope="module")
def node(postgres: PostgresForTests, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with postgres.database() as url, NodeProcess(url, tmp_path_factory.mktemp("node")) as running:
        yield running


def digits(*shape: int) -> Examples:
    data: Any = load_digits()
    inputs = (data.images / 16).astype(np.float32).reshape(-1, *shape)
    return Examples(inputs, np.eye(10, dtype=np.float32)[data.target])


def host(node: NodeProcess, plan: BuiltPlan, name: str, **client: Any) -> None:
    node.management.host(
        Hosting(
            model=plan.state,
            plans={"training_plan": plan.data},
            averaging_plan=b"",
            client_config={"name": name, "version": "1.0", "batch_size": 24, "lr": 0.2, "max_updates": 25, **client},
            server_config={
                "min_workers": 1,
                "max_workers": 100,
                "num_cycles": CYCLES,
                "min_diffs": DIFFS,
                "max_diffs": DIFFS,
            },
        )
    )


@pytest.mark.parametrize(
    ("name", "module", "shape"),
    [
        ("mlp", lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), (64,)),
        (
            "cnn",
            lambda: nn.Sequential(
                nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)
            ),
            (1, 8, 8),
        ),
    ],
)
@pytest.mark.timeout(300)
def test_model_learns_on_phones(name: str, module: Any, shape: tuple[int, ...], node: NodeProcess) -> None:
    torch.manual_seed(0)
    training, held_out = split_held_out(digits(*shape), 0.2, seed=0)
    plan = build_plan(module(), (torch.from_numpy(training.inputs[:4]), torch.from_numpy(training.targets[:4])))
    host(node, plan, name)
    shards = [training.take(part) for part in split_dirichlet(training.labels, PHONES, alpha=1.0, seed=0)]
    fleet = Fleet(
        build_phones(f"http://127.0.0.1:{node.device_port}", Target(name), shards, Population(transport="mixed"), 0),
        seed=0,
        concurrency=4,
        limits=Limits(seconds=200),
        pace=Pace(after_report=0.05),
    )

    figures = fleet.run()

    assert fleet.end == "finished"
    assert figures.outcomes["reported"] >= CYCLES * DIFFS
    final = node.management.wait_for_checkpoint(name, CYCLES + 1)
    training_plan = TrainingPlan.decode(plan.data)
    before = evaluate_checkpoint(training_plan, plan.state, held_out)
    after = evaluate_checkpoint(training_plan, final, held_out)
    assert before.accuracy < 0.3
    assert after.accuracy > 0.85
    # The finished model, in PyTorch again.
    trained = module()
    arrays = decode_state(final).tensors
    trained.load_state_dict(
        {key: torch.from_numpy(array.copy()) for key, array in zip(plan.parameters, arrays, strict=True)}
    )
    right = trained(torch.from_numpy(held_out.inputs)).argmax(1).numpy() == held_out.labels
    assert right.mean() == pytest.approx(after.accuracy)

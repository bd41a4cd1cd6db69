"""The data that come along can be learned, by models that an author would build for them, on simulated phones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gridnode.plans.variants import plan_variants
from gridnode.sdk import build_plan
from gridnode.simulation.datasets import load_dataset
from gridnode.simulation.evaluation import Evaluation, evaluate
from gridnode.simulation.partition import split_unequal
from gridnode.simulation.training import ClientConfig, TrainingPlan, train

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


def federate(name: str, module: nn.Module, config: ClientConfig, **options: Any) -> tuple[Evaluation, Evaluation]:
    """Scores on held-out examples before and after ten rounds of ten phones, averaged with weights."""
    data = load_dataset(name, seed=0)
    example = torch.from_numpy(data.training.inputs[:4]), torch.from_numpy(data.training.targets[:4])
    plan = build_plan(module, example, **options)
    steps = TrainingPlan.decode(plan_variants(plan.data).list)
    shards = [data.training.take(part) for part in split_unequal(len(data.training), 10, seed=0)]
    generators = np.random.default_rng(0).spawn(len(shards))
    hosted = current = list(plan.parameters.values())
    for _ in range(10):
        updates = [train(steps, current, shard, config, rng) for shard, rng in zip(shards, generators, strict=True)]
        weights = [update.num_samples / sum(each.num_samples for each in updates) for update in updates]
        diffs = [
            sum(weight * diff for weight, diff in zip(weights, tensors, strict=True))
            for tensors in zip(*(update.diff for update in updates), strict=True)
        ]
        current = [(old - diff).astype(np.float32) for old, diff in zip(current, diffs, strict=True)]
    return evaluate(steps, hosted, data.held_out), evaluate(steps, current, data.held_out)


def mlp(inputs: int, outputs: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, outputs))


@pytest.mark.parametrize(
    ("name", "inputs", "classes", "least"), [("digits-8x8", 64, 10, 0.85), ("breast-cancer", 30, 2, 0.9)]
)
def test_classes_are_learned(name: str, inputs: int, classes: int, least: float) -> None:
    torch.manual_seed(0)
    before, after = federate(name, mlp(inputs, classes)(), ClientConfig(20, 0.2, 20))

    assert after.accuracy > least > before.accuracy
    assert after.loss < before.loss


def test_prices_are_learned_nearly_as_well_as_they_can_be() -> None:
    torch.manual_seed(0)
    before, after = federate("housing", mlp(8, 1)(), ClientConfig(50, 0.05, 100), loss="mse")

    # The noise alone is 0.09; the mean as prediction gives the variance, about 0.8.
    assert 0.07 < after.loss < 0.2 < before.loss

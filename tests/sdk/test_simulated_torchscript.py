"""Simulated phones that run a plan's TorchScript: the same training as by the operation list."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gridnode.plans.plan import parse_plan
from gridnode.plans.variants import plan_variants
from gridnode.protocol import syft_pb2
from gridnode.sdk import BuiltPlan, build_plan
from gridnode.simulation.datasets import Examples, load_dataset
from gridnode.simulation.evaluation import evaluate
from gridnode.simulation.plan_cache import PlanCache
from gridnode.simulation.training import ClientConfig, UnusablePlan, train

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def plan() -> BuiltPlan:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    return build_plan(module, (torch.zeros(4, 64), torch.eye(10)[:4]))


def test_training_is_the_same_in_both_runtimes(plan: BuiltPlan) -> None:
    data = load_dataset("digits-8x8", seed=0)
    config, parameters = ClientConfig(20, 0.5, 30), list(plan.parameters.values())
    before = [array.copy() for array in parameters]
    in_numpy = PlanCache("numpy").get(plan_variants(plan.data).list)
    in_torch = PlanCache("torchscript").get(plan.data)

    numpy, torchscript = (
        train(steps, parameters, data.training, config, np.random.default_rng(3)) for steps in (in_numpy, in_torch)
    )

    assert numpy.loss == pytest.approx(torchscript.loss, rel=1e-5)
    assert numpy.accuracy == pytest.approx(torchscript.accuracy)
    for one, other, untouched, parameter in zip(numpy.diff, torchscript.diff, before, parameters, strict=True):
        assert one.any()
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(parameter, untouched)
    trained = [old - diff for old, diff in zip(parameters, torchscript.diff, strict=True)]
    assert evaluate(in_torch, trained, data.held_out).accuracy > 0.6
    assert evaluate(in_torch, trained, data.held_out).loss == pytest.approx(
        evaluate(in_numpy, trained, data.held_out).loss, rel=1e-4
    )


def test_cache_downloads_the_variant_that_it_runs_and_compiles_it_once(plan: BuiltPlan) -> None:
    cache = PlanCache("torchscript")

    assert (cache.variant, PlanCache().variant) == ("torchscript", "list")
    assert cache.get(plan.data) is cache.get(bytes(plan.data))


def test_plan_without_readable_torchscript_is_refused(plan: BuiltPlan) -> None:
    cache = PlanCache("torchscript")

    with pytest.raises(UnusablePlan, match="has no TorchScript; use --runtime numpy"):
        cache.get(plan_variants(plan.data).list)
    with pytest.raises(UnusablePlan, match=r"can't load the plan's TorchScript: .+"):
        cache.get(syft_pb2.Plan(name="broken", torchscript=b"no archive").SerializeToString())


def test_data_that_do_not_fit_are_refused(plan: BuiltPlan) -> None:
    steps = PlanCache("torchscript").get(plan.data)
    batch: Any = Examples(np.ones((4, 63), np.float32), np.eye(10, dtype=np.float32)[:4])

    with pytest.raises(UnusablePlan, match=r"failed on this data: .*63"):
        steps.step(batch, 0.1, list(plan.parameters.values()))
    assert parse_plan(plan.data).torchscript

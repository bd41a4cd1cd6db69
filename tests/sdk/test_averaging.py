"""Averaging plans from ordinary PyTorch, computed as the node computes them: in its sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from gridnode.averaging.hosted_plan import HostedPlan, SandboxLimits, SandboxPool
from gridnode.averaging.layout import ModelLayout
from gridnode.averaging.strategy import StoredUpdate
from gridnode.sdk import BuiltAveragingPlan, PlanNotBuilt, build_averaging_plan, clipped_mean, mean, weighted_mean

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

SHAPES = [(2, 3), (3,)]
LIMITS = SandboxLimits(memory=512 * 1024**2, seconds=60)
LAYOUT = ModelLayout.of([np.zeros(shape, np.float32) for shape in SHAPES])
Arrays = list[np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    pool = SandboxPool(maximum=1)
    yield pool
    pool.close()


def some_diffs(count: int) -> list[Arrays]:
    rng = np.random.default_rng(0)
    return [[rng.normal(size=shape).astype(np.float32) for shape in SHAPES] for _ in range(count)]


def average(plan: BuiltAveragingPlan, diffs: list[Arrays], pool: SandboxPool) -> Arrays:
    checked = HostedPlan.check(plan.data, LAYOUT, iterative=plan.iterative, max_diffs=len(diffs), limits=LIMITS)
    assert checked == plan.diffs
    hosted = HostedPlan(plan.data, owner="author", iterative=plan.iterative, limits=LIMITS, pool=pool)
    return list(hosted.average((StoredUpdate(1, 1.0, diff) for diff in diffs), LAYOUT))


def test_mean(pool: SandboxPool) -> None:
    diffs = some_diffs(5)
    for got, *given in zip(average(mean(SHAPES), diffs, pool), *diffs, strict=True):
        np.testing.assert_allclose(got, np.mean(given, axis=0), rtol=1e-5, atol=1e-6)


def test_weights_go_by_position(pool: SandboxPool) -> None:
    diffs = some_diffs(3)
    for got, *given in zip(average(weighted_mean(SHAPES, [3, 0, 1]), diffs, pool), *diffs, strict=True):
        np.testing.assert_allclose(got, 0.75 * given[0] + 0.25 * given[2], rtol=1e-5, atol=1e-6)


def test_clipping_bounds_what_one_phone_can_do(pool: SandboxPool) -> None:
    small, large = ([array * scale for array in diff] for diff, scale in zip(some_diffs(2), (1e-2, 1e3), strict=True))
    norm = 0.5
    clipped = average(clipped_mean(SHAPES, norm), [large, small], pool)

    length = np.sqrt(sum(float(np.square(array, dtype=np.float64).sum()) for array in large))
    for got, first, second in zip(clipped, large, small, strict=True):
        np.testing.assert_allclose(got, (first * norm / length + second) / 2, rtol=1e-4, atol=1e-6)


def test_plan_of_the_authors_own(pool: SandboxPool) -> None:
    def middle(diffs: Any) -> list[Any]:
        return [torch.stack(list(tensors)).sort(0)[0][1] for tensors in zip(*diffs, strict=True)]

    def trimmed(diffs: Any) -> list[Any]:
        """The mean without the smallest and the largest."""
        results = []
        for tensors in zip(*diffs, strict=True):
            low, high = torch.minimum(tensors[0], tensors[1]), torch.maximum(tensors[0], tensors[1])
            low, high = torch.minimum(low, tensors[2]), torch.maximum(high, tensors[2])
            results.append(tensors[0] + tensors[1] + tensors[2] - low - high)
        return results

    diffs = some_diffs(3)
    plan = build_averaging_plan(trimmed, SHAPES, iterative=False, diffs=3)
    for got, *given in zip(average(plan, diffs, pool), *diffs, strict=True):
        np.testing.assert_allclose(got, np.median(given, axis=0), rtol=1e-5, atol=1e-6)
    with pytest.raises(PlanNotBuilt, match="sort"):
        build_averaging_plan(middle, SHAPES, iterative=False, diffs=3)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (
            lambda: build_averaging_plan(lambda diffs: diffs[0][:1], SHAPES, iterative=False, diffs=2),
            "one tensor for each",
        ),
        (lambda: build_averaging_plan(lambda *args: args[0], SHAPES, iterative=True, diffs=2), "leave `diffs` out"),
        (
            lambda: build_averaging_plan(lambda diffs: diffs[0], SHAPES, iterative=False),
            "give `diffs`, equal to max_diffs",
        ),
        (lambda: weighted_mean(SHAPES, [0, 0]), "not all 0"),
        (lambda: clipped_mean(SHAPES, 0), "norm is 0"),
    ],
)
def test_what_is_no_averaging_plan_is_refused(build: Any, reason: str) -> None:
    with pytest.raises(PlanNotBuilt, match=reason):
        build()

"""Averaging plans from ordinary PyTorch: how a node makes one diff of many.

An iterative plan folds one diff after the other and works for any number of them. A plan in list form gets all diffs of
a cycle at once and is built for their exact number, ``server_config.max_diffs``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gridnode.plans.interpreter import OperationList
from gridnode.plans.plan import InvalidPlan, Plan
from gridnode.sdk.decompositions import decompositions
from gridnode.sdk.errors import PlanNotBuilt
from gridnode.sdk.lowering import lower
from gridnode.sdk.operations import write_plan, write_role
from gridnode.sdk.plans import BuiltAveragingPlan
from gridnode.sdk.torchscript import run_torchscript, write_torchscript
from gridnode.sdk.tracing import trace_function

Fold: TypeAlias = Callable[[Sequence[Tensor], Sequence[Tensor], Tensor], Sequence[Tensor]]
"""``(average, diff, number) → average``, where number diffs are in the average already."""
Combine: TypeAlias = Callable[[Sequence[Sequence[Tensor]]], Sequence[Tensor]]
"""``(diffs) → average``."""

_TOLERANCE: Final = 1e-5


def build_averaging_plan(
    function: Fold | Combine,
    shapes: Sequence[Sequence[int]],
    *,
    iterative: bool,
    diffs: int | None = None,
    name: str = "averaging_plan",
) -> BuiltAveragingPlan:
    """Build an averaging plan.

    Args:
        function: for an iterative plan ``(average, diff, number) → average``: lists of tensors, and how many diffs are
            averaged already as an int64 tensor of one element. Otherwise ``(diffs) → average``, where diffs is a list
            of lists.
        shapes: of the model's parameters, such as ``[array.shape for array in plan.parameters.values()]``.
        diffs: for a list-form plan, how many it gets: ``server_config.max_diffs``, and min_diffs the same.

    Raises:
        PlanNotBuilt: the function can't be a plan, or does not give one tensor of its shape for each parameter.
    """
    if iterative == (diffs is not None):
        raise PlanNotBuilt(
            "an iterative plan works for any number of diffs: leave `diffs` out."
            if iterative
            else "a plan in list form is built for an exact number of diffs: give `diffs`, equal to max_diffs."
        )
    count = len(shapes)
    generator = torch.Generator().manual_seed(0)
    tensors = [
        [torch.randn(tuple(shape), generator=generator) for shape in shapes]
        for _ in range(2 if iterative else diffs or 0)
    ]
    arguments: tuple[Any, ...] = (*tensors, torch.tensor([3])) if iterative else (tensors,)
    flat = [tensor for each in tensors for tensor in each] + ([arguments[-1]] if iterative else [])
    lists = (count, count, 0) if iterative else (count * len(tensors),)

    def flattened(*given: Tensor) -> tuple[Tensor, ...]:
        grouped = [list(given[start : start + count]) for start in range(0, count * len(tensors), count)]
        return tuple(function(*grouped, given[-1]) if iterative else function(grouped))  # type: ignore[call-arg]

    expected = [tensor.numpy() for tensor in flattened(*flat)]
    if [tuple(array.shape) for array in expected] != [tuple(shape) for shape in shapes]:
        raise PlanNotBuilt("the function must give one tensor for each parameter, of the parameter's shape.")
    graph = lower(trace_function(flattened, flat, decompositions(as_operations=True)))
    role = write_role(graph)
    torchscript = b"" if not iterative else write_torchscript(graph, count, lists=lists)
    plan, _ = write_plan(name, role, torchscript, lists)
    _try(plan, torchscript, arguments, flat, expected)
    left_out = (
        {} if iterative else {"torchscript": "TorchScript takes a list of lists, which the node reads from operations"}
    )
    data = plan.message.SerializeToString(deterministic=True)
    return BuiltAveragingPlan(name, data, iterative, diffs, left_out)


def _try(
    plan: Plan, torchscript: bytes, arguments: tuple[Any, ...], flat: Sequence[Tensor], expected: Sequence[NDArray[Any]]
) -> None:
    """Compare both variants with the function.

    Raises:
        PlanNotBuilt: they give something else.
    """
    try:
        given = [OperationList.from_plan(plan).run([tensor.numpy() for tensor in flat])]
    except InvalidPlan as error:
        raise PlanNotBuilt(error.message) from error
    if torchscript:
        given.append([tensor.numpy() for tensor in run_torchscript(torchscript, *arguments)])
    for outputs in given:
        for output, wanted in zip(outputs, expected, strict=True):
            if output.shape != wanted.shape or not np.allclose(output, wanted, _TOLERANCE, _TOLERANCE, equal_nan=True):
                raise PlanNotBuilt("the plan does not give what the function gives: write it with simpler operations.")


def mean(shapes: Sequence[Sequence[int]]) -> BuiltAveragingPlan:
    """The plain mean, folded."""

    def fold(average: Sequence[Tensor], diff: Sequence[Tensor], number: Tensor) -> list[Tensor]:
        return [(old * number + new) / (number + 1) for old, new in zip(average, diff, strict=True)]

    return build_averaging_plan(fold, shapes, iterative=True, name="mean")


def weighted_mean(shapes: Sequence[Sequence[int]], weights: Sequence[float]) -> BuiltAveragingPlan:
    """A mean in which the first report to arrive has the first weight, and so on: by position, one for each diff."""
    if not weights or not all(np.isfinite(weight) and weight >= 0 for weight in weights) or not sum(weights):
        raise PlanNotBuilt("weights must be numbers of at least 0, and not all 0.")
    shares = [float(Fraction(weight) / sum(map(Fraction, weights))) for weight in weights]

    def combine(diffs: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        return [
            sum((tensor * share for tensor, share in zip(tensors[1:], shares[1:], strict=True)), tensors[0] * shares[0])
            for tensors in zip(*diffs, strict=True)
        ]

    return build_averaging_plan(combine, shapes, iterative=False, diffs=len(weights), name="weighted_mean")


def clipped_mean(shapes: Sequence[Sequence[int]], norm: float) -> BuiltAveragingPlan:
    """The mean of diffs scaled down to an L2 norm of at most ``norm``: one phone can move the model so far only.

    A node takes a single diff as it is, so ``server_config.min_diffs`` must be at least 2.
    """
    if not norm > 0:
        raise PlanNotBuilt(f"norm is {norm}: it is above 0.")

    def fold(average: Sequence[Tensor], diff: Sequence[Tensor], number: Tensor) -> list[Tensor]:
        # The first average is the first diff, as it came: clipping it again changes nothing later.
        seen = _clip(average, norm)
        return [(old * number + new) / (number + 1) for old, new in zip(seen, _clip(diff, norm), strict=True)]

    return build_averaging_plan(fold, shapes, iterative=True, name="clipped_mean")


def _clip(tensors: Sequence[Tensor], norm: float) -> list[Tensor]:
    length = torch.sqrt(sum(((tensor * tensor).sum() for tensor in tensors[1:]), (tensors[0] * tensors[0]).sum()))
    # 1 where the length is within the norm, else norm / length.
    scale = norm / (torch.relu(length - norm) + norm)
    return [tensor * scale for tensor in tensors]

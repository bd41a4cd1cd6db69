"""Operation lists of many small graphs: what can be expressed is what PyTorch computes, and the rest is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from gridnode.plans.interpreter import OperationList
from gridnode.sdk.decompositions import decompositions
from gridnode.sdk.errors import PlanNotBuilt
from gridnode.sdk.lowering import lower
from gridnode.sdk.operations import write_plan, write_role
from gridnode.sdk.tracing import trace_function
from tests.support.sdk.corpus import Graph, inputs, make_corpus

pytestmark = [pytest.mark.torch, pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]


def function_of(graph: Graph) -> Callable[..., tuple[torch.Tensor, ...]]:
    call = eval(f"lambda x, y, i, b: {graph.source}", {"torch": torch})

    def function(*arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = call(*arguments)
        return tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)

    return function


def run_operations(graph: Graph) -> list[np.ndarray[Any, Any]] | None:
    """What the operation list gives; None where there is none."""
    try:
        table = decompositions(as_operations=True)
        role = write_role(lower(trace_function(function_of(graph), inputs(), table)))
    except PlanNotBuilt:
        return None
    if not role.actions:
        return None
    plan, _ = write_plan("graph", role, b"", (0, 0, 0, 0))
    return OperationList.from_plan(plan).run([tensor.numpy() for tensor in inputs()])


def test_lists_give_what_pytorch_gives_or_are_refused() -> None:
    # Places in a window are numbered within it, which is the affair of the backward pass alone.
    corpus = [graph for graph in make_corpus(chains=30)[::3] if "with_indices" not in graph.source]
    expressed = 0

    for graph in corpus:
        given = run_operations(graph)
        if given is None:
            continue
        expressed += 1
        for got, wanted in zip(given, graph.outputs, strict=True):
            assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype), graph.source
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5, err_msg=graph.source)
    assert expressed >= 150

"""Turns a trace into a graph of portable operations: one function for each ATen operator."""

from __future__ import annotations

from gridnode.sdk.graph import Graph
from gridnode.sdk.lowering import elementwise, networks, reductions, shapes
from gridnode.sdk.lowering.core import Lowering
from gridnode.sdk.tracing import Trace

__all__ = ["elementwise", "lower", "networks", "reductions", "shapes"]


def lower(trace: Trace, *, batch_size: int = 2) -> Graph:
    """The graph of a trace.

    Args:
        batch_size: which input holds the number of rows; it is used where the step needs that number.

    Raises:
        PlanNotBuilt: an operator, or a form of one, that old runtimes can't compute; the message names it.
    """
    return Lowering(batch_size).run(trace)

"""The gate as authors use it: on what they have just built, on bytes, or on a file."""

from __future__ import annotations

from pathlib import Path

from gridnode.plans import gate
from gridnode.plans.gate import TARGETS, Verdict, VerdictTable
from gridnode.sdk.plans import BuiltPlan

__all__ = ["TARGETS", "Verdict", "VerdictTable", "check_plan"]


def check_plan(plan: BuiltPlan | bytes | str | Path) -> VerdictTable:
    """Which phones can run a training plan, and why others can't.

    Args:
        plan: a built plan, the bytes of a Plan, or the path of a file of them.

    Raises:
        InvalidPlan: it is no plan.
    """
    if isinstance(plan, BuiltPlan):
        return gate.check_plan(plan.data)
    return gate.check_plan(plan if isinstance(plan, bytes) else Path(plan).read_bytes())

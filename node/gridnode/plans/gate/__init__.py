"""The gate: tells which phone runtimes can run a plan before any phone tries, for a plan that can't be loaded ends the
app.
"""

from gridnode.plans.gate.verdicts import TARGETS, Verdict, VerdictTable, check_plan, check_targets, require_targets

__all__ = ["TARGETS", "Verdict", "VerdictTable", "check_plan", "check_targets", "require_targets"]

"""Averaging every 20 reports while phones go on, and memory with many reports in a cycle."""

from __future__ import annotations

from typing import Any

from bench import reference
from bench.harness import CONNECTIONS, NEVER_CLOSES, Harness, merged
from bench.models import Model
from bench.results import Outcome, megabytes, rate
from bench.server import Node
from bench.workload import Target

_DIFFS = 20
# Enough processes for each connection that a rejection's timeout is over when its turn comes again.
_PROCESSES_PER_CONNECTION = 5
_COUNTS = (10, 120, 500)
_STRATEGIES = {"plain mean": False, "iterative plan": True}


def averaging(harness: Harness) -> Outcome:
    """The MLP with max_diffs so large that no cycle ever closes, against 20, by plain mean and by hosted plan.

    Each connection has processes of its own and goes to the next one when a process is busy averaging, so that no
    session is cut off by the end of its cycle and all that differs is the averaging. Then, as the historical figure was
    measured, all phones on one process: those that are in the middle of a session when its cycle ends come late.
    """
    outcome = Outcome()
    model = harness.model("mlp")
    with harness.node() as node:
        for name, plan in _STRATEGIES.items():
            _with_and_without(harness, node, model, outcome, name, plan)
        _shared(harness, node, model, outcome)
    return outcome


def memory(harness: Harness) -> Outcome:
    """Peak memory of the node while a cycle of 10, 120 and 500 MLP reports is filled and averaged."""
    outcome = Outcome()
    model = harness.model("mlp")
    for name, plan in _STRATEGIES.items():
        peaks = {}
        for diffs in _COUNTS[: harness.number(3, 2)]:
            with harness.node() as node:
                # The same load as later, until buffers and thread arenas have their size.
                warm = harness.host(node, model, NEVER_CLOSES)
                harness.run(node, model, [warm], seconds=60.0, warmup=0.0, limit=100)
                config = {**_closing(diffs), "iterative_plan": plan}
                target = harness.host(node, model, config, averaging_plan=model.iterative_plan if plan else None)
                measured = harness.run(node, model, [target], seconds=120.0, warmup=0.0, limit=diffs, settle=1.0)
                harness.verify(node, model, [measured], target, diffs)
                outcome.row(f"mlp, one cycle of {diffs}, {name}", measured)
                peaks[diffs] = measured.memory
        smallest, largest = min(peaks), max(peaks)
        ratio = peaks[largest] / peaks[smallest]
        outcome.judge(
            f"memory flat in the number of diffs, {name} (at most {reference.TOLERATED_SLOWDOWN:.0%} more)",
            ", ".join(f"{diffs}: {megabytes(peak)}" for diffs, peak in peaks.items()) + f" ({ratio:.2f} times)",
            f"10: {reference.MEMORY_10_DIFFS_MB} MB, 120: {reference.MEMORY_120_DIFFS_MB} MB",
            met=ratio <= 1 + reference.TOLERATED_SLOWDOWN,
        )
    return outcome


def _with_and_without(harness: Harness, node: Node, model: Model, outcome: Outcome, name: str, plan: bool) -> None:
    """Runs that average and runs that never do, in turn."""
    averaging_plan = model.iterative_plan if plan else None

    def hosted(server_config: dict[str, Any], count: int) -> list[Target]:
        config = {**server_config, "iterative_plan": plan}
        return [harness.host(node, model, config, averaging_plan=averaging_plan) for _ in range(count)]

    open_ones = hosted(NEVER_CLOSES, CONNECTIONS)
    closing_ones = hosted(_closing(_DIFFS), CONNECTIONS * _PROCESSES_PER_CONNECTION)
    never, every = [], []
    for _ in range(harness.number(3, 1)):
        seconds = harness.seconds(5.0)
        never.append(harness.run(node, model, open_ones, seconds=seconds, shared=False))
        every.append(harness.run(node, model, closing_ones, seconds=seconds, shared=False))
    for target in closing_ones:
        harness.verify(node, model, every, target, _DIFFS)
    without = outcome.row(f"mlp, never averaging, {name}", merged(never))
    averaged = outcome.row(f"mlp, averaging every {_DIFFS}, {name}", merged(every))
    ratio = rate(averaged) / rate(without)
    outcome.judge(
        f"mlp: averaging every {_DIFFS}, {name}, slows sessions by at most {reference.TOLERATED_SLOWDOWN:.0%}",
        f"{ratio:.0%} of the sessions/s",
        f"{rate(without):.0f}/s never averaging",
        met=ratio >= 1 - reference.TOLERATED_SLOWDOWN,
    )


def _shared(harness: Harness, node: Node, model: Model, outcome: Outcome) -> None:
    target = harness.host(node, model, _closing(_DIFFS))
    measured = harness.run(
        node, model, [target], seconds=harness.seconds(8.0), late_is_expected=True, longest_wait=0.05
    )
    harness.verify(node, model, [measured], target, _DIFFS)
    outcome.row(f"mlp, all phones on one process, averaging every {_DIFFS}", measured)
    result = measured.result
    share = result.late / max(1, result.late + result.sessions)
    outcome.judge(
        f"mlp, all on one process, averaging every {_DIFFS}: {reference.RATIO:.0f} times the sessions",
        f"{rate(measured):.0f}/s ({rate(measured) / reference.AVERAGING_SESSIONS:.1f} times), {share:.0%} late",
        f"{reference.AVERAGING_SESSIONS:.0f}/s, 8-10 % of downloads lost",
        met=rate(measured) >= reference.RATIO * reference.AVERAGING_SESSIONS,
    )


def _closing(diffs: int) -> dict[str, Any]:
    return {"min_diffs": diffs, "max_diffs": diffs, "num_cycles": 0}

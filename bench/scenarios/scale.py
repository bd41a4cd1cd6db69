"""Whole sessions where something has grown: past cycles, parameters, hosted processes."""

from __future__ import annotations

import time
from typing import Any

from bench import reference
from bench.harness import CONNECTIONS, NEVER_CLOSES, Harness, Measured
from bench.results import Outcome, megabytes, milliseconds, rate
from bench.server import Node
from bench.usage import memory_bytes
from bench.workload import Target

# One phone after the other, and each report closes a cycle. The next phone comes a moment later, whatever the last one
# was told.
_ONE_BY_ONE: dict[str, Any] = {"connections": 1, "seconds": 300.0, "warmup": 0.0, "longest_wait": 0.02}
_CLOSES_EACH_TIME = {"min_diffs": 1, "max_diffs": 1, "num_cycles": 0}


def past_cycles(harness: Harness) -> Outcome:
    """Cycle requests and sessions of a process with few past cycles and with hundreds."""
    outcome = Outcome()
    model = harness.model("tiny")
    past, sample = harness.number(400, 40), harness.number(100, 20)
    with harness.node() as node:
        # Caches and connections warm before the first figure.
        warm = harness.host(node, model, NEVER_CLOSES)
        harness.run(node, model, [warm], connections=1, seconds=1.0, warmup=0.0)
        old = harness.host(node, model, _CLOSES_EACH_TIME)
        runs = [harness.run(node, model, [old], limit=past, **_ONE_BY_ONE)]
        fresh = [harness.host(node, model, _CLOSES_EACH_TIME) for _ in range(sample)]
        young = harness.run(node, model, fresh, limit=sample, rotate=True, **_ONE_BY_ONE)
        aged = harness.run(node, model, [old], limit=sample, **_ONE_BY_ONE)
        runs.append(aged)
        harness.verify(node, model, runs, old, 1)
    outcome.row("tiny, 1 phone at a time, first cycle", young)
    outcome.row(f"tiny, 1 phone at a time, after {past} cycles", aged)
    before, after = (each.result.percentile("cycle-request", 50) for each in (young, aged))
    grown = 1000 * (after - before)
    outcome.judge(
        f"cycle-request O(1) in past cycles (0 to {past})",
        f"{milliseconds(young, 'cycle-request')} ms, then {milliseconds(aged, 'cycle-request')} ms ({grown:+.2f} ms)",
        f"{past * reference.MILLISECONDS_PER_PAST_CYCLE:+.0f} ms",
        met=after <= 1.25 * before + 0.001,
    )
    outcome.judge(
        f"whole session after {past} cycles (p50/p99)", f"{milliseconds(aged)} ms", f"{milliseconds(young)} ms at first"
    )
    return outcome


def large(harness: Harness) -> Outcome:
    """Sessions with 10 million parameters: 40 MB down, 53 MB of base64 up."""
    outcome = Outcome()
    model = harness.model("large")
    with harness.node() as node:
        started = time.perf_counter()
        target = harness.host(node, model, NEVER_CLOSES)
        hosting = time.perf_counter() - started
        for connections in (1, CONNECTIONS):
            count = harness.number(2, 1) * max(4, connections)
            measured = harness.run(
                node, model, [target], connections=connections, limit=count, seconds=300.0, warmup=0.0, timeout=120.0
            )
            outcome.row(f"10 million parameters, {connections} connection{'s' * (connections > 1)}", measured)
            outcome.judge(
                f"10 million parameters, {connections} at once (p50/p99 of a session, memory)",
                f"{milliseconds(measured)} ms, {megabytes(measured.memory)}",
                f"State of {megabytes(len(model.state))}, hosted in {hosting:.1f} s",
            )
        closing = harness.host(node, model, {"min_diffs": 4, "max_diffs": 4, "num_cycles": 0})
        started = time.perf_counter()
        measured = harness.run(
            node, model, [closing], connections=2, limit=4, seconds=300.0, warmup=0.0, timeout=120.0, settle=2.0
        )
        harness.verify(node, model, [measured], closing, 4)
        outcome.row("10 million parameters, one cycle of 4", measured)
        outcome.judge("10 million parameters, one cycle of 4 (memory)", megabytes(measured.memory))
    return outcome


def processes(harness: Harness) -> Outcome:
    """Sessions spread over a thousand hosted processes, beside sessions with one."""
    outcome = Outcome()
    model = harness.model("tiny")
    count = harness.number(1000, 100)
    with harness.migrated_database() as url:
        with harness.node_on(url) as node:
            first = harness.host(node, model, NEVER_CLOSES)
            alone = harness.run(node, model, [first], seconds=harness.seconds(6.0))
            before = memory_bytes(node.pid)
            started = time.perf_counter()
            targets = [harness.host(node, model, NEVER_CLOSES) for _ in range(count)]
            hosting = (time.perf_counter() - started) / count
            spread = _over_all(harness, node, targets)
        with harness.node_on(url) as node:
            ready_after = node.ready_after
            again = _over_all(harness, node, targets)
    outcome.row("tiny, one process hosted", alone)
    outcome.row(f"tiny, over {count} processes", spread)
    outcome.row(f"tiny, over {count} processes, restarted node", again)
    outcome.judge(
        f"{count} processes hosted: sessions",
        f"{rate(spread):.0f}/s ({rate(spread) / rate(alone):.0%}), {milliseconds(spread)} ms",
        f"{rate(alone):.0f}/s, {milliseconds(alone)} ms with one",
    )
    outcome.judge(
        f"{count} processes hosted: memory, hosting, start",
        f"{megabytes(spread.memory)}, {1000 * hosting:.0f} ms each, ready after {ready_after:.2f} s",
        f"{megabytes(before)} with one",
        met=ready_after < reference.START_SECONDS,
    )
    return outcome


def _over_all(harness: Harness, node: Node, targets: list[Target]) -> Measured:
    model = harness.model("tiny")
    return harness.run(node, model, targets, seconds=harness.seconds(8.0), shared=False, rotate=True)

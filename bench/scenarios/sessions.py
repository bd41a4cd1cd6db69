"""Whole sessions over 8 connections, alone and beside idle WebSockets."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, cast

from bench import reference
from bench.harness import NEVER_CLOSES, Harness, merged
from bench.results import Outcome, rate
from bench.server import Node
from bench.usage import memory_bytes


def tiny(harness: Harness) -> Outcome:
    """Whole sessions with the tiny model: what a session costs beside its bodies."""
    outcome = Outcome()
    _sessions(harness, outcome, "tiny", reference.TINY_SESSIONS)
    return outcome


def mlp(harness: Harness) -> Outcome:
    """Whole sessions with the MLP: 1.2 MB down, 1.6 MB of base64 up."""
    outcome = Outcome()
    _sessions(harness, outcome, "mlp", reference.MLP_SESSIONS)
    p99 = outcome.rows[0][1].result.percentile("session", 99)
    outcome.judge(
        f"mlp: p99 of a session at most 1/{reference.RATIO:.0f}",
        f"{1000 * p99:.0f} ms (1/{reference.MLP_P99_SECONDS / max(p99, 1e-9):.1f})",
        f"{1000 * reference.MLP_P99_SECONDS:.0f} ms",
        met=p99 <= reference.MLP_P99_SECONDS / reference.RATIO,
    )
    return outcome


def websockets(harness: Harness) -> Outcome:
    """HTTP load before, while and after a single node holds idle WebSockets."""
    outcome = Outcome()
    model = harness.model("tiny")
    count = reference.IDLE_SOCKETS
    with harness.node() as node:
        target = harness.host(node, model, NEVER_CLOSES)
        seconds = harness.seconds(6.0)
        alone, beside = [], []
        alive = count
        memory = memory_bytes(node.pid)
        grown = 0
        for _ in range(2):
            alone.append(harness.run(node, model, [target], seconds=seconds))
            with _idle_sockets(node, count) as holder:
                grown = memory_bytes(node.pid) - memory
                beside.append(harness.run(node, model, [target], seconds=seconds))
            alive = min(alive, holder.alive)
        alone.append(harness.run(node, model, [target], seconds=seconds))
    if alive < count:
        beside[-1].result.error("websocket", f"{count - alive} of {count} idle WebSockets were refused or closed")
    without = outcome.row("tiny, before and after", merged(alone))
    with_idle = outcome.row(f"tiny beside {alive} idle WebSockets", merged(beside))
    ratio = rate(with_idle) / rate(without)
    outcome.judge(
        f"{count} idle WebSockets slow HTTP by at most {reference.TOLERATED_SLOWDOWN:.0%}",
        f"{alive} held, {ratio:.0%} of the sessions/s, {grown / 1024 / count:.0f} kB each",
        f"{rate(without):.0f} sessions/s without",
        met=alive == count and ratio >= 1 - reference.TOLERATED_SLOWDOWN,
    )
    return outcome


def _sessions(harness: Harness, outcome: Outcome, kind: str, historical: float) -> None:
    model = harness.model(kind)
    with harness.node() as node:
        target = harness.host(node, model, NEVER_CLOSES)
        runs = [harness.run(node, model, [target], seconds=harness.seconds(8.0)) for _ in range(2)]
    measured = outcome.row(f"{kind}, 8 connections", merged(runs))
    ratio = rate(measured) / historical
    outcome.judge(
        f"{kind}: at least {reference.RATIO:.0f} times the sessions (aim {reference.AIM:.0f})",
        f"{rate(measured):.0f}/s ({ratio:.1f} times{', aim reached' if ratio >= reference.AIM else ''})",
        f"{historical:.0f}/s",
        met=ratio >= reference.RATIO,
    )


class _Holder:
    alive = 0


@contextmanager
def _idle_sockets(node: Node, count: int) -> Iterator[_Holder]:
    """Hold idle WebSockets; afterwards ``alive`` says how many the node still answered."""
    command = [sys.executable, "-m", "bench.idle_sockets", node.device[0], str(node.device[1]), str(count)]
    holder = _Holder()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        questions, answers = cast(IO[str], process.stdin), cast(IO[str], process.stdout)
        answers.readline()
        try:
            yield holder
        finally:
            questions.close()
            holder.alive = json.loads(answers.readline() or '{"alive": 0}')["alive"]

"""From the command to the first good answer of /readyz, with a migrated database."""

from __future__ import annotations

from statistics import median

from bench import reference
from bench.harness import NEVER_CLOSES, Harness
from bench.results import Outcome


def start(harness: Harness) -> Outcome:
    """Start a node several times on the same database, the first time empty, then with a process hosted."""
    outcome = Outcome()
    seconds = []
    with harness.migrated_database() as url:
        for attempt in range(harness.number(5, 3)):
            with harness.node_on(url) as node:
                seconds.append(node.ready_after)
                if not attempt:
                    harness.host(node, harness.model("mlp"), NEVER_CLOSES)
    outcome.judge(
        f"start to ready below {reference.START_SECONDS:.0f} s",
        f"{median(seconds):.2f} s (median of {len(seconds)}; {min(seconds):.2f} to {max(seconds):.2f})",
        met=median(seconds) < reference.START_SECONDS,
    )
    return outcome

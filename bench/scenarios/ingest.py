"""Reports alone, beside the bare cost of decoding and inserting the same bodies in the same run."""

from __future__ import annotations

from statistics import mean

from bench import reference
from bench.baseline import bare_cost
from bench.harness import CONNECTIONS, NEVER_CLOSES, Harness, merged
from bench.results import Outcome, rate

# Assignments of each connection, made before its reports are measured.
_PREPARED = {"tiny": 250, "mlp": 80}


def ingest(harness: Harness) -> Outcome:
    """Alternately: reports to a node whose phones were assigned before, and the bare cost by COPY and by parameter."""
    outcome = Outcome()
    for kind, prepared in _PREPARED.items():
        model = harness.model(kind)
        body = model.report_body()
        copied, quoted, runs = [], [], []
        with harness.migrated_database() as bare_url, harness.node() as node:
            target = harness.host(node, model, NEVER_CLOSES)
            seconds = harness.seconds(5.0)
            for _ in range(harness.number(3, 1)):
                copied.append(bare_cost(body, bare_url, "copy", processes=CONNECTIONS, seconds=seconds).rate)
                quoted.append(bare_cost(body, bare_url, "hex", processes=CONNECTIONS, seconds=seconds / 2).rate)
                runs.append(
                    harness.run(
                        node, model, [target], mode="reports", seconds=seconds, warmup=0.0,
                        prepared=harness.number(prepared, prepared // 3),
                    )
                )  # fmt: skip
            decoded = bare_cost(body, bare_url, "none", processes=CONNECTIONS, seconds=seconds / 2).rate
        measured = outcome.row(f"{kind}, reports alone", merged(runs))
        bare = max(mean(copied), mean(quoted))
        ratio = rate(measured) / bare
        outcome.judge(
            f"{kind}: report ingest at least {reference.INGEST_OF_BARE:.0%} of the bare cost",
            f"{rate(measured):.0f} reports/s ({ratio:.0%})",
            f"bare {mean(copied):.0f}/s by COPY, {mean(quoted):.0f}/s by parameter, {decoded:.0f}/s without database",
            met=ratio >= reference.INGEST_OF_BARE,
        )
    return outcome

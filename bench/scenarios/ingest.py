"""Reports alone, beside the bare cost of decoding and inserting the same bodies in the same run."""

from __future__ import annotations

from statistics import mean

from bench import reference
from bench.baseline import Bare, Insert, bare_cost
from bench.harness import CONNECTIONS, NEVER_CLOSES, Harness, Measured, merged
from bench.results import Outcome, per_session, rate

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
                copied.append(_bare(harness, body, bare_url, "copy", seconds))
                quoted.append(_bare(harness, body, bare_url, "hex", seconds / 2))
                runs.append(
                    harness.run(
                        node, model, [target], mode="reports", seconds=seconds, warmup=0.0,
                        prepared=harness.number(prepared, prepared // 3),
                    )
                )  # fmt: skip
            decoded = _bare(harness, body, bare_url, "none", seconds / 2).rate
        measured = outcome.row(f"{kind}, reports alone", merged(runs))
        best = max((copied, quoted), key=lambda each: mean(bare.rate for bare in each))
        ratio = rate(measured) / mean(bare.rate for bare in best)
        outcome.judge(
            f"{kind}: report ingest at least {reference.INGEST_OF_BARE:.0%} of the bare cost",
            f"{rate(measured):.0f} reports/s ({ratio:.0%})",
            f"bare {mean(bare.rate for bare in copied):.0f}/s by COPY, {mean(bare.rate for bare in quoted):.0f}/s "
            f"by parameter, {decoded:.0f}/s without database",
            met=ratio >= reference.INGEST_OF_BARE,
        )
        ours, theirs = _cpu_milliseconds(measured), 1000 * mean(bare.cpu_seconds for bare in best)
        # On a machine that is shared, rates are of what is left of it; what a report costs is not.
        outcome.judge(
            f"{kind}: CPU of a report, server and database, beside the bare cost's",
            f"{ours:.2f} ms",
            f"bare {theirs:.2f} ms, {theirs / ours:.0%} of it",
        )
    return outcome


def _bare(harness: Harness, body: bytes, url: str, insert: Insert, seconds: float) -> Bare:
    """The bare cost, the CPU of the database included."""
    database_cpu = harness.postgres.cpu_seconds()
    bare = bare_cost(body, url, insert, processes=CONNECTIONS, seconds=seconds)
    database_cpu = harness.postgres.cpu_seconds() - database_cpu
    return Bare(bare.rate, bare.cpu_seconds + database_cpu / max(1.0, bare.rate * seconds))


def _cpu_milliseconds(measured: Measured) -> float:
    return 1000 * (measured.node_cpu + measured.database_cpu) / per_session(measured)

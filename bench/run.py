"""The bench: ``python -m bench.run`` measures everything, or the scenarios that are named.

Exit code 0 when all answers were right, whatever the figures (a shared machine is noisy); 1 when one was wrong or lost;
2 when a scenario could not be run.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
from pathlib import Path

from rich.console import Console

from bench.harness import Harness
from bench.results import Outcome, as_json, print_outcomes
from bench.scenarios import SCENARIOS
from bench.server import Postgres, temporary_folder


def main() -> int:
    """Run scenarios, print their tables."""
    arguments = _arguments()
    # Otherwise the node and PostgreSQL would outlive a bench that is told to stop.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    console = Console(width=None if sys.stdout.isatty() else 220)
    # Progress goes to standard error, so that --output json leaves nothing but JSON on standard output.
    progress = Console(stderr=True)
    outcomes: dict[str, Outcome] = {}
    failed = []
    with temporary_folder() as folder, Postgres.started(_new(folder / "postgres")) as postgres:
        harness = Harness(folder, postgres, arguments.quick, arguments.patience)
        for name in arguments.scenarios or SCENARIOS:
            started = time.perf_counter()
            harness.runs.clear()
            try:
                outcomes[name] = SCENARIOS[name](harness)
                outcomes[name].collect_errors(harness.runs)
            except Exception:
                failed.append(name)
                traceback.print_exc()
            progress.print(f"{name}: {time.perf_counter() - started:.0f} s", style="dim")
    if arguments.output == "json":
        print(as_json(outcomes))
    else:
        print_outcomes(console, outcomes)
    for name in failed:
        progress.print(f"{name} could not be run", style="red")
    if failed:
        return 2
    return int(any(outcome.errors for outcome in outcomes.values()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"any of: {', '.join(SCENARIOS)}")
    parser.add_argument("--quick", action="store_true", help="a few seconds for each run")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    parser.add_argument(
        "--patience",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="before each run, wait up to so long for the machine to be idle (where it is shared with others)",
    )
    arguments = parser.parse_args()
    for name in arguments.scenarios:
        if name not in SCENARIOS:
            parser.error(f"there is no scenario {name!r}; there are: {', '.join(SCENARIOS)}")
    return arguments


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    sys.exit(main())

"""The scenarios by name, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable

from bench.harness import Harness
from bench.results import Outcome
from bench.scenarios import averaging, ingest, scale, sessions, start

SCENARIOS: dict[str, Callable[[Harness], Outcome]] = {
    "start": start.start,
    "tiny": sessions.tiny,
    "mlp": sessions.mlp,
    "averaging": averaging.averaging,
    "ingest": ingest.ingest,
    "memory": averaging.memory,
    "past-cycles": scale.past_cycles,
    "websockets": sessions.websockets,
    "large": scale.large,
    "processes": scale.processes,
}

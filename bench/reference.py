"""Figures of the historical node, measured on a 2-core machine that also held the load and the database."""

from __future__ import annotations

from typing import Final

TINY_SESSIONS: Final = 18.0
MLP_SESSIONS: Final = 9.0
MLP_P99_SECONDS: Final = 1.26
AVERAGING_SESSIONS: Final = 5.0
"""MLP, averaging every 20 reports; 8-10 % of the downloads were lost meanwhile."""
MEMORY_10_DIFFS_MB: Final = 293
MEMORY_120_DIFFS_MB: Final = 680
MILLISECONDS_PER_PAST_CYCLE: Final = 1.0
"""What each past cycle added to a cycle request."""

RATIO: Final = 10.0
"""Our goal: so many times the historical sessions, and p99 at most the same part of its."""
AIM: Final = 20.0
TOLERATED_SLOWDOWN: Final = 0.10
INGEST_OF_BARE: Final = 0.60
START_SECONDS: Final = 2.0
IDLE_SOCKETS: Final = 2000

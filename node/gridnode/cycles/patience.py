"""How long a rejected device should wait before it asks again."""

from __future__ import annotations

import math
import random
from datetime import datetime

#: A device is never sent away for longer than this many seconds: configuration and state may change any time.
LONGEST = 86_400.0
#: Seconds over which devices are spread at the least, so that those rejected together don't come back together.
SPREAD = 5.0
#: A device whose connection is too slow is sent away for an hour at the least.
TOO_SLOW = 3600.0


def timeout_seconds(
    worth_asking: list[datetime | None], now: datetime, generator: random.Random, spread: float = SPREAD
) -> int:
    """Seconds until it is worth asking again: the earliest of the given moments, plus jitter.

    Args:
        worth_asking: Moments at which something changes (a lease ends, the deadline, the expected end of the cycle).
            None and what is past are left out; with nothing left, a device is asked back within a minute.
        now: The present moment.
        generator: Source of the jitter.
        spread: Seconds of jitter at the least.
    """
    waits = [(moment - now).total_seconds() for moment in worth_asking if moment is not None]
    base = min((wait for wait in waits if wait > 0), default=spread)
    base = min(base, LONGEST)
    return math.ceil(base + generator.uniform(0, max(spread, base / 4)))


def too_slow_timeout(generator: random.Random) -> int:
    """Seconds after which a device that was too slow may have another connection; nothing else changes its answer."""
    return math.ceil(TOO_SLOW + generator.uniform(0, TOO_SLOW / 4))


def expected_end(started: datetime, reports: int, wanted: int | None, now: datetime) -> datetime | None:
    """When the cycle will have its reports at the present rate; None where that can't be told."""
    if wanted is None or reports <= 0:
        return None
    elapsed = now - started
    return now + elapsed * (max(wanted - reports, 0) / reports)

"""When phones are there: charging, on Wi-Fi and not in use, mostly for some hours of each day."""

from __future__ import annotations

import numpy as np

from gridnode.errors import InvalidRequest


class Availability:
    """Each phone is there for the same share of each day, in one stretch, beginning at a time of its own.

    Args:
        share: of the day, above 0; 1: always.
        day: its length in seconds; simulated days are best short.
        phones: number of them.
        seed: decides when each one's stretch begins.
    """

    def __init__(self, share: float, day: float, phones: int, seed: int) -> None:
        if not 0 < share <= 1:
            raise InvalidRequest(f"availability is {share}; it is a share of the day above 0 and at most 1.")
        if not day > 0:
            raise InvalidRequest(f"the day has {day} seconds; it must have more than 0.")
        self._share = share
        self._day = day
        self._begins = np.random.default_rng(seed).random(phones) * day

    def wait(self, number: int, moment: float) -> float:
        """Seconds from ``moment``, reckoned from the start of the simulation, until the phone is there; 0 if it is."""
        since = (moment - float(self._begins[number])) % self._day
        return 0.0 if since < self._share * self._day else self._day - since

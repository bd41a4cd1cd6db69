"""Slowing down whoever tries keys."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from gridnode.errors import TooManyRequests
from gridnode.security.limits import AddressLimiter, AddressLimits, limited_address

#: Wrong keys that an address may show at once, and how many more a second.
FAILURES_AT_ONCE: Final = 10
FAILURES_PER_SECOND: Final = 0.1


class FailureGuard:
    """Counts failed attempts by client address; usable from any thread.

    An address that has used up its failures is refused before its next key is looked at, so it learns nothing more.
    """

    def __init__(
        self,
        *,
        at_once: int = FAILURES_AT_ONCE,
        per_second: float = FAILURES_PER_SECOND,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        limits = AddressLimits(requests_per_second=per_second, connections_per_address=0, connections=0, burst=at_once)
        self._now = now
        self._limiter = AddressLimiter(limits, now=now)
        self._lock = threading.Lock()
        self._blocked: dict[str, float] = {}

    def check(self, address: str) -> None:
        """Let an address try a key.

        Raises:
            TooManyRequests: it has shown too many wrong ones.
        """
        with self._lock:
            wait = self._blocked.get(limited_address(address), 0.0) - self._now()
        if wait > 0:
            raise TooManyRequests("Too many wrong keys from this address.", wait)

    def failed(self, address: str) -> None:
        """Count a wrong key."""
        with self._lock:
            try:
                self._limiter.admit_request(address)
            except TooManyRequests as error:
                self._forget_old()
                self._blocked[limited_address(address)] = self._now() + error.retry_after

    def _forget_old(self) -> None:
        now = self._now()
        for address in [address for address, until in self._blocked.items() if until <= now]:
            del self._blocked[address]

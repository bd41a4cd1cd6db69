"""Keeping what was made for a moment, so that many who look at the same cost as much as one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Entry(Generic[T]):
    lock: threading.Lock = field(default_factory=threading.Lock)
    made_at: float = float("-inf")
    value: T | None = None


class Recent(Generic[T]):
    """Values by key, each made anew once it is too old; usable from any thread.

    Of several that ask at the same time one makes the value, the others wait for it.

    Args:
        seconds: How old a value may be.
        most: Keys at most.
    """

    def __init__(self, seconds: float, *, most: int = 256, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._most = most
        self._now = now
        self._lock = threading.Lock()
        self._entries: dict[Hashable, _Entry[T]] = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of a key. What ``make`` raises is the caller's; nothing is kept then."""
        with self._lock:
            if key not in self._entries and len(self._entries) >= self._most:
                self._entries.clear()
            entry = self._entries.setdefault(key, _Entry())
        with entry.lock:
            if entry.value is None or self._now() - entry.made_at >= self._seconds:
                entry.value = make()
                entry.made_at = self._now()
            return entry.value

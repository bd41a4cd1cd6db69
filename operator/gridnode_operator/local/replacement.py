"""Which replicas to start and to stop next. Pure.

As a Deployment with maxSurge 1 and maxUnavailable 0 does it: one replica more than wanted at most, and an old one goes
only when a new one has taken its place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

_LONGEST_PAUSE: Final = 30.0
#: A replica that was in service for so long has not failed because of how it is made.
_PROVEN_SECONDS: Final = 10.0


class Instance(Protocol):
    """A replica that runs and was not told to stop."""

    template: str
    ready: bool


T = TypeVar("T", bound=Instance)


@dataclass(frozen=True, slots=True)
class Steps(Generic[T]):
    """How many replicas to start, and which to stop."""

    start: int = 0
    stop: tuple[T, ...] = ()


def next_steps(wanted: int, template: str, replicas: Sequence[T]) -> Steps[T]:
    """What to do now; to be asked again after every change.

    Args:
        wanted: How many there should be.
        template: Of which they should be made.
        replicas: In the order of their start.
    """
    current = [each for each in replicas if each.template == template]
    old = [each for each in replicas if each.template != template]
    room = wanted + 1 - len(replicas) if old else wanted - len(current)
    start = max(0, min(wanted - len(current), room))
    # Those that don't serve go first, then the youngest.
    old_kept = max(0, wanted - sum(each.ready for each in current))
    surplus = _least_useful(old)[: max(0, len(old) - old_kept)]
    surplus += _least_useful(current)[: max(0, len(current) - wanted)]
    return Steps(start, tuple(surplus))


def _least_useful(replicas: Sequence[T]) -> list[T]:
    youngest_first = list(reversed(replicas))
    return sorted(youngest_first, key=lambda each: each.ready)


class Backoff:
    """Pauses between starts while replicas end by themselves; a single death is answered at once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._next = 0.0

    def failed(self, *, served: bool, lived: float) -> None:
        """A replica has ended that nobody told to.

        Args:
            served: Whether it was ever ready.
            lived: Seconds since its start.
        """
        self._failures = 1 if served and lived >= _PROVEN_SECONDS else self._failures + 1
        pause = 0.0 if served and self._failures == 1 else min(2.0 ** (self._failures - 1), _LONGEST_PAUSE)
        self._next = self._clock() + pause

    def reset(self) -> None:
        """Something has changed: what failed may work now."""
        self._failures = 0
        self._next = 0.0

    @property
    def wait(self) -> float:
        """Seconds until the next start may be tried."""
        return max(0.0, self._next - self._clock())

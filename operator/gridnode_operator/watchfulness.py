"""Whether the operator still hears what happens: a watch may go silent while everything else is well.

Now and then all GridNodes are listed. One that changed without the watch having told is worked on all the same; if the
watch has not told by the next time either, the operator is deaf and should be restarted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

from gridnode_operator.metrics import OperatorMetrics
from gridnode_operator.workqueue import Key

logger = logging.getLogger(__name__)

#: Of the same change, how often it must have been missed.
_MISSES_OF_THE_DEAF: Final = 2


class Watchfulness:
    """Compares what was told with what is.

    Args:
        request: Has a GridNode looked at.
        metrics: Where missed changes are counted.
    """

    def __init__(self, request: Callable[[Key], None], metrics: OperatorMetrics) -> None:
        self._request = request
        self._metrics = metrics
        self._told: dict[Key, tuple[str, int, object]] = {}
        self._misses: dict[Key, int] = {}

    def tell(self, key: Key, uid: str, generation: int, rest: object = None) -> bool:
        """The watch has told of a GridNode.

        Args:
            rest: What else is worth a look when it changes.

        Returns:
            Whether this is news: a change of more than the status.
        """
        self._misses.pop(key, None)
        is_news = self._told.get(key) != (uid, generation, rest)
        self._told[key] = (uid, generation, rest)
        return is_news

    def tell_gone(self, key: Key) -> None:
        """The watch has told that a GridNode is gone."""
        self._told.pop(key, None)
        self._misses.pop(key, None)

    def compare(self, found: Iterable[tuple[Key, str, int]]) -> None:
        """All GridNodes that there are, with uid and generation."""
        is_there = set()
        for key, uid, generation in found:
            is_there.add(key)
            told = self._told.get(key)
            if told is None or told[0] != uid or told[1] < generation:
                self._miss(key)
        for key in self._told.keys() - is_there:
            self._miss(key)
        for key in self._misses.keys() - is_there - self._told.keys():
            del self._misses[key]

    @property
    def is_deaf(self) -> bool:
        """Whether a change was missed for good."""
        return any(misses >= _MISSES_OF_THE_DEAF for misses in self._misses.values())

    def _miss(self, key: Key) -> None:
        self._misses[key] = self._misses.get(key, 0) + 1
        self._metrics.missed_changes.inc()
        logger.warning("a change was not told by the watch", extra={"gridnode": str(key)})
        self._request(key)

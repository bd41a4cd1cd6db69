"""What the last reconcile of each GridNode saw of its children, so that the next needs not look at all of it again.

Nothing depends on it but how much is asked of the API server: without it, as after a restart, everything is listed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

#: Seconds after which a kind of which there was nothing is listed again, though no watch has told of one.
_ABSENCE_HOLDS: Final = 600.0

Kind = tuple[str, str]
Object = Mapping[str, Any]


@dataclass(slots=True)
class _Entry:
    changes: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    absent: frozenset[Kind] = frozenset()
    listed_at: float = 0.0


class Inventory:
    """Children by GridNode (``namespace/name``). Threads may call at once.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}

    def is_news(self, key: str, uid: str, version: str) -> bool:
        """A watch has told of a child. Whether the last reconcile did not know of it in this very version.

        Most often it did, since it wrote that version itself.
        """
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            if entry.versions.get(uid) == version:
                return False
            entry.changes += 1
            entry.absent = frozenset()
            return True

    def to_list(self, key: str, kinds: Iterable[Kind]) -> tuple[list[Kind], int]:
        """Which kinds of children may be there, and how many changes were told until now, for :meth:`remember`."""
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            is_old = self._clock() - entry.listed_at > _ABSENCE_HOLDS
            return [kind for kind in kinds if is_old or kind not in entry.absent], entry.changes

    def remember(self, key: str, kinds: Collection[Kind], live: Iterable[Object], changes: int, *, listed: int) -> None:
        """A reconcile has ended.

        Args:
            kinds: All that the server knows.
            live: The children, as they were seen or written last.
            changes: What :meth:`to_list` gave.
            listed: How many of the kinds were listed.
        """
        children = list(live)
        versions = {each["metadata"]["uid"]: each["metadata"]["resourceVersion"] for each in children}
        there = {(each["apiVersion"], each["kind"]) for each in children}
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            entry.versions = versions
            entry.absent = frozenset(kind for kind in kinds if kind not in there)
            if entry.changes != changes:
                entry.absent = frozenset()
            if listed == len(kinds):
                entry.listed_at = self._clock()

    def forget(self, key: str) -> None:
        """The GridNode is gone."""
        with self._lock:
            self._entries.pop(key, None)

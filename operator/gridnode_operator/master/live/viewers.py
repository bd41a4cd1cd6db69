"""Whoever watches: open event streams, and what is sent to each. Lives on the event loop's thread."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gridnode.errors import Unavailable
from gridnode_operator.master.keys.access import Principal

#: Messages that wait for a slow viewer; one that is slower still is told to read everything anew.
_MOST_WAITING: Final = 32
RESET: Final = b"event: reset\ndata: {}\n\n"


@dataclass(frozen=True, slots=True)
class Filter:
    """What a viewer gets: what it may see, and of that one model or node if it asks for it.

    Attributes:
        owner: Whose models; None is all.
        model: Only this row's model.
        node: Only what is of this row's node.
        brief: Only which rows have changed, for viewers that read anew what they show.
    """

    owner: str | None = None
    model: int | None = None
    node: int | None = None
    brief: bool = False


class Viewer:
    """One open stream."""

    def __init__(self, wanted: Filter) -> None:
        self.wanted = wanted
        self._waiting: deque[bytes] = deque()
        self._arrived = asyncio.Event()

    def put(self, message: bytes) -> None:
        """Have a message sent."""
        if len(self._waiting) >= _MOST_WAITING:
            self._waiting.clear()
            message = RESET
        self._waiting.append(message)
        self._arrived.set()

    async def take(self, seconds: float) -> bytes:
        """What has arrived, waiting up to ``seconds`` for it; empty if nothing has."""
        try:
            async with asyncio.timeout(seconds):
                await self._arrived.wait()
        except TimeoutError:
            return b""
        self._arrived.clear()
        messages = b"".join(self._waiting)
        self._waiting.clear()
        return messages


class Viewers:
    """All open streams of this process.

    Args:
        most: Streams at most.
        joined: Called when somebody begins to watch.
    """

    def __init__(self, most: int, joined: Callable[[], None] = lambda: None) -> None:
        self._most = most
        self._joined = joined
        self._viewers: set[Viewer] = set()

    def __len__(self) -> int:
        return len(self._viewers)

    def check_room(self) -> None:
        """Whether another may join.

        Raises:
            Unavailable: there are as many as there may be.
        """
        if len(self._viewers) >= self._most:
            raise Unavailable("as many watch already as this master node can serve", retry_after=10)

    def join(self, wanted: Filter) -> Viewer:
        """Begin to watch."""
        viewer = Viewer(wanted)
        self._viewers.add(viewer)
        self._joined()
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """Stop watching."""
        self._viewers.discard(viewer)

    def filters(self) -> set[Filter]:
        """What is watched."""
        return {viewer.wanted for viewer in list(self._viewers)}

    def send(self, messages: dict[Filter, bytes]) -> None:
        """Give each viewer the message for its filter, if there is one."""
        for viewer in self._viewers:
            message = messages.get(viewer.wanted)
            if message:
                viewer.put(message)


def filter_for(
    principal: Principal, *, model: int | None = None, node: int | None = None, brief: bool = False
) -> Filter:
    """What a caller may watch."""
    return Filter(owner=None if principal.sees_all else principal.owner or "", model=model, node=node, brief=brief)

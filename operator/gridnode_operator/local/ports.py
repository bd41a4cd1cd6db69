"""Ports that people are given: the wished one, or the next that is free."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from gridnode.errors import Conflict, InvalidRequest

_TRIES: Final = 200
_LAST: Final = 65535
#: Ports below are for root only on most machines; whoever wishes one gets another from 5000 on.
ROOTS_PORTS: Final = 1024
_INSTEAD_OF_PRIVILEGED: Final = 5000


class PortTaken(Conflict):
    """A port that was asked for by a flag is in use."""


async def listen_near(
    listen: Callable[[int], Awaitable[None]], port: int, *, exactly: bool = False, but_not: frozenset[int] = frozenset()
) -> None:
    """Listen on a port, or on the next one that is free.

    Args:
        listen: Binds a port, or raises OSError.
        port: The wished one; 0 lets the kernel choose.
        exactly: Don't take another one.
        but_not: Kept free for something else.

    Raises:
        PortTaken: the port, or all that were tried, are in use.
        InvalidRequest: nothing can be bound at that address.
    """
    for candidate in _candidates(port, exactly=exactly, but_not=but_not):
        try:
            await listen(candidate)
        except OSError as error:
            if error.errno == errno.EACCES and not exactly:
                return await listen_near(listen, _INSTEAD_OF_PRIVILEGED, but_not=but_not)
            if error.errno != errno.EADDRINUSE:
                raise InvalidRequest(f"can't listen on port {candidate}: {error.strerror or error}") from None
        else:
            return None
    others = "" if exactly else " and those after it are"
    raise PortTaken(f"port {port}{others} in use by another program: choose one with a flag, 0 for any free one")


def _candidates(port: int, *, exactly: bool, but_not: frozenset[int]) -> Iterator[int]:
    if port == 0 or exactly:
        yield port
        return
    yield from (each for each in range(port, min(port + _TRIES, _LAST + 1)) if each not in but_not)

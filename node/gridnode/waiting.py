"""What must not happen on an event loop: to wait.

Requests are answered on the event loop as long as everything they need is in memory. Whatever is about to wait for a
database, a lock or a network calls :func:`may_wait` first. On the event loop that raises :class:`WouldWait`, and the
request is begun again in a thread. So it must be called before anything has been changed.
"""

from __future__ import annotations

import asyncio


class WouldWait(Exception):
    """The work has to wait for something: it belongs in a thread."""


def may_wait() -> None:
    """Do nothing in a thread.

    Raises:
        WouldWait: this is the thread of a running event loop.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise WouldWait

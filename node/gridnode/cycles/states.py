"""The states of a cycle and the moves between them. docs/cycles.md has the diagram.

==========  ========================================================================  =================
state       meaning                                                                   leaves it by
==========  ========================================================================  =================
open        devices are accepted, reports are counted                                 mark_due, abandon
averaging   enough reports are in; nothing is accepted or counted any more            close_cycle, abandon
completed   the next checkpoint exists                                                –
abandoned   the process was finished early, before this cycle had enough reports      –
==========  ========================================================================  =================

At most one cycle of a process is open or averaging (unique index ``cycles_running_key``). ``open`` → ``averaging`` is
a short transaction of its own, so that nobody waits behind the averaging. A replica that dies while averaging leaves
the cycle in ``averaging`` with its row unlocked, and any other takes it up.
"""

from __future__ import annotations

from typing import Final, Literal

CycleState = Literal["open", "averaging", "completed", "abandoned"]

MOVES: Final[dict[CycleState, frozenset[CycleState]]] = {
    "open": frozenset({"averaging", "abandoned"}),
    "averaging": frozenset({"completed", "abandoned"}),
    "completed": frozenset(),
    "abandoned": frozenset(),
}

RUNNING: Final[tuple[CycleState, ...]] = ("open", "averaging")

"""The states of a cycle and the moves between them. docs/cycles.md has the diagram.

==========  ==========================================================  =====================================
state       meaning                                                     leaves it by
==========  ==========================================================  =====================================
open        devices are accepted, reports are counted                   commit_reports (the last report),
                                                                        mark_due (the deadline), finish
averaging   enough reports are in; nothing is accepted or counted       close_cycle, finish (after it failed)
completed   the next checkpoint exists                                  –
abandoned   the process was finished before this cycle had enough       –
            reports, or after its averaging had failed
==========  ==========================================================  =====================================

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

"""The states of a process and the moves between them. Every change of ``processes.state`` goes through :func:`move`.

=========  ==========================================================  =======================================
state      meaning                                                     devices that ask for a cycle
=========  ==========================================================  =======================================
active     cycles run                                                  accepted while there is room
paused     no new devices; those at work may still report              rejected, with a timeout
failed     the averaging plan failed; all reports are kept             rejected, with a timeout
finished   num_cycles done, or finished early by the author            rejected, without a timeout
=========  ==========================================================  =======================================
"""

from __future__ import annotations

from typing import Final, Literal, get_args

from sqlalchemy import update
from sqlalchemy.orm import Session

from gridnode.db.models import Process
from gridnode.errors import Conflict

ProcessState = Literal["active", "paused", "failed", "finished"]

MOVES: Final[dict[ProcessState, frozenset[ProcessState]]] = {
    "active": frozenset({"paused", "failed", "finished"}),
    "paused": frozenset({"active", "failed", "finished"}),
    "failed": frozenset({"active", "paused", "finished"}),
    "finished": frozenset(),
}

assert frozenset(MOVES) == frozenset(get_args(ProcessState))  # noqa: S101 - holds by reading, kept for the next editor


def move(session: Session, process_id: int, to: ProcessState, **values: object) -> None:
    """Bring a process into another state; being there already is fine.

    Raises:
        Conflict: the process is in a state from which that is not possible, or is gone.
    """
    sources = [state for state, targets in MOVES.items() if to in targets or state == to]
    moved = session.execute(
        update(Process).where(Process.id == process_id, Process.state.in_(sources)).values(state=to, **values)
    )
    if moved.rowcount == 0:  # type: ignore[attr-defined]
        state = session.get(Process, process_id)
        raise Conflict(f"the process is {state.state}, it can't become {to}" if state else "the process is gone")

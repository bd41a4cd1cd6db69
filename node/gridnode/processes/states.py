"""The states of a process and the moves between them. Every change of ``processes.state`` goes through :func:`move`.

=========  ==========================================================  =======================================
state      meaning                                                     devices that ask for a cycle
=========  ==========================================================  =======================================
active     cycles run                                                  accepted while there is room
paused     no new devices; those at work may still report              rejected, with a timeout
failed     the averaging failed; all reports are kept                  rejected, with a timeout
finished   num_cycles done, or finished early by the author            rejected, without a timeout
=========  ==========================================================  =======================================

What people do, by state (– : refused with 409; = : nothing changes):

=========  ==================  ================================  ===============================  ===================
state      pause               resume                            finish                           delete
=========  ==================  ================================  ===============================  ===================
active     paused              =                                 finished, or after its cycle     gone
paused     =                   active                            finished, or after its cycle     gone
failed     –                   active, failure text cleared:     finished; the failure text is    gone
                               its averaging is tried again      kept, its reports are dropped
finished   –                   –                                 =                                gone
=========  ==================  ================================  ===============================  ===================

A failed process can't be paused, since paused means that its cycle may end: the sweep would try the averaging again.
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
    "failed": frozenset({"active", "finished"}),
    "finished": frozenset(),
}

assert frozenset(MOVES) == frozenset(get_args(ProcessState))  # noqa: S101 - holds by reading, kept for the next editor


def move(session: Session, process_id: int, to: ProcessState, **values: object) -> bool:
    """Bring a process into another state; being there already is fine, and changes nothing.

    Returns:
        Whether it was in another state before; its row is locked then.

    Raises:
        Conflict: the process is in a state from which that is not possible, or is gone.
    """
    sources = [state for state, targets in MOVES.items() if to in targets]
    moved = session.execute(
        update(Process).where(Process.id == process_id, Process.state.in_(sources)).values(state=to, **values)
    )
    if moved.rowcount:  # type: ignore[attr-defined]
        return True
    process = session.get(Process, process_id, populate_existing=True)
    if process is None or process.state != to:
        raise Conflict(_why_not(process, to))
    return False


def _why_not(process: Process | None, to: ProcessState) -> str:
    if process is None:
        return "the process is gone"
    refusal = f"the process is {process.state}, it can't become {to}"
    if process.state == "failed":
        refusal += f". It failed: {process.failure}. Resume it to try its averaging again, or finish it"
    return refusal

"""What an event changes: the rules by which a model's row goes forward and never back. No I/O."""

from __future__ import annotations

from datetime import datetime

from gridnode_operator.master.models.events import CycleFigures, ProgressEvent
from gridnode_operator.master.models.rows import CycleRow, ModelRow


def advance(model: ModelRow, event: ProgressEvent, now: datetime) -> bool:
    """Take an event into a model's row.

    Progress only grows, and being finished or deleted stays. Everything else is what the newest event says, where newer
    is who has completed more cycles; times decide only between equals, for replicas' clocks may differ.

    Returns:
        Whether the event changed anything; one that came too late does not.
    """
    if model.deleted_at is not None:
        return False
    known = model.completed_cycles
    cycle = known if event.cycle is None else event.cycle
    newer = cycle > known or (cycle == known and (model.occurred_at is None or event.occurred_at >= model.occurred_at))
    changed = newer or event.percent > model.percent
    if cycle > known:
        model.completed_cycles = cycle
        model.progressed_at = now
    model.percent = max(model.percent, event.percent)
    if newer:
        _take_facts(model, event)
    if event.finished and model.finished_at is None:
        finish(model, event.occurred_at)
        changed = True
    if event.deleted:
        model.deleted_at = event.occurred_at
        model.running = None
        changed = True
    if changed:
        touch(model, now)
    return changed


def finish(model: ModelRow, at: datetime) -> None:
    """Note that a model is trained to its end."""
    model.finished_at = at
    model.percent = 100
    model.state = "finished"
    model.failure = None
    model.running = None


def touch(model: ModelRow, now: datetime) -> None:
    """Note that a row has changed, so that viewers are told."""
    model.changed_at = now
    model.revision += 1


def cycle_of(event: ProgressEvent, completed_before: CycleRow | None) -> tuple[int, str] | None:
    """Which cycle an event's figures are of, and how that ended; None if it tells of none.

    Args:
        event: The event.
        completed_before: The row of cycle ``event.cycle``, if there is one.
    """
    figures = event.figures
    if figures.number is not None:
        return figures.number, figures.end or "completed"
    # A node that tells its process's state says which cycle its figures are of, if it has any.
    if event.cycle is None or event.state is not None or (event.cycle == 0 and figures.is_empty):
        return None
    was_told = completed_before is not None and completed_before.state == "completed"
    if event.cycle == 0 or (event.finished and was_told and not figures.is_empty):
        # Finished early: these are of the cycle that was given up, not of the one before, which is known already.
        return event.cycle + 1, "abandoned"
    return event.cycle, "completed"


def take_figures(cycle: CycleRow, figures: CycleFigures, *, end: str, ended_at: datetime) -> int:
    """Take what an event says of a cycle into its row; what it does not say stays.

    Returns:
        Reports that nobody had counted before.
    """
    counted = cycle.reported or 0
    cycle.state = end
    cycle.completed_at = cycle.completed_at or ended_at
    for name in (
        "started_at", "reported", "accepted", "dropped", "rejected", "loss", "loss_min", "loss_max",
        "accuracy", "accuracy_min", "accuracy_max", "seconds",
    ):  # fmt: skip
        value = getattr(figures, name)
        if value is not None:
            setattr(cycle, name, value)
    return max(0, (cycle.reported or 0) - counted)


def _take_facts(model: ModelRow, event: ProgressEvent) -> None:
    model.occurred_at = event.occurred_at
    if event.num_cycles is not None:
        model.num_cycles = event.num_cycles
    if event.figures.loss is not None:
        model.loss = event.figures.loss
    if event.figures.accuracy is not None:
        model.accuracy = event.figures.accuracy
    if model.finished_at is not None:
        return
    model.state = event.state or ("active" if model.state == "failed" else model.state)
    model.failure = event.failure if model.state == "failed" else None
    # The cycle that ran before is over.
    model.running = None if event.running is None else event.running.to_json()

"""What was: a model's cycles, and the events that nodes sent."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from gridnode_operator.master.db.models import Cycle, Dataset, Event, Model, Node
from gridnode_operator.master.keys.access import Principal


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleView:
    """What is known of a cycle; None is what nobody has told.

    Attributes:
        rejected: Cycle requests rejected, by reason.
    """

    number: int
    state: str
    started_at: datetime | None
    completed_at: datetime | None
    seconds: float | None
    accepted: int | None
    reported: int | None
    dropped: int | None
    rejected: dict[str, int] | None
    loss: float | None
    loss_min: float | None
    loss_max: float | None
    accuracy: float | None
    accuracy_min: float | None
    accuracy_max: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventView:
    """A progress event as it was received; ``applied`` is False if it came too late to change anything."""

    id: int
    event_id: uuid.UUID | None
    node: int
    node_id: str
    model: int | None
    name: str | None
    version: str | None
    percent: int
    cycle: int | None
    occurred_at: datetime
    received_at: datetime
    applied: bool
    body: dict[str, Any] = field(repr=False)


def list_cycles(
    session: Session, model_id: int, *, after: int = 0, limit: int = 100, newest: bool = False
) -> list[CycleView]:
    """Cycles of a model that the caller was found to see, in order.

    Args:
        session: Read only.
        model_id: Row of the model.
        after: Only cycles after this number.
        limit: Entries at most.
        newest: The last ``limit`` of them instead of the first.
    """
    query = select(Cycle).where(Cycle.model_id == model_id, Cycle.number > after).limit(limit)
    rows = session.scalars(query.order_by(Cycle.number.desc() if newest else Cycle.number)).all()
    return [_cycle_view(row) for row in (reversed(rows) if newest else rows)]


def list_events(
    session: Session,
    principal: Principal,
    *,
    node: int | None = None,
    model: int | None = None,
    before: int | None = None,
    limit: int = 100,
) -> list[EventView]:
    """Events that the caller may see, the newest first.

    Args:
        session: Read only.
        principal: Whoever asks.
        node: Only of this row's node.
        model: Only of this row's model.
        before: Only rows before this one (the last of the page before).
        limit: Entries at most.
    """
    query = (
        select(Event, Node.node_id, Model.name, Model.version)
        .join(Node, Node.id == Event.node_id)
        .outerjoin(Model, Model.id == Event.model_id)
        .order_by(Event.id.desc())
        .limit(limit)
    )
    if not principal.sees_all:
        query = query.join(Dataset, Dataset.id == Model.dataset_id).where(Dataset.owner == principal.owner)
    if node is not None:
        query = query.where(Event.node_id == node)
    if model is not None:
        query = query.where(Event.model_id == model)
    if before is not None:
        query = query.where(Event.id < before)
    return [_event_view(*row) for row in session.execute(query)]


def _cycle_view(row: Cycle) -> CycleView:
    return CycleView(
        number=row.number,
        state=row.state,
        started_at=row.started_at,
        completed_at=row.completed_at,
        seconds=row.seconds,
        accepted=row.accepted,
        reported=row.reported,
        dropped=row.dropped,
        rejected=row.rejected,
        loss=row.loss,
        loss_min=row.loss_min,
        loss_max=row.loss_max,
        accuracy=row.accuracy,
        accuracy_min=row.accuracy_min,
        accuracy_max=row.accuracy_max,
    )


def _event_view(event: Event, node_id: str, name: str | None, version: str | None) -> EventView:
    return EventView(
        id=event.id,
        event_id=event.event_id,
        node=event.node_id,
        node_id=node_id,
        model=event.model_id,
        name=name,
        version=version,
        percent=event.percent,
        cycle=event.cycle,
        occurred_at=event.occurred_at,
        received_at=event.received_at,
        applied=event.applied,
        body=event.body,
    )
